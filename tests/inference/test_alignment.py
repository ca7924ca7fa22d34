import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ser_jax.inference.alignment import alignment_entropy, coverage, normalized_alignment_entropy

ALL = (alignment_entropy, normalized_alignment_entropy, coverage)


def measured(measure, rows, num_frames=None, num_tokens=None):
    """A measure of one utterance, whose weights are given token by token."""
    weights = np.array([rows], float)
    frames, tokens = num_frames or weights.shape[2], num_tokens or weights.shape[1]
    return measure(weights, np.array([frames]), np.array([tokens]))[0]


@pytest.mark.parametrize(
    ("rows", "entropy", "normalized", "covered"),
    [
        ([[1, 0, 0, 0]], 0, 0, 1 / 4),  # one token, one frame
        ([[0.25] * 4], np.log(4), 1, 1),  # flat
        ([[0.25] * 4, [0, 1, 0, 0]], np.log(4) / 2, 1 / 2, (3 * 0.5 + 1) / 4),
        ([[1, 0], [0, 1]], 0, 0, 1),  # each token its own frame
        ([[1, 0], [1, 0]], 0, 0, 1 / 2),  # the second frame is never looked at
        ([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]], np.log(2), 1 / 2, 1),  # stretches
        ([[1.0], [1.0]], 0, 0, 1),  # a single frame
    ],
)
def test_the_measures_of_small_alignments(rows, entropy, normalized, covered):
    assert measured(alignment_entropy, rows) == pytest.approx(entropy)
    assert measured(normalized_alignment_entropy, rows) == pytest.approx(normalized)
    assert measured(coverage, rows) == pytest.approx(covered)


weights = hnp.arrays(
    float, st.tuples(st.just(1), st.integers(1, 5), st.integers(1, 6)), elements=st.floats(0.001, 1)
).map(lambda x: x / x.sum(-1, keepdims=True))


@settings(max_examples=50, deadline=None)
@given(weights, st.integers(0, 3), st.integers(0, 3), st.floats(-5, 5))
def test_the_measures_stay_in_their_bounds_and_padding_changes_none(weights, more_tokens, more_frames, filler):
    tokens, frames = np.array([weights.shape[1]]), np.array([weights.shape[2]])
    padded = np.pad(weights, ((0, 0), (0, more_tokens), (0, more_frames)), constant_values=filler)
    for measure in ALL:
        np.testing.assert_allclose(measure(padded, frames, tokens), measure(weights, frames, tokens))
    slack = 1e-9
    assert -slack <= alignment_entropy(weights, frames, tokens)[0] <= np.log(frames[0]) + slack
    assert -slack <= normalized_alignment_entropy(weights, frames, tokens)[0] <= 1 + slack
    assert 1 / frames[0] - slack <= coverage(weights, frames, tokens)[0] <= 1 + slack


@settings(max_examples=50, deadline=None)
@given(weights, st.randoms())
def test_neither_the_order_of_tokens_nor_of_frames_matters(weights, random):
    tokens, frames = np.array([weights.shape[1]]), np.array([weights.shape[2]])
    token_order, frame_order = list(range(tokens[0])), list(range(frames[0]))
    random.shuffle(token_order)
    random.shuffle(frame_order)
    shuffled = weights[:, token_order][:, :, frame_order]
    for measure in ALL:
        np.testing.assert_allclose(measure(shuffled, frames, tokens), measure(weights, frames, tokens), atol=1e-9)


@pytest.mark.parametrize("measure", ALL)
def test_an_utterance_without_frames_or_tokens_has_no_figure(measure):
    found = measure(np.full((3, 2, 2), 0.5), np.array([2, 0, 2]), np.array([2, 2, 0]))
    assert np.isfinite(found).tolist() == [True, False, False]
