"""Nested selection: one study chooses among variants on speakers set apart, another tests the choice on all others."""

import os

from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.report import summary
from ser_jax.studies.plan import make_plan, one_variant
from ser_jax.studies.variants import load

CHOICE, TESTED = "choice", "tested"  # folders of a workdir, each with a study


def choosing(config: dict, speakers: int, data_dir: str | None) -> dict:
    """Returns the configuration of the study that chooses: all variants, on so many speakers alone.

    Raises `UserError` for fewer than two variants, a variant with a protocol of its own, a configuration that says
    otherwise who is tested, a corpus without emotions, and speakers that the corpus does not have.
    """
    protocol = config["protocol"]
    if speakers < 2:
        raise UserError(f"--select: found {speakers}, expected two speakers or more to choose by")
    if protocol["tested"] != "test" or protocol["selection_speakers"] not in (0, speakers):
        raise UserError(
            f"--select {speakers}: found config.protocol.tested={protocol['tested']} and selection_speakers="
            f"{protocol['selection_speakers']}, which it sets itself; expected neither"
        )
    made = _with_protocol(config, speakers, "validation")
    variants = make_plan(made).variants
    if len(variants) < 2:
        raise UserError(f"--select {speakers}: found one variant, expected a study of two or more to choose among")
    for name, variant in variants.items():
        if variant["protocol"] != made["protocol"]:
            raise UserError(f"--select {speakers}: variant {name} has a protocol of its own; expected one for all")
    corpus, _ = load(made, data_dir)
    if not corpus.emotions:
        raise UserError(f"--select {speakers}: corpus {corpus.name} has no emotions, and the choice is by UA")
    load(_with_protocol(config, speakers, "test"), data_dir)  # refused now, not after the choice
    return made


def choose(workdir: str | os.PathLike) -> tuple[str, float]:
    """Returns the variant with the highest UA in a finished study, the first of several, and its UA."""
    ua = {name: variant.ua.value for name, variant in summary.read(workdir).variants.items()}
    known = {name: value for name, value in ua.items() if value is not None}
    if not known:
        raise UserError(f"{workdir}: no variant has a UA, so there is none to choose")
    name = max(known, key=lambda one: known[one])
    return name, known[name]


def testing(config: dict, name: str, speakers: int) -> dict:
    """Returns the configuration that tests the chosen variant on the speakers that the choice left untouched."""
    title = f"{name}, chosen among {len(make_plan(config).variants)} variants by {speakers} speakers set apart"
    return configuration.merge(one_variant(_with_protocol(config, speakers, "test"), name), {"study": {"title": title}})


def _with_protocol(config: dict, speakers: int, tested: str) -> dict:
    changes = {"protocol": {"selection_speakers": speakers, "tested": tested}}
    return configuration.check(configuration.merge(config, changes))
