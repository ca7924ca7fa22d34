"""Notes, for every family's tiny model, the loss and the gradient's norm of a first step, and the loss after it.

python -m tests.references.make_golden
"""

import json

import jax
import jax.numpy as jnp

from ser_jax.models import FAMILIES, build
from tests.models.test_contract import BANDS, GOLDEN, LONGEST, NUM_CLASSES, drawn, training_of


def main() -> None:
    figures = {}
    for name, family in FAMILIES.items():
        model = build(name, NUM_CLASSES, **family.tiny)
        example = jnp.zeros((1, LONGEST, BANDS)), jnp.array([LONGEST])
        shapes = jax.eval_shape(
            lambda model=model, example=example: model.init(jax.random.key(0), *example, train=False)
        )
        statistics = jax.tree_util.tree_map_with_path(
            lambda path, leaf: jnp.ones(leaf.shape) if "var" in str(path[-1]) else jnp.zeros(leaf.shape),
            shapes.get("batch_stats", {}),
        )
        rest = {"batch_stats": statistics} if statistics else {}
        _, losses, gradients = training_of(model)(drawn(shapes["params"]), rest)
        figures[name] = [float(losses[0]), float(gradients[0]), float(losses[1])]
    GOLDEN.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
