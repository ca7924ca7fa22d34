"""Writes recurrent.npz: logits, tracks and gradients of small recurrent networks in PyTorch.

PYTHONPATH=. python tests/references/make_recurrent.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_reslstm
import torch_rnn

from ser_jax.models import build

TWINS = {"rnn": torch_rnn, "reslstm": torch_reslstm}
NETWORKS = {
    "rnn_weighted": ("rnn", {"hidden": 4, "depth": 2, "pooling": "weighted", "tracks": 2}),
    "rnn_gru_multi_head": ("rnn", {"cell": "gru", "hidden": 4, "depth": 1, "pooling": "multi_head", "heads": 2}),
    "reslstm": ("reslstm", {"hidden": 4, "depth": 2, "vectors": 3}),
}


def reference(family, options):
    """Outputs of a network with random weights, and the gradients of a loss of them, as a dict of arrays."""
    torch.manual_seed(0)
    net = TWINS[family].Network(5, 6, **options)
    with torch.no_grad():
        for weight in net.parameters():  # small weights hide mistakes, and layers begin with plain scales and biases
            weight.add_(0.4 * torch.randn(weight.shape))
    features, lengths, labels = torch.randn(4, 12, 6), torch.tensor([12, 1, 7, 9]), torch.arange(4)
    model = build(family, 5, **options)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((4, 12, 6)), jnp.full(4, 12), train=False))
    arrays = {"features": features.numpy(), "lengths": lengths.numpy().astype(np.int32), "labels": labels.numpy()}
    arrays["variables"] = flat(TWINS[family].variables_of(net, shapes))
    if options.get("tracks"):
        logits, tracks = net.logits_and_tracks(features, lengths)
        arrays["tracks"] = tracks.detach().numpy()
    else:
        logits, tracks = net(features, lengths), torch.zeros(1)
    (torch.nn.functional.cross_entropy(logits, labels) + tracks.square().mean()).backward()
    arrays["logits"] = logits.detach().numpy()
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(weight.grad)
    arrays["gradient"] = flat(TWINS[family].variables_of(net, shapes))
    return arrays


def flat(tree):
    """All leaves end to end, in the tree's order."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


if __name__ == "__main__":
    everything = {
        f"{name}.{key}": value for name, network in NETWORKS.items() for key, value in reference(*network).items()
    }
    np.savez_compressed(Path(__file__).with_name("recurrent.npz"), **everything)
