import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from ser_jax.feeds.order import file_layout, lane_size, position, stretches, training_rows

# What `make_training` takes: utterances, lanes, window, tenths of the utterances to train on, a lane's share.
TRAININGS = st.tuples(
    st.integers(16, 300),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 7, 40, 8192]),
    st.integers(3, 10),
    st.integers(1, 5),
)


def make_training(size, lanes, window, tenths, share):
    """A layout, the training rows of a fold, and a batch size: every lane has something to train on."""
    layout = file_layout(size, lanes, window)
    train = np.flatnonzero(np.arange(size) * 7919 % 10 < tenths)
    if any(lane_size(layout, train, lane) == 0 for lane in range(lanes)):
        train = np.arange(size)
    return layout, train, lanes * share


@given(st.integers(1, 20_000))
@settings(max_examples=50, deadline=None)
def test_every_utterance_lies_in_one_file_and_files_are_even(size):
    files = file_layout(size).files
    assert sorted(np.concatenate(files)) == list(range(size))
    lengths = [len(rows) for rows in files]
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) <= 256
    assert len(files) % 16 == 0 or len(files) == size < 16


@pytest.mark.parametrize(("size", "number"), [(16, 16), (4096, 16), (4097, 32), (8192, 32)])
def test_there_are_no_more_files_than_256_utterances_in_each_ask_for(size, number):
    assert len(file_layout(size).files) == number


@given(TRAININGS, st.integers(0, 3), st.integers(0, 3), st.integers(0, 60), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_a_step_sees_the_same_rows_however_the_training_is_cut(training, seed, fold, first, count):
    layout, train, batch = make_training(*training)
    whole = training_rows(layout, train, seed, fold, batch, 0, first + count)
    part = training_rows(layout, train, seed, fold, batch, first, count)
    assert part.shape == (count, batch)
    np.testing.assert_array_equal(part, whole[first:])


@given(TRAININGS, st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_in_every_epoch_a_lane_gives_each_of_its_utterances_once_and_lanes_share_none(training, seed):
    layout, train, batch = make_training(*training)
    share, epochs = batch // layout.lanes, 3
    given_out = []
    for lane in range(layout.lanes):
        size = lane_size(layout, train, lane)
        rows = training_rows(layout, train, seed, 0, batch, 0, -(-epochs * size // share))
        own = rows[:, lane * share : (lane + 1) * share].ravel()
        for epoch in range(epochs):
            given_out.append(sorted(own[epoch * size : (epoch + 1) * size]))
    for epoch in range(epochs):
        assert sorted(row for rows in given_out[epoch::epochs] for row in rows) == list(train)
    assert [len(rows) for rows in given_out[::epochs]] == [
        lane_size(layout, train, lane) for lane in range(layout.lanes)
    ]


@given(TRAININGS, st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_a_window_holds_no_more_utterances_than_it_may_and_reads_whole_files_once_an_epoch(training, seed):
    layout, train, _ = make_training(*training)
    trained = np.isin(np.arange(sum(map(len, layout.files))), train)
    for lane in range(layout.lanes):
        files, seen, before = [], 0, np.inf
        for stretch in stretches(layout, train, lane, seed, 0, first_epoch=0):
            expected = np.concatenate([layout.files[number] for number in stretch.files])
            np.testing.assert_array_equal(stretch.rows, expected[trained[expected]])
            assert sorted(stretch.order) == list(range(len(stretch.rows)))
            assert len(stretch.rows) <= layout.window or len(stretch.files) == 1
            assert before + trained[layout.files[stretch.files[0]]].sum() > layout.window  # or it had been read there
            files, before = [*files, *stretch.files], len(stretch.rows)
            seen += len(stretch.rows)
            if seen >= lane_size(layout, train, lane):
                break
        own = range(lane, len(layout.files), layout.lanes)
        assert sorted(files) == [number for number in own if trained[layout.files[number]].any()]


def test_seeds_folds_and_epochs_see_different_orders_and_lanes_too():
    layout, train = file_layout(64, 2), np.arange(64)
    orders = {
        tuple(training_rows(layout, train, seed, fold, 64, epoch, 1)[0])
        for seed in (0, 1)
        for fold in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 8
    first, second = (next(stretches(layout, train, lane, 0, 0, 0)) for lane in (0, 1))
    assert len(first.rows) == len(second.rows) and first.order.tolist() != second.order.tolist()


def test_a_window_as_large_as_the_corpus_shuffles_all_of_it():
    layout, train = file_layout(320), np.arange(320)
    (rows,) = training_rows(layout, train, 0, 0, 320, 0, 1)
    number = np.empty(320, int)
    for i, file in enumerate(layout.files):
        number[file] = i
    assert len(set(number[rows[:20]])) > 5, "the first utterances come from files everywhere"


@given(TRAININGS, st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_a_position_counts_what_a_lane_has_given(training, step):
    layout, train, batch = make_training(*training)
    for lane in range(layout.lanes):
        epoch, skip = position(layout, train, lane, batch, step)
        size = lane_size(layout, train, lane)
        assert 0 <= skip < size
        assert epoch * size + skip == step * (batch // layout.lanes)


@pytest.mark.parametrize("size", [1, 2, 15])
def test_a_corpus_of_fewer_utterances_than_files_is_read_whole(size):
    layout = file_layout(size)
    rows = training_rows(layout, np.arange(size), 0, 0, 1, 0, size)
    assert sorted(rows.ravel()) == list(range(size))
