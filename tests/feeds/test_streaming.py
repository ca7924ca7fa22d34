import itertools
import subprocess
import sys
import threading

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings

from ser_jax.corpora.corpus import Corpus, make_corpus, waveform
from ser_jax.errors import UserError
from ser_jax.feeds import streaming
from ser_jax.feeds.order import file_layout, stretches, training_rows
from ser_jax.feeds.records import open_records
from ser_jax.feeds.resident import crop_batch, make_resident
from ser_jax.feeds.streaming import StreamingFeed, open_stream

SIZE = 90
TRAIN = np.flatnonzero(np.arange(SIZE) * 7 % 10 < 8)
CROP = 100  # samples


def noise_corpus(size: int = SIZE, seed: int = 0) -> Corpus:
    rng = np.random.default_rng(seed)
    emotions = [("x", "y", "z")[i % 3] for i in range(size)]
    waveforms = [rng.integers(-30000, 30000, rng.integers(20, 300)).astype(np.int16) for _ in range(size)]
    return make_corpus(
        "noise", pd.DataFrame({"id": [f"u{i}" for i in range(size)], "emotion": emotions}), waveforms, ("x", "y", "z")
    )


@pytest.fixture(scope="module")
def corpus():
    return noise_corpus()


@pytest.fixture(scope="module")
def records(corpus, tmp_path_factory):
    return open_records(corpus, tmp_path_factory.mktemp("data"))


def take(records, layout, first, count, *, seed=3, fold=1, batch=8, lanes=None, train=TRAIN):
    """The waveforms of some steps, [steps][utterances]."""
    stream = open_stream(records, layout, train, seed, fold, batch, first, lanes or range(layout.lanes))
    steps = list(itertools.islice(stream, count))
    stream.close()
    return steps


@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 12, 8192]), st.integers(0, 40), st.integers(1, 3))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_stream_gives_exactly_the_rows_of_the_order_from_any_step_on(corpus, records, lanes, window, first, share):
    layout, batch = file_layout(SIZE, lanes, window), lanes * share
    count = 2 * len(TRAIN) // batch + 3  # over the ends of two epochs
    steps = take(records, layout, first, count, batch=batch)
    expected = training_rows(layout, TRAIN, 3, 1, batch, first, count)
    for waveforms, rows in zip(steps, expected, strict=True):
        assert len(waveforms) == batch
        for own, row in zip(waveforms, rows.tolist(), strict=True):
            np.testing.assert_array_equal(own, waveform(corpus, row))


def test_few_training_rows_are_found_among_many_others(corpus, records, monkeypatch):
    """Also where none of the records that are parsed together is one of them."""
    monkeypatch.setattr(streaming, "_RECORDS", 2)
    monkeypatch.setattr(streaming, "_graph_functions", streaming._graph_functions.__wrapped__)
    layout, train = file_layout(SIZE), np.array([3, 50, 89])
    steps = take(records, layout, 0, 5, batch=2, train=train)
    for waveforms, rows in zip(steps, training_rows(layout, train, 3, 1, 2, 0, 5).tolist(), strict=True):
        for own, row in zip(waveforms, rows, strict=True):
            np.testing.assert_array_equal(own, waveform(corpus, row))


def test_a_process_reads_its_own_lanes_alone(corpus, records):
    layout = file_layout(SIZE, 4, 12)
    whole = take(records, layout, 5, 6)
    left, right = (take(records, layout, 5, 6, lanes=lanes) for lanes in ([0, 1], [2, 3]))
    for step, (one, other) in zip(whole, zip(left, right, strict=True), strict=True):
        assert [own.tobytes() for own in step] == [own.tobytes() for own in one + other]


def test_beginning_at_a_late_step_reads_no_window_but_the_one_it_is_in(corpus, records, tmp_path):
    """The files of the windows before are not even opened: they may be gone."""
    layout, first = file_layout(SIZE, 1, 12), 4
    before, seen = set(), 0
    for stretch in stretches(layout, TRAIN, 0, 3, 1, 0):
        seen += len(stretch.rows)
        if seen > first * 8:
            break
        before |= set(stretch.files)
    assert before
    for number, file in enumerate(records.files):
        if number not in before:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    left = type(records)(tmp_path, tuple(tmp_path / file.name for file in records.files))
    (step,) = take(left, layout, first, 1)
    (row, *_) = training_rows(layout, TRAIN, 3, 1, 8, first, 1)[0].tolist()
    np.testing.assert_array_equal(step[0], waveform(corpus, row))


def copied(records, folder):
    for file in records.files:
        (folder / file.name).write_bytes(file.read_bytes())
    return type(records)(folder, tuple(folder / file.name for file in records.files))


