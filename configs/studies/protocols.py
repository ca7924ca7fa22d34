"""What are leaking splits worth? One model, tested on speakers that it never heard, and on speakers that it knows.

python launch.py study configs/studies/protocols.py
python launch.py study configs/studies/protocols.py:emodb

The argument is a corpus. Every protocol has as many folds as there are groups of speakers in the strictest, so that
each trains on about as many utterances. What `random` gains over `unknown speakers` is no better model but the test
speakers' own voices in the training set; published figures of 90 % and more on EMO-DB are of this kind.
"""

from configs.studies import attention
from ser_jax.config import merge

FOLDS = {"synthetic": 6, "emodb": 10}


def get_config(corpus: str = "synthetic") -> dict:
    """Returns the study on a corpus."""
    config = attention.get_config(corpus, "shufflenet")
    (question,) = config["study"]["questions"]
    model = {**question["base"]["model"], "attention": "eca", "activation": "hard_swish"}
    folds = FOLDS.get(corpus, 5)
    study = {
        "title": f"What are leaking splits worth? {corpus}",
        "questions": [
            {
                "name": "protocols",
                "text": "How much of a score is due to knowing the test speakers?",
                "base": {"model": model},
                "variants": {
                    "unknown speakers": {"protocol": {"name": "grouped_k_fold", "num_folds": folds}},
                    "known speakers (random folds)": {"protocol": {"name": "random", "num_folds": folds}},
                    "unknown speakers and texts": {"protocol": {"name": "speaker_and_text_independent"}},
                },
                "comparisons": [
                    ("known speakers (random folds)", "unknown speakers"),
                    ("unknown speakers and texts", "unknown speakers"),
                ],
            }
        ],
    }
    changes = {"protocol": {"validation_speakers": 0}, "evaluation": {"robustness": []}, "study": study}
    return merge(config, changes)
