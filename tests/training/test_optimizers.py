import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ser_jax import config as configuration
from ser_jax.commands.list import KINDS
from ser_jax.errors import UserError
from ser_jax.models import FAMILIES
from ser_jax.training.arrays import named_arrays
from ser_jax.training.optimizers import make_optimizer, make_schedule, overview, resolve

DEFAULT = configuration.default()["optimizer"]
PARAMETERS = {
    "first": {"kernel": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)},
    "last": {"kernel": np.ones((3, 2), np.float32)},
}

# Of every family with all that its options add, the last part of the paths of what decays and of what does not.
DECAYED = {
    "attention_rnn": "emotion_embedding filter_kernel input_kernel kernel key_kernel location_kernel query_kernel "
    "recurrent_kernel symbol_embedding",
    "cnn": "kernel",
    "crnn": "input_kernel kernel linear recurrent_kernel",
    "encoder_head": "depthwise filter_kernel input_kernel kernel key_kernel location_kernel query_kernel "
    "recurrent_kernel",
    "linear": "kernel",
    "reslstm": "input_kernel kernel recurrent_kernel",
    "rnn": "input_kernel kernel recurrent_kernel",
    "shufflenet_v2": "kernel",
    "tcn": "kernel",
    "transformer": "depthwise kernel",
}
NOT_DECAYED = {
    "attention_rnn": "bias input_bias key_bias recurrent_bias start vector",
    "cnn": "bias scale vector",
    "crnn": "bias input_bias recurrent_bias scale vector",
    "encoder_head": "bias input_bias key_bias query_bias recurrent_bias scale start state_weights value_bias vector",
    "linear": "bias",
    "reslstm": "bias input_bias recurrent_bias scale",
    "rnn": "bias input_bias recurrent_bias vector",
    "shufflenet_v2": "bias scale vector",
    "tcn": "bias fusion scale vector",
    "transformer": "bias class_token query_bias scale value_bias vector",
}


def parameters_of(family):
    """The parameters of every tiny model of a family that one option makes, by their paths."""
    options = [{}, *({name: value} for name, values in family.switches.items() for value in values)]
    for name in ("pooling", "text"):
        values = family.choices.get(name, ())
        options += [{name: value} | ({"num_symbols": 5} if name == "text" else {}) for value in values]
    options += [{"frames": 8}] if "frames" in family.choices else []
    found = {}
    for one in options:
        model = family.module(num_classes=4, **{**family.tiny, **one})
        inputs = jnp.zeros((1, 64, 64)), jnp.full((1,), 64, jnp.int32)
        shapes = jax.eval_shape(lambda model=model, inputs=inputs: model.init(jax.random.key(0), *inputs, train=False))
        optimizer = make_optimizer(DEFAULT, shapes["params"], num_steps=9, warmup_steps=1)
        found |= named_arrays(optimizer.decays)
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_what_decays_in_each_family_is_this_and_nothing_else(name):
    found = parameters_of(FAMILIES[name])
    for decays, expected in ((True, DECAYED[name]), (False, NOT_DECAYED[name])):
        assert sorted({path.split("/")[-1] for path, one in found.items() if one == decays}) == expected.split()


def test_channel_attention_decays_alike_whichever_it_is():
    for kind, layers in (("eca", {"attention1"}), ("se", {"attention1/squeeze", "attention1/excite"})):
        model = FAMILIES["cnn"].module(num_classes=4, **{**FAMILIES["cnn"].tiny, "attention": kind})
        shapes = jax.eval_shape(
            lambda model=model: model.init(
                jax.random.key(0), jnp.zeros((1, 64, 64)), jnp.full((1,), 64, jnp.int32), train=False
            )
        )
        found = named_arrays(make_optimizer(DEFAULT, shapes["params"], num_steps=9, warmup_steps=1).decays)
        assert all(found[f"{layer}/kernel"] for layer in layers)


def made(**changes):
    return make_optimizer(DEFAULT | changes, PARAMETERS, num_steps=10, warmup_steps=2)


