"""The models of ser_jax once more, in plain PyTorch and as their papers write them, for tests and benchmarks."""

import math

import jax
import torch
from torch import nn

CHANNELS = {
    "tiny": (8, 8, 16, 24, 32),
    0.5: (24, 48, 96, 192, 1024),
    1.0: (24, 116, 232, 464, 1024),
    1.5: (24, 176, 352, 704, 1024),
    2.0: (24, 244, 488, 976, 2048),
}


def channel_shuffle(x, groups):
    batch, channels, height, width = x.shape
    return (
        x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(batch, channels, height, width)
    )


class ECA(nn.Module):
    def __init__(self, channels, kernel_size=None):
        super().__init__()
        t = int(abs((math.log2(channels) + 1) / 2))
        k = kernel_size or max(t if t % 2 else t + 1, 3)
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)

    def forward(self, x):
        return torch.sigmoid(self.conv(x.mean((2, 3))[:, None]))[:, 0]


class SE(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.squeeze = nn.Linear(channels, max(channels // 16, 4))
        self.excite = nn.Linear(max(channels // 16, 4), channels)

    def forward(self, x):
        return torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3))))))


class Unit(nn.Module):
    def __init__(self, inputs, channels, stride, attention, attention_position, eca_kernel, activation):
        super().__init__()
        half = channels // 2
        self.stride, self.position, self.activation = stride, attention_position, activation
        if stride:
            self.passing_depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
            self.passing_norm1 = nn.BatchNorm2d(inputs)
            self.passing_pointwise = nn.Conv2d(inputs, half, 1, bias=False)
            self.passing_norm2 = nn.BatchNorm2d(half)
        self.pointwise1 = nn.Conv2d(inputs if stride else half, half, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(half)
        self.depthwise = nn.Conv2d(half, half, 3, stride or 1, 1, groups=half, bias=False)
        self.norm2 = nn.BatchNorm2d(half)
        self.pointwise2 = nn.Conv2d(half, half, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(half)
        if attention == "eca":
            self.eca = ECA(half, eca_kernel)
        if attention == "se":
            self.se = SE(half)
        self.gate = {"eca": lambda x: self.eca(x), "se": lambda x: self.se(x), "none": None}[attention]

    def forward(self, x):
        if self.stride:
            passing, branch = x, x
            passing = self.passing_norm1(self.passing_depthwise(passing))
            passing = self.activation(self.passing_norm2(self.passing_pointwise(passing)))
        else:
            passing, branch = x.chunk(2, dim=1)
        branch = self.activation(self.norm1(self.pointwise1(branch)))
        branch = self.norm2(self.depthwise(branch))
        branch = self.norm3(self.pointwise2(branch))
        if self.position == "after_activation":
            branch = self.activation(branch)
        if self.gate:
            branch = branch * self.gate(branch)[:, :, None, None]
        if self.position == "before_activation":
            branch = self.activation(branch)
        return channel_shuffle(torch.cat((passing, branch), dim=1), 2)


class ShuffleNetV2(nn.Module):
    """Takes [batch, 1, frames, features] of equal lengths."""

    def __init__(
        self,
        num_classes,
        width=0.5,
        attention="none",
        attention_stages=(2, 3, 4),
        attention_position="before_activation",
        eca_kernel=None,
        activation="relu",
        time_stride=32,
        stem_stride=2,
    ):
        super().__init__()
        stem, *stages, last = CHANNELS[width]
        self.activation = {"relu": nn.functional.relu, "hard_swish": nn.functional.hardswish}[activation]
        self.stem_conv = nn.Conv2d(1, stem, 3, stem_stride, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(stem)
        self.max_pool = nn.MaxPool2d(3, 2, 1)
        total = 2 * stem_stride
        self.unit_names = []
        inputs = stem
        for stage, channels, units in zip((2, 3, 4), stages, (2, 2, 2) if width == "tiny" else (4, 8, 4), strict=True):
            stride = (2 if 2 * total <= time_stride else 1, 2)
            total *= stride[0]
            for unit in range(units):
                name = f"stage{stage}_unit{unit + 1}"
                module = Unit(
                    inputs,
                    channels,
                    stride if unit == 0 else None,
                    attention if stage in attention_stages else "none",
                    attention_position,
                    eca_kernel,
                    self.activation,
                )
                self.add_module(name, module)
                self.unit_names.append(name)
                inputs = channels
        self.last_conv = nn.Conv2d(inputs, last, 1, bias=False)
        self.last_norm = nn.BatchNorm2d(last)
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x):
        x = self.max_pool(self.activation(self.stem_norm(self.stem_conv(x))))
        for name in self.unit_names:
            x = getattr(self, name)(x)
        x = self.activation(self.last_norm(self.last_conv(x)))
        return self.classifier(x.mean((2, 3)))


def variables_of(net, shapes):
    """The weights of `net` as the variables of ser_jax's model, whose tree of shapes is given."""
    weights = {name: weight.detach().numpy().copy() for name, weight in net.state_dict().items()}
    return jax.tree_util.tree_map_with_path(
        lambda path, shape: _variable(weights, [part.key for part in path[1:]]).reshape(shape.shape), shapes
    )


_NORMS = {
    "stem": {"norm": "stem_norm"},
    "last": {"norm": "last_norm"},
    "pointwise1": {"norm": "norm1"},
    "pointwise2": {"input_norm": "norm2", "norm": "norm3"},
    "passing_pointwise": {"input_norm": "passing_norm1", "norm": "passing_norm2"},
}
_NORM_LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def _variable(weights, path):
    unit = f"{path.pop(0)}." if path[0].startswith("stage") else ""
    layer, *rest = path
    if layer == "eca":
        return weights[f"{unit}eca.conv.weight"]
    if layer == "classifier" or layer == "se":
        weight = weights[unit + ".".join([layer, *rest[:-1], {"kernel": "weight", "bias": "bias"}[rest[-1]]])]
        return weight.T
    if rest == ["kernel"]:  # [out, in, 3, 3] -> [3, 3, in, out]
        return weights[unit + {"stem": "stem_conv", "last": "last_conv"}.get(layer, layer) + ".weight"].transpose(
            2, 3, 1, 0
        )
    norm, leaf = rest
    return weights[f"{unit}{_NORMS[layer][norm]}.{_NORM_LEAVES[leaf]}"]
