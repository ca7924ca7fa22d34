"""Where does ECA belong in ShuffleNet V2, and how wide is its kernel? One factor at a time.

python launch.py study --config configs/studies/placement.py --workdir runs/placement
python launch.py study --config configs/studies/placement.py:emodb --workdir runs/emodb_placement

The argument is a corpus; on the built-in one the network is tiny. The first variant is ECA as everywhere else in the
project: in all stages, before the unit's last activation, the kernel by Wang et al.'s rule.
"""

from ml_collections import ConfigDict

from configs.studies import attention


def get_config(corpus: str = "synthetic") -> ConfigDict:
    """Returns the study on a corpus."""
    config = attention.get_config(f"{corpus},shufflenet")
    config.evaluation.robustness = ()
    (question,) = config.study.questions
    config.study.title = f"Where does ECA belong, and how wide is its kernel? {corpus}"
    places = {
        "all stages": {},
        "none": {"attention": "none"},
        "stage 2 only": {"attention_stages": (2,)},
        "stage 4 only": {"attention_stages": (4,)},
        "after the activation": {"attention_position": "after_activation"},
    }
    places |= {f"kernel {size}": {"eca_kernel": size} for size in (1, 3, 9)}
    base = {**question["base"]["model"], "attention": "eca", "activation": "hard_swish"}
    config.study.questions = (
        {
            "name": "placement",
            "text": "Does it matter where ECA sits in ShuffleNet V2, and how wide its kernel is?",
            "base": {"model": base},
            "variants": {name: {"model": changes} for name, changes in places.items()},
            "comparisons": tuple((name, "all stages") for name in places if name != "all stages"),
        },
    )
    return config
