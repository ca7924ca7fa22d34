"""A pretrained encoder under linear models and heads: what its hidden states say of emotions.

python launch.py encoders get smart-turn-v3.2
python launch.py prepare encoder emodb --encoder smart-turn-v3.2 --pooled --layers 1,2,3
python launch.py study --config configs/encoder.py:emodb --workdir runs/encoder_emodb

The argument is a prepared corpus and, after a comma, an encoder, by default smart-turn-v3.2. Means and deviations of
hidden states over an utterance are classified by linear discriminant analysis and a linear SVM. Which states they look
at, and how strongly they are regularised, is chosen inside each training fold, by speakers. "per speaker" is
standardised by each speaker's own utterances: it looks at the tested speaker's other recordings (not at their labels).
"""

RAVDESS = {"name": "grouped_k_fold", "num_folds": 6}  # four of the 24 actors are tested at a time


def get_config(argument: str = "emodb") -> dict:
    """Returns the study of the linear models on one corpus."""
    corpus, _, encoder = argument.partition(",")
    base = {"functionals": "precomputed", "columns": "chosen", "class_weights": True}
    variants = {}
    for name, text in (("lda", "LDA"), ("linear_svm", "SVM")):
        for scaling, ending in (("fold", ""), ("speaker", " per speaker")):
            variants[text + ending] = {"model": {"name": name, "scaling": scaling, **base}}
    return {
        "corpus": {"name": corpus},
        "protocol": {"validation_speakers": 0, **(RAVDESS if corpus == "ravdess" else {})},
        "frontend": {"kind": "precomputed", "features": f"{encoder or 'smart-turn-v3.2'}.pooled"},
        "model": {"name": "lda", "scaling": "fold", **base},
        "study": {"variants": variants},
    }
