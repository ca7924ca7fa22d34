import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.errors import UserError
from ser_jax.models.pooling import KINDS, WITH_HEADS, Pooling, masked_softmax

CHANNELS, HEADS = 8, 2
LENGTHS = np.array([7, 1, 0, 4])
ATTENTIVE = KINDS[3:]


def inputs(seed=0, frames=7, lengths=LENGTHS):
    values = np.random.default_rng(seed).normal(size=(len(lengths), frames, CHANNELS)).astype(np.float32)
    return jnp.asarray(values), jnp.asarray(lengths)


def parameters(kind, heads=HEADS):
    shapes = jax.eval_shape(Pooling(kind, heads).init, jax.random.key(0), *inputs())
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


def slow(kind, params, frames):
    """Pooled vector and weights [heads, frames] of one utterance, frame by frame."""
    heads = HEADS if kind in WITH_HEADS else 1
    size = CHANNELS // heads
    means, deviations, weights = [], [], []
    for head in range(heads):
        own = [frame[head * size : (head + 1) * size] for frame in frames]
        scores = []
        for x in own:
            if kind != "weighted":
                x = x @ params["kernel"][head]
                if kind == "attentive_statistics":
                    x = x + params["bias"][head]
                x = np.tanh(x)
            scores.append(float(x @ params["vector"][head]))
        exponentials = [np.exp(score - max(scores)) for score in scores]
        alphas = [e / sum(exponentials) for e in exponentials]
        mean = sum(a * x for a, x in zip(alphas, own, strict=True))
        means.append(mean)
        deviations.append(np.sqrt(sum(a * (x - mean) ** 2 for a, x in zip(alphas, own, strict=True)) + 1e-5))
        weights.append(alphas)
    parts = means + deviations if kind == "attentive_statistics" else means
    return np.concatenate(parts), np.array(weights)


@pytest.mark.parametrize("kind", ATTENTIVE)
def test_attentive_pooling_equals_a_loop_over_frames(kind, jit):
    x, lengths = inputs()
    variables = parameters(kind)
    pooled, weights = jit(Pooling(kind, HEADS).apply)(variables, x, lengths)
    assert weights.dtype == jnp.float32
    params = {name: np.asarray(value, np.float64) for name, value in variables["params"].items()}
    for i, length in enumerate(LENGTHS):
        if length:
            expected, expected_weights = slow(kind, params, list(np.asarray(x[i, :length], np.float64)))
            np.testing.assert_allclose(pooled[i], expected, atol=1e-5)
            found = weights[i].reshape(-1, x.shape[1])
            np.testing.assert_allclose(found[:, :length], expected_weights, atol=1e-5)
            np.testing.assert_array_equal(found[:, length:], 0)
        else:
            np.testing.assert_array_equal(weights[i], 0)


