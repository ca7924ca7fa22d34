"""How long a network takes if no such network was trained yet: by its family's rate on a reference machine.

A training step takes the multiply-adds of its forward pass at that rate, or the log-mel of its audio where that takes
longer, times what a product of matrices takes here against there. How far off that was is in docs/configuration.md.
"""

import time

import numpy as np
from threadpoolctl import threadpool_limits

from ser_jax import machine
from ser_jax.studies import rates
from ser_jax.studies.provenance import hardware
from ser_jax.training.population import Population

MACHINE = "an AMD EPYC with two cores"
# There: `python -m benchmarks.roofline`, `benchmarks.models` and `benchmarks.frontend`, of benchmarks/results.
PRODUCTS = 104e9  # floating-point operations a second that `_products` measures of a core
CORES = 2
AUDIO = 3000.0  # seconds of audio that are augmented and turned to log-mel in a second
FAMILIES = {  # nanoseconds of a training step for a multiply-add of the forward pass; seconds of compiling the step
    "attention_rnn": (0.0827, 2.4),
    "cnn": (0.0881, 2.7),
    "crnn": (0.0648, 2.9),
    "encoder_head": (0.0769, 1.3),  # `benchmarks.heads`
    "encoder_head on frozen layers": (0.019, 1.3),  # a quarter of that with LoRA, in docs/results/adaptation
    "linear": (0.0, 1.1),  # as long as its audio; compiled no longer than the smallest network
    "reslstm": (0.129, 1.5),
    "rnn": (0.0647, 1.1),
    "shufflenet_v2": (0.207, 10.6),
    "tcn": (0.0671, 5.1),
    "transformer": (0.0595, 1.8),
}
_COMPILED = 2  # times that of the step: also what initialises and what evaluates
_MOST_CORES = 8  # that are taken to help in proportion: the products of a step are small
_SIZE, _PROBES = 256, 30  # of the matrices, and how often they are multiplied: some hundredths of a second


def seconds_of(population: Population) -> tuple[float, float] | None:
    """Returns the seconds of training a network on this machine's CPU, and those of compiling it; nothing is compiled.

    Validation and testing are not counted. None for a family that was not measured, and on an accelerator, of which a
    product on the CPU says nothing; nor where neither products nor audio take time, as of `linear` on features.
    """
    training, family = population.config["training"], FAMILIES.get(rates.family_of(population))
    if family is None or hardware()["platform"] != "cpu":
        return None
    units, work = rates.work_of(population)
    nanoseconds, compiling = family
    audio = 0.0 if population.config["frontend"]["kind"] == "precomputed" else training["crop_seconds"]
    step = max(nanoseconds * 1e-9 * work, audio * training["batch_size"] / AUDIO)
    if not step:
        return None
    slower = PRODUCTS * CORES / (_products() * min(machine.cores(), _MOST_CORES))
    return units * step * slower, _COMPILED * compiling * slower


def _products() -> float:
    """Floating-point operations a second of a product of matrices on a core: the best of some, least hindered."""
    matrix, seconds = np.ones((_SIZE, _SIZE), np.float32), []
    with threadpool_limits(1, user_api="blas"):  # several threads wait for each other where the cores have other work
        for _ in range(_PROBES):
            begun = time.perf_counter()
            matrix @ matrix
            seconds.append(time.perf_counter() - begun)
    return 2 * _SIZE**3 / min(seconds)
