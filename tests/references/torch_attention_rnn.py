"""The attention-RNN once more, in plain PyTorch."""

import jax
import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU}
CELLS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}


class Alignment(nn.Module):
    """Weights [batch, frames] of a query [batch, queries] over outputs [batch, frames, outputs]."""

    def __init__(self, kind, queries, outputs, filters, width):
        super().__init__()
        self.kind = kind
        if kind == "general":
            self.key = nn.Linear(outputs, queries, bias=False)
        if kind in ("additive", "location"):
            self.key = nn.Linear(outputs, queries)
            self.query = nn.Linear(queries, queries, bias=False)
            self.vector = nn.Linear(queries, 1, bias=False)
        if kind == "location":
            self.convolution = nn.Conv1d(1, filters, width, padding=width // 2, bias=False)
            self.filter = nn.Linear(filters, queries, bias=False)

    def forward(self, query, outputs, last, real):
        if self.kind == "dot":
            scores = torch.bmm(outputs, query[:, :, None])[:, :, 0]
        elif self.kind == "general":
            scores = torch.bmm(self.key(outputs), query[:, :, None])[:, :, 0]
        else:
            energies = self.key(outputs) + self.query(query)[:, None]
            if self.kind == "location":
                energies = energies + self.filter(self.convolution(last[:, None]).transpose(1, 2))
            scores = self.vector(torch.tanh(energies))[:, :, 0]
        return torch.softmax(scores.masked_fill(~real, -torch.inf), -1)


class Network(nn.Module):
    def __init__(
        self,
        num_classes,
        num_features,
        cell="lstm",
        hidden=64,
        depth=2,
        decoder_hidden=128,
        subsampling=2,
        attention="additive",
        location_filters=8,
        location_width=31,
        text="none",
        num_symbols=0,
        tracks=0,
    ):
        super().__init__()
        self.cell, self.subsampling, self.attention = cell, subsampling, attention
        self.encoder = nn.ModuleList()
        channels = num_features
        for number in range(depth):
            channels *= 2 if number and 2**number <= subsampling else 1
            self.encoder.append(LAYERS[cell](channels, hidden, batch_first=True, bidirectional=True))
            channels = 2 * hidden
        self.bridge = nn.ModuleList([nn.Linear(channels, decoder_hidden) for _ in range(2 if cell == "lstm" else 1)])
        if attention != "none":
            self.alignment = Alignment(attention, decoder_hidden, channels, location_filters, location_width)
        self.start = nn.Parameter(torch.randn(hidden))
        self.decoder = CELLS[cell](hidden + channels, decoder_hidden)
        self.readout = nn.Linear(decoder_hidden + channels, decoder_hidden)
        self.classifier = nn.Linear(decoder_hidden, num_classes)
        if text != "none":
            self.emotion_embedding = nn.Embedding(num_classes, hidden)
            self.symbol_embedding = nn.Embedding(num_symbols, hidden)
            self.symbol_head = nn.Linear(decoder_hidden, num_symbols)
        if tracks:
            self.track_head = nn.Linear(channels, tracks)

    def forward(self, features, lengths):
        return self.everything(features, lengths)[0]

    def everything(self, features, lengths, tokens=None, label=None):
        """Logits, weights [batch, tokens, frames] or None, logits of the tokens after a true label, and tracks."""
        x = features
        for number, layer in enumerate(self.encoder):
            if number and 2**number <= self.subsampling:
                if x.shape[1] % 2:
                    x = torch.cat([x, torch.zeros_like(x[:, :1])], 1)
                x = torch.cat([x[:, ::2], x[:, 1::2]], -1)
                lengths = (lengths + 1) // 2
            packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
            packed, final = layer(packed)
            x, _ = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
        final = final if self.cell == "lstm" else (final,)
        final = [torch.cat([part[0], part[1]], -1) for part in final]
        self.real = torch.arange(x.shape[1])[None] < lengths[:, None]
        self.outputs, self.last = x, final[0]
        state = [torch.tanh(bridge(part)) for bridge, part in zip(self.bridge, final, strict=True)]
        weights = self.real / lengths[:, None]

        state, weights, readout = self.step(state, weights, self.start[None].expand(len(x), -1))
        logits, all_weights, token_logits = self.classifier(readout), [weights], []
        if tokens is not None:
            embeddings = [self.emotion_embedding(label)]
            embeddings += [self.symbol_embedding(token.clamp(min=0)) for token in tokens.T[:-1]]
            for embedding in embeddings:
                state, weights, readout = self.step(state, weights, embedding)
                all_weights.append(weights)
                token_logits.append(self.symbol_head(readout))
        tracks = None
        if hasattr(self, "track_head"):
            tracks = self.track_head(x).repeat_interleave(self.subsampling, 1)[:, : features.shape[1]]
        return (
            logits,
            None if self.attention == "none" else torch.stack(all_weights, 1),
            torch.stack(token_logits, 1) if token_logits else None,
            tracks,
        )

    def step(self, state, weights, embedding):
        if self.attention == "none":
            context = self.last
        else:
            weights = self.alignment(state[0], self.outputs, weights, self.real)
            context = torch.bmm(weights[:, None], self.outputs)[:, 0]
        x = torch.cat([embedding, context], -1)
        state = self.decoder(x, tuple(state)) if self.cell == "lstm" else (self.decoder(x, state[0]),)
        return state, weights, torch.tanh(self.readout(torch.cat([state[0], context], -1)))


def variables_of(net, shapes, gradients=False):
    """The weights of `net`, or their gradients, as the variables of ser_jax's model, whose tree of shapes is given."""
    weights = {
        name: (weight.grad if gradients else weight.detach()).numpy().copy() for name, weight in net.named_parameters()
    }
    return jax.tree_util.tree_map_with_path(
        lambda path, shape: _variable(weights, [part.key for part in path[1:]]).reshape(shape.shape), shapes
    )


_RECURRENT = {
    "input_kernel": "weight_ih",
    "recurrent_kernel": "weight_hh",
    "input_bias": "bias_ih",
    "recurrent_bias": "bias_hh",
}
_ALIGNMENT = {
    "key_kernel": "key.weight",
    "key_bias": "key.bias",
    "query_kernel": "query.weight",
    "vector": "vector.weight",
    "location_kernel": "convolution.weight",
    "filter_kernel": "filter.weight",
}


def _variable(weights, path):
    layer, *rest = path
    if not rest:
        return weights[layer + (".weight" if layer.endswith("embedding") else "")]
    (leaf,) = rest
    layer = layer.replace("_0", ".0").replace("_1", ".1").replace("_2", ".2")
    if layer.startswith("encoder"):
        name = f"{layer}.{_RECURRENT[leaf]}_l0"
        return np.stack([weights[name].T, weights[f"{name}_reverse"].T])
    if layer == "decoder":
        return weights[f"decoder.{_RECURRENT[leaf]}"].T
    if layer == "alignment":
        weight = weights[f"alignment.{_ALIGNMENT[leaf]}"]
        return weight[:, 0].T if leaf == "location_kernel" else weight.T
    return weights[f"{layer}.{ {'kernel': 'weight', 'bias': 'bias'}[leaf] }"].T
