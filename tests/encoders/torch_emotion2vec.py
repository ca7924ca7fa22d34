"""emotion2vec in PyTorch, written from its description: one utterance, one head and one pair of frames at a time."""

import math

import pytest

torch = pytest.importorskip("torch", reason="parity of emotion2vec needs torch (requirements-references.txt)")

AUDIO = "modality_encoders.AUDIO"
CONVOLUTIONS = ((24, 10, 5), (24, 3, 2), (24, 3, 2), (24, 2, 2))
SPEC = "[(24, 10, 5)] + [(24, 3, 2)] * 2 + [(24,2,2)]"
WIDTH, HIDDEN, HEADS, PRENET, BLOCKS, TOKENS = 24, 40, 6, 1, 2, 3
POSITIONS, KERNEL, GROUPS = 3, 5, 4
SLOPES = (1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8)  # of six heads: those of four, and every second of eight


def shapes(width, hidden, heads, prenet, blocks, tokens, convolutions, positions, kernel, groups):
    """The names and shapes of a checkpoint's tensors, of the encoder alone."""
    found, channels = {}, 1
    for i, (out, size, _) in enumerate(convolutions):
        found[f"{AUDIO}.local_encoder.conv_layers.{i}.0.weight"] = (out, channels, size)
        for part in ("weight", "bias"):
            found[f"{AUDIO}.local_encoder.conv_layers.{i}.2.1.{part}"] = (out,)
        channels = out
    for part in ("weight", "bias"):
        found[f"{AUDIO}.project_features.1.{part}"] = (channels,)
        found[f"{AUDIO}.context_encoder.norm.{part}"] = (width,)
    found[f"{AUDIO}.project_features.2.weight"] = (width, channels)
    found[f"{AUDIO}.project_features.2.bias"] = (width,)
    for i in range(1, positions + 1):
        found[f"{AUDIO}.relative_positional_encoder.{i}.0.weight"] = (width, width // groups, kernel)
        found[f"{AUDIO}.relative_positional_encoder.{i}.0.bias"] = (width,)
    found[f"{AUDIO}.extra_tokens"] = (1, tokens, width)
    found[f"{AUDIO}.alibi_scale"] = (1, 1, heads, 1, 1)
    for prefix in (
        *(f"{AUDIO}.context_encoder.blocks.{n}" for n in range(prenet)),
        *map("blocks.{}".format, range(blocks)),
    ):
        for name, out, into in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", hidden, width),
            ("mlp.fc2", width, hidden),
        ):
            found[f"{prefix}.{name}.weight"], found[f"{prefix}.{name}.bias"] = (out, into), (out,)
        for name in ("norm1", "norm2"):
            found[f"{prefix}.{name}.weight"] = found[f"{prefix}.{name}.bias"] = (width,)
    return found


TINY = shapes(WIDTH, HIDDEN, HEADS, PRENET, BLOCKS, TOKENS, CONVOLUTIONS, POSITIONS, KERNEL, GROUPS)


def draw():
    """The tensors of a tiny encoder; the slope of one head has a scale below 0, which counts as 0."""
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, shape in TINY.items():
        state[name] = torch.randn(shape, generator=generator, dtype=torch.float64)
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 9
        if name.endswith(".weight") or name.endswith(".bias"):
            state[name] *= 1 / math.sqrt(fan_in)
        if len(shape) == 1 and name.endswith("weight"):
            state[name] += 1
    state[f"{AUDIO}.alibi_scale"][0, 0, :, 0, 0] = torch.tensor([1.3, 0.4, -0.7, 2.0, 0.9, 1.1])
    return state


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def normalised(x, axis=-1, scale=None, shift=None):
    centred = x - x.mean(axis, keepdim=True)
    x = centred / torch.sqrt((centred**2).mean(axis, keepdim=True) + 1e-5)
    return x if scale is None else x * scale + shift


def norm(state, name, x):
    return normalised(x, -1, state[f"{name}.weight"], state[f"{name}.bias"])


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def states(state, waveform, normalize=True):
    """What the first block is given and each returns [blocks + 1, frames, width], and the same of the extra tokens."""
    x = normalised(waveform) if normalize else waveform
    x = x[None]  # channels, time
    for i, (_, _, stride) in enumerate(CONVOLUTIONS):
        name = f"{AUDIO}.local_encoder.conv_layers.{i}"
        x = torch.nn.functional.conv1d(x[None], state[f"{name}.0.weight"], stride=stride)[0]
        x = gelu(norm(state, f"{name}.2.1", x.T)).T
    x = linear(state, f"{AUDIO}.project_features.2", norm(state, f"{AUDIO}.project_features.1", x.T))
    places = x.T
    for i in range(1, POSITIONS + 1):
        name = f"{AUDIO}.relative_positional_encoder.{i}.0"
        places = torch.nn.functional.conv1d(
            places[None], state[f"{name}.weight"], state[f"{name}.bias"], padding=KERNEL // 2, groups=GROUPS
        )[0]
        places = gelu(normalised(places, 0))
    x = torch.cat([state[f"{AUDIO}.extra_tokens"][0], x + places.T])
    x = norm(state, f"{AUDIO}.context_encoder.norm", x)
    bias = distances(state, len(x))
    found = [x]
    for prefix in (
        *(f"{AUDIO}.context_encoder.blocks.{n}" for n in range(PRENET)),
        *(f"blocks.{n}" for n in range(BLOCKS)),
    ):
        x = norm(state, f"{prefix}.norm1", x + attention(state, f"{prefix}.attn", x, bias))
        within = linear(state, f"{prefix}.mlp.fc2", gelu(linear(state, f"{prefix}.mlp.fc1", x)))
        x = norm(state, f"{prefix}.norm2", x + within)
        found.append(x)
    found = torch.stack(found)
    return found[:, TOKENS:], found[:, :TOKENS]


def distances(state, frames):
    """What is added to the score of each head, query and key."""
    between = torch.zeros(frames, frames, dtype=torch.float64)
    for i in range(TOKENS, frames):
        for j in range(TOKENS, frames):
            between[i, j] = -abs(i - j)
    scale = state[f"{AUDIO}.alibi_scale"].reshape(-1)
    return [SLOPES[head] * torch.relu(scale[head]) * between for head in range(HEADS)]


def attention(state, name, x, bias):
    query, key, value = linear(state, f"{name}.qkv", x).split(WIDTH, dim=1)
    size = WIDTH // HEADS
    heads = []
    for head in range(HEADS):
        own = slice(head * size, (head + 1) * size)
        scores = query[:, own] @ key[:, own].T / math.sqrt(size) + bias[head]
        heads.append(torch.softmax(scores, -1) @ value[:, own])
    return linear(state, f"{name}.proj", torch.cat(heads, 1))
