import argparse
import dataclasses
import json

import numpy as np
import pytest

from ser_jax import config as configuration
from ser_jax import predictions
from ser_jax.commands import plan as command
from ser_jax.errors import UserError
from ser_jax.report import summary
from ser_jax.report.summarise import How, summarise
from ser_jax.report.summary import Knowledge, Provenance, Study
from ser_jax.statistics import bootstrap, components, paired, tests
from ser_jax.studies import design, pace, provenance
from tests.statistics.made_tables import make_table, sizes
from tests.statistics.simulated_designs import simulate

WEIGHTS = np.array([[1.0, -1.0]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("results"), make_table(variants=("none", "se", "eca"), gain=0.2, utterances=12))


def call(*arguments, timing=False):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([*map(str, arguments), *([] if timing else ["--no_timing"])]))


def save(folder, table, comparisons=(("se", "none"), ("eca", "none"))):
    study = Study(fold_sizes=sizes(table), seconds={"train": 60.0, "evaluate": 12.0, "compile": 9.0})
    known = {name: Knowledge(trained=(Provenance(hardware={"device": "a card"}),)) for name in set(table["variant"])}
    made = summarise(table, study, comparisons=comparisons, known=known, how=How(replicates=100))
    predictions.write(table, folder / "predictions.parquet")
    summary.write(made, folder / "summary.json")
    return folder


def test_the_design_of_the_results_themselves_detects_what_their_comparisons_say(folder):
    results = design.read_results(folder)
    found = design.design(results, speakers=6, seeds=2)
    table = predictions.read(folder / "predictions.parquet")
    of = [paired.compare(table, name, "none", sizes(table)) for name in ("se", "eca")]
    total = np.mean([one.standard_error**2 for one in of])
    assert found.detectable == pytest.approx(tests.detectable_difference(float(np.sqrt(total)), 5.0))
    assert results.parts.seeds / results.parts.total == pytest.approx(
        np.average([one.seeds_share for one in of], weights=[one.standard_error**2 for one in of])
    )
    assert (results.speakers, results.seeds, results.folds, results.comparisons) == (6, 2, 6, 2)
    assert (found.runs, found.seconds) == (24, pytest.approx(24 * 72 / 36))
    several = design.design(results, speakers=6, seeds=2, comparisons=3)
    assert several.detectable == pytest.approx(tests.detectable_difference(float(np.sqrt(total)), 5.0, 3))


def test_a_comparison_of_fewer_speakers_or_seeds_is_brought_to_those_of_the_largest(tmp_path):
    whole = make_table(variants=("none", "se", "eca"), gain=0.2, utterances=12)
    of_eca, speakers = whole["variant"] == "eca", sorted(set(whole["speaker"]))
    table = whole[~(of_eca & whole["speaker"].isin(speakers[4:]))].reset_index(drop=True)
    (tmp_path / "speakers").mkdir()
    results = design.read_results(save(tmp_path / "speakers", table))
    assert (results.speakers, results.seeds, results.folds, results.comparisons) == (6, 2, 6, 2)
    se, eca = (paired.compare(table, name, "none", sizes(table)).standard_error ** 2 for name in ("se", "eca"))
    assert results.parts.total == pytest.approx((se + eca * 4 / 6) / 2)
    # One seed does not show what two are worth: such a comparison says nothing of them.
    table = whole[~(of_eca & (whole["seed"] == 1))].reset_index(drop=True)
    (tmp_path / "seeds").mkdir()
    results = design.read_results(save(tmp_path / "seeds", table))
    assert (results.speakers, results.seeds, results.folds, results.comparisons) == (6, 2, 6, 1)
    assert results.parts.total == pytest.approx(se)


