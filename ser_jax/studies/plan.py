"""What a study trains, and what it asks: variants made from factors or listed, and which is measured against which.

A question is a dict of `config.study.questions`:

    name         names the question, and begins the names of its variants where a study asks several
    text         what is asked, as a sentence
    base         what its variants differ in from the rest of the configuration, as a part of that tree
    factors      what is varied: dicts of a `name` and of `levels`, the one to measure the others against first; levels
                 are the values of a `field` (as "model.attention"), or dicts of a `name`, of `changes` to the tree, and
                 where it is not the first, of the level that it is measured `against`
    design       "grid": every level with every level; "one_at_a_time": all first levels, and each other level alone
    compare      the factors whose levels are compared with their first, all else equal; all factors where not given
    variants     a list in place of factors: name -> changes
    comparisons  pairs (variant, the variant that it is measured against), where variants are listed
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from ser_jax import config as configuration
from ser_jax.config.kinds import is_line
from ser_jax.errors import UserError, brief, did_you_mean, printed
from ser_jax.statistics.metrics import with_others

_LIST = (list, tuple)
_OPTIONS = {
    "name": str,
    "text": str,
    "base": dict,
    "factors": _LIST,
    "design": str,
    "compare": _LIST,
    "variants": dict,
    "comparisons": _LIST,
}
_KINDS = {str: "a text", dict: "a dict", _LIST: "a list"}
_NAME = 100  # letters of the name of a question or variant
_DESIGNS = ("grid", "one_at_a_time")
_WHERE = "config.study.questions"


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked, of which variants.

    Attributes:
      factors: factor -> the names of its levels, the one that the others are measured against first; empty for a list.
      levels: variant -> factor -> level.
      comparisons: pairs (variant, the twin that it is measured against).
    """

    name: str
    text: str
    factors: dict[str, tuple[str, ...]]
    levels: dict[str, dict[str, str]]
    comparisons: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study: its variants by name, each a complete configuration without the study, and its questions.

    `margin` is a share of UA: differences below it do not matter. `metrics` are those from outside, as
    `ser_jax.statistics.metrics.with_others` takes them; `candidates` those among which its one variant was chosen.
    """

    title: str
    margin: float
    variants: dict[str, dict]
    questions: tuple[Question, ...]
    metrics: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()

    @property
    def comparisons(self) -> list[tuple[str, str]]:
        """Those of all questions, each once."""
        return list(dict.fromkeys(pair for question in self.questions for pair in question.comparisons))


@dataclasses.dataclass(frozen=True)
class _Level:
    name: str
    changes: dict
    against: str = ""  # the level that it is measured against; the factor's first where not given


def make_plan(config: dict) -> Plan:
    """Returns what a configuration's study trains and asks.

    A configuration that names neither variants nor questions is one variant, called after its model.
    Raises `UserError` for a factor, field, variant, metric or option that does not exist, and a name that occurs twice.
    """
    base = {key: value for key, value in config.items() if key != "study"}
    study = config["study"]
    with_others(study["metrics"])
    variants, questions = {}, []
    if study["variants"] or not study["questions"]:
        listed = {"variants": study["variants"] or {base["model"]["name"]: {}}, "comparisons": study["comparisons"]}
        found, question = _listed({"name": "", "text": "", **listed}, base, "config.study")
        variants |= found
        questions.append(question)
    for entry in study["questions"]:
        where = _check(entry)
        changed = _merge(base, entry.get("base", {}), f"{where}, base")
        prefix = f"{entry['name']}: " if len(study["questions"]) > 1 or study["variants"] else ""
        make = _varied if entry.get("factors") else _listed
        found, question = make({"text": "", **entry}, changed, where, prefix)
        for name in found:
            if name in variants:
                raise UserError(f"{where}: variant {name!r} occurs twice in the study")
        variants |= found
        questions.append(question)
    checked = {name: _checked(name, own, config) for name, own in variants.items()}
    apart = [one for one in checked.values() if _chosen_apart(one["protocol"])]
    if study["candidates"] and not len(checked) == len(apart) == 1:
        raise UserError(
            "config.study.candidates: found some, which `study --select SPEAKERS` names; expected one variant that "
            "was chosen by config.protocol.selection_speakers"
        )
    return Plan(
        study["title"],
        study["margin"] / 100,
        checked,
        tuple(questions),
        *map(tuple, (study["metrics"], study["candidates"])),
    )


def _chosen_apart(protocol: Mapping[str, Any]) -> bool:
    return protocol["selection_speakers"] > 0 and protocol["tested"] == "test"


def one_variant(config: dict, name: str | None) -> dict:
    """Returns the configuration of one variant, which keeps its name, without the study around it.

    For None it is the configuration itself.
    """
    study = configuration.default()["study"]
    if name is None:
        return {**config, "study": study}
    variants = make_plan(config).variants
    if name not in variants:
        raise UserError(f"--variant {name}: no such variant{did_you_mean(name, list(variants))}")
    return {**variants[name], "study": {**study, "variants": {name: {}}}}


def _checked(name: str, variant: dict, config: dict) -> dict:
    """The variant with its values as options keep them; errors name it where it differs from the configuration."""
    try:
        return configuration.check(variant)
    except UserError as error:
        alone = all(variant[key] == config[key] for key in variant)
        raise UserError(str(error) if alone else printed(f"config.study, variant {brief(name)}: {error}")) from error


def _check(entry: Any) -> str:
    """Says where a question stands; raises `UserError` for what a question cannot have."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise UserError(f"{_WHERE}: found {brief(entry)}, expected a dict with a name")
    if len(entry["name"]) > _NAME or not is_line(entry["name"]):
        raise UserError(
            f"{_WHERE}: found the name {brief(entry['name'])}, expected one line of at most {_NAME} letters"
        )
    where = f"{_WHERE}: {entry['name']}"
    for option in entry:
        if option not in _OPTIONS:
            raise UserError(f"{where} has no {brief(option)}{did_you_mean(option, _OPTIONS)}")
        if not isinstance(entry[option], _OPTIONS[option]):
            raise UserError(f"{where}, {option}: found {brief(entry[option])}, expected {_KINDS[_OPTIONS[option]]}")
    if bool(entry.get("factors")) == bool(entry.get("variants")):
        raise UserError(f"{where}: expected either factors or variants")
    alien = ("comparisons",) if entry.get("factors") else ("design", "compare")
    for option in alien:
        if entry.get(option):
            kind = "factors" if entry.get("factors") else "listed variants"
            raise UserError(f"{where}: {option} has no meaning beside {kind}")
    return where


