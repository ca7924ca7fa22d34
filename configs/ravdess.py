"""RAVDESS speech, eight emotions, six folds of four actors: ShuffleNet V2 0.5x, or any other model.

python launch.py prepare ravdess --source DIR_OR_ZIP
python launch.py train --config configs/ravdess.py --workdir runs/ravdess
python launch.py train --config configs/ravdess.py:cnn --workdir runs/ravdess_cnn

The argument is as in configs/emodb.py, and so is the recipe, but that the silence before and after is left out: some
1.6 of a recording's 3.7 seconds. Expected: of the CNN UA 71 to 72 %, on two CPU cores after 16 minutes; of ShuffleNet
V2 63 %, of the attention study's recurrent networks and encoder 55 %.
"""

from ml_collections import ConfigDict

from configs import emodb


def get_config(model: str = "") -> ConfigDict:
    """Returns the training of one model."""
    config = emodb.get_config(model)
    config.corpus.name = "ravdess"
    config.protocol.name = "grouped_k_fold"
    config.protocol.num_folds = 6
    config.frontend.trim_db = 40.0
    config.evaluation.window_seconds = 6.0
    return config
