"""How long a variant will take: by earlier trainings on this machine, or else by known rates."""

import dataclasses

from ser_jax.report.numbers import duration
from ser_jax.studies import first_fits, first_rates, rates
from ser_jax.studies.baselines import Baselines
from ser_jax.studies.provenance import hardware
from ser_jax.training.population import Population

HERE, FAMILY, FIT = "here", "family", "fit"  # what a time is known by
HOW = {
    FAMILY: (
        "no such network was trained on this machine yet, so this is its family's rate on "
        f"{first_rates.MACHINE}, scaled by the time of a matrix product"
    ),
    FIT: "no such baseline was fitted on this machine yet, so this is by one fit to random numbers of the same shape",
}


@dataclasses.dataclass(frozen=True)
class Expected:
    """How long a variant takes: seconds, and those of compiling it, which variants with one program do once.

    `how` is HERE, FAMILY or FIT, and `by` the model whose training on this machine tells it.
    """

    seconds: float
    compiling: float
    how: str
    by: str = ""


def expect(population: Population | Baselines, data_dir: str | None) -> Expected | None:
    """Returns how long training a variant takes on this machine, without openSMILE's functionals; None if unknown."""
    if isinstance(population, Baselines):
        if found := rates.seconds_of(population, data_dir):
            return Expected(found[0], found[1], HERE, found[2])
        seconds = first_fits.seconds_of(population)
        return None if seconds is None else Expected(seconds, 0.0, FIT)
    if found := rates.seconds_of(population, data_dir, any_family=False):
        return Expected(found[0], found[1], HERE, found[2])
    if first := first_rates.seconds_of(population):
        return Expected(*first, FAMILY)
    found = rates.seconds_of(population, data_dir)
    return Expected(found[0], found[1], HERE, found[2]) if found else None


def in_words(expected: Expected | None) -> str:
    """Returns "about 6 min", or why no time is known, for the beginning of a training."""
    if expected is not None:
        seconds = duration(expected.seconds + expected.compiling)
        return f"about {seconds}" if expected.how == HERE else f"roughly {seconds} on an idle machine"
    return f"its time is not known: {unknown()}"


def unknown() -> str:
    """Returns why the time of a network is not known on this machine."""
    found = hardware()
    if found["platform"] == "cpu":
        return "no such network was trained on this machine for some seconds (`plan RESULTS` times a network)"
    return (
        f"no rate of the device {found['device']} is known until a variant was trained on it by itself for some "
        "seconds (`plan RESULTS` times a network)"
    )
