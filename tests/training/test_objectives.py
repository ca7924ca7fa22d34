import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from scipy import special

from ser_jax.errors import UserError
from ser_jax.training import objectives
from ser_jax.training.objectives import cross_entropy

# Compiled whole: one operation after another takes longer.
concordance, token_cross_entropy, reconstruction_error = map(
    jax.jit, (objectives.concordance, objectives.token_cross_entropy, objectives.reconstruction_error)
)


@jax.jit
def mean_concordance(predicted, target, num_frames, weight):
    return jnp.mean(objectives.concordance(predicted, target, num_frames, weight))


# PyTorch weighs the smoothed classes each with its own weight; ours weighs the utterance.
@pytest.mark.parametrize(("smoothing", "weighted"), [(0.0, False), (0.0, True), (0.1, False)])
def test_cross_entropy_and_its_gradient_equal_pytorch_s(smoothing, weighted):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 4)).astype(np.float32), rng.integers(0, 4, 6)
    class_weights = np.array([1, 2, 0.5, 3], np.float32) if weighted else np.ones(4, np.float32)

    def mean_loss(logits):
        targets = jax.nn.one_hot(labels, 4)
        loss, weight = cross_entropy(
            logits, targets, jnp.ones(6), jnp.asarray(class_weights), jnp.asarray(smoothing, jnp.float32)
        )
        return loss / weight

    ours, gradient = jax.value_and_grad(mean_loss)(jnp.asarray(logits))
    theirs_logits = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(
        theirs_logits, torch.tensor(labels), weight=torch.tensor(class_weights), label_smoothing=smoothing
    )
    theirs.backward()
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, theirs_logits.grad.numpy(), atol=1e-6)


def made_loss(result):
    """A loss of one's own that returns `result` of the logits."""
    return lambda logits, targets, weight, class_weights, label_smoothing, possible: result(logits)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda logits: {}["none"], r"failed \(KeyError: 'none'\)"),
        (lambda logits: jnp.sum(logits), r"returned <class '.*'>, expected two scalars"),
        (lambda logits: (jnp.sum(logits),), r"returned \[\(\)\], expected two scalars"),
        (lambda logits: (logits, jnp.ones(())), r"returned \[\(3, 3\), \(\)\], expected two scalars"),
        (lambda logits: (jnp.sum(logits), 1.0), r"returned \[\(\), None\], expected two scalars"),
        (lambda logits: (jnp.sum(logits), jnp.zeros(())), "returned the weights 0 and 0 of the same"),
        (lambda logits: (jnp.sum(logits), -jnp.ones(())), "returned the weights -1 and -1 of the same"),
        (lambda logits: (jnp.sum(logits), 1 + jnp.max(logits)), "returned the weights 1 and 4 of the same"),
        (lambda logits: (jnp.sum(logits), 2 + jnp.min(logits)), "returned the weights 2 and 1 of the same"),
    ],
)
def test_a_loss_of_ones_own_returns_a_sum_and_a_weight_that_the_logits_do_not_change(result, message):
    objectives.check_loss("own:loss", made_loss(lambda logits: (jnp.sum(logits), 0.5 * jnp.ones(()))), 3)
    with pytest.raises(UserError, match=rf"^config\.training\.loss: own:loss {message}"):
        objectives.check_loss("own:loss", made_loss(result), 3)


def test_labels_are_smoothed_over_the_classes_that_are_possible():
    logits, target = jnp.asarray([[1.0, 2.0, -1.0, 0.5]]), jnp.asarray([[0.0, 1.0, 0.0, 0.0]])
    possible = jnp.asarray([[True, True, False, False]])
    found, weight = cross_entropy(logits, target, jnp.ones(1), jnp.ones(4), jnp.float32(0.2), possible)
    np.testing.assert_allclose(found, -np.sum([0.1, 0.9] * np.asarray(jax.nn.log_softmax(logits))[0, :2]), rtol=1e-6)
    assert weight == 1


def test_padding_rows_count_nothing():
    logits, targets = jnp.asarray([[1.0, 2.0], [9.0, -9.0]]), jnp.asarray([[1.0, 0.0], [0.0, 1.0]])
    one = cross_entropy(logits[:1], targets[:1], jnp.ones(1), jnp.ones(2), jnp.zeros(()))
    padded = cross_entropy(logits, targets, jnp.asarray([1.0, 0.0]), jnp.ones(2), jnp.zeros(()))
    np.testing.assert_allclose(one, padded)


