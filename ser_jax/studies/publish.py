"""Makes a folder to share out of a training: its models, ready for `predict` and `evaluate`, and a card about them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ser_jax import config as configuration
from ser_jax.corpora import load_corpus
from ser_jax.corpora.corpus import Corpus
from ser_jax.errors import UserError
from ser_jax.files import atomic_folder
from ser_jax.studies import workdirs
from ser_jax.studies.collect import write_json
from ser_jax.studies.store import STUDY
from ser_jax.studies.workdirs import Restored
from ser_jax.training import checkpoints, devices, loop
from ser_jax.training.initial import trainings_behind

CARD = "MODEL_CARD.md"
_NORMALISED = {
    "none": "as they are",
    "utterance": "normalised by the recording's own mean and deviation",
    "train": "normalised by the mean and deviation of what was learnt",
    "speaker": "normalised by the mean and deviation of the speaker's recordings",
}
_SPLITS = ("protocol", "folds", "seeds")  # in which a model and its tests may differ


def publish(
    workdir: str | os.PathLike, tested: str | os.PathLike, to: str | os.PathLike, data_dir: str | None = None
) -> Path:
    """Writes the one variant of `workdir` to the folder `to`, and returns that folder.

    What a training alone needs is left out. `tested` is a workdir in which the same configuration was trained and
    tested speaker-independently: the card's figures are read from its summary, and from its `on_CORPUS` where it was
    evaluated on other corpora. Raises `UserError` where one of them has no single network, where their configurations
    differ in more than the folds and seeds, and where the tests' folds share speakers.
    """
    if Path(to).exists() and not (Path(to) / CARD).is_file():
        raise UserError(
            f"--to {to}: is there already and has no {CARD}; expected a new folder, or one published before"
        )
    model, evidence = _network("--workdir", workdir), _network("--tested", tested)
    _check_alike(model, evidence)
    summary = workdirs.read_summary(tested)
    if not summary.get("speaker_independent"):
        raise UserError(f"--tested {tested}: its folds share speakers; expected a speaker-independent protocol")
    others = {
        path.parent.name.removeprefix("on_"): path.parent for path in sorted(Path(tested).glob("on_*/summary.json"))
    }
    elsewhere = {name: workdirs.read_summary(folder) for name, folder in others.items() if name != summary["corpus"]}
    corpora = _corpora(model.metadata, data_dir)
    population = workdirs.population_alone(model)
    state = devices.gather(loop.restore(population, model.folder), len(population.runs))
    with atomic_folder(to) as folder:
        store = checkpoints.Checkpoints(folder / "model" / "checkpoints")
        store.save(state, model.metadata)
        store.close()
        for path in (folder / "model").rglob("commit_success.txt"):  # Orbax's mark, which names the folder it wrote to
            path.write_text("")
        write_json(folder / STUDY, [{"name": model.name, "folder": "model"}])
        write_json(folder / "config.json", model.metadata["config"])
        card = _card(Path(to), model, population.num_parameters, corpora, evidence.name, summary, elsewhere)
        (folder / CARD).write_text(card, encoding="utf-8")
    return Path(to)


def _network(option: str, workdir: str | os.PathLike) -> Restored:
    found = workdirs.find(workdir, option=option)
    if len(found) > 1 or found[0].is_baseline:
        what = f"{len(found)} variants" if len(found) > 1 else "a baseline"
        raise UserError(f"{option} {workdir}: found {what}, expected one network")
    return found[0]


def _check_alike(model: Restored, evidence: Restored) -> None:
    for name in ("fingerprint", "name"):
        if model.metadata["corpus"][name] != evidence.metadata["corpus"][name]:
            raise UserError(
                f"--tested: its corpus is {evidence.metadata['corpus']['name']}, "
                f"{evidence.metadata['corpus']['fingerprint'][:12]}, expected {model.metadata['corpus']['name']}, "
                f"{model.metadata['corpus']['fingerprint'][:12]}, as in --workdir"
            )
    configs = [configuration.deciding(restored.metadata["config"]) for restored in (model, evidence)]
    own, other = ({key: value for key, value in config.items() if key not in _SPLITS} for config in configs)
    different = list(configuration.differences(own, other))
    if different:
        raise UserError(f"--tested: another configuration than in --workdir ({'; '.join(different[:3])})")


def _corpora(metadata: dict, data_dir: str | None) -> list[Corpus]:
    """The corpora that a model has learnt from, the last one first; its teachers may have begun with others."""
    corpora = {}
    for described in trainings_behind({**metadata, "options": metadata["config"]["corpus"]["options"]}):
        name, fingerprint = (described["corpus"][what] for what in ("name", "fingerprint"))
        corpora[fingerprint] = load_corpus(name, data_dir, **described["options"])
        if corpora[fingerprint].fingerprint != fingerprint:
            raise UserError(f"corpus {name}: it has changed since the training; prepare that one again")
    return list(corpora.values())


def _card(
    to: Path,
    model: Restored,
    parameters: int,
    corpora: Sequence[Corpus],
    name: str,
    summary: dict,
    elsewhere: Mapping[str, dict],
) -> str:
    config, runs = model.metadata["config"], model.metadata["runs"]
    options = [f"{key} {value}" for key, value in config["model"].items() if key != "name"]
    what = f"{config['model']['name']} ({', '.join(options)})" if options else config["model"]["name"]
    normalisation = config["frontend"]["normalization"]
    trimmed = ", the silence before and after left out" if config["frontend"]["trim_db"] else ""
    by_speaker = ["features are normalised"] * (normalisation == "speaker")
    by_speaker += ["batch normalisation is done"] * (config["evaluation"]["batch_statistics"] == "speaker")
    lines = [f"# {to.name}", "", f"Recognises {', '.join(model.emotions)} in speech."]
    lines += ["", "## The model", ""]
    lines += [
        f"- {what}, {parameters:,} parameters; the mean of {len(runs)} run{'s' * (len(runs) > 1)}.",
        f"- Input: recordings of any rate, as {config['frontend']['num_mels']} {config['frontend']['kind']} features "
        f"every {config['frontend']['hop_ms']:g} ms, {_NORMALISED[normalisation]}{trimmed}; windows of "
        f"{config['evaluation']['window_seconds'] or config['training']['crop_seconds']:g} s, averaged.",
    ]
    for head in model.metadata["targets"]["heads"]:
        lines.append(f"- A classifier for {head['source']}: {', '.join(head['emotions'])}.")
    if model.metadata["targets"]["heads"]:
        lines.append(
            "- A recording of another corpus is told by the mean of these classifiers' probabilities, in which an "
            "emotion that only some of them know has less."
        )
    lines += ["", "## What it was trained on", ""]
    for corpus in corpora:
        speakers = corpus.utterances["speaker"].nunique()
        about = " ".join(str(corpus.info.get("description", "")).split())
        lines.append(f"- **{corpus.name}**: all {len(corpus.utterances)} utterances of {speakers} speakers. {about}")
    lines += ["", "## How well it does", ""]
    lines += [
        f"The figures are of {summary['variants'][name]['runs']} models of the same configuration, none of which heard "
        f"the speakers that it was tested on ({summary['protocol_description']}); this one heard all. Percent, with "
        "95 % intervals over speakers.",
        "",
        "| tested on | UA | WA | " + " | ".join(summary["emotions"]) + " |",
        "|---" * (3 + len(summary["emotions"])) + "|",
        _row(f"{summary['corpus']}, speakers not heard", summary["variants"][name], summary["emotions"]),
    ]
    if summary["variants"][name].get("ensemble"):
        together = summary["variants"][name]["ensemble"]
        title = f"the same, the mean of {together['seeds']} such models"
        lines.append(_row(title, together, summary["emotions"]))
    for source, result in (summary["variants"][name].get("by_source") or {}).items():
        lines.append(_row(f"{source}, speakers not heard", result, summary["emotions"]))
    alone = summary.get("robustness", {}).get("variants", {}).get(name, {}).get("alone")
    if alone and by_speaker:
        lines.append(_row("the same, each recording alone", alone, summary["emotions"]))
    for other, result in elsewhere.items():
        lines.append(_row(f"{other}, all of it", result["variants"][name], summary["emotions"]))
    for other, result in elsewhere.items():
        dropped = result.get("dropped_emotions")
        if dropped:
            lines += ["", f"Left out of {other}, because the model does not know it: {', '.join(dropped)}."]
    lines += ["", "## Use", "", "```", f"python launch.py predict --workdir {to} a.wav", "```"]
    lines += ["", "## Limits", ""]
    if by_speaker:
        lines.append(
            f"- It wants to know the voice: {' and '.join(by_speaker)} by all recordings of one call, which are taken "
            "for one speaker's. The figures are of speakers with all their recordings, but for the row of single ones."
        )
    lines += [
        "- The voices that it knows are those above, acted, close to the microphone and without noise. Of spontaneous "
        "speech, other languages, other rooms and telephones nothing is known but what the table shows; expect little.",
        "- Its probabilities are those of a classifier that knows the listed emotions and no others.",
        "- It is for research. What a voice expresses is not what a person feels; not for decisions about people.",
    ]
    lines += ["", "## Licence", "", *(_licence(corpus) for corpus in corpora)]
    versions = ", ".join(f"{package} {version}" for package, version in model.metadata["versions"].items())
    lines += ["", f"Trained with {versions}. Corpus {summary['fingerprint'][:16]}.", ""]
    return "\n".join(lines)


def _row(title: str, result: dict, emotions: Sequence[str]) -> str:
    cells = [_percent(result.get(name), result.get(f"{name}_ci95")) for name in ("ua", "wa")]
    cells += [_percent(result.get("recall", {}).get(emotion)) for emotion in emotions]
    return f"| {title} | {' | '.join(cells)} |"


def _percent(value: float | None, interval: Sequence[float] | None = None) -> str:
    if value is None:
        return "–"
    text = f"{100 * value:.1f}"
    return text if interval is None else f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _licence(corpus: Corpus) -> str:
    licence = corpus.info.get("licence") or "not known"
    text = f"- {corpus.name}: {licence}."
    if "-NC" in licence.upper():
        text += " Models trained on it are not for commercial use either."
    if "-SA" in licence.upper():
        text += " They are shared under the same licence."
    return text + (f"\n\n```bibtex\n{corpus.info['citation']}\n```\n" if corpus.info.get("citation") else "")
