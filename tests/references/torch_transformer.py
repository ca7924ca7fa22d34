"""The transformer of ser_jax once more, as one would write it in PyTorch, for tests and benchmarks."""

import math

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

SIZES = {"tiny": (16, 2, 2), "small": (96, 3, 4), "base": (256, 4, 4)}


class RotaryAttention(nn.Module):
    """Like nn.MultiheadAttention, with queries and keys turned by complex numbers."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(nn.Linear(width, 3 * width).weight.detach())
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x, padding):
        batch, frames, width = x.shape
        projected = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = projected.view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = self.turn(q), self.turn(k)
        x = functional.scaled_dot_product_attention(q, k, v, attn_mask=~padding[:, None, None])
        return self.out_proj(x.transpose(1, 2).reshape(batch, frames, width))

    @staticmethod
    def turn(x):
        half = x.shape[-1] // 2
        angles = torch.outer(torch.arange(x.shape[-2]), 10000.0 ** (-torch.arange(half) / half))
        turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([turned.real, turned.imag], -1)


class Attention(nn.MultiheadAttention):
    def __init__(self, width, heads):
        super().__init__(width, heads, batch_first=True)

    def forward(self, x, padding):
        return super().forward(x, x, x, key_padding_mask=padding, need_weights=False)[0]


class Convolution(nn.Module):
    def __init__(self, width, kernel_size):
        super().__init__()
        channels = max(8 * round((4 * width**2 + 2 * width) / (3 * width + kernel_size + 4) / 8), 8)
        self.expand = nn.Linear(width, 2 * channels)
        self.depthwise = nn.Conv1d(channels, channels, kernel_size, padding="same", groups=channels, bias=False)
        self.norm = nn.LayerNorm(channels)
        self.contract = nn.Linear(channels, width)

    def forward(self, x, padding):
        x = functional.glu(self.expand(x)).masked_fill(padding[..., None], 0)
        x = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return self.contract(functional.silu(self.norm(x)))


class FeedForward(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.expand, self.contract = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x, padding):
        return self.contract(functional.silu(self.expand(x)))


class Block(nn.Module):
    def __init__(self, width, heads, mixing, rotary, kernel_size, dropout):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.parts = []

        def add(name, module):
            self.add_module(name, module)
            self.add_module(f"{name}_norm", nn.LayerNorm(width))
            self.parts.append(name)

        if mixing == "none":
            add("mixing_feed_forward", FeedForward(width, 2 * width))
        if mixing in ("self_attention", "conformer"):
            add("attention", (RotaryAttention if rotary else Attention)(width, heads))
        if mixing in ("convolution", "conformer"):
            add("convolution", Convolution(width, kernel_size))
        add("feed_forward", FeedForward(width, 2 * width if mixing == "conformer" else 4 * width))

    def forward(self, x, padding):
        for name in self.parts:
            part, norm = getattr(self, name), getattr(self, f"{name}_norm")
            x = x + self.dropout(part(norm(x), padding))
        return x


class Pooling(nn.Module):
    """Mean, or attention in heads that each see their slice of the channels."""

    def __init__(self, kind, width, heads):
        super().__init__()
        self.kind = kind
        if kind != "mean":
            heads = 1 if kind == "self_attentive" else heads
            size, hidden = width // heads, width // heads // 2
            bias = kind == "attentive_statistics"
            self.kernel = nn.ModuleList(nn.Linear(size, hidden, bias=bias) for _ in range(heads))
            self.vector = nn.ModuleList(nn.Linear(hidden, 1, bias=False) for _ in range(heads))

    def forward(self, x, padding):
        if self.kind == "mean":
            return x.masked_fill(padding[..., None], 0).sum(1) / (~padding).sum(1)[:, None]
        means, deviations = [], []
        for own, kernel, vector in zip(x.chunk(len(self.kernel), -1), self.kernel, self.vector, strict=True):
            scores = vector(torch.tanh(kernel(own))).masked_fill(padding[..., None], -math.inf)
            weights = scores.softmax(1)
            means.append((weights * own).sum(1))
            deviations.append(((weights * (own - means[-1][:, None]) ** 2).sum(1) + 1e-5).sqrt())
        return torch.cat(means + deviations if self.kind == "attentive_statistics" else means, -1)


class Network(nn.Module):
    def __init__(
        self,
        num_classes,
        num_features,
        size="small",
        mixing="self_attention",
        positions="sinusoidal",
        pooling="mean",
        subsampling=4,
        width=0,
        depth=0,
        heads=0,
        kernel_size=15,
        dropout=0.0,
    ):
        super().__init__()
        own = SIZES[size]
        width, depth, heads = width or own[0], depth or own[1], heads or own[2]
        self.positions, self.convolutions = positions, {2: 1, 4: 2}[subsampling]
        self.subsampling1 = nn.Conv1d(num_features, width, 3, stride=2, padding=1)
        if subsampling == 4:
            self.subsampling2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        if pooling == "class_token":
            self.class_token = nn.Parameter(torch.randn(width))
        else:
            self.class_token = None
            self.pool = Pooling(pooling, width, heads)
        self.block_names = [f"block{i + 1}" for i in range(depth)]
        for name in self.block_names:
            self.add_module(name, Block(width, heads, mixing, positions == "rotary", kernel_size, dropout))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width * (2 if pooling == "attentive_statistics" else 1), num_classes)

    def forward(self, x, lengths):
        x = self.real(x, lengths).transpose(1, 2)
        for i in range(self.convolutions):
            x = functional.silu(getattr(self, f"subsampling{i + 1}")(x))
            lengths = (lengths + 1) // 2
            x = self.real(x.transpose(1, 2), lengths).transpose(1, 2)
        x = x.transpose(1, 2)
        if self.positions == "sinusoidal":
            half = x.shape[-1] // 2
            angles = torch.outer(torch.arange(x.shape[1]), torch.exp(-math.log(10000) / half * torch.arange(half)))
            x = x + torch.cat([angles.sin(), angles.cos()], -1)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), 1, -1), x], 1)
            lengths = lengths + 1
        padding = torch.arange(x.shape[1]) >= lengths[:, None]
        for name in self.block_names:
            x = getattr(self, name)(x, padding)
        x = self.norm(x)
        x = self.pool(x, padding) if self.class_token is None else x[:, 0]
        return self.classifier(self.dropout(x))

    @staticmethod
    def real(x, lengths):
        return x.masked_fill(torch.arange(x.shape[1])[None, :, None] >= lengths[:, None, None], 0)


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
    if leaf == "class_token":
        return weights[leaf]
    if layers[0] == "pool":
        kind = {"kernel": "kernel", "bias": "kernel", "vector": "vector"}[leaf]
        heads = sum(name.startswith(f"pool.{kind}.") and name.endswith("weight") for name in weights)
        parts = [weights[f"pool.{kind}.{i}.{'bias' if leaf == 'bias' else 'weight'}"] for i in range(heads)]
        return np.stack([part[0] if leaf == "vector" else part.T for part in parts])
    if layers[0].startswith("subsampling") and leaf == "kernel":  # [out, in, 3] -> [3 x in, out]
        weight = weights[f"{path}weight"]
        return weight.transpose(2, 1, 0).reshape(-1, len(weight))
    if leaf in ("query_bias", "value_bias"):
        return np.split(weights[f"{path}in_proj_bias"], 3)[0 if leaf == "query_bias" else 2]
    if leaf == "depthwise":
        return weights[f"{path}depthwise.weight"][:, 0].T
    path = path.replace("query_key_value.", "in_proj_").replace("attention.out.", "attention.out_proj.")
    weight = weights[path + {"bias": "bias"}.get(leaf, "weight")]
    return weight.T if leaf == "kernel" else weight