@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_a_file_damaged_inside_is_named_when_it_is_read(records, tmp_path, how):
    damaged = copied(records, tmp_path)
    file = damaged.files[11]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    {
        "changed": lambda: file.write_bytes(content),
        "cut": lambda: file.write_bytes(content[: len(content) // 3]),
        "gone": file.unlink,
    }[how]()
    with pytest.raises(UserError, match=r"00011-of-00016: damaged records .*delete the folder") as caught:
        take(damaged, file_layout(SIZE, 1, 20), 0, 20)
    assert "\n" not in str(caught.value)


def test_records_of_another_corpus_are_refused(records, tmp_path):
    for other in (noise_corpus(SIZE - 16), noise_corpus(SIZE + 16)):
        strange = open_records(other, tmp_path)
        with pytest.raises(UserError, match="other rows of the corpus"):
            take(strange, file_layout(SIZE), 0, 20)


def test_a_closed_stream_leaves_no_thread_behind(records):
    before = set(threading.enumerate())
    take(records, file_layout(SIZE, 2, 12), 0, 5)
    assert set(threading.enumerate()) == before


def make_feed(records, corpus, layout, runs, first_step=0, batch=8, parts=1, own=None, **options):
    return StreamingFeed(
        records,
        corpus,
        layout,
        runs,
        batch,
        parts=parts,
        own_parts=own or range(parts),
        first_step=first_step,
        crop_samples=CROP,
        table_steps=16,
        **options,
    )


RUNS = [(0, 0, TRAIN), (1, 0, TRAIN), (0, 1, np.arange(40))]


@pytest.mark.parametrize(("parts", "lanes", "speed"), [(1, 2, 0.1), (2, 2, 0.1), (2, 1, 0.1), (1, 2, None)])
def test_a_piece_gives_the_very_batches_of_the_resident_corpus(corpus, records, parts, lanes, speed):
    layout = file_layout(SIZE, lanes, 12)
    tokens = np.arange(SIZE * 4, dtype=np.int32).reshape(SIZE, 4)
    beside = {"tokens": tokens, "dimensions": np.linspace(1, 5, SIZE, dtype=np.float32)[:, None]}
    feed = make_feed(records, corpus, layout, RUNS, first_step=3, parts=parts, beside=beside)
    whole = jax.tree.map(jnp.asarray, make_resident(corpus, CROP).replace(**beside))
    crop = jax.jit(crop_batch, static_argnums=3)
    pieces = [feed.take(5), feed.take(4)]
    feed.close()
    step = 3
    for piece in pieces:
        for i in range(piece.count):
            for run, (seed, fold, train) in enumerate(RUNS):
                rows = training_rows(layout, train, seed, fold, 8, step, 1).reshape(parts, -1)
                for part in range(parts):
                    keys = jax.random.split(jax.random.key(100 * step + run), 8 // parts)
                    own = jax.tree.map(lambda leaf, at=(part, run): jnp.asarray(leaf[at]), piece.resident)
                    found, expected = (
                        crop(data, jnp.asarray(numbers), keys, CROP, speed and jnp.float32(speed))
                        for data, numbers in ((own, piece.rows[part, run, i]), (whole, rows[part]))
                    )
                    jax.tree.map(np.testing.assert_array_equal, found, expected)
            step += 1
        assert (piece.rows[:, :, piece.count :] == -1).all()
    assert step == 3 + 5 + 4


def test_a_process_has_the_pieces_of_its_own_parts_and_all_count_the_same_steps(corpus, records):
    layout = file_layout(SIZE, 4, 12)
    small = {"batch": 16, "parts": 4, "bytes_per_call": 4 * 2 * 3000}
    feeds = [make_feed(records, corpus, layout, RUNS[1:], own=own, **small) for own in (None, range(2), range(2, 4))]
    for _ in range(6):
        whole, left, right = (feed.take(16) for feed in feeds)
        assert whole.count == left.count == right.count < 16
        both = jax.tree.map(lambda *leaves: np.concatenate(leaves), left.resident, right.resident)
        jax.tree.map(np.testing.assert_array_equal, whole.resident, both)
    for feed in feeds:
        feed.close()


def test_what_is_shorter_than_the_crop_is_read_at_the_end_of_a_full_piece(corpus, records):
    shortest = int(corpus.utterances["num_samples"].argmin())
    runs = [(0, 0, np.array([shortest]))]
    feed = make_feed(records, corpus, file_layout(SIZE, 1, 12), runs, bytes_per_call=1)
    piece = feed.take(1)
    feed.close()
    own = jax.tree.map(lambda leaf: jnp.asarray(leaf[0, 0]), piece.resident)
    rows = jnp.asarray(piece.rows[0, 0, 0])
    length = int(corpus.utterances["num_samples"][shortest])
    assert own.start[rows[-1]] == 7 * length and length < CROP  # eight times the same one
    batch = crop_batch(own, rows, jax.random.split(jax.random.key(0), 8), CROP, None)
    expected = np.pad(waveform(corpus, shortest), (0, CROP - length)) / 32768
    np.testing.assert_array_equal(batch.waveform, np.broadcast_to(expected, (8, CROP)).astype(np.float32))


def test_pieces_have_always_the_same_shapes_within_their_memory_and_hold_one_step_at_least(corpus, records):
    layout = file_layout(SIZE, 1, 30)
    longest = int(corpus.utterances["num_samples"][TRAIN].max())
    for size in (1, 20_000):
        feed = make_feed(records, corpus, layout, RUNS[:2], bytes_per_call=size)
        pieces = [feed.take(16) for _ in range(8)]
        feed.close()
        shapes = {str(jax.tree.map(np.shape, (piece.rows, piece.resident))) for piece in pieces}
        assert len(shapes) == 1
        assert pieces[0].resident.samples.nbytes <= max(size, 2 * 2 * (8 * longest + CROP))
        assert all(piece.count >= 1 for piece in pieces)
        assert any(1 < piece.count < 16 for piece in pieces)


@pytest.mark.parametrize(("lanes", "parts", "own"), [(3, 2, range(1)), (1, 2, range(1, 2)), (2, 4, range(1, 3))])
def test_own_parts_that_are_no_whole_lanes_are_refused(corpus, records, lanes, parts, own):
    with pytest.raises(ValueError, match=f"{lanes} lanes: .* do not begin and end with one"):
        make_feed(records, corpus, file_layout(SIZE, lanes), RUNS, batch=12, parts=parts, own=own)


def test_importing_the_feed_imports_no_tensorflow():
    code = "import sys, ser_jax.feeds.streaming; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
