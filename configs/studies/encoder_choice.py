"""Which states of a pretrained encoder, which speeds, which linear model? Chosen without the tested speakers.

for corpus in emodb ravdess; do
    python launch.py prepare encoder $corpus --encoder smart-turn-v3.2 --pooled --layers 1,2,3
    python launch.py prepare encoder $corpus --encoder smart-turn-v3.2 --pooled --layers 1,2,3 --name speeds \
        --speeds 0.88,0.94,1,1.06,1.12
    python launch.py prepare encoder $corpus --encoder smart-turn-v3.2 --pooled --name all.pooled
    python launch.py prepare encoder $corpus --encoder smart-turn-v3.2 --pooled --name all.speeds \
        --speeds 0.88,0.94,1,1.06,1.12
done
python launch.py study configs/studies/encoder_choice.py:emodb --select folds --workdir runs/choice_emodb
python launch.py study configs/studies/encoder_choice.py:emodb,speaker --select folds --workdir runs/choice_by_speaker

The arguments are a corpus and how states are standardised: by the training fold ("fold", inductive) or by each
speaker's own recordings ("speaker", transductive). The variants are candidates. With `--select folds` each fold takes
the one that does best on the speakers that it learns from, so that no tested speaker's label had a part in the choice.
"LDA" itself chooses among all sets of states, and their combination, in the same way. To pick by the study's own table
instead would be a choice on the tested speakers.
"""

from configs import recipe
from ser_jax.config import choose

USES = {"fold": {"scaling": "fold"}, "speaker": {"scaling": "speaker"}}
CANDIDATES = {  # model, columns, features
    "LDA": ("lda", "chosen", "all.pooled"),
    "LDA, five speeds": ("lda", "chosen", "all.speeds"),
    "LDA, layers 1 to 3": ("lda", "combined", "smart-turn-v3.2.pooled"),
    "LDA, layers 1 to 3, five speeds": ("lda", "combined", "speeds"),
    "SVM": ("linear_svm", "all", "all.pooled"),
}


def get_config(corpus: str = "emodb", scaling: str = "fold") -> dict:
    """Returns the study of the candidates on one corpus."""
    model = {"functionals": "precomputed", "class_weights": True, **choose("scaling", scaling, USES)}
    variants = {
        text: {"model": {"name": name, "columns": columns, **model}, "frontend": {"features": features}}
        for text, (name, columns, features) in CANDIDATES.items()
    }
    return {
        "corpus": {"name": corpus},
        "protocol": {"validation_speakers": 0, **recipe.CORPORA.get(corpus, {}).get("protocol", {})},
        "frontend": {"kind": "precomputed", "features": "all.pooled"},
        "model": {"name": "lda", "columns": "chosen", **model},
        "study": {"variants": variants},
    }