def test_an_optimizer_is_one_of_optax_or_of_a_module_outside(tmp_path, monkeypatch):
    (tmp_path / "from_outside.py").write_text(
        "import optax\n\n\ndef double(learning_rate, factor=2.0):\n    return optax.sgd(factor * learning_rate)\n\n\n"
        "def half_way(decay_steps):\n    return lambda step: 0.5\n\n\n"
        "def any_arguments(**arguments):\n    return optax.sgd(**arguments)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    gradient = jax.tree.map(lambda leaf: 0.1 * leaf, PARAMETERS)
    for changes, expected in (
        ({"name": "sgd"}, optax.sgd(1.0)),
        ({"name": "lion", "arguments": {"b1": 0.5}}, optax.lion(1.0, b1=0.5, weight_decay=0.0)),
        ({"name": "from_outside:double", "arguments": {"factor": 3.0}}, optax.sgd(3.0)),
        (
            {"name": "from_outside:any_arguments", "arguments": {"nesterov": True, "momentum": 0.5}},
            optax.sgd(1.0, 0.5, True),
        ),
    ):
        one = made(**changes, gradient_clip=0).transformation
        found, _ = one.update(gradient, one.init(PARAMETERS), PARAMETERS)
        wanted, _ = expected.update(gradient, expected.init(PARAMETERS), PARAMETERS)
        jax.tree.map(np.testing.assert_allclose, found, wanted)
    assert make_schedule(DEFAULT | {"schedule": "from_outside:half_way"}, num_steps=10, warmup_steps=2)(5) == 0.5


def test_no_clipping_is_none_and_not_a_norm_of_zero():
    gradient = jax.tree.map(lambda leaf: 100.0 * leaf, PARAMETERS)
    for clip, norm in ((0, 100 * 15**0.5), (2.0, 2.0)):
        one = made(name="sgd", gradient_clip=clip).transformation
        found, _ = one.update(gradient, one.init(PARAMETERS), PARAMETERS)
        np.testing.assert_allclose(optax.tree.norm(found), norm, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0.0, 0.5, 1.0, 0.5, 0.0]),
        ({"schedule": "constant"}, [0.0, 0.5, 1.0, 1.0, 1.0]),
        ({"schedule": "linear"}, [0.0, 0.5, 1.0, 0.5, 0.0]),
        ({"schedule": "linear", "schedule_arguments": {"end_value": 0.5}}, [0.0, 0.5, 1.0, 0.75, 0.5]),
        ({"schedule": "cosine_decay", "schedule_arguments": {"alpha": 1.0}}, [0.0, 0.5, 1.0, 1.0, 1.0]),
    ],
)
def test_a_schedule_warms_up_and_ends_with_the_training(changes, expected):
    schedule = make_schedule(DEFAULT | changes, num_steps=10, warmup_steps=2)
    np.testing.assert_allclose([float(schedule(step)) for step in (0, 1, 2, 6, 10)], expected, atol=1e-6)
    at_once = make_schedule(DEFAULT | changes, num_steps=10, warmup_steps=0)
    assert at_once(0) == 1


def test_a_schedule_s_steps_are_numbers_although_the_keys_of_json_are_texts():
    falls = {"schedule": "piecewise_constant", "schedule_arguments": {"boundaries_and_scales": {4: 0.5, 10: 0.1}}}
    kept = json.loads(json.dumps(falls))
    for options in (falls, kept):
        schedule = make_schedule(DEFAULT | options, num_steps=20, warmup_steps=0)
        np.testing.assert_allclose([schedule(step) for step in (0, 5, 11)], [1.0, 0.5, 0.05])


