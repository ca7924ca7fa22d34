"""The residual LSTM of ser_jax once more, as one would write it in PyTorch, for tests and benchmarks."""

import torch
from torch import nn
from torch_recurrent import run_packed, variables_of

__all__ = ["Network", "variables_of"]


class Network(nn.Module):
    def __init__(
        self,
        num_classes,
        num_features,
        attention="self_attention",
        vectors=1,
        residual=True,
        hidden=32,
        depth=2,
        dropout=0.0,
    ):
        super().__init__()
        self.depth, self.attention, self.residual, width = depth, attention, residual, 2 * hidden
        for i in range(1, depth + 1):
            inputs = num_features if i == 1 else width
            self.add_module(f"recurrent{i}", nn.LSTM(inputs, hidden, bidirectional=True, batch_first=True))
            self.add_module(f"norm{i}", nn.LayerNorm(width))
            if residual and inputs != width:
                self.add_module(f"passing{i}", nn.Linear(inputs, width, bias=False))
        if attention == "self_attention":
            self.attention_hidden = nn.Linear(width, hidden, bias=False)
            self.attention_vectors = nn.Linear(hidden, vectors, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width * (vectors if attention == "self_attention" else 1), num_classes)

    def forward(self, x, lengths):
        for i in range(1, self.depth + 1):
            passing = getattr(self, f"passing{i}", nn.Identity())(x)
            x, _ = run_packed(getattr(self, f"recurrent{i}"), self.dropout(x) if i > 1 else x, lengths)
            x = getattr(self, f"norm{i}")(x + passing if self.residual else x)
        real = torch.arange(x.shape[1])[None, :, None] < lengths[:, None, None]
        if self.attention == "none":
            return self.classifier(self.dropout((x * real).sum(1) / lengths[:, None]))
        scores = self.attention_vectors(torch.tanh(self.attention_hidden(x)))
        weights = scores.masked_fill(~real, -torch.inf).softmax(1)
        return self.classifier(self.dropout((weights.transpose(1, 2) @ x).flatten(1)))
