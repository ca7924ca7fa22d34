"""Where does ECA belong in ShuffleNet V2, and how wide is its kernel? One factor at a time.

python launch.py study configs/studies/placement.py
python launch.py study configs/studies/placement.py:emodb

The argument is a corpus; on the built-in one the network is tiny. The first variant is ECA as everywhere else in the
project: in all stages, before the unit's last activation, the kernel by Wang et al.'s rule.
"""

from configs.studies import attention
from ser_jax.config import merge


def get_config(corpus: str = "synthetic") -> dict:
    """Returns the study on a corpus."""
    config = attention.get_config(corpus, "shufflenet")
    (question,) = config["study"]["questions"]
    model = {**question["base"]["model"], "attention": "eca", "activation": "hard_swish"}
    places = {
        "all stages": {},
        "none": {"attention": "none"},
        "stage 2 only": {"attention_stages": [2]},
        "stage 4 only": {"attention_stages": [4]},
        "after the activation": {"attention_position": "after_activation"},
    }
    places |= {f"kernel {size}": {"eca_kernel": size} for size in (1, 3, 9)}
    study = {
        "title": f"Where does ECA belong, and how wide is its kernel? {corpus}",
        "questions": [
            {
                "name": "placement",
                "text": "Does it matter where ECA sits in ShuffleNet V2, and how wide its kernel is?",
                "base": {"model": model},
                "variants": {name: {"model": changes} for name, changes in places.items()},
                "comparisons": [(name, "all stages") for name in places if name != "all stages"],
            }
        ],
    }
    return merge(config, {"evaluation": {"robustness": []}, "study": study})
