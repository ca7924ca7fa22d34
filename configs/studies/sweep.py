"""Learning rate x weight decay, judged by the validation speakers; nine variants, one compiled program.

python launch.py study configs/studies/sweep.py
python launch.py study configs/studies/sweep.py:emodb
python launch.py study configs/studies/sweep.py:emodb --select 4

The argument is a corpus; on the built-in one the network is tiny. Both are arrays along the run axis: the sweep
compiles one program, and a GPU or TPU trains its variants side by side. `--select` chooses one on speakers set apart,
and tests it on the others: what is chosen by the test folds' UA is no longer tested by them.
"""

from configs.studies import attention
from ser_jax.config import merge


def get_config(corpus: str = "synthetic") -> dict:
    """Returns the study on a corpus."""
    config = attention.get_config(corpus, "shufflenet")
    (question,) = config["study"]["questions"]
    model = {**question["base"]["model"], "attention": "eca", "activation": "hard_swish"}
    study = {
        "title": f"Learning rate and weight decay. {corpus}",
        "questions": [
            {
                "name": "sweep",
                "text": "How much do learning rate and weight decay matter?",
                "base": {"model": model},
                "factors": [
                    {"name": "rate", "field": "optimizer.learning_rate", "levels": [1e-3, 4e-3, 1.6e-2]},
                    {"name": "decay", "field": "optimizer.weight_decay", "levels": [0.005, 0.05, 0.5]},
                ],
            }
        ],
    }
    changes = {"protocol": {"validation_speakers": 1}, "evaluation": {"robustness": []}, "study": study}
    return merge(config, changes)
