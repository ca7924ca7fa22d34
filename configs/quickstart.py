"""Does ECA help ShuffleNet V2 on the built-in synthetic voices? Two variants, all speakers, two seeds.

python launch.py study --config configs/quickstart.py --workdir runs/quickstart
"""

from ml_collections import ConfigDict

from ser_jax.config import make_config


def get_config() -> ConfigDict:
    """Returns the study."""
    config = make_config()
    config.seeds = (0, 1)
    config.frontend.hop_ms = 20.0
    config.training.crop_seconds = 1.5
    config.training.train_epochs = 20.0
    config.study.variants = {"no attention": {"model": {"attention": "none"}}, "ECA": {"model": {"attention": "eca"}}}
    config.study.comparisons = (("ECA", "no attention"),)
    return config