def test_mean_statistics_and_last_are_those_of_the_real_frames():
    x, lengths = inputs()

    def statistics(frames):
        return np.concatenate([frames.mean(0), np.sqrt(frames.var(0) + 1e-5)])

    without_frames = np.concatenate([np.zeros(CHANNELS), np.full(CHANNELS, np.sqrt(1e-5))])
    for kind, expected, nothing in (
        ("mean", lambda frames: frames.mean(0), np.zeros(CHANNELS)),
        ("statistics", statistics, without_frames),
        ("last", lambda frames: frames[-1], np.zeros(CHANNELS)),
    ):
        pooled, weights = Pooling(kind).apply({}, x, lengths)
        assert weights is None
        for i, length in enumerate(LENGTHS):
            real = expected(np.asarray(x[i, :length])) if length else nothing
            np.testing.assert_allclose(pooled[i], real, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing_and_weights_sum_to_one_over_real_frames(kind):
    variables = parameters(kind)
    pool = jax.jit(lambda x, lengths: Pooling(kind, HEADS).apply(variables, x, lengths))

    @settings(max_examples=20, deadline=None)
    @given(lengths=st.lists(st.integers(0, 9), min_size=3, max_size=3), seed=st.integers(0, 99))
    def check(lengths, seed):
        x, lengths = inputs(seed, 9, np.array(lengths))
        real = jnp.arange(9)[None, :, None] < lengths[:, None, None]
        pooled, weights = pool(jnp.where(real, x, 0), lengths)
        padded, padded_weights = pool(jnp.where(real, x, jnp.nan), lengths)
        np.testing.assert_array_equal(padded, pooled)
        if weights is not None:
            np.testing.assert_array_equal(padded_weights, weights)
            sums = np.asarray(weights.reshape(3, -1, 9).sum(-1))
            np.testing.assert_allclose(sums, np.broadcast_to((lengths > 0)[:, None], sums.shape), atol=1e-6)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_without_frames_with_one_and_with_equal_ones(kind, jit):
    x, lengths = inputs()
    x = x.at[3].set(0.5)

    def loss(variables, x):
        return jnp.sum(jnp.sin(Pooling(kind, HEADS).apply(variables, x, lengths)[0]))

    for leaf in jax.tree.leaves(jit(jax.grad(loss, (0, 1)))(parameters(kind), x)):
        assert np.isfinite(leaf).all()


def test_attentive_statistics_and_self_attentive_equal_pytorchs(jit):
    torch = pytest.importorskip("torch")
    x, lengths = inputs(lengths=np.array([7, 1, 3, 4]))
    for kind, bias in (("self_attentive", False), ("attentive_statistics", True)):
        variables = parameters(kind, heads=1)
        score = torch.nn.Sequential(
            torch.nn.Linear(CHANNELS, CHANNELS // 2, bias=bias),
            torch.nn.Tanh(),
            torch.nn.Linear(CHANNELS // 2, 1, bias=False),
        )
        params = {name: torch.tensor(np.asarray(value[0])) for name, value in variables["params"].items()}
        with torch.no_grad():
            score[0].weight.copy_(params["kernel"].T)
            score[2].weight.copy_(params["vector"][None])
            if bias:
                score[0].bias.copy_(params["bias"])

        frames = torch.tensor(np.asarray(x), requires_grad=True)
        padding = torch.arange(7)[None] >= torch.tensor(np.asarray(lengths))[:, None]
        weights = torch.softmax(score(frames)[..., 0].masked_fill(padding, -torch.inf), 1)[..., None]
        mean = (weights * frames).sum(1)
        expected = mean
        if kind == "attentive_statistics":
            expected = torch.cat([mean, ((weights * (frames - mean[:, None]) ** 2).sum(1) + 1e-5).sqrt()], 1)
        expected.sin().sum().backward()

        def loss(variables, x, kind=kind):
            pooled, _ = Pooling(kind, 1).apply(variables, x, lengths)
            return jnp.sum(jnp.sin(pooled)), pooled

        (gradient, x_gradient), pooled = jit(jax.grad(loss, (0, 1), has_aux=True))(variables, x)
        np.testing.assert_allclose(pooled, expected.detach().numpy(), atol=1e-5)
        np.testing.assert_allclose(x_gradient, frames.grad.numpy(), atol=1e-4)
        np.testing.assert_allclose(gradient["params"]["kernel"][0], score[0].weight.grad.T.numpy(), atol=1e-4)
        np.testing.assert_allclose(gradient["params"]["vector"][0], score[2].weight.grad[0].numpy(), atol=1e-4)


def test_huge_scores_give_a_softmax_that_is_still_one():
    weights = masked_softmax(jnp.array([[1e30, -1e30, 1e30]]), jnp.array([[True, True, False]]))
    np.testing.assert_array_equal(weights, [[1, 0, 0]])


def test_half_precision_stays_and_weights_are_float32():
    x, lengths = inputs()
    for kind in KINDS:
        pooled, weights = jax.eval_shape(
            lambda kind=kind: Pooling(kind, HEADS).apply(parameters(kind), x.astype(jnp.bfloat16), lengths)
        )
        assert pooled.dtype == jnp.bfloat16
        assert weights is None or weights.dtype == jnp.float32


@pytest.mark.parametrize("kind", WITH_HEADS)
def test_heads_that_do_not_divide_the_channels_are_refused(kind):
    with pytest.raises(UserError, match="3 heads do not divide 8 channels"):
        Pooling(kind, 3).init(jax.random.key(0), *inputs())