def test_token_cross_entropy_is_that_of_pytorch_over_the_real_tokens():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 4)).astype(np.float32)
    tokens = np.where(np.arange(5)[None] < np.array([5, 2, 0])[:, None], rng.integers(0, 4, (3, 5)), -1)

    def mean_loss(logits):
        loss, weight = token_cross_entropy(logits, jnp.asarray(tokens), jnp.ones(3))
        return loss / weight

    ours, gradient = jax.value_and_grad(mean_loss)(jnp.asarray(logits))
    theirs_logits = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(
        theirs_logits.reshape(-1, 4), torch.tensor(tokens.reshape(-1)), ignore_index=-1
    )
    theirs.backward()
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, theirs_logits.grad.numpy(), atol=1e-6)


def test_logits_of_tokens_in_half_precision_have_a_loss_of_float32():
    rng = np.random.default_rng(0)
    logits, tokens = jnp.asarray(4 * rng.normal(size=(3, 5, 40)), jnp.bfloat16), rng.integers(0, 40, (3, 5))
    found, weight = token_cross_entropy(logits, jnp.asarray(tokens), jnp.ones(3))
    exact = -special.log_softmax(np.asarray(logits, np.float64), axis=-1)
    np.testing.assert_allclose(found, np.take_along_axis(exact, tokens[..., None], -1).sum(), rtol=1e-5)
    assert found.dtype == jnp.float32 and weight == 15


def test_the_tokens_of_an_utterance_count_with_its_weight():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
    tokens = jnp.asarray([[1, 2, 3], [0, 3, -1]])
    loss, weight = token_cross_entropy(logits, tokens, jnp.asarray([2.0, 0.5]))
    each = [token_cross_entropy(logits[i : i + 1], tokens[i : i + 1], jnp.ones(1)) for i in range(2)]
    np.testing.assert_allclose(loss, 2 * each[0][0] + 0.5 * each[1][0], rtol=1e-6)
    assert weight == 2 * 3 + 0.5 * 2


def test_what_stands_behind_a_text_matters_to_neither_loss_nor_gradient():
    tokens = jnp.asarray([[1, -1]])

    def loss(logits):
        return token_cross_entropy(logits, tokens, jnp.ones(1))[0]

    logits = jnp.asarray([[[0.1, 0.2], [jnp.nan, 3.0]]])
    assert np.isfinite(loss(logits))
    np.testing.assert_allclose(jax.grad(loss)(logits.at[:, 1].set(5.0))[0, 1], 0)


def slow_concordance(predicted, target, num_frames, weight):
    """Over the real frames in one long row, those of an utterance of weight two taken twice."""
    coefficients = []
    for track in range(predicted.shape[-1]):
        rows = [row for row, times in enumerate(weight) for _ in range(int(times))]
        p = np.concatenate([predicted[row, : num_frames[row], track] for row in rows])
        t = np.concatenate([target[row, : num_frames[row], track] for row in rows])
        covariance = np.mean((p - p.mean()) * (t - t.mean()))
        coefficients.append(2 * covariance / (p.var() + t.var() + (p.mean() - t.mean()) ** 2))
    return coefficients


@pytest.fixture
def tracks():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(3, 6, 2)).astype(np.float32)
    predicted = (0.6 * target + 0.3 + 0.4 * rng.normal(size=target.shape)).astype(np.float32)
    return jnp.asarray(predicted), jnp.asarray(target), jnp.asarray([6, 1, 4])


@pytest.mark.parametrize("weight", [[1.0, 1.0, 1.0], [2.0, 1.0, 0.0]])
def test_concordance_is_that_of_all_real_frames_of_the_batch(tracks, weight):
    predicted, target, num_frames = tracks
    found = concordance(predicted, target, num_frames, jnp.asarray(weight))
    np.testing.assert_allclose(found, slow_concordance(*map(np.asarray, tracks), weight), rtol=1e-5)


def test_the_padding_of_tracks_matters_to_neither_concordance_nor_gradient(tracks):
    predicted, target, num_frames = tracks
    real = (jnp.arange(6)[None] < num_frames[:, None])[..., None]
    expected = concordance(predicted, target, num_frames, jnp.ones(3))
    filled = concordance(jnp.where(real, predicted, jnp.inf), jnp.where(real, target, jnp.nan), num_frames, jnp.ones(3))
    np.testing.assert_allclose(filled, expected, rtol=1e-6)
    gradient = jax.grad(mean_concordance)(predicted, target, num_frames, jnp.ones(3))
    assert (np.asarray(gradient)[~np.broadcast_to(real, gradient.shape)] == 0).all()


def test_the_gradient_of_the_concordance_is_that_of_its_differences(tracks):
    predicted, target, num_frames = tracks
    weight = jnp.asarray([1.0, 2.0, 1.0])
    jax.test_util.check_grads(
        lambda p: mean_concordance(p, target, num_frames, weight), (predicted,), order=1, modes=["rev"], rtol=1e-2
    )


