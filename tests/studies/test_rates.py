"""The time that `--dry_run` tells is that of trainings on this machine, in proportion to their work."""

import dataclasses
import json
import re
import types
from pathlib import Path

import flax.linen as nn
import pytest

from ser_jax import config as configuration
from ser_jax.baselines import linear
from ser_jax.errors import UserError
from ser_jax.studies import baselines, expected, first_fits, first_rates, rates
from ser_jax.studies.dry_run import dry_run
from ser_jax.studies.plan import make_plan
from ser_jax.studies.run import run_study
from ser_jax.studies.variants import prepare
from ser_jax.training import loop
from ser_jax.training.population import Population
from tests.training.tiny import CONFIG

SECONDS = {"initialise": 1.0, "compile": 3.0, "train": 60.0, "validate": 20.0, "evaluate": 6.0}


def changed(**training):
    return configuration.merge(CONFIG, {"training": {"train_steps": 100, **training}})


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    """What makes the runs of the tiny training with other options."""
    made = prepare(make_plan(changed()), str(tmp_path_factory.mktemp("data")))[0].population()

    def changed_to(train_steps=100, **training):
        config = configuration.merge(made.config, {"training": training})
        return dataclasses.replace(made, config=config, num_steps=train_steps)

    return changed_to


def trained(population, tmp_path, seconds=SECONDS):
    """What a training leaves, that took so long."""
    rates.remember(population, seconds, tmp_path)


def seconds_of(population, tmp_path):
    seconds, compiling, by = rates.seconds_of(population, tmp_path)
    return seconds + compiling, by


def test_a_training_takes_what_its_like_took_and_more_in_proportion_to_its_steps(tmp_path, population):
    assert rates.seconds_of(population(), tmp_path) is None
    trained(population(), tmp_path)
    assert seconds_of(population(), tmp_path) == (pytest.approx(90.0), "linear")
    twice = population(train_steps=200)
    assert seconds_of(twice, tmp_path)[0] == pytest.approx(90.0 + 80.0)
    wider = population(batch_size=8)
    assert seconds_of(wider, tmp_path)[0] == pytest.approx(90.0 + 80.0)
    trained(population(), tmp_path, SECONDS | {"train": 10.0})  # the latest of several alike counts
    assert seconds_of(population(), tmp_path)[0] == pytest.approx(40.0)
    trained(population(batch_size=8), tmp_path, SECONDS | {"train": 180.0})  # the most similar does
    assert seconds_of(population(), tmp_path)[0] == pytest.approx(40.0)
    assert seconds_of(population(batch_size=8), tmp_path)[0] == pytest.approx(210.0)
    seconds, by = seconds_of(population(batch_size=20), tmp_path)
    assert seconds == pytest.approx(200.0 * 2.5 + 10.0) and by == "linear (with 0.4 times the multiply-adds)"


def test_layers_of_an_encoder_that_are_frozen_tell_nothing_of_those_that_are_adapted(tmp_path, population):
    """No gradient goes through them: a step with LoRA took four times as long."""

    def head(**model):
        changes = {"model": {"name": "encoder_head", "layers": 1, **model}, "frontend": {"kind": "precomputed"}}
        config = configuration.merge(population().config, changes)
        return dataclasses.replace(population(), config=config)

    frozen, adapted = head(adapt="frozen"), head(adapt="lora")
    trained(frozen, tmp_path)
    for alike in (frozen, head()):  # which is what a head does with layers where nothing else is said
        assert seconds_of(alike, tmp_path)[1] == "encoder_head on frozen layers"
    assert rates.seconds_of(adapted, tmp_path, any_family=False) is None
    ratio = first_rates.seconds_of(adapted)[0] / first_rates.seconds_of(frozen)[0]
    assert 3 < ratio < 6
    trained(head(layers=0, adapt="frozen"), tmp_path)
    assert seconds_of(adapted, tmp_path)[1] == "encoder_head"


def test_compiling_takes_what_it_took_at_most(tmp_path, population):
    """Later trainings find programs made: those of other variants, or of an earlier study."""
    for compiling in (90.0, 0.2):
        trained(population(), tmp_path, SECONDS | {"compile": compiling})
    assert rates.seconds_of(population(), tmp_path)[1] == pytest.approx(91.0)


