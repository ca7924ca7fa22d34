"""Writes attention_rnn.npz: logits, tokens, weights, tracks and gradients of a small attention-RNN in PyTorch.

PYTHONPATH=. python tests/references/make_attention_rnn.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_attention_rnn as twin

from ser_jax.models import build

TEXT = {"text": "characters", "num_symbols": 4, "tracks": 2}
NETWORK = {"hidden": 4, "decoder_hidden": 8, "attention": "location", "location_filters": 2, "location_width": 5} | TEXT


def reference(options):
    """Outputs of a network with random weights, and the gradients of a loss of them, as a dict of arrays."""
    torch.manual_seed(0)
    net = twin.Network(3, 5, **options)
    features, lengths, label = torch.randn(3, 9, 5), torch.tensor([9, 4, 1]), torch.tensor([2, 0, 1])
    tokens = torch.tensor([[0, 2, 1, 3], [1, 3, -1, -1], [-1, -1, -1, -1]])
    logits, weights, token_logits, tracks = net.everything(features, lengths, tokens, label)
    real_frame = (torch.arange(9)[None] < lengths[:, None])[..., None]
    # A loss in which every output that means something has its own factor.
    factors = {
        "logits": torch.randn(logits.shape),
        "tokens": torch.randn(token_logits.shape) * (tokens >= 0)[..., None],
        "tracks": torch.randn(tracks.shape) * real_frame,
    }
    outputs = {"logits": logits, "tokens": token_logits, "tracks": tracks * real_frame}
    sum((outputs[name] * factor).sum() for name, factor in factors.items()).backward()

    model = build("attention_rnn", 3, **options)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 9, 5)), jnp.array([9]), train=False))
    arrays = {"inputs.features": features, "inputs.lengths": lengths, "inputs.tokens": tokens, "inputs.label": label}
    arrays |= {f"outputs.{name}": values for name, values in outputs.items()}
    arrays |= {f"factors.{name}": values for name, values in factors.items()}
    if weights is not None:
        arrays["weights"] = weights
    arrays = {name: values.detach().numpy() for name, values in arrays.items()}
    arrays["variables"] = flat(twin.variables_of(net, shapes))
    arrays["gradient"] = flat(twin.variables_of(net, shapes, gradients=True))
    return arrays


def flat(tree):
    """All leaves end to end, in the tree's order."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("attention_rnn.npz"), **reference(NETWORK))
