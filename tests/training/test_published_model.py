"""A published model of a made-up state: what was published is restored, by name, and nothing else is."""

import json

import numpy as np
import pytest
import safetensors.numpy

from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.training import published
from ser_jax.training.checkpoints import restore
from ser_jax.training.state import for_evaluation
from tests.training.test_checkpoints import METADATA, assert_same, flip_bits, state_of

STATE = for_evaluation(state_of(6))


@pytest.fixture
def folder(tmp_path):
    published.write(tmp_path, "small", published.arrays_of(STATE), METADATA)
    return tmp_path


def test_the_order_of_patterns_whose_first_counts_is_published(tmp_path):
    rates = [["^classifier/", 1.0], ["", 0.1]]
    config = configuration.merge(METADATA["config"], {"optimizer": {"rates": rates}})
    published.write(tmp_path, "small", published.arrays_of(STATE), METADATA | {"config": config})
    assert published.read_metadata(tmp_path)["config"]["optimizer"]["rates"] == rates
    path = tmp_path / published.METADATA
    found = json.loads(path.read_text())
    found["config"]["optimizer"]["rates"].reverse()
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match="another SHA-256"):
        published.read_metadata(tmp_path)


def test_the_rates_of_models_that_were_published_as_a_dict_are_read(tmp_path):
    older = json.loads(json.dumps(METADATA["config"]))
    for rates, expected in (({}, []), ({"^classifier/": 1, "": 0.1}, [["^classifier/", 1], ["", 0.1]])):
        older["optimizer"]["rates"] = rates
        published.write(tmp_path, "small", published.arrays_of(STATE), METADATA | {"config": older})
        assert published.read_metadata(tmp_path)["config"]["optimizer"]["rates"] == expected


def change_arrays(folder, change):
    arrays = safetensors.numpy.load_file(folder / published.WEIGHTS)
    (folder / published.WEIGHTS).write_bytes(safetensors.numpy.save(change(arrays)))


def test_what_was_published_is_restored_and_other_programs_find_it_under_linen_s_paths(folder):
    assert_same(restore(folder, STATE), STATE)
    metadata = published.read_metadata(folder)
    assert metadata["name"] == "small" and metadata["runs"] == METADATA["runs"]
    arrays = safetensors.numpy.load_file(folder / published.WEIGHTS)
    assert_same(arrays["params/first/kernel"], STATE.ema_parameters["first"]["kernel"])
    assert_same(arrays["batch_stats/norm/mean"], STATE.ema_batch_stats["norm"]["mean"])
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {n: v for n, v in a.items() if n != "params/first/kernel"}, "params/first/kernel is missing"),
        (lambda a: a | {"params/more": np.zeros(3, np.float32)}, "params/more is unexpected"),
        (lambda a: a | {"step": np.zeros(3, np.int32)}, r"step has shape \[3\], expected \[2\]"),
        (lambda a: a | {"step": np.zeros(2, np.float32)}, "step has dtype float32, expected int32"),
        (
            lambda a: a | {"params/first/kernel": a["params/second/kernel"]},
            r"damaged \(params/first/kernel has another",
        ),
    ],
    ids=["missing", "unexpected", "shape", "dtype", "another layer's"],
)
def test_every_difference_is_refused_by_name(folder, change, message):
    change_arrays(folder, change)
    with pytest.raises(UserError, match=message) as error:
        restore(folder, STATE)
    assert str(error.value).startswith(f"{folder}/model.safetensors: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("name", [published.WEIGHTS, published.METADATA])
def test_a_flipped_bit_is_refused(folder, name):
    refused = 0
    for _ in flip_bits(folder / name, np.linspace(0, 1, 25)):
        try:
            published.read_metadata(folder)
            assert_same(restore(folder, STATE), STATE)  # of the padding of a header, nothing is read
        except UserError as error:
            refused += 1
            assert str(error).startswith(f"{folder}/{name}: ") and "\n" not in str(error)
    assert refused >= 24


def test_a_model_that_lacks_a_file_is_refused(folder):
    (folder / published.WEIGHTS).unlink()
    assert published.is_published(folder)
    with pytest.raises(UserError, match=r"model\.safetensors: no such file"):
        restore(folder, STATE)
    published.write(folder, "small", published.arrays_of(STATE), METADATA)
    (folder / published.METADATA).unlink()
    assert published.is_published(folder)
    with pytest.raises(UserError, match=r"config\.json: expected the description of a model that `publish` wrote"):
        published.read_metadata(folder)


def test_a_later_format_and_changed_metadata_are_refused(folder):
    path = folder / published.METADATA
    found = json.loads(path.read_text())
    for change, message in (({"format": 2}, "format 2, expected 1"), ({"runs": found["runs"][::-1]}, "damaged")):
        path.write_text(json.dumps(found | change))
        with pytest.raises(UserError, match=message):
            published.read_metadata(folder)
