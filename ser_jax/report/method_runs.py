"""What a methods paragraph says of the runs: how many, which parameters were tested, and how they were chosen."""

from collections import Counter
from collections.abc import Mapping, Sequence

from ser_jax.baselines import is_baseline
from ser_jax.numbers import count
from ser_jax.report.method_terms import duration
from ser_jax.report.numbers import join
from ser_jax.report.summary import Summary


def sentences(summary: Summary, configs: Mapping[str, Mapping]) -> list[str]:
    """Returns the sentences; `configs` are those of the variants, or of the candidates among which one was chosen."""
    networks = [config for config in configs.values() if not is_baseline(config["model"])]
    return [*_runs(summary, networks), *_choice(summary, configs)]


def _runs(summary: Summary, networks: Sequence[Mapping]) -> list[str]:
    variants = summary.variants.values()
    runs = sum(variant.runs for variant in variants)
    seeds = max(variant.seeds for variant in variants)
    folds = max(variant.folds for variant in variants)
    whole = all(variant.runs == folds * seeds for variant in variants)
    who = "Every variant was run on" if whole else "Variants were run on up to"
    text = f"{who} {count(folds, 'fold')} with {count(seeds, 'seed')} ({count(runs, 'run')} in all)"
    if networks:
        begun = any(config["training"].get("initial") for config in networks)
        drawn = "crops and augmentation" if begun else "crops, augmentation and initial parameters"
        text += (
            f"; runs of the same fold and seed saw the same batches in the same order and drew {drawn} from the same "
            "random numbers, so that variants are paired and share part of the noise of training"
        )
    diverged = sum(len(variant.known.diverged) for variant in variants)
    found = [f"{text}."]
    if diverged:
        found.append(f"{count(diverged, 'run').capitalize()} diverged and {'is' if diverged == 1 else 'are'} missing.")
    return found + ([_kept(networks[0])] if networks else [])


def _kept(config: Mapping) -> str:
    """Which parameters of a run were tested, and what its validation speakers had to do with it."""
    protocol = config["protocol"]
    validation = protocol.get("validation_speakers", 0)
    best = config["training"].get("keep", "last") == "best"
    text = "The last parameters were tested; no epoch was selected"
    if best:
        text = (
            f"Of each run the parameters with the best UA on its {count(validation, 'validation speaker')} were tested"
        )
    elif validation:
        text += (
            f", though {count(validation, 'validation speaker')} of each fold {'was' if validation == 1 else 'were'}"
        )
        text += " held out of its training"
    if best or config["training"].get("patience", 0):
        text += f"; UA was validated {duration(config['training'], 'validate')}"
    return f"{text}."


def _choice(summary: Summary, configs: Mapping[str, Mapping]) -> list[str]:
    """How what was tested had been chosen, and who was tested."""
    selection, found = summary.study.selection, []
    protocol = next((config["protocol"] for config in configs.values()), {})
    apart = protocol.get("selection_speakers", 0)
    set_apart = f"{count(apart, 'speaker')} {'was' if apart == 1 else 'were'} set apart to choose the recipe by"
    if selection:
        among = f"among {count(len(selection.candidates), 'variant')} ({'; '.join(selection.candidates)})"
        if selection.chosen:
            times = Counter(selection.chosen.values()).most_common()
            share = join([f"{name} in {number}" for name, number in times])
            found.append(
                f"In each fold one variant was chosen {among} by UA on {selection.by}; the tested speakers had no part "
                f"in the choice. It was {share} of the folds."
            )
        else:
            found.append(f"The variant was chosen {among} by UA on {selection.by}.")
    elif apart and protocol.get("tested") == "validation":
        found.append(f"{set_apart}; here they alone were learnt and tested.")
    elif apart:
        found.append(f"{set_apart}, and never tested.")
    elif configs:
        found.append(
            "How the recipe itself was chosen is not recorded here: one chosen on speakers who are test speakers of "
            "some fold has used their labels."
        )
    if protocol.get("tested") == "validation":
        found.append("The validation speakers were tested, and the test speakers left out.")
    if protocol.get("source"):
        found.append(f"Speakers of {protocol['source']} were tested, the other sources trained on.")
    return found