def test_another_machine_a_damaged_line_and_what_was_short_or_could_end_early_tell_nothing(
    tmp_path, population, monkeypatch
):
    trained(population(train_steps=9), tmp_path)
    trained(population(), tmp_path, SECONDS | {"train": 2.9})
    trained(population(patience=2), tmp_path)  # which could end early
    assert not (tmp_path / rates.FILE).exists()
    (tmp_path / rates.FILE).write_bytes(b'{"device": \n[1]\n')
    with monkeypatch.context() as other:
        other.setattr(rates, "hardware", lambda: {"device": "an abacus", "devices": 1})
        trained(population(), tmp_path)
    assert rates.seconds_of(population(), tmp_path) is None


def test_a_dry_run_says_how_long_a_study_takes_or_that_it_is_not_known(tmp_path, population, monkeypatch):
    monkeypatch.delitem(first_rates.FAMILIES, "linear", raising=False)  # as a network from outside
    ridge = {"model": {"name": "ridge", "functionals": "own"}}
    study = {"variants": {"linear": {}, "wide": {"training": {"batch_size": 8}}, "ridge": ridge}}
    config = configuration.merge(changed(), {"seeds": [0], "study": study})
    told = dry_run(config, tmp_path / "work", str(tmp_path))
    assert told.count("not known") == 3 and "time of 2 variants: not known, since no such network was trained" in told
    trained(population(), tmp_path)
    lines = dry_run(config, tmp_path / "work", str(tmp_path)).splitlines()
    assert lines[1].endswith("  about 2 min") and lines[2].endswith("  about 3 min")
    assert "time: about 4 min, by trainings of linear on this machine" in lines[-1]
    monkeypatch.setattr(first_rates, "seconds_of", lambda _: pytest.fail("timed where a rate is known"))
    assert expected.expect(population(), str(tmp_path)).how == expected.HERE


def test_on_an_accelerator_of_which_nothing_is_known_that_is_said(tmp_path, population, monkeypatch):
    found = {"platform": "gpu", "device": "NVIDIA H200", "devices": 1}
    for module in (expected, first_rates, rates):
        monkeypatch.setattr(module, "hardware", lambda: found)
    monkeypatch.setitem(first_rates.FAMILIES, "linear", (1.0, 3.0))
    config = configuration.merge(changed(), {"seeds": [0]})
    why = "no rate of the device NVIDIA H200 is known until a variant was trained on it by itself for some seconds"
    assert f"time of 1 variant: not known, since {why}" in dry_run(config, tmp_path / "work", str(tmp_path))
    assert expected.in_words(expected.expect(population(), str(tmp_path))) == (
        f"its time is not known: {why} (`plan RESULTS` times a network)"
    )
    trained(population(), tmp_path)
    assert expected.in_words(expected.expect(population(), str(tmp_path))) == "about 2 min"


BASELINE = {"name": "ridge", "functionals": "own"}


def test_a_baseline_takes_as_long_as_its_fits_to_random_numbers(tmp_path, monkeypatch):
    """Of three speakers left out in turn, two folds share each inner fold's utterances; at last each is fitted once."""
    study = {"variants": {"ridge": {"model": BASELINE}}}
    settings = configuration.merge(changed(), {"seeds": [0], "protocol": {"validation_speakers": 0}, "study": study})
    [variant] = prepare(make_plan(settings), str(tmp_path))
    made, fitted = variant.population(), []

    def fit(*about):
        fitted.append(about)
        return 10.0

    with monkeypatch.context() as counted:
        counted.setattr(first_fits, "_seconds_of_fit", fit)
        assert first_fits.seconds_of(made) == pytest.approx((3 + 3 / len(linear.GRID)) * 10.0)
        assert fitted == [("ridge", 8, 720, len(variant.corpus.emotions))]
        told = dry_run(settings, tmp_path / "work", str(tmp_path))
        assert "about 34 s" in told
        assert "time of 1 variant: roughly 34 s on an idle machine" in told and expected.HOW["fit"] in told
        trained(made, tmp_path, {"functionals": 1.0, "train": 60.0, "evaluate": 0.0})
        assert expected.in_words(expected.expect(made, str(tmp_path))) == "about 1 min"


