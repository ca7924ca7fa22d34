"""Which layer of a pretrained encoder, or the learned sum of all?

python launch.py prepare encoder emodb --encoder smart-turn-v3.2 --pooled --name smart-turn-v3.2.all.pooled
python launch.py prepare encoder emodb --encoder smart-turn-v3.2 --average 4 --name smart-turn-v3.2.all.frames
python launch.py study configs/studies/layers.py:emodb --workdir runs/layers_emodb

The arguments are a prepared corpus, an encoder, by default smart-turn-v3.2, and how many layers it has, where
`python launch.py encoders` does not know it. Two questions: linear discriminant analysis on mean and deviation of each
state, and a head on the frames of each.

The figures of single layers describe the encoder; to pick the best of them would be a choice on the tested speakers.
Two variants choose without them. "chosen" takes, in each training fold, the layers that do best on its own speakers by
an inner leave one speaker out, and "learned sum" weighs all layers by what the training utterances teach.
"""

from configs import recipe
from configs.studies.attention import on_states
from ser_jax.config import merge
from ser_jax.encoders.catalogue import KNOWN
from ser_jax.errors import UserError


def get_config(corpus: str = "emodb", encoder: str = "smart-turn-v3.2", layers: str = "") -> dict:
    """Returns the study on a corpus."""
    if not layers and encoder not in KNOWN:
        raise UserError(f"layers.py:{corpus},{encoder}: expected how many layers it has as a third argument")
    if layers and not (layers.isdecimal() and int(layers)):
        raise UserError(f"layers.py:{corpus},{encoder},{layers}: expected how many layers the encoder has")
    depth = int(layers) if layers else KNOWN[encoder].layers
    states = [*(f"layer {n}" for n in range(depth + 1)), "final"]
    study = {"title": f"Which layer of {encoder}? {corpus}", "questions": [linear(encoder, states), heads(states)]}
    base = on_states(recipe.get_config(corpus), corpus)
    return merge(base, {"frontend": {"features": f"{encoder}.all.frames"}, "study": study})


def linear(encoder: str, states: list[str]) -> dict:
    """A linear model on mean and deviation of one state, of those chosen inside each fold, and of all."""
    model = {"name": "lda", "functionals": "precomputed"}
    variants = {state: {"model": {**model, "columns": f"mean and deviation of {state}"}} for state in states}
    variants |= {name: {"model": {**model, "columns": name}} for name in ("chosen", "combined")}
    return {
        "name": "linear",
        "text": "Which states does a linear model need?",
        "base": {"frontend": {"features": f"{encoder}.all.pooled"}, "model": model},
        "variants": variants,
        "comparisons": [(name, "chosen") for name in variants if name != "chosen"],
    }


def heads(states: list[str]) -> dict:
    """A head on the frames of one state, and on the learned sum of all."""
    model = {"name": "encoder_head", "states": len(states), "dropout": 0.3}
    variants = {"learned sum": {"model": model}}
    variants |= {state: {"model": {**model, "state": number}} for number, state in enumerate(states, 1)}
    return {
        "name": "head",
        "text": "Is the learned sum of all states better than one of them?",
        "base": {"model": model},
        "variants": variants,
        "comparisons": [("learned sum", state) for state in states],
    }
