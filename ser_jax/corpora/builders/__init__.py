"""TFDS builders, one package per corpus; `*_dataset_builder` and `speech_builder` alone import TensorFlow."""

import os

# Before TensorFlow is imported: nobody who prepares a corpus wants its notes on instruction sets and missing GPUs.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
