"""The programs of a population as accelerators have them, traced and lowered without one.

Whole: crops, log-mel, augmentation, network, loss, gradient and optimizer, in a loop over steps, of two runs side by
side. Recurrent layers have their kernel on a GPU; fused attention is not there, for which JAX asks cuDNN. The products
that are meant to be of highest precision are in none of them: those of a CPU's spectra, and of MFCC.
"""

import dataclasses
import functools
import math
import re
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest

import ser_jax
from benchmarks.kernels import as_on, steps_of
from ser_jax import config as configuration
from ser_jax.corpora.features import Packed
from ser_jax.models import FAMILIES
from ser_jax.training import ahead, devices
from ser_jax.training.population import make_population
from ser_jax.training.programs import _evaluate_windows
from ser_jax.training.step import evaluate_batch
from tests.programs import joined_too_much, located, multiply_adds
from tests.training.tiny import CONFIG, tiny_corpus

PLATFORMS = {"gpu": "cuda", "tpu": "tpu"}
RUNS, BATCH = 2, 5  # which only maps have for their first two axes
# Sizes that the kernel of recurrent layers takes, and more channels than may be seen by all taps side by side.
OPTIONS = {
    "attention_rnn": {"hidden": 16},
    "cnn": {"width": 8},
    "crnn": {"size": "small"},
    "reslstm": {"hidden": 16},
    "rnn": {"hidden": 16},
    "tcn": {"width": 16},
}
RECIPE = {"speed": 0.15, "vocal_tract": 0.1, "spec_augment": 0.5, "mixup": 0.5}
STATES = 16  # dims of an encoder's


@functools.cache
def population_of(name, precision="bfloat16", **augmentation):
    """Two runs on one device of a family with its tiny options; nothing is compiled."""
    corpus, protocol = tiny_corpus()
    options = FAMILIES[name].tiny | OPTIONS.get(name, {})
    options.pop("tracks", None)  # of which the corpus has none
    changes = {
        "model": {"name": name, **options},
        "augmentation": RECIPE | augmentation,
        "frontend": {"deltas": 2 if name == "crnn" else 0},
        "training": {"precision": precision, "batch_size": BATCH, "split": "runs"},
        "evaluation": {"batch_size": BATCH},
        "folds": [0],
        "seeds": list(range(RUNS)),
        "feed": "resident",
    }
    features = None
    if name == "encoder_head":
        changes["frontend"] = {"kind": "precomputed", "features": "states"}
        changes["augmentation"] |= {"speed": 0.0, "vocal_tract": 0.0}
        features = states_of(len(corpus.utterances))
    one_device = jax.devices()[:1]
    with mock.patch.object(jax, "devices", lambda *_: one_device):
        return make_population(configuration.merge(CONFIG, changes), corpus, protocol, features=features)


def in_precision(population, precision):
    """The same in another precision: what its programs are made of is not made again, which takes half of the time."""
    learner = dataclasses.replace(population.learner, precision=precision)
    return dataclasses.replace(population, programs=dataclasses.replace(population.programs, learner=learner))


def traced_steps(population, backend):
    """The traced program, and what it consists of."""
    train, arguments = steps_of(population)
    with as_on(backend):
        traced = train.trace(*arguments)
    return traced, list(located(traced.jaxpr.jaxpr, PLATFORMS[backend]))


def states_of(utterances, frames=50):
    """Two states of an encoder for every frame of 20 ms, all zero."""
    names = tuple(map(str, range(2 * STATES)))
    counts = np.full(utterances, frames)
    values = np.zeros((utterances * frames, len(names)), np.float16)
    return Packed(values, frames * np.arange(utterances), counts, names, 20.0, "states", "0")


def traced_evaluation(population):
    """The same of the evaluation, which has one form: recurrent layers have their kernel in trainings alone."""
    *of_runs, count, resident, _ = ahead.testing_shapes(population)
    of_runs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), of_runs)
    over_runs = devices.over_runs(population.programs.evaluate.kinds)
    size = population.window_samples
    evaluate = functools.partial(
        _evaluate_windows, evaluate_batch, population.learner, size, "running", over_runs, encoder=None
    )
    with as_on("gpu"):
        traced = jax.jit(evaluate).trace(*of_runs, count, resident)
    return traced, list(located(traced.jaxpr.jaxpr, PLATFORMS["gpu"]))


# They have their kernel on a GPU. What a TPU has in place of the one sum or product of a GPU for a convolution's kernel
# is what a CPU has.
RECURRENT = ("attention_rnn", "crnn", "reslstm", "rnn")
FORMS = [(name, *form) for name in FAMILIES for form in (("gpu", "bfloat16"), ("tpu", "tf32"))]
FORMS += [(name, "tpu", "bfloat16") for name in RECURRENT]
PRODUCTS = {
    "float32": ("float32", jax.lax.Precision.HIGHEST),
    "tf32": ("float32", jax.lax.Precision.HIGH),
    "bfloat16": ("bfloat16", jax.lax.Precision.DEFAULT),
}


