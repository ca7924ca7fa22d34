"""Linear models on the hidden states of a pretrained encoder.

python launch.py encoders get smart-turn-v3.2
python launch.py prepare encoder emodb --encoder smart-turn-v3.2 --pooled --layers 1,2,3
python launch.py study --config configs/encoder.py:emodb --workdir runs/encoder_emodb

The arguments are a prepared corpus and an encoder, by default smart-turn-v3.2. Means and deviations of hidden states
over an utterance are classified by linear discriminant analysis and a linear SVM: one for each state, each three states
in a row, with and without deviations, and the mean of their scores is what counts. How strongly each is regularised is
chosen inside each training fold, by speakers. "per speaker" is standardised by each
speaker's own utterances: it looks at the tested speaker's other recordings (not at their labels), so its figures are
not to be compared with the others.
"""

from configs import recipe

STATES = {"functionals": "precomputed", "columns": "combined", "class_weights": True}


def get_config(corpus: str = "emodb", encoder: str = "smart-turn-v3.2") -> dict:
    """Returns the study of the linear models on one corpus."""
    variants = {}
    for name, text in (("lda", "LDA"), ("linear_svm", "SVM")):
        for scaling, ending in (("fold", ""), ("speaker", " per speaker")):
            variants[text + ending] = {"model": {"name": name, "scaling": scaling, **STATES}}
    protocol = recipe.CORPORA.get(corpus, {}).get("protocol", {})
    return {
        "corpus": {"name": corpus},
        "protocol": {"validation_speakers": 0, **protocol},
        "frontend": {"kind": "precomputed", "features": f"{encoder}.pooled"},
        "model": {"name": "lda", "scaling": "fold", **STATES},
        "study": {"variants": variants},
    }
