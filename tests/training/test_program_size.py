"""Speed by figures that do not depend on the machine: how large the compiled programs are, and how many there are.

Where a limit is broken on purpose, measure with `python -m benchmarks.models` what it costs before raising it; where a
figure has become much smaller than its limit, lower the limit.
"""

import functools
import re

import jax
import numpy as np
import pytest

from ser_jax import config as configuration
from ser_jax.feeds.resident import Resident
from ser_jax.frontend import Frontend, Strengths
from ser_jax.models import build, cost
from ser_jax.studies.plan import make_plan
from ser_jax.studies.variants import prepare
from ser_jax.training import population as populations
from ser_jax.training.state import Run, initialise, make_learner
from ser_jax.training.step import train_step
from tests.training.tiny import CONFIG

FRAMES, FEATURES, BATCH, CLASSES = 32, 16, 4, 4
UNITS = 6  # of the tiny ShuffleNet V2; every one has a forward and a backward pass

# Limits, some 15 % above what was found (in parentheses) when they were set.
KERNELS_PER_UNIT = 285  # calls of a loop, product or copy in one step (250)
INSTRUCTIONS_PER_KERNEL = 54  # more: the same values are computed again and again in many kernels (47)
FLOPS_PER_COUNTED_FLOP = 4.3  # against products and convolutions alone, of which a tiny network has few (3.7)


@pytest.fixture(scope="module")
def step():
    """The optimised training step of the tiny ShuffleNet V2 with ECA, on pre-extracted features, and its model."""
    frontend = Frontend(kind="precomputed", features="any", dims=FEATURES, frame_ms=20.0)
    model = build("shufflenet_v2", CLASSES, width="tiny", attention="eca", activation="hard_swish")
    learner = make_learner(
        model,
        frontend,
        num_classes=CLASSES,
        crop_samples=FRAMES,
        num_steps=4,
        warmup_steps=1,
        optimizer=configuration.default()["optimizer"],
    )
    zero, key = np.float32(0), jax.random.key(0)
    run = Run(
        key=key,
        learning_rate=zero,
        weight_decay=zero,
        label_smoothing=zero,
        class_weights=np.ones(CLASSES, np.float32),
        loss_weights={"emotion": np.float32(1)},
        strengths=jax.tree.map(np.float32, Strengths()),
    )
    state = jax.eval_shape(functools.partial(initialise, learner), key, None)
    column = np.zeros(8, np.int32)
    resident = Resident(np.zeros((100, FEATURES), np.float32), column, column, column)
    rows = np.zeros(BATCH, np.int32)
    return jax.jit(functools.partial(train_step, learner)).lower(state, run, rows, resident).compile(), model


def test_a_training_step_has_no_more_kernels_than_its_layers_need(step):
    kernels, _ = sizes(step[0].as_text())
    assert kernels / UNITS < KERNELS_PER_UNIT


def test_kernels_do_not_compute_again_what_others_have(step):
    kernels, instructions = sizes(step[0].as_text())
    assert instructions / kernels < INSTRUCTIONS_PER_KERNEL


def test_a_training_step_has_three_times_the_products_of_a_forward_pass_and_little_else(step):
    program, model = step
    forward = 2 * BATCH * cost.cost(model, FRAMES, FEATURES).multiply_adds
    found = program.cost_analysis()["flops"]
    assert 3 * forward < found < FLOPS_PER_COUNTED_FLOP * 3 * forward


def sizes(text):
    """The kernels that a step calls (loops of its loops count once), and all instructions inside and outside them."""
    computation, inside = "", {}
    for line in text.splitlines():
        if found := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            computation = found[1]
            inside[computation] = []
        elif found := re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = .*? ([a-z][\w\-]*)\(", line):
            inside[computation].append(found[1])
    free = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")  # which compute nothing
    called = [names for name, names in inside.items() if not re.search(r"fused|parallel_|region|reducer", name)]
    return sum(name not in free for names in called for name in names), sum(map(len, inside.values()))


@pytest.mark.parametrize(
    ("variants", "programs"),
    [
        (
            {
                "slow": {"optimizer": {"learning_rate": 1e-4}},
                "fast": {"optimizer": {"learning_rate": 1e-2, "label_smoothing": 0.0}},
                "decayed": {"optimizer": {"weight_decay": 0.5, "class_weights": True}},
            },
            1,
        ),
        (  # what is off in all runs of a variant is not in its program; how strong the others are does not matter
            {
                "weak": {"augmentation": {"gain": 1.0, "noise": 0.1}},
                "strong": {"augmentation": {"gain": 6.0, "noise": 0.5}},
                "other": {"augmentation": {"vocal_tract": 0.1}},
            },
            2,
        ),
        ({"coarse": {}, "fine": {"frontend": {"hop_ms": 20.0}}, "again": {"optimizer": {"learning_rate": 1e-4}}}, 2),
    ],
    ids=["sweep", "augmented", "two frontends"],
)
def test_a_study_compiles_a_training_program_for_each_distinct_variant(tmp_path, variants, programs, caplog):
    plan = make_plan(configuration.merge(CONFIG, {"study": {"variants": variants}}))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        found = compiled(plan, tmp_path)
    assert len(found) == sum(len(program.compiled) for program in found.values()) == programs
    # Beside them the runs' keys, in one program, and what lays keys on several devices: no operation by itself.
    names = set(re.findall(r"Finished XLA compilation of jit\((.*?)\)", caplog.text))
    assert "_fun" in names and names <= {"_fun", "_keys", "_multi_slice"}


def compiled(plan, folder):
    """The training programs of all variants, by their identity."""
    found = {}
    for variant in prepare(plan, str(folder)):
        population = variant.population()
        state = populations.state_like(population)
        piece = populations.to_devices(population, populations.training_feed(population, 0).take(1))
        population.programs.train.compile(*populations.training_arguments(population, state, piece))
        found[id(population.programs.train)] = population.programs.train
    return found