@pytest.fixture(scope="module", params=FORMS, ids="-".join)
def training(request):
    """A family, the backend and the precision of its training program, the traced program, and what it consists of."""
    name, backend, precision = request.param
    return name, backend, precision, *traced_steps(in_precision(population_of(name), precision), backend)


def check_lowered(traced, backend):
    text = traced.lower(lowering_platforms=(PLATFORMS[backend],)).as_text()
    assert text.count("stablehlo.dot_general") + text.count("stablehlo.convolution") > 1
    assert "HIGHEST" not in text
    assert "callback" not in text


def check_products(name, precision, found):
    """All of the network have the precision, and nearly all factors its dtype, but for a network of a classifier."""
    whole, own = 0, 0
    dtype, named = PRODUCTS[precision]
    for equation, scope, _, times in found:
        if FAMILIES[name].module.__name__ in scope and (count := times * multiply_adds(equation)):
            how = equation.params["precision"]  # of both factors, or of the product: so has JAX the scores of attention
            in_bfloat16 = how == jax.lax.DotAlgorithmPreset.BF16_BF16_F32
            assert (precision == "bfloat16" and in_bfloat16) or how == (named, named), equation
            whole += count
            own += count * (in_bfloat16 or all(factor.aval.dtype == dtype for factor in equation.invars))
    assert whole
    assert own > 0.95 * whole or name == "linear"


def gathers_one_by_one(found):
    """The named scopes of gathers of more slices than a batch has rows, as of samples one by one."""
    return [
        scope
        for equation, scope, *_ in found
        if equation.primitive.name == "gather" and math.prod(equation.invars[1].aval.shape[:-1]) > RUNS * BATCH
    ]


def test_few_files_ask_which_accelerator_it_is():
    """So what a TPU has in another form than a GPU is known: recurrent layers, and the gradients of kernels."""
    asks = re.compile(r"""default_backend\(\)(?! [!=]= "cpu")|platform_dependent\([^)]*\b(cuda|gpu|rocm|tpu)=""")
    package = Path(ser_jax.__file__).parent
    files = [file for room in ("frontend", "feeds", "models", "training") for file in (package / room).rglob("*.py")]
    assert {file.stem for file in files if asks.search(file.read_text())} == {
        "convolution",
        "depthwise",
        "recurrence",
        "devices",
    }


def test_a_training_is_lowered_for_an_accelerator_without_highest_precision(training):
    name, backend, _, traced, found = training
    check_lowered(traced, backend)
    kernels = [equation for equation, *_ in found if equation.primitive.name == "pallas_call"]
    assert bool(kernels) == (backend == "gpu" and name in RECURRENT)


def test_four_steps_of_a_training_are_a_loop_of_known_length(training):
    lengths = [equation.params["length"] for equation, *_ in training[-1] if equation.primitive.name == "scan"]
    assert lengths[0] == 4


def test_a_training_does_not_ask_the_host(training):
    assert not [equation for equation, *_ in training[-1] if "callback" in equation.primitive.name]


def test_the_products_of_a_training_have_its_precision(training):
    name, _, precision, _, found = training
    check_products(name, precision, found)


def test_a_training_joins_no_arrays_to_more_than_they_were(training):
    _, backend, _, _, found = training
    assert not joined_too_much(found, (RUNS, BATCH), backend)


def test_a_training_gathers_samples_one_by_one_for_speed_alone(training):
    """The exception: `crop` reads the samples on both sides of each. So would `time_shift`, not in the recipe."""
    reads = gathers_one_by_one(training[-1])
    assert len(reads) == (0 if training[0] == "encoder_head" else 2)
    assert all("crop" in scope for scope in reads)


def test_a_training_without_speed_gathers_no_samples_one_by_one():
    assert not gathers_one_by_one(traced_steps(population_of("linear", speed=0.0), "tpu")[1])


def test_a_training_in_float32_has_products_of_highest_precision():
    check_products("rnn", "float32", traced_steps(population_of("rnn", "float32"), "tpu")[1])


@pytest.mark.parametrize("name", list(FAMILIES))
def test_an_evaluation_is_lowered_for_accelerators_and_has_the_precision_of_its_training(name):
    traced, found = traced_evaluation(population_of(name))
    assert not [equation for equation, *_ in found if "callback" in equation.primitive.name]
    assert not joined_too_much(found, (RUNS, BATCH), "tpu")
    assert not gathers_one_by_one(found)
    check_products(name, "bfloat16", found)
    for backend in PLATFORMS:
        check_lowered(traced, backend)