def _listed(entry: dict, base: dict, where: str, prefix: str = "") -> tuple[dict[str, dict], Question]:
    named = entry["variants"]
    for name, changes in named.items():
        if not isinstance(name, str) or not name.strip() or not is_line(name) or len(name) > _NAME:
            raise UserError(
                f"{where}.variants: found the name {brief(name)}, expected one line of at most {_NAME} letters"
            )
        if not isinstance(changes, dict):
            raise UserError(f"{where}.variants: {name}: found {brief(changes)}, expected a part of the configuration")
    pairs = []
    for pair in entry.get("comparisons", ()):
        if not isinstance(pair, _LIST) or len(pair) != 2:
            raise UserError(f"{where}.comparisons: found {brief(pair)}, expected a pair of variants")
        for name in pair:
            if not isinstance(name, str) or name not in named:
                raise UserError(f"{where}.comparisons: no variant {brief(name)}{did_you_mean(name, list(named))}")
        if pair[0] == pair[1]:
            raise UserError(f"{where}.comparisons: found {brief(pair)}, expected two variants")
        pairs.append(tuple(f"{prefix}{name}" for name in pair))
    variants = {f"{prefix}{name}": _merge(base, changes, where) for name, changes in named.items()}
    return variants, Question(entry["name"], entry["text"], {}, {name: {} for name in variants}, tuple(pairs))


