"""How models, features, augmentations and durations are called in a methods paragraph, with their sources."""

from collections.abc import Mapping
from typing import Any

from ser_jax.numbers import count, plural

# How a model is called in a text, with its source.
MODELS = {
    "shufflenet_v2": "ShuffleNet V2 {{ma2018shufflenet}}",
    "transformer": "an encoder of Transformer blocks {{vaswani2017attention}}",
    "attention_rnn": "a recurrent encoder and decoder",
    "cnn": "a convolutional network",
    "crnn": "a convolutional recurrent network after {{chen2018convolutional}}",
    "rnn": "a recurrent network",
    "tcn": "a temporal convolutional network after {{ye2023temporal}}",
    "reslstm": "a residual bidirectional LSTM",
    "linear": "a linear classifier",
    "encoder_head": "a head on the hidden states of a pretrained encoder",
    "lda": "linear discriminant analysis with a shrunk covariance",
    "linear_svm": "a linear support vector machine {{pedregosa2011scikit}}",
    "svr": "support vector regression onto indicators of the classes {{pedregosa2011scikit}}",
    "logistic_regression": "logistic regression {{pedregosa2011scikit}}",
    "ridge": "a ridge classifier {{pedregosa2011scikit}}",
}
# Where the values of options come from, whatever model has them.
SOURCES = {
    ("attention", "eca"): "wang2020eca",
    ("attention", "se"): "hu2018squeeze",
    ("attention", "additive"): "bahdanau2015neural",
    ("attention", "dot"): "luong2015effective",
    ("attention", "general"): "luong2015effective",
    ("attention", "multiplicative"): "luong2015effective",
    ("attention", "location"): "chorowski2015attention",
    ("attention", "self_attention"): "lin2017structured",
    ("activation", "hard_swish"): "howard2019searching",
    ("adapt", "lora"): "hu2022lora",
    ("mixing", "conformer"): "gulati2020conformer",
    ("mixing", "convolution"): "gulati2020conformer",
    ("mixing", "both"): "gulati2020conformer",
    ("pooling", "weighted"): "mirsamadi2017automatic",
    ("pooling", "self_attentive"): "lin2017structured",
    ("pooling", "attentive_statistics"): "okabe2018attentive",
    ("pooling", "multi_head"): "india2019self",
    ("functionals", "egemaps"): "eyben2016geneva",
    ("functionals", "compare"): "schuller2016interspeech",
    ("functionals", "emobase"): "eyben2010opensmile",
}
AUGMENTATIONS = {
    "speed": "changes of speed by a factor of up to {:g} {{{{ko2015audio}}}}",
    "time_shift": "cyclic shifts of up to {:g} s",
    "gain": "changes of level of up to {:g} dB",
    "noise": "added noise with probability {:g}",
    "vocal_tract": "warps of the mel axis by a factor of up to {:g} {{{{jaitly2013vocal}}}}",
    "spec_augment": "SpecAugment at strength {:g} {{{{park2019specaugment}}}}",
    "mixup": "mixup at strength {:g} {{{{zhang2018mixup}}}}",
}
FEATURES = {
    "mfcc": "{num_mfcc} mel-frequency cepstral coefficients of {num_mels} bands",
    "log_mel": "log-mel spectrograms of {num_mels} bands",
    "histogram": "histograms of the levels of {num_mels} log-mel bands ({histogram_bins} bins)",
    "functionals": "functionals of {num_mels} log-mel bands and their deltas",
}
NORMALIZATIONS = {
    "none": "not normalised",
    "utterance": "normalised by each utterance's own mean and variance",
    "train": "normalised by the mean and variance of the training fold",
    "speaker": "normalised by the mean and variance of their speaker's recordings, without labels (transductive)",
}
_UNSET = {
    "train": "a length that follows from the number of utterances",
    "warmup": "a tenth of the training",
    "validate": "five times in a training",
}


def duration(group: Mapping[str, Any], name: str) -> str:
    """A duration in words; of validations, how often they come; empty for a warm-up of zero."""
    steps, epochs = group.get(f"{name}_steps", -1), group.get(f"{name}_epochs", -1)
    if 0 in (steps, epochs):
        return "never" if name == "validate" else ""
    if steps < 0 and epochs < 0:
        return _UNSET[name]
    length = count(steps, "step") if steps > 0 else f"{epochs:g} {plural(epochs, 'epoch')}"
    return f"every {length}" if name == "validate" else length
