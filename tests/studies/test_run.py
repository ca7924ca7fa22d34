"""The runner: what it never does twice, what it does when a variant fails, and how processes share its work."""

import dataclasses
import errno
import gc
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from tqdm import tqdm

from ser_jax import checksums
from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.studies import more_seeds, progress, run, store
from ser_jax.studies.plan import make_plan, one_variant
from ser_jax.studies.variants import prepare
from ser_jax.training import checkpoints, devices, log, loop
from ser_jax.training.population import describe, initial_state, make_population
from tests.training.tiny import CONFIG, tiny_corpus, vectors

pytestmark = pytest.mark.usefixtures("no_figures")

ROOT = Path(__file__).parents[2]
RATES = {"name": "rate", "field": "optimizer.learning_rate", "levels": [1e-3, 4e-3]}
DECAYS = {"name": "decay", "field": "optimizer.weight_decay", "levels": [0.0, 0.1]}


def study_of(**study):
    changes = {"folds": [0, 1], "evaluation": {"latency": False}, "study": study}
    return json.loads(json.dumps(configuration.merge(CONFIG, changes)))


def programs_kept():
    gc.collect()
    return len(jax.devices()[0].client.live_executables())


@pytest.fixture
def trained(monkeypatch):
    """The names of what is trained from now on."""
    names = []
    train = run._train
    monkeypatch.setattr(run, "_train", lambda title, *rest: (names.append(title), train(title, *rest)))
    return names


def test_what_one_study_has_trained_another_finds_under_any_name(trained, no_fonts, tmp_path):
    data, shared = str(tmp_path / "data"), tmp_path / "store"
    noise = {"augmentation": {"noise": 0.5}}
    first = study_of(variants={"plain": {}, "noisy": noise}, comparisons=[["noisy", "plain"]])
    outcome = run.run_study(first, tmp_path / "one", data_dir=data, store=shared)
    assert trained == ["plain (1 of 2)", "noisy (2 of 2)"]
    assert (outcome.missing, outcome.failed) == ((), {})
    kept = programs_kept()
    second = study_of(variants={"louder": noise, "smooth": {"optimizer": {"label_smoothing": 0.0}}})
    again = run.run_study(second, tmp_path / "two", data_dir=data, store=shared)
    assert trained[2:] == ["smooth (2 of 2)"]
    assert again.summary.variants["louder"].ua == outcome.summary.variants["noisy"].ua
    assert set(pd.read_parquet(tmp_path / "two" / "predictions.parquet")["variant"]) == {"louder", "smooth"}
    assert programs_kept() <= kept  # else memory would grow with every study


def test_a_sweep_along_the_run_axis_compiles_once(tmp_path):
    corpus, protocol = tiny_corpus()
    made = {}
    for rate in (1e-3, 4e-3):
        changes = {"optimizer": {"learning_rate": rate}, "augmentation": {"noise": 100 * rate}, "folds": [0, 1]}
        population = make_population(configuration.merge(CONFIG, changes), corpus, protocol, cache=made)
        loop.train(population, tmp_path / str(rate))
    assert len(population.programs.train.compiled) == 1
    another = configuration.merge(CONFIG, {"training": {"crop_seconds": 0.6}})
    assert make_population(another, corpus, protocol, cache=made).programs.train is not population.programs.train


def test_programs_that_are_shared_change_no_result(tmp_path):
    corpus, protocol = tiny_corpus()
    made, states = {}, []
    other = make_population(
        configuration.merge(CONFIG, {"optimizer": {"learning_rate": 0.1}}), corpus, protocol, cache=made
    )
    loop.train(other, tmp_path / "other")
    for number, shared in enumerate((made, None)):
        population = make_population(CONFIG, corpus, protocol, cache=shared)
        states.append(loop.train(population, tmp_path / str(number))[0])
    ours, theirs = (vectors(state.parameters, len(population.runs)) for state in states)
    np.testing.assert_array_equal(ours, theirs)