@pytest.mark.parametrize(
    ("predicted", "target", "expected"),
    [
        ([1.0, 2.0, 4.0], [1.0, 2.0, 4.0], 1.0),
        ([-1.0, 0.0, 1.0], [1.0, 0.0, -1.0], -1.0),
        ([3.0, 3.0, 3.0], [1.0, 2.0, 4.0], 0.0),
        ([3.0, 3.0, 3.0], [3.0, 3.0, 3.0], 0.0),
        ([2.0, 3.0, 5.0], [1.0, 2.0, 4.0], (2 * 14 / 9) / (2 * 14 / 9 + 1)),  # the same, one higher
    ],
)
def test_concordance_of_equal_opposite_constant_and_shifted_tracks(predicted, target, expected):
    predicted, target = (jnp.asarray(values)[None, :, None] for values in (predicted, target))
    arguments = target, jnp.asarray([3]), jnp.ones(1)
    np.testing.assert_allclose(concordance(predicted, *arguments), [expected], atol=1e-6)
    assert np.isfinite(jax.grad(mean_concordance)(predicted, *arguments)).all()


def test_a_batch_of_padding_has_a_concordance_of_zero_and_a_finite_gradient(tracks):
    predicted, target, num_frames = tracks
    for arguments in [(target, num_frames, jnp.zeros(3)), (target, jnp.zeros(3, int), jnp.ones(3))]:
        np.testing.assert_allclose(concordance(predicted, *arguments), 0)
        assert np.isfinite(jax.grad(mean_concordance)(predicted, *arguments)).all()


@pytest.fixture
def frames():
    rng = np.random.default_rng(0)
    told, features = (jnp.asarray(rng.normal(size=(3, 6, 4)), jnp.float32) for _ in range(2))
    hidden = jnp.asarray([[0, 1, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]], bool)
    return told, features, hidden, jnp.asarray([1.0, 2.0, 0.0])


def test_the_error_of_masked_frames_is_that_of_a_loop_over_them(frames):
    told, features, hidden, weight = map(np.asarray, frames)
    errors, weights = [], []
    for row in range(3):
        for frame in np.flatnonzero(hidden[row]):
            errors.append(weight[row] * sum((told[row, frame, i] - features[row, frame, i]) ** 2 for i in range(4)) / 4)
            weights.append(weight[row])
    found = reconstruction_error(*frames)
    np.testing.assert_allclose(found, (np.sum(errors), np.sum(weights)), rtol=1e-5)
    assert found[1] == 3 * 1 + 2


def test_the_error_of_masked_frames_and_its_gradient_equal_pytorch_s(frames):
    torch = pytest.importorskip("torch")
    told, features, hidden, _ = frames

    def mean_error(told):
        loss, weight = reconstruction_error(told, features, hidden, jnp.ones(3))
        return loss / weight

    ours, gradient = jax.value_and_grad(mean_error)(told)
    theirs_told = torch.tensor(np.asarray(told), requires_grad=True)
    chosen = torch.tensor(np.asarray(hidden))
    theirs = torch.nn.functional.mse_loss(theirs_told[chosen], torch.tensor(np.asarray(features))[chosen])
    theirs.backward()
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, theirs_told.grad.numpy(), atol=1e-6)


def test_what_is_told_of_shown_frames_and_padding_matters_to_neither_error_nor_gradient(frames):
    told, features, hidden, weight = frames
    expected = reconstruction_error(*frames)
    filled = [jnp.where(hidden[..., None], values, jnp.nan) for values in (told, features)]
    np.testing.assert_allclose(reconstruction_error(*filled, hidden, weight), expected, rtol=1e-6)
    gradient = np.asarray(jax.grad(lambda told: reconstruction_error(told, filled[1], hidden, weight)[0])(filled[0]))
    assert (gradient[~np.asarray(hidden)] == 0).all()
    assert (gradient[np.asarray(hidden)][:-1] != 0).all()  # the last one is of the row of weight zero


def test_who_tells_zeros_of_normalised_features_has_an_error_of_one():
    features = np.random.default_rng(0).normal(size=(2, 50, 8)).astype(np.float32)
    features = (features - features.mean(1, keepdims=True)) / features.std(1, keepdims=True)
    hidden = jnp.ones((2, 50), bool)
    loss, weight = reconstruction_error(jnp.zeros_like(features), jnp.asarray(features), hidden, jnp.ones(2))
    np.testing.assert_allclose(loss / weight, 1, rtol=1e-5)
