"""Does bfloat16 cost accuracy? The same network in float32 and in bfloat16: activations and products.

python launch.py study configs/studies/precision.py
python launch.py study configs/studies/precision.py:emodb
python launch.py study configs/studies/precision.py:emodb,cnn

The arguments are a corpus and a model; on the built-in corpus the network is tiny. A CPU rounds to bfloat16 as an
accelerator does, at its own speed.
"""

from configs import recipe
from configs.studies import attention
from ser_jax.config import merge


def get_config(corpus: str = "synthetic", model: str = "shufflenet_v2") -> dict:
    """Returns the study of a model on a corpus."""
    config = recipe.get_config(corpus, model, use="transductive")
    if corpus == "synthetic":
        config = merge(config, {**attention.TINY, "model": {"width": "tiny"} if model == "shufflenet_v2" else {}})
    study = {
        "title": f"Does bfloat16 cost accuracy? {model} on {corpus}",
        "questions": [
            {
                "name": "precision",
                "text": "Is a network as accurate if it is trained and tested in bfloat16?",
                "factors": ({"name": "precision", "field": "training.precision", "levels": ("float32", "bfloat16")},),
            }
        ],
    }
    return merge(config, {"study": study})
