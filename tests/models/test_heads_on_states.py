"""Every head on the states of an encoder, and its gradient, against PyTorch, which sees utterances one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.errors import UserError
from ser_jax.models import build
from ser_jax.models.attention_rnn import AttentionRNN
from ser_jax.models.pooling import WITH_HEADS

torch = pytest.importorskip("torch", reason="heads are compared with PyTorch (requirements-references.txt)")

STATES, CHANNELS, CLASSES = 2, 6, 3
LENGTHS = np.array([7, 4, 0])
COMMON = {"states": STATES, "width": 4, "heads": 2}
HEADS = {
    "linear": {"width": 0},
    "hidden layer": {"hidden": 5},
    "one layer of the encoder": {"state": 2},
    "mean and deviation": {"pooling": "statistics"},
    "one vector": {"pooling": "weighted"},
    "self-attentive": {"pooling": "self_attentive"},
    "multi-head": {"pooling": "multi_head"},
    "attentive statistics": {"pooling": "attentive_statistics"},
    "ECA over channels": {"attention": "eca"},
    "block without attention": {"depth": 1, "mixing": "none"},
    "convolution": {"depth": 1, "mixing": "convolution"},
    "self-attention over frames": {"depth": 1, "mixing": "self_attention"},
    "decoder without attention": {"decoder": "without_attention", "decoder_hidden": 5},
    "decoder with additive attention": {"decoder": "additive", "decoder_hidden": 5},
}
PLAIN = [name for name in HEADS if "decoder" not in name]


def inputs():
    values = np.random.default_rng(0).normal(size=(3, 7, STATES * CHANNELS)).astype(np.float32)
    for row, length in enumerate(LENGTHS):
        values[row, length:] = 9.0  # padding, which no head may see
    return values, np.random.default_rng(1).normal(size=(3, CLASSES)).astype(np.float32) * (LENGTHS > 0)[:, None]


def model_of(name):
    return build("encoder_head", CLASSES, **COMMON | HEADS[name])


@pytest.fixture(scope="module")
def ours():
    """Name of a head -> its parameters, the logits, and the gradient of their sum with random weights."""
    features, towards = (jnp.asarray(array) for array in inputs())
    lengths, rng = jnp.asarray(LENGTHS), np.random.default_rng(2)
    parameters = {}
    for name in HEADS:
        init = functools.partial(model_of(name).init, train=False)
        shapes = jax.eval_shape(init, jax.random.key(0), features, lengths)["params"]
        parameters[name] = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 2, shapes)

    @jax.jit
    def all_heads(parameters):
        def of(name, own):
            logits = model_of(name).apply({"params": own}, features, lengths, train=False).logits
            return jnp.sum(logits * towards), logits

        return {
            name: jax.value_and_grad(lambda own, name=name: of(name, own), has_aux=True)(own)
            for name, own in parameters.items()
        }

    return {
        name: (parameters[name], np.asarray(logits), gradient)
        for name, ((_, logits), gradient) in all_heads(parameters).items()
    }


@pytest.mark.parametrize("name", PLAIN)
def test_a_head_and_its_gradient_are_those_of_pytorch(name, ours):
    values, logits, gradient = ours[name]
    features, towards = inputs()
    parameters = jax.tree.map(lambda leaf: torch.tensor(leaf, dtype=torch.float64, requires_grad=True), values)
    options = COMMON | HEADS[name]
    total = 0
    for row, length in enumerate(LENGTHS[:2]):
        frames = torch.tensor(features[row, :length], dtype=torch.float64)
        said = classified(parameters, options, pooled(parameters, options, mixture(parameters, options, frames)))
        np.testing.assert_allclose(logits[row], said.detach().numpy(), rtol=1e-4, atol=1e-4)
        total = total + (said * torch.tensor(towards[row])).sum()
    total.backward()
    for path, own in jax.tree_util.tree_leaves_with_path(gradient):
        expected = parameters
        for key in path:
            expected = expected[key.key]
        np.testing.assert_allclose(own, expected.grad, rtol=1e-3, atol=1e-4, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("name", [name for name in HEADS if "decoder" in name])
def test_a_decoder_is_the_attention_rnn_on_the_projected_mixture(name, ours):
    values, logits, gradient = ours[name]
    parameters = jax.tree.map(torch.tensor, values)
    attention = HEADS[name]["decoder"].replace("without_attention", "none")
    decoder = AttentionRNN(CLASSES, hidden=2, depth=1, decoder_hidden=5, subsampling=1, attention=attention)
    projected = np.zeros((3, 7, 4), np.float32)
    for row, length in enumerate(LENGTHS):
        frames = torch.tensor(inputs()[0][row, :length])
        projected[row, :length] = mixture(parameters, COMMON | HEADS[name], frames)
    run = jax.jit(lambda own, *of: decoder.apply({"params": own}, *of, train=False).logits)
    expected = run(values["recurrent"], jnp.asarray(projected), jnp.asarray(LENGTHS))
    np.testing.assert_allclose(logits[:2], expected[:2], rtol=1e-4, atol=1e-4)
    for path, own in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(own).all() and np.abs(own).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "additive", "pooling": "statistics"}, "config.model.pooling: found statistics, expected mean: a"),
        ({"decoder": "additive", "hidden": 3}, "config.model.hidden: found 3, expected 0: a decoder takes its place"),
        ({"decoder": "additive", "width": 5}, "config.model.width: found 5, expected an even number with a decoder"),
        ({"decoder": "dot", "width": 8}, "attention dot compares decoder_hidden 128 with twice hidden 4"),
    ],
)
def test_a_decoder_takes_the_place_of_a_pooling(options, message):
    with pytest.raises(UserError, match=message):
        build("encoder_head", CLASSES, **options)


# The heads in PyTorch: one utterance, [frames, channels] ------------------------------------------------------------


def mixture(p, options, frames):
    """The projected frames, after the blocks."""
    states = frames.reshape(len(frames), STATES, CHANNELS)
    normal = torch.nn.functional.layer_norm(states, (CHANNELS,), eps=1e-5)
    if "state" in options:
        x = normal[:, options["state"] - 1]
    else:
        x = (normal * torch.softmax(p["state_weights"], 0)[None, :, None]).sum(1)
    if options["width"]:
        x = gelu(dense(p["projection"], x))
    return block(p["block1"], options, x) if options.get("depth") else x


def pooled(p, options, x):
    if options.get("attention") == "eca":
        kernel = p["channels"]["kernel"]
        gates = torch.nn.functional.conv1d(x.mean(0)[None, None], kernel[None, None], padding=len(kernel) // 2)
        x = x * torch.sigmoid(gates[0])
    kind = options.get("pooling", "mean")
    if kind == "mean":
        return x.mean(0)
    if kind == "statistics":
        return torch.cat([x.mean(0), (x.var(0, correction=0) + 1e-5).sqrt()])
    own = p["pool"]
    means, deviations = [], []
    for head, part in enumerate(torch.chunk(x, options["heads"] if kind in WITH_HEADS else 1, dim=1)):
        score = part
        if kind != "weighted":
            score = torch.tanh(part @ own["kernel"][head] + (own["bias"][head] if "bias" in own else 0))
        weights = torch.softmax(score @ own["vector"][head], 0)[:, None]
        means.append((weights * part).sum(0))
        deviations.append(((weights * (part - means[-1]) ** 2).sum(0) + 1e-5).sqrt())
    return torch.cat(means + (deviations if kind == "attentive_statistics" else []))


def classified(p, options, x):
    return dense(p["classifier"], gelu(dense(p["hidden"], x)) if options.get("hidden") else x)


def block(p, options, x):
    mixing = options["mixing"]
    if mixing == "none":
        x = x + feed_forward(p["mixing_feed_forward"], norm(p["mixing_feed_forward_norm"], x))
    elif mixing == "self_attention":
        x = x + attend(p["attention"], options["heads"], norm(p["attention_norm"], x))
    else:
        own = p["convolution"]
        kernel = own["depthwise"]
        y = torch.nn.functional.glu(dense(own["expand"], norm(p["convolution_norm"], x)))
        y = torch.nn.functional.conv1d(y.T[None], kernel.T[:, None], padding=len(kernel) // 2, groups=kernel.shape[1])
        x = x + dense(own["contract"], torch.nn.functional.silu(norm(own["norm"], y[0].T)))
    return x + feed_forward(p["feed_forward"], norm(p["feed_forward_norm"], x))


def attend(p, heads, x):
    query, key, value = torch.chunk(x @ p["query_key_value"]["kernel"], 3, dim=1)
    parts = zip(
        *(torch.chunk(y, heads, 1) for y in (query + p["query_bias"], key, value + p["value_bias"])), strict=True
    )
    mixed = [torch.softmax(q @ k.T / q.shape[1] ** 0.5, 1) @ v for q, k, v in parts]
    return dense(p["out"], torch.cat(mixed, 1))


def feed_forward(p, x):
    return dense(p["contract"], torch.nn.functional.silu(dense(p["expand"], x)))


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def norm(p, x):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], p["scale"], p["bias"], 1e-5)


def gelu(x):
    return torch.nn.functional.gelu(x, approximate="tanh")