@pytest.mark.parametrize("warmup", [9, 10])
def test_a_schedule_is_looked_at_in_the_steps_that_it_is_used_for(warmup):
    """Here in the first alone: from the second on it is below zero."""
    falls = DEFAULT | {"schedule": "linear", "schedule_arguments": {"end_value": -1.0, "transition_steps": 1}}
    assert make_schedule(falls, num_steps=10, warmup_steps=warmup)(warmup) == 1
    with pytest.raises(UserError, match="linear gives -1 times the peak rate, 1 steps after the warm-up"):
        make_schedule(falls, num_steps=10, warmup_steps=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "admw"}, r"config\.optimizer\.name: optax has no 'admw'; did you mean adamw\?"),
        ({"name": "nowhere:NAME"}, r"config\.optimizer\.name: nowhere:NAME cannot be imported"),
        ({"name": "tree_utils"}, r"config\.optimizer\.name: optax has no 'tree_utils'"),
        ({"name": "cosine_decay_schedule"}, r"config\.optimizer\.arguments: cosine_decay_schedule has no"),
        ({"arguments": {"beta1": 0.9}}, r"config\.optimizer\.arguments: adamw has no 'beta1'; did you mean b1"),
        ({"arguments": {"weight_decay": 0.1}}, r"weight_decay has an option of its own, config\.optimizer\.weight_dec"),
        ({"schedule": "cosin_decay"}, r"config\.optimizer\.schedule: optax has no 'cosin_decay'; did you mean cosin"),
        ({"schedule": "polynomial"}, r"config\.optimizer\.schedule_arguments: polynomial_schedule refuses them"),
        ({"name": "lbfgs"}, r"config\.optimizer\.name: lbfgs makes no step of a gradient with these arguments \("),
        ({"arguments": {"eps": "tiny"}}, r"adamw makes no step of a gradient with these arguments \("),
        (
            {"arguments": {"b1": 2}},
            r"config\.optimizer\.arguments\.b1: found 2, expected a number of at least 0 and bel",
        ),
        ({"name": "sgd", "arguments": {"momentum": float("nan")}}, r"momentum: found nan"),
        ({"schedule_arguments": {"alpha": "low"}}, r"config\.optimizer\.schedule: cosine_decay fails with these"),
        ({"schedule_arguments": {"alpha": -2}}, r"cosine_decay gives -0\.\d+ times the peak rate, \d steps after"),
        ({"schedule": "constant", "schedule_arguments": {"value": float("nan")}}, r"constant gives nan times the peak"),
        ({"schedule_arguments": {"gamma": 1}}, r"config\.optimizer\.schedule_arguments: cosine_decay_schedule has no"),
        ({"rates": [["frist", 0.1]]}, r"config\.optimizer\.rates: 'frist' fits no parameter"),
        ({"rates": [["", 0]]}, r"config\.optimizer\.rates: every parameter is frozen"),
    ],
    ids=str,
)
def test_what_makes_no_optimizer_is_refused_by_its_option(changes, message):
    with pytest.raises(UserError, match=message) as error:
        made(**changes)
    assert "\n" not in str(error.value)


def test_the_first_pattern_that_fits_a_path_gives_its_rate():
    optimizer = made(rates=[["^first/", 0.5], ["kernel$", 0.1]])
    assert optimizer.rates == {"first": {"kernel": 0.5, "bias": 0.5}, "last": {"kernel": 0.1}}


def test_the_overview_has_a_row_for_each_parameter():
    lines = overview(PARAMETERS, made(rates=[["bias", 0]])).splitlines()
    assert [line.split() for line in lines] == [
        ["path", "shape", "count", "decays", "rate"],
        ["first/bias", "3", "3", "no", "0"],
        ["first/kernel", "2", "x", "3", "6", "yes", "1"],
        ["last/kernel", "3", "x", "2", "6", "yes", "1"],
        ["total", "15", "12"],
    ]
    assert len({len(line) for line in lines[:-1]}) == 1  # columns that end at one place
    assert lines[0].index("decays") + len("decays") == len(lines[-1])


def test_every_optimizer_and_schedule_that_is_listed_is_one():
    found = {kind: dict(KINDS[kind](None)) for kind in ("optimizers", "schedules")}
    assert {"adamw", "sgd", "lion"} <= set(found["optimizers"])
    assert {"constant", "cosine_decay", "exponential_decay"} <= set(found["schedules"])
    parameters = {"kernel": jnp.ones((2, 2))}
    for name in found["optimizers"]:
        made = resolve(name, (optax,), "optimizer")(learning_rate=0.1)
        state, moved = made.init(parameters), []
        for _ in range(3):
            updates, state = made.update(parameters, state, parameters)
            moved.append(float(jnp.max(jnp.abs(updates["kernel"]))))
        assert max(moved) > 0 and np.isfinite(moved).all(), (name, moved)
    for name in found["schedules"]:
        assert callable(resolve(name, (optax.schedules, optax), "schedule", suffix="_schedule")), name