def test_a_variant_that_fails_is_reported_and_the_others_finish(launch, trained, tmp_path):
    diverging = {"optimizer": {"learning_rate": 1e30, "gradient_clip": 0}}
    study = {
        "variants": {"good": {}, "diverged": diverging, "the same": diverging},
        "comparisons": [["diverged", "good"]],
    }
    (tmp_path / "config.json").write_text(json.dumps(study_of(**study)))
    arguments = "study", "--config", tmp_path / "config.json", "--workdir", tmp_path / "work"
    status, output, errors = launch(*arguments)
    assert status == 2
    assert "error: variant diverged failed: " in errors and "error: variant the same failed: " in errors
    assert "config.optimizer.learning_rate: found 1e+30; every run diverged" in errors
    assert "Traceback" not in errors
    summary = json.loads((tmp_path / "work" / "summary.json").read_text())
    assert list(summary["variants"]) == ["good"]
    assert list(summary["study"]["failed"]) == ["diverged", "the same"]
    assert trained == ["good (1 of 3)", "diverged (2 of 3)"]  # the same training does not fail twice
    assert summary["comparisons"] == []
    assert "good" in output
    (folder,) = (tmp_path / "work" / "populations").glob("diverged-*")
    assert "Traceback" in json.loads((folder / store.FAILURE).read_text())["traceback"]


def test_a_damaged_result_fails_its_variant_alone_and_what_to_do_is_said(launch, tmp_path):
    path, kept = tmp_path / "config.json", tmp_path / "store"
    path.write_text(json.dumps(study_of(variants={"good": {}, "bad": {"augmentation": {"noise": 0.5}}})))
    assert launch("study", "--config", path, "--workdir", tmp_path / "one", "--store", kept)[0] == 0
    (result,) = kept.glob(f"bad-*/{store.RESULT}")
    result.write_bytes(result.read_bytes() + b" ")
    status, _, errors = launch("study", "--config", path, "--workdir", tmp_path / "two", "--store", kept)
    assert status == 2 and "error: variant bad failed: " in errors and "and the variant is tested again" in errors
    assert list(json.loads((tmp_path / "two" / "summary.json").read_text())["variants"]) == ["good"]
    (result.parent / checksums.FILE).unlink()
    result.write_bytes(result.read_bytes()[:40])
    status, _, errors = launch("study", "--config", path, "--workdir", tmp_path / "three", "--store", kept)
    assert status == 2 and "error: variant bad failed: " in errors and "remove it, and the study's own" in errors
    assert list(json.loads((tmp_path / "three" / "summary.json").read_text())["variants"]) == ["good"]


def test_a_variant_on_a_full_disk_fails_alone_though_nothing_of_it_can_be_kept(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "log.jsonl")

    monkeypatch.setattr(run, "write_json", fail)
    (variant,) = prepare(make_plan(study_of(variants={"plain": {}})), None)
    failures = {}
    variant = dataclasses.replace(variant, population=fail)
    run._finish("title", variant, run.How(tmp_path, None, None), failures)
    assert failures["plain"]["message"] == "log.jsonl: No space left on device (errno 28)"
    assert failures["plain"]["refused"]


