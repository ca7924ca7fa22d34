"""The variants of a study, checked and ready to be trained."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ser_jax import extras
from ser_jax.baselines import is_baseline
from ser_jax.corpora import load_corpus
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.features import load_features
from ser_jax.corpora.protocols import Protocol, make_protocol
from ser_jax.corpora.targets import describe_targets
from ser_jax.corpora.tracks import load_tracks
from ser_jax.errors import UserError
from ser_jax.inference.predict import evaluate
from ser_jax.studies import baselines, robustness
from ser_jax.studies.baselines import Baselines
from ser_jax.studies.plan import Plan
from ser_jax.studies.store import population_key
from ser_jax.studies.workdirs import find_network, for_use, load_initial
from ser_jax.training import devices, loop
from ser_jax.training.arrays import digest
from ser_jax.training.population import Population, make_population
from ser_jax.training.teacher import Teacher

_REMEMBERED = 2**30  # bytes of the largest corpus that is kept under each condition, for all variants


@dataclasses.dataclass(frozen=True)
class Variant:
    """One variant of a study, ready to be trained.

    Attributes:
      key: of its population, see `ser_jax.studies.store`.
      family: what the key would be without seeds; populations of one family have runs in common, or could have.
      population: made when it is asked for; the configuration was checked by making it once.
      with_seeds: the same variant with other seeds.
      perturbed: the corpus under a condition, made once for all variants.
    """

    name: str
    config: dict
    corpus: Corpus
    protocol: Protocol
    key: str
    family: str
    population: Callable[[], Population | Baselines]
    with_seeds: Callable[[Sequence[int]], "Variant"]
    perturbed: Callable[[Corpus, str], Corpus]


def prepare(plan: Plan, data_dir: str | None) -> list[Variant]:
    """Checks every variant's configuration; corpora, folds and programs that variants share are made once."""
    loaded: dict[str, tuple[Corpus, Protocol]] = {}
    cache: dict[str, Any] = {}
    under: dict[tuple, Corpus] = {}

    def perturbed(corpus: Corpus, condition: str) -> Corpus:
        key = corpus.fingerprint, corpus.info.get("trim_db"), condition
        if key not in under and corpus.samples.nbytes > _REMEMBERED:
            return robustness.perturbed(corpus, condition)
        if key not in under:
            under[key] = robustness.perturbed(corpus, condition)
        return under[key]

    def variant_of(name: str, config: dict) -> Variant:
        source = json.dumps([config["corpus"], config["protocol"]], sort_keys=True)
        if source not in loaded:
            loaded[source] = load(config, data_dir)
        corpus, protocol = loaded[source]

        make = functools.partial(population_of, config, corpus, protocol, data_dir, cache)
        population = make()
        if isinstance(population, Population) and population.feed == "streaming":
            extras.require("tfds", f"{name}: the streaming feed", "tensorflow", "tensorflow_datasets")
        features = population.corpus.info.get("features")
        if isinstance(population, Population) and population.upper is not None:
            features = {**(features or {}), "encoder": population.upper.describe()}
        earlier = (None, None) if isinstance(population, Baselines) else (population.initial, population.teacher)
        targets = describe_targets(corpus, config["corpus"]["dimensions"], config["corpus"]["votes"])
        described = [source and source.describe() for source in earlier]
        key, family = (
            population_key({**config, "seeds": seeds}, corpus, protocol, features, *described, targets)
            for seeds in (config["seeds"], [])
        )

        def with_seeds(seeds: Sequence[int]) -> Variant:
            return variant_of(name, {**config, "seeds": list(seeds)})

        return Variant(name, config, corpus, protocol, key, family, make, with_seeds, perturbed)

    variants = [variant_of(name, config) for name, config in plan.variants.items()]
    names = {variant.corpus.name: None for variant in variants}
    if len({variant.corpus.fingerprint for variant in variants}) > 1:
        raise UserError(
            f"config.study: its variants are of several corpora ({', '.join(names)}); a study is of one: run one for "
            "each, and set them side by side with `compare`"
        )
    return variants


def load(config: dict, data_dir: str | None) -> tuple[Corpus, Protocol]:
    """Returns the corpus and the folds of one variant's configuration."""
    corpus = load_corpus(config["corpus"]["name"], data_dir, **config["corpus"]["options"])
    options = {key: value for key, value in config["protocol"].items() if key != "name"}
    for name in ("num_folds", "file", "source"):
        options[name] = options[name] or None
    return corpus, make_protocol(corpus, config["protocol"]["name"], **options)


def population_of(
    config: dict, corpus: Corpus, protocol: Protocol, data_dir: str | None, cache: dict[str, Any] | None = None
) -> Population | Baselines:
    """Returns the population of one variant's configuration, or its baselines; the configuration is checked.

    `cache` holds what populations share; see `make_population`.
    """
    robustness.check(config)
    if is_baseline(config["model"]):
        return baselines.make_baselines(config, corpus, protocol, data_dir)
    tracks, features = config["corpus"]["tracks"], config["frontend"]["features"]
    initial, teacher = config["training"]["initial"], config["training"]["teacher"]
    cache = {} if cache is None else cache
    return make_population(
        config,
        corpus,
        protocol,
        tracks=load_tracks(corpus, data_dir, tracks) if tracks else None,
        features=load_features(corpus, features, data_dir) if features else None,
        initial=_once_loaded("initial", initial, load_initial, cache),
        teacher=_once_loaded("teacher", teacher, functools.partial(load_teacher, data_dir=data_dir), cache),
        cache=cache,
        data_dir=data_dir,
    )


def load_teacher(workdir: str, data_dir: str | None) -> Teacher:
    """Returns the runs of a workdir's one variant, to teach others; what they say is computed when it is asked for."""
    restored = find_network(workdir, "config.training.teacher")
    config = for_use(restored)
    population = population_of(config, *load(config, data_dir), data_dir)
    state = loop.restore(population, restored.folder)
    well = np.flatnonzero(devices.gather(state.diverged_at, len(population.runs)) < 0)
    parameters = digest(devices.gather(state.ema_parameters, len(population.runs)))

    @functools.cache
    def tell() -> list[np.ndarray]:
        said = evaluate(population, state, [fold.train for fold in population.folds])
        return [said[i] for i in well]

    return Teacher(restored.metadata, parameters, tuple(population.folds[i] for i in well), tell)


def _once_loaded(what: str, workdir: str, load: Callable[[str], Any], cache: dict[str, Any]) -> Any:
    key = f"{what}: {workdir}"
    if workdir and key not in cache:
        cache[key] = load(workdir)
    return cache.get(key)
