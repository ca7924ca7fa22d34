"""Configurations: one table of options, the files in configs/ that change their values, and `--config.x=y` on top.

A configuration is a nested dict, which a workdir keeps as JSON; its `config.json` can be given wherever a file of
configs/ can.
"""

from ser_jax.config.read import load
from ser_jax.config.tree import check, choose, completed, construct, deciding, default, differences, merge, steps

__all__ = ["check", "choose", "completed", "construct", "deciding", "default", "differences", "load", "merge", "steps"]