def test_more_seeds_are_trained_by_themselves_and_joined_with_those_there_are(launch, trained, monkeypatch, tmp_path):
    waits, locked = [], run.locked
    monkeypatch.setattr(run, "locked", lambda *args, **how: (waits.append(how.get("what")), locked(*args, **how))[1])
    path = tmp_path / "config.json"
    path.write_text(json.dumps(study_of(variants={"plain": {}})))

    def study(seeds, workdir):
        arguments = "study", "--config", path, f"--config.seeds={seeds}", "--workdir", workdir
        return launch(*arguments, "--store", tmp_path / ("store" if workdir == grown else "own"))

    whole, grown = tmp_path / "whole", tmp_path / "grown"
    assert study((0, 1), whole)[0] == 0
    assert study((1, 5), grown)[0] == 0
    status, _, errors = study((0, 5, 1), grown)
    assert status == 0 and "seeds 1, 5 are trained already" in errors
    assert waits[-3:] == ["plain (1 of 1)", "plain (1 of 1): seeds 0", f"{tmp_path / 'store'}: results of a study"]
    assert trained[2:] == ["plain (1 of 1)"] * 2  # that of all, and within it the new one's
    results = [json.loads(path.read_text()) for path in (tmp_path / "store").glob(f"*/{store.RESULT}")]
    assert sorted(result["seeds"] for result in results) == [[0], [0, 5, 1], [1, 5]]
    key = ["fold", "seed", "utterance"]
    tables = [
        pd.read_parquet(place / "predictions.parquet").sort_values(key, ignore_index=True) for place in (whole, grown)
    ]
    assert set(tables[1]["seed"]) == {0, 1, 5}
    joined = tables[1][tables[1]["seed"] != 5].reset_index(drop=True)
    pd.testing.assert_frame_equal(joined, tables[0], atol=1e-5)
    # It is a training like any other: its checkpoint says what it printed.
    status, output, errors = launch("evaluate", "--workdir", grown)
    assert status == 0 and "identical to the training's own predictions" in output + errors
    # A workdir takes more seeds, not other ones.
    status, _, errors = study((0, 1), grown)
    assert status == 2 and "config.seeds" in errors


def test_part_of_the_seeds_that_a_population_has_are_taken_from_it(capsys, tmp_path):
    def finished(name, seeds, family="family", checkpoint="6"):
        result = {"family": family, "seeds": seeds, "seconds": {"train": 6.0}}
        (tmp_path / name / "checkpoints" / checkpoint).mkdir(parents=True)
        (tmp_path / name / store.RESULT).write_text(json.dumps(result))

    finished("three", [0, 1, 2]), finished("two", [2, 3]), finished("other", [4], family="another")
    finished("deleted", [4], checkpoint="")
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / store.RESULT).write_text("{}")  # from before a result knew its seeds
    (variant,) = prepare(make_plan(study_of(variants={"plain": {}})), str(tmp_path / "data"))
    variant = dataclasses.replace(variant, family="family", config={"seeds": [1, 2, 3, 4]})
    parts = more_seeds.find_parts(variant, tmp_path)
    assert [(part.folder.name, part.wanted, part.seconds["train"]) for part in parts] == [
        ("three", (1, 2), 4.0),
        ("two", (3,), 3.0),
    ]
    assert more_seeds.lacking_seeds(variant, parts) == [4]
    assert not capsys.readouterr().err
    for name in ("two", "other"):  # that of another family is nobody's loss
        (tmp_path / name / checksums.FILE).write_text(f"{'0' * 64}  {store.RESULT}\n")
    for _ in range(2):  # the store is looked through several times, and says it once
        assert more_seeds.lacking_seeds(variant, more_seeds.find_parts(variant, tmp_path)) == [3, 4]
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith(f"note: {tmp_path}") and "/two/" in note


def test_seeds_are_never_taken_from_an_earlier_checkpoint_than_the_last(tmp_path):
    (variant,) = prepare(make_plan(study_of(variants={"plain": {}})), str(tmp_path / "data"))
    population = variant.population()
    state = devices.gather(initial_state(population), len(population.runs))
    written = checkpoints.Checkpoints(tmp_path / "part" / "checkpoints")
    for step in (3, 6):
        written.save(state.replace(step=np.full_like(state.step, step)), describe(population))
    written.close()
    files = (path for path in (tmp_path / "part" / "checkpoints" / "6" / "training").rglob("*") if path.is_file())
    damaged = max(files, key=lambda path: path.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:40])
    part = more_seeds.Part(tmp_path / "part", tuple(variant.config["seeds"]), tuple(variant.config["seeds"]), {}, [])
    with pytest.raises(UserError, match="6: damaged checkpoint"):
        more_seeds.join(variant, population, [part], tmp_path / "whole")
    assert {path.name for path in (tmp_path / "part" / "checkpoints").iterdir()} == {"3", "6"}
    assert not (tmp_path / "whole").exists()