@pytest.mark.parametrize(("speakers", "seeds"), [(12, 12), (36, 3), (36, 12)])
@pytest.mark.parametrize("kind", ["own model", "one model"])
def test_the_half_width_of_another_design_is_what_studies_of_that_design_have(kind, speakers, seeds):
    def parts(rng, persons, trainings):
        cells, _ = simulate(rng, kind, persons, trainings, (0.0, 0.0))
        error = bootstrap.bootstrap_contrasts(cells.by_speaker(), WEIGHTS, replicates=100).standard_error[0]
        return components.decompose(components.influences(cells, WEIGHTS[0]), cells, float(error) ** 2)

    rng = np.random.default_rng(0)
    here = design._mean([parts(rng, 12, 3) for _ in range(40)])
    there = design._mean([parts(rng, speakers, seeds) for _ in range(20)])
    expected = here.scaled(seeds=seeds / 3, speakers=speakers / 12)
    assert expected.total == pytest.approx(there.total, rel=0.35)


def test_the_command_prints_a_row_for_each_design_and_the_same_as_json(folder, capsys):
    assert call(folder, "--seeds", "2", "8", "--speakers", "6", "24") == 0
    printed = capsys.readouterr().out
    assert f"{folder}: 2 comparisons, 6 speakers, 6 folds, 2 seeds." in printed
    assert "their time is that of a card, without compilation" in printed
    rows = [line.split() for line in printed.splitlines() if line[:8].strip().isdigit()]
    assert [(row[0], row[1]) for row in rows] == [("6", "2"), ("6", "8"), ("24", "2"), ("24", "8")]
    assert call(folder, "--seeds", "2", "8", "--speakers", "6", "24", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    for row, one in zip(rows, made["designs"], strict=True):
        assert (row[2], row[3], row[4]) == (
            f"{100 * one['detectable']:.1f}",
            f"{100 * one['half_width']:.1f}",
            f"{one['runs']:,}",
        )
    detectable = [one["detectable"] for one in made["designs"]]
    assert detectable[0] > detectable[1] > detectable[3]
    assert detectable[0] > detectable[2] > detectable[3]


def test_the_time_is_this_machines_from_some_seconds_of_training(tmp_path, capsys, monkeypatch):
    folder = save(tmp_path, make_table(variants=("none", "se", "eca"), gain=0.2, utterances=12))
    assert call(folder, timing=True) == 0  # no configuration beside the results
    found = capsys.readouterr()
    assert "the time on this machine is not known: " in found.err and "no config.json" in found.err
    changes = {"corpus": {"name": "not_on_this_machine"}, "model": {"name": "linear"}}
    changes |= {"frontend": {"num_mels": 4}, "training": {"train_epochs": 30.0, "crop_seconds": 0.5, "batch_size": 4}}
    config = configuration.merge(configuration.default(), changes)
    study = {"variants": {name: {} for name in ("none", "se", "eca")}}
    (folder / "config.json").write_text(json.dumps(configuration.merge(config, {"study": study})))
    monkeypatch.setattr(pace, "SECONDS", 0.2)
    assert call(folder, "--json", timing=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["here"] == "timed" and told["hardware"] == provenance.hardware()["device"]
    assert 0 < told["seconds"] < 60
    assert told["designs"][0]["seconds"] == pytest.approx(told["seconds"] * told["designs"][0]["runs"])
    monkeypatch.setattr(pace, "seconds_of_run", None)  # nothing is timed where it was recorded
    known = dataclasses.replace(design.read_results(folder), hardware=told["hardware"])
    assert (design.timed_here(known).seconds, design.timed_here(known).here) == (known.seconds, "recorded")


def test_an_answer_that_was_computed_is_printed_also_where_no_training_can_be_timed(folder, capsys, monkeypatch):
    def refused():
        raise UserError("JAX_PLATFORMS=cuda: no such device")

    monkeypatch.setattr(command, "start_jax", refused)
    assert call(folder, timing=True) == 0
    found = capsys.readouterr()
    assert "Points of UA: what 80 % of studies detect" in found.out
    assert found.err == "the time on this machine is not known: JAX_PLATFORMS=cuda: no such device\n"
    monkeypatch.setattr(command, "start_jax", lambda: None)
    for error, said in (
        (MemoryError(), "not enough memory"),
        (OSError(28, "No space left", "/x"), "/x: No space left"),
    ):
        monkeypatch.setattr(design, "timed_here", lambda *of, error=error: (_ for _ in ()).throw(error))
        assert call(folder, "--json", timing=True) == 0
        found = capsys.readouterr()
        assert json.loads(found.out)["designs"] and said in found.err
    monkeypatch.setattr(design, "timed_here", lambda *of: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a fault of this program is not hidden
        call(folder, timing=True)


def test_a_run_takes_its_steps_times_the_pace_of_the_later_calls(monkeypatch):
    assert pace.pace([(1, 5.0), (3, 5.5), (21, 7.0)]) == pytest.approx(0.1)
    monkeypatch.setattr(pace, "_seconds_of_step", lambda config, data_dir: 0.4 * len(config["seeds"]))
    config = configuration.merge(configuration.default(), {"training": {"train_epochs": 10.0, "batch_size": 20}})
    assert pace.seconds_of_run(config, 100.0, 1, None) == pytest.approx(0.4 * 10 * 100 / 20)
    with pytest.raises(UserError, match="a baseline"):
        pace.seconds_of_run(configuration.merge(config, {"model": {"name": "lda"}}), 100.0, 1, None)


def test_one_training_of_each_variant_is_no_ground_for_a_plan(tmp_path):
    table = make_table(seeds=(0,), utterances=12).assign(fold="all")
    save(tmp_path, table, (("eca", "none"),))
    with pytest.raises(UserError, match="expected results with two or more seeds"):
        design.read_results(tmp_path)


def test_one_training_of_each_variant_that_tests_all_speakers_is_no_design(tmp_path):
    table = make_table(utterances=12).assign(fold="all")
    results = design.read_results(save(tmp_path, table, (("eca", "none"),)))
    with pytest.raises(UserError, match=r"^1 seed: one training of each variant that tests all speakers gives no verd"):
        design.design(results, speakers=6, seeds=1)
    (tmp_path / "config.json").write_text(json.dumps(configuration.default()))
    with pytest.raises(UserError, match=r"config.json: no variant eca, whose training would be timed$"):
        design.timed_here(results)


def test_one_seed_says_what_more_speakers_and_not_what_more_seeds_would_do(tmp_path, capsys):
    folder = save(tmp_path, make_table(seeds=(0,), utterances=12), (("eca", "none"),))
    assert call(folder) == 0
    assert "One seed: how much of the squared standard error is seeds is not known." in capsys.readouterr().out
    results = design.read_results(folder)
    assert design.design(results, 12, 1).detectable < design.design(results, 6, 1).detectable
    with pytest.raises(UserError, match="it has one seed, which does not show what 3 are worth"):
        design.design(results, 6, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--speakers", "1"), "--speakers: found 1, expected 2 or more"),
        (("--seeds", "0"), "--seeds: found 0, expected 1 or more"),
        (("--comparisons", "0"), "--comparisons: found 0, expected 1 or more"),
    ],
)
def test_a_design_that_cannot_be_is_refused_in_one_line(folder, options, message):
    with pytest.raises(UserError, match=message):
        call(folder, *options)


def test_results_without_what_it_takes_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no predictions\.parquet in it"):
        design.read_results(tmp_path)
    save(tmp_path, make_table(utterances=8), ())
    with pytest.raises(UserError, match="its study compared nothing"):
        design.read_results(tmp_path)
    save(tmp_path, make_table(speakers=1, utterances=12), (("eca", "none"),))
    with pytest.raises(UserError, match="no comparison has an interval"):
        design.read_results(tmp_path)


def test_the_mean_of_comparisons_has_the_degrees_of_the_one_with_the_fewest_speakers_and_trainings():
    one, other = (
        components.Components(4.0, 2.0, 1.0, 10, 5, 15, 0.5),
        components.Components(2.0, 1.0, 0.5, 6, 3, 20, 0.25),
    )
    assert design._mean([one, other]) == components.Components(3.0, 1.5, 0.75, 6, 3, 15, 0.375)
