"""Writes shufflenet.npz: logits, statistics and gradients of small ShuffleNet V2 networks in PyTorch.

PYTHONPATH=. python tests/references/make_shufflenet.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch_models import ShuffleNetV2, variables_of

from ser_jax.models import build

NETWORKS = {
    "eca_hard_swish": {"attention": "eca", "activation": "hard_swish"},
    "se_late_strides": {
        "attention": "se",
        "attention_stages": (3, 4),
        "attention_position": "after_activation",
        "time_stride": 8,
        "stem_stride": 1,
    },
}


def reference(options):
    """One training step and one evaluation of a network with random weights, as a dict of arrays."""
    torch.manual_seed(0)
    net = ShuffleNetV2(5, width="tiny", **options)
    features, labels = torch.randn(4, 45, 40), torch.arange(4)
    model = build("shufflenet_v2", 5, width="tiny", **options)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((4, 45, 40)), jnp.full(4, 45), train=False))
    arrays = {"features": features.numpy(), "labels": labels.numpy()}
    arrays["before"] = flat(variables_of(net, shapes))
    logits = net(features[:, None])
    torch.nn.functional.cross_entropy(logits, labels).backward()
    arrays["train_logits"] = logits.detach().numpy()
    arrays["after"] = flat(variables_of(net, shapes)["batch_stats"])
    net.eval()
    with torch.no_grad():
        arrays["eval_logits"] = net(features[:, None]).numpy()
        for weight in net.parameters():
            weight.copy_(weight.grad)
    arrays["gradient"] = flat(variables_of(net, shapes)["params"])
    return arrays


def flat(tree):
    """All leaves end to end, in the tree's order."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


if __name__ == "__main__":
    everything = {
        f"{name}.{key}": value for name, options in NETWORKS.items() for key, value in reference(options).items()
    }
    np.savez_compressed(Path(__file__).with_name("shufflenet.npz"), **everything)