def test_a_workdir_that_was_given_more_seeds_meanwhile_keeps_their_results(launch, monkeypatch, tmp_path):
    path, workdir = tmp_path / "config.json", tmp_path / "work"
    path.write_text(json.dumps(study_of(variants={"plain": {}})))
    train = run._train

    def train_while_another_study_begins(*arguments):
        monkeypatch.setattr(run, "_train", train)
        assert launch("study", "--config", path, "--config.seeds=0,1", "--workdir", workdir)[0] == 0
        train(*arguments)

    monkeypatch.setattr(run, "_train", train_while_another_study_begins)
    status, _, errors = launch("study", "--config", path, "--workdir", workdir)
    assert status == 2 and "given another configuration meanwhile, as more seeds; what was trained is kept" in errors
    assert set(pd.read_parquet(workdir / store.PREDICTIONS)["seed"]) == {0, 1}
    (workdir / store.CONFIG).write_text("{")
    with pytest.raises(UserError, match=r"config.json: damaged"):
        run._still_claimed(workdir, {})


def test_shards_leave_each_other_s_variants_alone_and_the_last_writes_the_results(trained, no_fonts, tmp_path):
    config = study_of(questions=[{"name": "sweep", "factors": [RATES, DECAYS]}])
    first = run.run_study(config, tmp_path / "work", data_dir=str(tmp_path / "data"), shard=(1, 2))
    assert trained == ["rate 0.001, decay 0.1 (2 of 4)", "rate 0.004, decay 0.1 (4 of 4)"]
    assert first.summary is None
    assert first.missing == ("rate 0.001, decay 0.0", "rate 0.004, decay 0.0")
    assert not (tmp_path / "work" / "summary.json").exists()
    second = run.run_study(config, tmp_path / "work", data_dir=str(tmp_path / "data"), shard=(0, 2))
    assert len(trained) == 4
    assert list(second.summary.variants) == [
        f"rate {rate}, decay {decay}" for rate in (0.001, 0.004) for decay in (0.0, 0.1)
    ]
    assert second.summary.questions[0].factors["rate"] == ("rate 0.001", "rate 0.004")


def test_jobs_that_submitit_starts_share_a_study_in_one_folder(tmp_path):
    pytest.importorskip("submitit")
    config = study_of(variants={"plain": {}, "noisy": {"augmentation": {"noise": 0.5}}})
    (tmp_path / "config.json").write_text(json.dumps(config))
    workdir = tmp_path / "work"
    command = [
        sys.executable,
        "launch.py",
        "study",
        "--config",
        str(tmp_path / "config.json"),
        "--workdir",
        str(workdir),
    ]
    command += ["--data_dir", str(tmp_path / "data"), "--slurm", "cluster=local,jobs=2"]
    sent = subprocess.run(command, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.startswith("sent to Slurm: ")
    end = time.monotonic() + 240
    while not (workdir / "report.html").exists() and time.monotonic() < end:
        time.sleep(0.5)
    logs = "\n".join(path.read_text() for path in (workdir / "slurm").glob("*.err"))
    assert (workdir / "report.html").exists(), logs
    assert list(json.loads((workdir / "summary.json").read_text())["variants"]) == ["plain", "noisy"]
    assert len(list((workdir / "populations").glob("*/result.json"))) == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--shard", "2/2"], "--shard 2/2: expected I/N with I from 0"),
        (["--shard", "half", "--dry_run"], "--shard half: expected I/N"),
        (["--shard", "0/2", "--slurm", "jobs=2"], "expected no --shard beside it"),
        (["--distributed", "--slurm", "jobs=2"], "expected no --distributed"),
        (["--slurm", "jobs=two"], "--slurm jobs=two: expected a whole number"),
        (["--slurm", "partition"], "found 'partition', expected KEY=VALUE"),
        (["--slurm", "cluster=local,timeout_minutes=5"], "timeout_minutes"),
    ],
)
def test_a_mistake_about_sharing_is_one_line(launch, tiny_config, tmp_path, arguments, expected):
    status, output, errors = launch("study", "--config", tiny_config, "--workdir", tmp_path / "work", *arguments)
    assert (status, output) == (2, "")
    assert expected in errors
    assert len(errors.splitlines()) == 1


