"""The baseline for networks: linear classifiers on functionals, leave one speaker out.

pip install opensmile==2.6.0    # for research and other non-commercial use
python launch.py study configs/baselines.py:emodb --workdir runs/baselines_emodb
python launch.py study configs/baselines.py:ravdess --workdir runs/baselines_ravdess

The argument is a prepared corpus. A variant is called after its functionals and its model (the linear SVM where none is
named). "per speaker" is standardised by each speaker's own utterances: it looks at the tested speaker's recordings (not
at their labels), which no other variant does, so compare these apart.

Expected, UA in percent: emodb: compare 77.0, emobase 74.3, own 69.9, egemaps 65.4, and per speaker 82.5, 82.5, 76.3,
80.9; 7 minutes. ravdess: compare 60.6, egemaps 53.6, own 52.0, and per speaker (not compare) 60.9, 61.0; 33 minutes.
On one busy core of an AMD EPYC 7003 with OMP_NUM_THREADS=1, and some minutes more for the functionals the first time.
docs/baselines.md has all of them.
"""


def get_config(corpus: str = "emodb") -> dict:
    """Returns the study of the baselines on one corpus."""
    variants = {}
    for functionals in ("own", "egemaps", "emobase", "compare"):
        if corpus == "ravdess" and functionals == "emobase":
            continue
        variants[functionals] = {"model": {"functionals": functionals}}
        if corpus != "ravdess" or functionals != "compare":
            variants[f"{functionals} per speaker"] = {"model": {"functionals": functionals, "scaling": "speaker"}}
    for name in ("logistic_regression", "ridge", "svr"):
        model = {"name": name, "functionals": "egemaps", "scaling": "fold"}
        variants[f"egemaps {name.replace('_', ' ')}"] = {"model": model}
    return {
        "corpus": {"name": corpus},
        "protocol": {"validation_speakers": 0},  # C is chosen inside the training fold: no speaker is set aside for it
        "model": {"name": "linear_svm", "functionals": "own", "scaling": "fold", "class_weights": True},
        "study": {"variants": variants},
    }