def _varied(entry: dict, base: dict, where: str, prefix: str) -> tuple[dict[str, dict], Question]:
    factors = {}
    for factor in entry["factors"]:
        name, levels = _levels(factor, where)
        if name in factors:
            raise UserError(f"{where}: factor {name} occurs twice")
        factors[name] = levels
    design = entry.get("design", "grid")
    if design not in _DESIGNS:
        raise UserError(f"{where}: design {brief(design)}{did_you_mean(design, _DESIGNS)}")
    variants, chosen = {}, {}
    for levels in _combinations(list(factors.values()), design):
        name = prefix + ", ".join(level.name for level in levels)
        config = base
        for factor, level in zip(factors, levels, strict=True):
            config = _merge(config, level.changes, f"{where}, factor {factor}")
        variants[name] = config
        chosen[name] = {factor: level.name for factor, level in zip(factors, levels, strict=True)}
    compared = entry.get("compare") or list(factors)
    for name in compared:
        if not isinstance(name, str) or name not in factors:
            raise UserError(f"{where}, compare: no factor {brief(name)}{did_you_mean(name, list(factors))}")
    pairs = [pair for factor in compared for pair in _twins(chosen, factor, factors[factor])]
    levels = {name: tuple(level.name for level in own) for name, own in factors.items()}
    return variants, Question(entry["name"], entry["text"], levels, chosen, tuple(pairs))


def _levels(factor: Any, where: str) -> tuple[str, list[_Level]]:
    if (
        not isinstance(factor, dict)
        or not isinstance(factor.get("name"), str)
        or not factor["name"].strip()
        or len(factor["name"]) > _NAME
        or not set(factor) <= {"name", "field", "levels"}
        or not isinstance(factor.get("field", ""), str)
        or not isinstance(factor.get("levels", ()), _LIST)
    ):
        raise UserError(
            f"{where}, factors: found {brief(factor)}, expected a dict of name, levels and for values their field"
        )
    name, field, levels = factor["name"], factor.get("field"), []
    for level in factor.get("levels", ()):
        if field:
            changes: Any = level
            for key in reversed(field.split(".")):
                changes = {key: changes}
            levels.append(_Level(level if isinstance(level, str) else f"{name} {brief(level)}", changes))
        elif _is_level(level):
            levels.append(_Level(**level))
        else:
            raise UserError(
                f"{where}, factor {name}: found {brief(level)}, expected a field, or levels of name and changes"
            )
    names = [level.name for level in levels]
    if len(levels) < 2 or len(set(names)) < len(names):
        raise UserError(f"{where}, factor {name}: found the levels {brief(names)}, expected two or more different ones")
    for level in levels:
        if level.against and level.against not in names:
            raise UserError(
                f"{where}, factor {name}, against: no level {brief(level.against)}{did_you_mean(level.against, names)}"
            )
    return name, levels


def _is_level(level: Any) -> bool:
    kinds = {"name": str, "changes": dict, "against": str}
    named = isinstance(level, dict) and {"name", "changes"} <= set(level) <= set(kinds)
    return named and all(isinstance(value, kinds[key]) for key, value in level.items()) and len(level["name"]) <= _NAME


def _combinations(factors: list[list[_Level]], design: str) -> Iterator[tuple[_Level, ...]]:
    if design == "grid":
        yield from itertools.product(*factors)
        return
    first = tuple(levels[0] for levels in factors)
    yield first
    for i, levels in enumerate(factors):
        for level in levels[1:]:
            yield (*first[:i], level, *first[i + 1 :])


def _twins(chosen: dict[str, dict[str, str]], factor: str, levels: list[_Level]) -> Iterator[tuple[str, str]]:
    """Every variant whose level is measured against another, and the variant that differs from it in that alone."""
    against = {level.name: level.against or levels[0].name for level in levels}
    by_levels = {tuple(own.items()): name for name, own in chosen.items()}
    for name, own in chosen.items():
        twin = by_levels.get(tuple({**own, factor: against[own[factor]]}.items()))
        if twin not in (None, name):
            yield name, twin


def _merge(config: dict, changes: dict, where: str) -> dict:
    try:
        return configuration.merge(config, changes)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
