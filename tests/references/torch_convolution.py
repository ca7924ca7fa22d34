"""CNN, CRNN and TCN of ser_jax once more, as one would write them in PyTorch, for tests and benchmarks."""

import math

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch_models import ECA, SE

ACTIVATIONS = {"relu": functional.relu, "hard_swish": functional.hardswish}


def real_cells(x, lengths):
    """True where x [batch, channels, time, ...] is real, [batch, 1, time, ...]."""
    return (torch.arange(x.shape[2]) < lengths[:, None]).view(len(x), 1, -1, *[1] * (x.ndim - 3))


def masked(x, lengths, value=0.0):
    return x.masked_fill(~real_cells(x, lengths), value)


def batch_norm(norm, x, lengths):
    """Normalises the real cells, gathered from the map and put back; the others are zero."""
    if (lengths == x.shape[2]).all():
        return norm(x)
    last = x.movedim(1, -1)
    real = real_cells(x, lengths)[:, 0].expand(last.shape[:-1])
    cells = last[real]
    result = torch.zeros_like(last)
    result[real] = norm(cells.view(*cells.shape, *[1] * (x.ndim - 2))).flatten(1)
    return result.movedim(-1, 1)


class NormalizedConvolution(nn.Module):
    def __init__(self, inputs, channels, size):
        super().__init__()
        self.convolution = nn.Conv2d(inputs, channels, size, padding=(size[0] // 2, size[1] // 2), bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x, lengths):
        return batch_norm(self.norm, self.convolution(x), lengths)


def pool(x, lengths, size, kind):
    if kind == "max":
        x = functional.max_pool2d(masked(x, lengths, -math.inf), size, ceil_mode=True)
    else:
        share = functional.avg_pool2d(real_cells(x, lengths).expand_as(x).float(), size, ceil_mode=True)
        x = functional.avg_pool2d(masked(x, lengths), size, ceil_mode=True) / share.clamp(min=1e-9)
    lengths = -(-lengths // size[0])
    return masked(x, lengths), lengths


class Pooling(nn.Module):
    """Over time, of x [batch, channels, time]."""

    def __init__(self, kind, channels, heads):
        super().__init__()
        self.kind = kind
        self.heads = heads if kind in ("multi_head", "attentive_statistics") else 1
        self.factor = 2 if kind == "attentive_statistics" else 1
        size = channels // self.heads
        if kind in ("self_attentive", "multi_head", "attentive_statistics"):
            bias = kind == "attentive_statistics"
            self.kernel = nn.ModuleList(nn.Linear(size, size // 2, bias=bias) for _ in range(self.heads))
        if kind not in ("mean", "last"):
            hidden = size if kind == "weighted" else size // 2
            self.vector = nn.ModuleList(nn.Linear(hidden, 1, bias=False) for _ in range(self.heads))

    def forward(self, x, lengths):
        if self.kind == "mean":
            return masked(x, lengths).sum(2) / lengths[:, None]
        means, deviations = [], []
        for head, own in enumerate(x.chunk(self.heads, 1)):
            hidden = own.transpose(1, 2)
            if self.kind != "weighted":
                hidden = torch.tanh(self.kernel[head](hidden))
            weights = masked(self.vector[head](hidden).transpose(1, 2), lengths, -math.inf).softmax(2)
            means.append((weights * own).sum(2))
            deviations.append(((weights * (own - means[-1][..., None]) ** 2).sum(2) + 1e-5).sqrt())
        return torch.cat(means + deviations if self.kind == "attentive_statistics" else means, 1)


class CNN(nn.Module):
    def __init__(
        self,
        num_classes,
        num_features,
        width=32,
        activation="relu",
        window_pooling="max",
        time_stride=8,
        attention="none",
        pooling="mean",
        heads=4,
    ):
        super().__init__()
        channels = [1] + [width * factor for factor in (1, 1, 2, 3, 4, 4)]
        self.activation, self.window_pooling = ACTIVATIONS[activation], window_pooling
        self.strides = [(2 if 2**layer <= time_stride else 1, 2) for layer in range(1, 6)] + [None]
        for layer in range(1, 7):
            self.add_module(f"layer{layer}", NormalizedConvolution(channels[layer - 1], channels[layer], (3, 3)))
            if attention != "none":
                self.add_module(f"attention{layer}", {"eca": ECA, "se": SE}[attention](channels[layer]))
        self.attention = attention
        self.pool = Pooling(pooling, channels[-1], heads)
        self.classifier = nn.Linear(channels[-1] * self.pool.factor, num_classes)

    def forward(self, x, lengths):
        x = masked(x[:, None], lengths)
        for layer, strides in enumerate(self.strides, 1):
            x = masked(self.activation(getattr(self, f"layer{layer}")(x, lengths)), lengths)
            if strides:
                x, lengths = pool(x, lengths, strides, self.window_pooling)
            if self.attention != "none":
                # The gates come from a mean over all cells: make it one over the real ones.
                share = (lengths / x.shape[2])[:, None, None, None]
                x = x * getattr(self, f"attention{layer}")(x / share)[:, :, None, None]
        return self.classifier(self.pool(x.mean(3), lengths))


SIZES = {"tiny": (4, 8, 2, 16, 8, 8), "small": (32, 64, 4, 192, 64, 64), "paper": (128, 256, 6, 768, 128, 64)}


class CRNN(nn.Module):
    def __init__(self, num_classes, num_features, size="small", channels=1, pooling="mean", heads=4):
        super().__init__()
        first, others, self.num_convolutions, linear, hidden, fully_connected = SIZES[size]
        self.channels, self.pooling = channels, pooling
        for layer in range(1, self.num_convolutions + 1):
            inputs = {1: channels, 2: first}.get(layer, others)
            convolution = NormalizedConvolution(inputs, first if layer == 1 else others, (5, 3))
            self.add_module(f"convolution{layer}", convolution)
        bands = -(-num_features // channels // 4)
        self.linear = nn.Linear(bands * others, linear, bias=False)
        self.linear_norm = nn.BatchNorm1d(linear)
        self.lstm = nn.LSTM(linear, hidden, batch_first=True, bidirectional=True)
        self.pool = Pooling(pooling, 2 * hidden, heads)
        self.fully_connected = nn.Linear(2 * hidden * self.pool.factor, fully_connected)
        self.classifier = nn.Linear(fully_connected, num_classes)

    def forward(self, x, lengths):
        x = masked(torch.stack(x.chunk(self.channels, 2), 1), lengths)
        for layer in range(1, self.num_convolutions + 1):
            x = masked(functional.leaky_relu(getattr(self, f"convolution{layer}")(x, lengths), 0.01), lengths)
            if layer == 1:
                x, lengths = pool(x, lengths, (2, 4), "max")
        x = self.linear(x.permute(0, 2, 3, 1).flatten(2)).transpose(1, 2)
        x = functional.leaky_relu(batch_norm(self.linear_norm, x, lengths), 0.01).transpose(1, 2)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        x, (final, _) = self.lstm(packed)
        if self.pooling == "last":
            x = torch.cat(list(final), 1)
        else:
            x = self.pool(nn.utils.rnn.pad_packed_sequence(x, batch_first=True)[0].transpose(1, 2), lengths)
        return self.classifier(functional.leaky_relu(self.fully_connected(x), 0.01))


class DilatedConvolution(nn.Module):
    def __init__(self, channels, dilation):
        super().__init__()
        self.dilation = dilation
        self.convolution = nn.Conv1d(channels, channels, 2, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x, lengths):
        return batch_norm(self.norm, self.convolution(functional.pad(x, (self.dilation, 0))), lengths)


class Stream(nn.Module):
    def __init__(self, inputs, width, levels):
        super().__init__()
        self.dense, self.levels = nn.Linear(inputs, width), levels
        for level in range(levels):
            for i in (1, 2):
                self.add_module(f"level{level + 1}_convolution{i}", DilatedConvolution(width, 2**level))

    def forward(self, x, lengths):
        x = self.dense(x).transpose(1, 2)
        results = []
        for level in range(self.levels):
            gates = x
            for i in (1, 2):
                gates = functional.relu(getattr(self, f"level{level + 1}_convolution{i}")(gates, lengths))
            x = x * torch.sigmoid(gates)
            results.append(x.transpose(1, 2))
        return results


def reversed_within(x, lengths):
    """Every utterance of x [batch, time, channels] backwards, within its own length."""
    time = torch.arange(x.shape[1])[None]
    source = torch.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)
    return x.gather(1, source[..., None].expand_as(x))


class TCN(nn.Module):
    def __init__(self, num_classes, num_features, width=72, levels=8, fusion="dynamic", pooling="mean", heads=4):
        super().__init__()
        self.forward_stream = Stream(num_features, width, levels)
        self.backward_stream = Stream(num_features, width, levels)
        self.fusion = nn.Parameter(torch.full((levels,), 1 / levels), requires_grad=fusion == "dynamic")
        self.pool = Pooling(pooling, width, heads)
        self.classifier = nn.Linear(width * self.pool.factor, num_classes)

    def forward(self, x, lengths):
        forward = self.forward_stream(x, lengths)
        backward = self.backward_stream(reversed_within(x, lengths), lengths)
        levels = [f + reversed_within(b, lengths) for f, b in zip(forward, backward, strict=True)]
        if self.pool.kind == "mean":  # as the paper has it
            pooled = torch.stack([self.pool(level.transpose(1, 2), lengths) for level in levels], 1)
            return self.classifier((pooled * self.fusion[None, :, None]).sum(1))
        fused = (torch.stack(levels, 1) * self.fusion[None, :, None, None]).sum(1)
        return self.classifier(self.pool(fused.transpose(1, 2), lengths))


NETWORKS = {"cnn": CNN, "crnn": CRNN, "tcn": TCN}


def variables_of(net, shapes):
    """The weights of `net` as the variables of ser_jax's model, whose tree of shapes is given."""
    weights = {name: weight.detach().numpy().copy() for name, weight in net.state_dict().items()}

    def variable(path, shape):
        found = _variable(weights, [part.key for part in path[1:]])
        assert found.shape == shape.shape, (path, found.shape, shape.shape)
        return found

    return jax.tree_util.tree_map_with_path(variable, shapes)


_LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var", "kernel": "weight"}
_LSTM = {
    "input_kernel": "weight_ih",
    "recurrent_kernel": "weight_hh",
    "input_bias": "bias_ih",
    "recurrent_bias": "bias_hh",
}


def _variable(weights, path):
    *layers, leaf = path
    if path == ["fusion"]:
        return weights["fusion"]
    if path == ["linear"]:  # bands come before channels in both
        return weights["linear.weight"].T
    if layers == ["lstm"]:
        return np.stack([weights[f"lstm.{_LSTM[leaf]}_l0{direction}"].T for direction in ("", "_reverse")])
    if layers == ["pool"]:
        kind = {"kernel": "kernel", "bias": "kernel", "vector": "vector"}[leaf]
        heads = sum(name.startswith(f"pool.{kind}.") and name.endswith("weight") for name in weights)
        parts = [weights[f"pool.{kind}.{i}.{'bias' if leaf == 'bias' else 'weight'}"] for i in range(heads)]
        return np.stack([part[0] if leaf == "vector" else part.T for part in parts])
    if layers[0] in ("forward", "backward"):
        layers[0] += "_stream"
        if len(layers) == 1:
            layers.append("dense")
    path = ".".join(layers)
    if f"{path}.conv.weight" in weights:  # efficient channel attention
        return weights[f"{path}.conv.weight"].ravel()
    if leaf == "kernel" and f"{path}.convolution.weight" in weights:
        weight = weights[f"{path}.convolution.weight"]
        if weight.ndim == 4:
            return weight.transpose(2, 3, 1, 0)
        return weight.transpose(2, 1, 0).reshape(-1, len(weight))
    weight = weights[f"{path}.{_LEAVES[leaf]}"]
    return weight.T if leaf == "kernel" else weight
