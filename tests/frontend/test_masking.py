import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.frontend import Masking, mask_spans

FRAMES = 120  # of a row: fixed, so that every masking is compiled once
MASKINGS = [Masking(), Masking(0.15, 1), Masking(0.65, 7), Masking(0.95, 10), Masking(0.3, 200)]


@functools.partial(jax.jit, static_argnums=2)
def hidden(keys, num_frames, masking):
    return jax.vmap(lambda key, count: mask_spans(key, count, FRAMES, masking))(keys, num_frames)


def drawn(num_frames, masking, seed=0):
    """Rows of so many frames, each with a key of its own."""
    num_frames = np.asarray(num_frames, np.int32)
    return np.asarray(hidden(jax.random.split(jax.random.key(seed), len(num_frames)), num_frames, masking))


def stretches(row):
    """The lengths of the stretches of hidden frames."""
    edges = np.flatnonzero(np.diff(np.pad(row.astype(int), 1)))
    return edges[1::2] - edges[::2]


@given(st.sampled_from(MASKINGS), st.integers(0, FRAMES), st.integers(0, 1000))
@settings(deadline=None, max_examples=200)
def test_the_share_is_hidden_in_whole_spans_and_none_of_it_in_the_padding(masking, num_frames, seed):
    (row,) = drawn([num_frames], masking, seed)
    wished = np.float32(masking.share) * np.float32(num_frames)  # a half is rounded as the program rounds it
    width = min(masking.span, max(round(wished), 1))
    assert not row[num_frames:].any()
    assert (stretches(row) % width == 0).all()  # spans side by side are one stretch
    if num_frames == 0:
        return
    assert row.any()
    # Where the last span has no place left, less than one span is shown.
    assert abs(row.sum() - wished) <= max(width / 2, 1) or num_frames - row.sum() < width


@pytest.mark.parametrize("masking", MASKINGS[:3], ids=str)
def test_the_share_is_that_of_every_utterance_and_every_frame_is_hidden_at_some_time(masking):
    rows = drawn([100] * 400, masking)
    assert (rows.sum(1) == rows[0].sum()).all()
    often = rows.mean(0)[masking.span : 100 - masking.span]
    assert abs(often.mean() - masking.share) < 0.05
    assert (np.abs(often - often.mean()) < 0.12).all()
    assert rows[:, 0].any() and rows[:, 99].any()


def test_utterances_and_steps_differ_but_neighbours_change_nothing():
    rows = drawn([100] * 8, Masking())
    assert len(np.unique(rows, axis=0)) == 8
    assert (drawn([100] * 8, Masking(), seed=1) != rows).any(1).all()
    lengths = np.arange(20, 100, 10)
    beside = drawn(lengths, Masking())
    np.testing.assert_array_equal(beside[8 - 1], drawn([3] * 7 + [lengths[-1]], Masking())[8 - 1])


def test_more_padding_hides_frames_of_the_same_share():
    key = jax.random.key(0)
    for frames in (50, 500):
        row = np.asarray(mask_spans(key, jnp.int32(50), frames, Masking()))
        assert row.sum() == 20 and not row[50:].any()


def test_spans_lie_side_by_side_where_nearly_all_is_hidden():
    rows = drawn([99] * 50, Masking(0.95, 10))
    assert (rows.sum(1) == 90).all()
    assert len(np.unique(rows, axis=0)) > 40
