import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.training.objectives import cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_and_its_gradient_equal_pytorch_s(smoothing, weighted):
    torch = pytest.importorskip("torch")
    if smoothing and weighted:
        pytest.skip("PyTorch weighs the smoothed classes each with its own weight; ours weighs the utterance")
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


def test_padding_rows_count_nothing():
    logits, targets = jnp.asarray([[1.0, 2.0], [9.0, -9.0]]), jnp.asarray([[1.0, 0.0], [0.0, 1.0]])
    one = cross_entropy(logits[:1], targets[:1], jnp.ones(1), jnp.ones(2), jnp.zeros(()))
    padded = cross_entropy(logits, targets, jnp.asarray([1.0, 0.0]), jnp.ones(2), jnp.zeros(()))
    np.testing.assert_allclose(one, padded)
