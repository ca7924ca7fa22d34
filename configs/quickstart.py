"""Does ECA help a tiny ShuffleNet V2 on the built-in synthetic voices? Two variants, six speakers in turn, two seeds.

python launch.py study --config configs/quickstart.py --workdir runs/quickstart

The network has two units a stage and few channels, so that it compiles and trains in a minute or two on two cores.
"""

from ml_collections import ConfigDict

from ser_jax.config import make_config


def get_config() -> ConfigDict:
    """Returns the study."""
    config = make_config(model={"name": "shufflenet_v2", "width": "tiny", "activation": "hard_swish"})
    config.corpus.options = {"num_speakers": 6, "utterances_per_speaker": 80}
    config.seeds = (0, 1)
    config.frontend.hop_ms = 20.0
    config.frontend.normalization = "train"
    config.optimizer.learning_rate = 4e-3
    config.optimizer.warmup_epochs = 1.0
    config.training.batch_size = 16
    config.training.crop_seconds = 1.2
    config.training.train_epochs = 20.0
    config.training.validate_epochs = 10.0
    config.study.title = "Does channel attention help a tiny ShuffleNet V2?"
    config.study.variants = {"no attention": {"model": {"attention": "none"}}, "ECA": {"model": {"attention": "eca"}}}
    config.study.comparisons = (("ECA", "no attention"),)
    return config