def test_the_inner_folds_that_are_counted_are_those_that_are_fitted(tmp_path):
    """Where some speakers are not known, utterances are held out, whoever spoke them."""
    study = {"variants": {"ridge": {"model": BASELINE}}}
    [variant] = prepare(make_plan(configuration.merge(changed(), {"seeds": [0], "study": study})), str(tmp_path))
    made = variant.population()
    corpus = dataclasses.replace(made.corpus, info=made.corpus.info | {"speakers_known": False})
    made = dataclasses.replace(made, corpus=corpus)
    learnt = sum(len(rows) for rows in {fold.name: fold.train for fold in made.folds}.values())
    assert rates.work_of(made) == ((1 + linear.INNER_GROUPS) * learnt * made.num_parameters, 1.0)
    assert len(first_fits._learnt(made)) == linear.INNER_GROUPS * len({fold.name for fold in made.folds})


def test_a_fit_of_more_utterances_takes_longer_in_proportion_or_by_their_square(monkeypatch):
    monkeypatch.setattr(first_fits, "MOST", 30)
    monkeypatch.setattr(first_fits.time, "process_time", iter(range(100)).__next__)  # each fit takes a second
    first_fits._seconds_of_fit.cache_clear()
    seen = []
    monkeypatch.setattr(first_fits.linear, "scores_of_others", lambda *given: seen.append(given))
    assert first_fits._seconds_of_fit("ridge", 20, 5, 2) == 1
    assert first_fits._seconds_of_fit("ridge", 60, 5, 2) == 2
    assert first_fits._seconds_of_fit("ridge", 60, 50, 2) == 4
    first_fits._seconds_of_fit.cache_clear()
    shapes = [(given[1].shape, given[3].sum(), given[4]) for given in seen]
    assert shapes == [((40, 1, 5), 20, 2), ((50, 1, 5), 30, 2), ((50, 1, 50), 30, 2)]


def test_the_time_is_told_when_a_variant_begins(tmp_path, monkeypatch, capfd):
    config = configuration.merge(changed(), {"seeds": [0], "folds": [0], "protocol": {"validation_speakers": 0}})
    monkeypatch.setattr(first_fits, "_seconds_of_fit", lambda *_: 20.0)

    def fail(*_):
        raise UserError("begun")

    monkeypatch.setattr(baselines, "run_variant", fail)
    monkeypatch.setattr(loop, "train", fail)
    study = {"variants": {"ridge": {"model": BASELINE}, "network": {}}}
    run_study(configuration.merge(config, {"study": study}), tmp_path / "work", data_dir=str(tmp_path))
    told = capfd.readouterr().err
    assert "\nridge (1 of 2): roughly 42 s on an idle machine\n" in "\n" + told
    assert re.search(r"^network .2 of 2.: roughly \d+ s on an idle machine$", told, re.MULTILINE)


