"""Writes convolution.npz: logits, statistics and gradients of small CNN, CRNN and TCN networks in PyTorch.

PYTHONPATH=. python tests/references/make_convolution.py
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch_convolution import NETWORKS, variables_of

from ser_jax.models import build

REFERENCES = {
    "cnn": {"width": 2, "attention": "eca", "activation": "hard_swish", "pooling": "weighted"},
    "crnn": {"size": "tiny", "channels": 3, "pooling": "weighted"},
    "tcn": {"width": 8, "levels": 3},
}
LENGTHS = (21, 9, 1, 14)


def reference(name, options):
    """One training step and one evaluation of a network with random weights, as a dict of arrays."""
    torch.manual_seed(0)
    net = NETWORKS[name](5, 12, **options)
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    features, lengths, labels = torch.randn(4, max(LENGTHS), 12), torch.tensor(LENGTHS), torch.arange(4)
    model = build(name, 5, **options)
    inputs = jnp.zeros(features.shape), jnp.array(LENGTHS)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, train=False))
    arrays = {"options": json.dumps(options), "features": features.numpy(), "lengths": lengths, "labels": labels}
    arrays["before"] = flat(variables_of(net, shapes))
    logits = net(features, lengths)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    arrays["train_logits"] = logits.detach().numpy()
    arrays["after"] = flat(variables_of(net, shapes)["batch_stats"])
    net.eval()
    with torch.no_grad():
        arrays["eval_logits"] = net(features, lengths).numpy()
        for weight in net.parameters():
            if weight.requires_grad:
                weight.copy_(weight.grad)
    arrays["gradient"] = flat(variables_of(net, shapes)["params"])
    return {key: np.asarray(value) for key, value in arrays.items()}


def flat(tree):
    """All leaves end to end, in the tree's order."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


if __name__ == "__main__":
    everything = {
        f"{name}.{key}": value
        for name, options in REFERENCES.items()
        for key, value in reference(name, options).items()
    }
    np.savez_compressed(Path(__file__).with_name("convolution.npz"), **everything)
