"""What is each augmentation worth? All of them off, each alone, and all together.

python launch.py study configs/studies/augmentation.py
python launch.py study configs/studies/augmentation.py:emodb

The argument is a corpus; on the built-in one the network is tiny. Strengths are arrays along the run axis, so that all
variants run the same compiled program.
"""

from configs.studies import attention
from ser_jax.config import merge

STRENGTHS = {
    "speed": 0.15,
    "time_shift": 0.1,
    "gain": 6.0,
    "noise": 0.5,
    "vocal_tract": 0.1,
    "spec_augment": 0.5,
    "mixup": 0.5,
}


def get_config(corpus: str = "synthetic") -> dict:
    """Returns the study on a corpus."""
    config = attention.get_config(corpus, "shufflenet")
    (question,) = config["study"]["questions"]
    model = {**question["base"]["model"], "attention": "eca", "activation": "hard_swish"}
    off = dict.fromkeys(STRENGTHS, 0.0)
    variants = {"none": {"augmentation": off}}
    variants |= {name: {"augmentation": {**off, name: strength}} for name, strength in STRENGTHS.items()}
    variants |= {"all": {"augmentation": STRENGTHS}}
    study = {
        "title": f"What is each augmentation worth? {corpus}",
        "questions": [
            {
                "name": "augmentation",
                "text": "Does augmentation help, and which?",
                "base": {"model": model},
                "variants": variants,
                "comparisons": [(name, "none") for name in variants if name != "none"],
            }
        ],
    }
    return merge(config, {"evaluation": {"robustness": []}, "study": study})