def test_without_a_training_here_a_network_takes_what_its_family_took_on_a_named_machine(
    tmp_path, population, monkeypatch
):
    """As many steps times the products, or the audio where that takes longer, as much slower as products are here."""
    monkeypatch.setattr(first_rates, "_products", lambda: first_rates.PRODUCTS / 2)
    monkeypatch.setattr(first_rates.machine, "cores", lambda: first_rates.CORES)
    monkeypatch.setitem(first_rates.FAMILIES, "linear", (1e6, 3.0))
    made = population()
    steps, multiply_adds = rates.work_of(made)
    assert first_rates.seconds_of(made) == pytest.approx((2 * steps * multiply_adds * 1e-3, 2 * 2 * 3.0))
    monkeypatch.setitem(first_rates.FAMILIES, "linear", (1e-6, 3.0))
    audio = made.config["training"]["crop_seconds"] * made.config["training"]["batch_size"] / first_rates.AUDIO
    assert first_rates.seconds_of(made)[0] == pytest.approx(2 * steps * audio)
    told = dry_run(configuration.merge(changed(), {"seeds": [0]}), tmp_path / "work", str(tmp_path))
    assert "about 12 s" in told and "time of 1 variant: roughly 12 s on an idle machine" in told
    assert first_rates.MACHINE in told and "not known" not in told
    row = {"device": "?", "devices": 1} | rates._machine() | {"model": "rnn", "network": True, "work": 1e9}
    row |= dict.fromkeys(rates._FIGURES[1:], 1.0)  # of another family, which says less
    (tmp_path / rates.FILE).write_text(json.dumps(row))
    assert rates.seconds_of(made, tmp_path) is not None
    assert dry_run(configuration.merge(changed(), {"seeds": [0]}), tmp_path / "work", str(tmp_path)) == told
    monkeypatch.setattr(first_rates.machine, "cores", lambda: 2 * first_rates.CORES)
    assert first_rates.seconds_of(made)[0] == pytest.approx(steps * audio)
    monkeypatch.setattr(first_rates, "hardware", lambda: {"platform": "gpu"})
    assert first_rates.seconds_of(made) is None


@pytest.mark.parametrize(("kind", "told"), [("precomputed", False), ("log_mel", True)])
def test_no_time_is_told_where_neither_products_nor_audio_take_any(monkeypatch, kind, told):
    monkeypatch.setattr(first_rates, "_products", lambda: first_rates.PRODUCTS)
    monkeypatch.setattr(rates, "work_of", lambda population: (100, 1e6))
    monkeypatch.setattr(first_rates, "hardware", lambda: {"platform": "cpu"})
    training = {"crop_seconds": 2.0, "batch_size": 8}
    config = {"training": training, "model": {"name": "linear"}, "frontend": {"kind": kind}}
    made = object.__new__(Population)  # of which nothing else is looked at
    object.__setattr__(made, "config", config)
    assert (first_rates.seconds_of(made) is not None) == told


def test_the_rates_of_the_named_machine_are_those_of_the_benchmarks():
    results = json.loads((Path(__file__).parents[2] / "benchmarks/results/amd-epyc.json").read_text())["benchmarks"]
    steps = {row["model"]: row for row in results["roofline"]["records"] if row["model"] != "encoder_head"}
    compiled = {row["model"]: row for row in results["models"]["records"] if row["contestant"] == "ser_jax"}
    heads = next(row for row in results["heads"]["records"] if row["contestant"].startswith("ser_jax"))
    of_heads = {"encoder_head", "encoder_head on frozen layers"}
    assert first_rates.FAMILIES.keys() == steps.keys() | of_heads | {"linear"}
    assert first_rates.FAMILIES["linear"] == (0.0, min(compiling for _, compiling in first_rates.FAMILIES.values()))
    nanoseconds, compiling = first_rates.FAMILIES["encoder_head"]
    products = heads["dims"] * heads["hidden"] + 2 * heads["hidden"]  # two classes
    done = heads["runs"] * heads["steps"] * 32 * products
    assert nanoseconds == pytest.approx(1e9 * heads["seconds"] / done, rel=0.01)
    assert compiling == pytest.approx(heads["compile_seconds"], abs=0.05)
    for name in steps:
        nanoseconds, compiling = first_rates.FAMILIES[name]
        forward = steps[name]["products"] / 3  # a step has three times the products of a forward pass
        assert nanoseconds == pytest.approx(1e9 * steps[name]["median_seconds"] / forward, rel=0.01)
        assert compiling == pytest.approx(compiled[name]["compile_seconds"], abs=0.05)
    audio = {row["contestant"]: row["rate"] for row in results["frontend"]["records"]}
    assert audio["ser_jax, augmented"] == pytest.approx(first_rates.AUDIO, rel=0.01)


def test_a_model_without_a_hash_is_counted_too(monkeypatch):
    monkeypatch.setattr(rates, "cost", lambda model, frames, features: types.SimpleNamespace(multiply_adds=frames))

    class Module(nn.Module):
        pass

    Module.__hash__ = None
    assert rates._multiply_adds(Module(), 7, 3) == 7
