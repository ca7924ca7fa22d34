"""Recurrent layers as a PyTorch user writes them, and their weights as ser_jax's."""

import jax
import numpy as np
import torch
from torch import nn
from torch_transformer import Pooling as HeadedPooling

LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU}


def run_packed(layer, x, lengths):
    """Outputs [batch, frames, directions x hidden] of an nn.LSTM or nn.GRU, and its final states."""
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    outputs, final = layer(packed)
    outputs, _ = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True, total_length=x.shape[1])
    final = final if isinstance(final, tuple) else (final,)
    return outputs, tuple(part.transpose(0, 1).flatten(1) for part in final)


class Pooling(nn.Module):
    def __init__(self, kind, channels, heads):
        super().__init__()
        self.kind = kind
        if kind == "weighted":
            self.vector = nn.Linear(channels, 1, bias=False)
        elif kind != "last":
            self.headed = HeadedPooling(kind, channels, heads)

    def forward(self, x, final, lengths):
        padding = torch.arange(x.shape[1]) >= lengths[:, None]
        if self.kind == "last":
            return final
        if self.kind == "weighted":
            weights = self.vector(x).masked_fill(padding[..., None], -torch.inf).softmax(1)
            return (weights * x).sum(1)
        return self.headed(x, padding)


def variables_of(net, shapes):
    """The weights of `net` as the variables of ser_jax's model, whose tree of shapes is given."""
    weights = {name: weight.detach().numpy().copy() for name, weight in net.state_dict().items()}

    def variable(path, shape):
        _, *layers, leaf = (part.key for part in path)
        found = _variable(weights, layers, leaf)
        assert found.shape == shape.shape, (layers, leaf, found.shape, shape.shape)
        return found

    return jax.tree_util.tree_map_with_path(variable, shapes)


def _variable(weights, layers, leaf):
    path = "".join(f"{layer}." for layer in layers)
    if leaf.startswith(("input_", "recurrent_")):
        side, kind = leaf.split("_")
        name = f"{path}{'weight' if kind == 'kernel' else 'bias'}_{'ih' if side == 'input' else 'hh'}_l0"
        return np.stack([weights[key].T for key in (name, f"{name}_reverse") if key in weights])
    if layers == ["pool"]:
        if "pool.vector.weight" in weights:
            return weights["pool.vector.weight"]
        module = "vector" if leaf == "vector" else "kernel"
        kind = "bias" if leaf == "bias" else "weight"
        heads = [name for name in weights if name.startswith(f"pool.headed.{module}.") and name.endswith(kind)]
        return np.stack([weights[name][0] if leaf == "vector" else weights[name].T for name in heads])
    weight = weights[path + ("bias" if leaf == "bias" else "weight")]
    return weight.T if leaf == "kernel" else weight
