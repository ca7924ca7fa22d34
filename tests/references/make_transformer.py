"""Writes transformer.npz: logits and gradients of small transformers in PyTorch.

PYTHONPATH=. python tests/references/make_transformer.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch_transformer import Network, variables_of

from ser_jax.models import build

NETWORKS = {
    "attention": {"mixing": "self_attention", "positions": "sinusoidal", "pooling": "attentive_statistics"},
    "conformer": {"mixing": "conformer", "positions": "rotary", "pooling": "multi_head", "subsampling": 2},
}
DIMENSIONS = {"width": 8, "depth": 1, "heads": 2, "kernel_size": 5}


def reference(options):
    """Logits of a network with random weights and the gradients of a loss of them, as a dict of arrays."""
    torch.manual_seed(0)
    net = Network(5, 10, **{**DIMENSIONS, **options})
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if weight.ndim == 1:  # layers begin with plain scales and biases, which would hide mistakes
                weight.add_(0.3 * torch.randn(len(weight)))
            if name.endswith("in_proj_bias"):  # ours has none for keys, which would change no result
                weight.chunk(3)[1].zero_()
    features, lengths, labels = torch.randn(4, 30, 10), torch.tensor([30, 1, 17, 22]), torch.arange(4)
    model = build("transformer", 5, **{**DIMENSIONS, **options})
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((4, 30, 10)), jnp.full(4, 30), train=False))
    arrays = {"features": features.numpy(), "lengths": lengths.numpy().astype(np.int32), "labels": labels.numpy()}
    arrays["variables"] = flat(variables_of(net, shapes))
    logits = net(features, lengths)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    arrays["logits"] = logits.detach().numpy()
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(weight.grad)
    arrays["gradient"] = flat(variables_of(net, shapes))
    return arrays


def flat(tree):
    """All leaves end to end, in the tree's order."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


if __name__ == "__main__":
    everything = {
        f"{name}.{key}": value for name, options in NETWORKS.items() for key, value in reference(options).items()
    }
    np.savez_compressed(Path(__file__).with_name("transformer.npz"), **everything)
