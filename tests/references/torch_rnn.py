"""The recurrent classifier of ser_jax once more, as one would write it in PyTorch, for tests and benchmarks."""

from torch import nn
from torch_recurrent import LAYERS, Pooling, run_packed, variables_of

__all__ = ["Network", "variables_of"]


class Network(nn.Module):
    def __init__(
        self,
        num_classes,
        num_features,
        cell="lstm",
        hidden=128,
        depth=2,
        pooling="mean",
        heads=4,
        tracks=0,
        dropout=0.0,
    ):
        super().__init__()
        self.layer_names = [f"recurrent{i + 1}" for i in range(depth)]
        for i, name in enumerate(self.layer_names):
            layer = LAYERS[cell](2 * hidden if i else num_features, hidden, bidirectional=True, batch_first=True)
            self.add_module(name, layer)
        self.pool = Pooling(pooling, 2 * hidden, heads)
        self.tracks_of_frame = nn.Linear(2 * hidden, tracks) if tracks else None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(2 * hidden * (2 if pooling == "attentive_statistics" else 1), num_classes)

    def logits_and_tracks(self, x, lengths):
        for name in self.layer_names:
            x = self.dropout(x) if name != "recurrent1" else x
            x, final = run_packed(getattr(self, name), x, lengths)
        logits = self.classifier(self.dropout(self.pool(x, final[0], lengths)))
        if self.tracks_of_frame is None:
            return logits, None
        real = lengths.new_tensor(range(x.shape[1]))[None] < lengths[:, None]
        return logits, self.tracks_of_frame(self.dropout(x)) * real[..., None]

    def forward(self, x, lengths):
        return self.logits_and_tracks(x, lengths)[0]
