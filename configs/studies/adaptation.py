"""Is it worth adapting a pretrained encoder to the corpus, by LoRA or by training its last layers?

python launch.py prepare encoder emodb --encoder smart-turn-v3.2 --layers 1 --name smart-turn-v3.2.lower.frames
python launch.py study configs/studies/adaptation.py:emodb --workdir runs/adaptation_emodb

The arguments are a prepared corpus, an encoder, by default smart-turn-v3.2, and how many of its layers are computed in
the training step, by default 2: those above the state that was prepared, here the layers 2 and 3. What is below is
never computed again. The head weighs the prepared state and what these layers return. All variants have the same head,
folds, seeds and batches; they differ in what of the layers is trained.
"""

from configs import recipe
from configs.studies.attention import on_states
from ser_jax.config import merge
from ser_jax.encoders.adapters import PROJECTIONS
from ser_jax.errors import UserError

AS_THEY_ARE = {  # what the encoder's own layers are given
    "frontend": {"normalization": "none"},
    "augmentation": {"mixup": 0.0},
}


def get_config(corpus: str = "emodb", encoder: str = "smart-turn-v3.2", layers: str = "2") -> dict:
    """Returns the study on a corpus."""
    if not layers.isdecimal() or not int(layers):
        raise UserError(f"adaptation.py:{corpus},{encoder},{layers}: expected a number of layers of at least 1")
    model = {"name": "encoder_head", "states": 1, "layers": int(layers), "dropout": 0.3}
    variants = {
        "frozen": {"model": {**model, "adapt": "frozen"}},
        "LoRA": {"model": {**model, "adapt": "lora"}},
        "LoRA on all projections": {"model": {**model, "adapt": "lora", "projections": PROJECTIONS}},
        # Fine-tuning wants a smaller rate than a fresh head.
        "last layers": {"model": {**model, "adapt": "full"}, "optimizer": {"rates": {"^adapter/": 0.1}}},
    }
    comparisons = [(name, "frozen") for name in variants if name != "frozen"] + [("last layers", "LoRA")]
    study = {
        "title": f"Is it worth adapting {encoder}? {corpus}",
        "variants": variants,
        "comparisons": comparisons,
    }
    config = merge(on_states(recipe.get_config(corpus), corpus), AS_THEY_ARE)
    return merge(config, {"model": model, "frontend": {"features": f"{encoder}.lower.frames"}, "study": study})