def test_a_study_of_two_corpora_is_refused(launch, tmp_path):
    config = study_of(variants={"a": {}, "b": {"corpus": {"options": {"num_speakers": 4}}}})
    (tmp_path / "config.json").write_text(json.dumps(config))
    status, _, errors = launch("study", "--config", tmp_path / "config.json", "--workdir", tmp_path / "work")
    assert status == 2
    assert "a study is of one" in errors
    assert not (tmp_path / "work").exists()


def test_a_workdir_is_claimed_again_by_the_same_configuration_alone(tmp_path):
    settings = one_variant(configuration.default(), None)
    for _ in range(2):
        run.claim(tmp_path, settings)
    with pytest.raises(UserError, match=r"another configuration.*feed"):
        run.claim(tmp_path, settings | {"feed": "resident"})


def test_a_workdir_is_claimed_while_nobody_writes_its_results(monkeypatch, tmp_path):
    """A lesser study that writes its results at that moment ends first, and they are not left beside this one's."""

    def claim(*_):
        with store.locked(tmp_path / run.POPULATIONS, "results", wait=False) as free:
            raise UserError(f"free: {free}")

    monkeypatch.setattr(run, "claim", claim)
    with pytest.raises(UserError, match="free: False"):
        run.run_study(study_of(variants={"plain": {}}), tmp_path, data_dir=str(tmp_path / "data"))


def test_the_order_of_the_patterns_of_rates_is_kept_and_claimed(tmp_path):
    """The first that fits a parameter counts."""
    one, other = (
        configuration.merge(configuration.default(), {"optimizer": {"rates": rates}})
        for rates in ({"^classifier/": 1.0, "": 0.1}, {"": 0.1, "^classifier/": 1.0})
    )
    for _ in range(2):
        run.claim(tmp_path, one)
    found = configuration.load(str(tmp_path / "config.json"))["optimizer"]["rates"]
    assert found == [["^classifier/", 1.0], ["", 0.1]]
    for seeds in ([0], [0, 1]):
        with pytest.raises(UserError, match=r"another configuration.*rates"):
            run.claim(tmp_path, other | {"seeds": seeds})


def test_a_workdir_whose_rates_are_a_dict_goes_on(tmp_path):
    settings = configuration.merge(configuration.default(), {"optimizer": {"rates": {"b": 1.0, "a": 0.5}}})
    older = {**settings, "optimizer": settings["optimizer"] | {"rates": {"b": 1.0, "a": 0.5}}}
    (tmp_path / "config.json").write_text(json.dumps(older))
    run.claim(tmp_path, settings)


def test_a_workdir_from_before_a_key_existed_goes_on(tmp_path):
    settings = one_variant(configuration.default(), None)
    older = {**settings, "training": {key: value for key, value in settings["training"].items() if key != "initial"}}
    (tmp_path / "config.json").write_text(json.dumps(older))
    run.claim(tmp_path, settings)
    with pytest.raises(UserError, match="initial"):
        run.claim(tmp_path, configuration.merge(settings, {"training": {"initial": "elsewhere"}}))


def test_the_progress_shows_a_step_in_which_no_run_was_trained():
    """One run has stopped, the other diverged at the first step of a call: neither has a loss."""
    rows = [{"step": 3, "epoch": 0.5, "fold": "a", "seed": 0, "loss": 0.25, "validation_ua": 0.5}]
    ended = {"step": 4, "epoch": 0.6, "fold": "a", "loss": None}
    rows += [{**ended, "seed": 0}, {**ended, "seed": 1, "diverged_at": 4}]
    terminal = io.StringIO()
    bar, shown = tqdm(file=terminal, total=10), []
    for entry in log.means(rows):
        progress.show(bar, entry, 2)
        shown.append((bar.n, bar.postfix))
    assert shown == [(6, "loss=0.250, validation UA=50.0%"), (8, "validation UA=50.0%")]
    bar.close()
    assert terminal.getvalue().endswith("\n")  # what is printed next begins a line
