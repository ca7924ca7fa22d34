"""The models of pretrained/, for a single recording of an unknown speaker.

python launch.py train configs/pretrained.py:emodb --workdir runs/pretrained_tested
python launch.py train configs/pretrained.py:emodb,everything --workdir runs/pretrained
python launch.py publish --workdir runs/pretrained --tested runs/pretrained_tested --to pretrained/emodb

The arguments are a corpus (published are emodb, ravdess, and both, made by `prepare merge --name both --corpora
emodb,ravdess`) and what is learnt: the folds of speakers, to test it, or everything, to use it. The recipe is the
inductive one of configs/recipe.py with the CNN. docs/recipes.md says what else was tried.
"""

from configs import recipe
from ser_jax.config import choose, merge

EPOCHS = {"ravdess": 30.0, "both": 20.0}
LEARNT = {"folds": {}, "everything": {"protocol": {"name": "everything", "num_folds": 0}, "seeds": [0, 1]}}


def get_config(corpus: str = "emodb", learnt: str = "folds") -> dict:
    """Returns the training on one corpus, tested on unseen speakers, or of everything."""
    config = merge(recipe.get_config(corpus, "cnn", "inductive"), {"evaluation": {"latency": False}})
    if corpus in EPOCHS:
        config = merge(config, {"training": {"train_epochs": EPOCHS[corpus]}})
    config = merge(config, choose("way to learn", learnt, LEARNT))
    return merge(config, {"seeds": [0, 1, 2]}) if (corpus, learnt) == ("emodb", "everything") else config
