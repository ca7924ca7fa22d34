"""How it was measured: corpus, protocols, hardware, versions, what is missing, and the methods paragraph."""

from collections.abc import Iterator, Mapping

from ser_jax.numbers import count, plural
from ser_jax.report import methods, numbers, references
from ser_jax.report.blocks import Block, Code, Facts, Items, Text
from ser_jax.report.numbers import join, sentence_case
from ser_jax.report.sources import Sources
from ser_jax.report.summary import Protocol, Provenance, Selection
from ser_jax.report.vector_graphics import missing_signs


def conditions(sources: Sources) -> Iterator[Block]:
    """Facts of the measurement, and the verdict of the audit of each protocol."""
    study = sources.summary.study
    facts = [("Corpus", _corpus(sources))]
    if study.corpus_info.get("licence"):
        facts.append(("Licence of the corpus", licence(study.corpus_info["licence"])))
    facts += [("Protocol", _protocol(protocol)) for protocol in study.protocols]
    facts.append(("Setting", _setting(sources)))
    facts.append(("Runs", _runs(sources)))
    if study.selection:
        facts.append(("Chosen", _chosen(study.selection)))
    if sources.summary.emotions:
        facts.append(("Smallest detectable difference", _detectable(sources)))
    facts += [("Trained", text) for text in trained(sources)]
    if study.seconds:
        facts.append(("Time", _time(study.seconds)))
    yield Facts(tuple(facts))
    for protocol in study.protocols:
        if protocol.audit:
            of = f" of {protocol.name.replace('_', ' ')}" if len(study.protocols) > 1 else ""
            yield Text(_verdict(protocol, of))
            if protocol.audit.get("findings"):
                yield Items(tuple(sentence_case(finding) for finding in protocol.audit["findings"]))


def _corpus(sources: Sources) -> str:
    text = sources.summary.corpus
    study = sources.summary.study
    if study.corpus_info.get("description"):
        text += f". {' '.join(study.corpus_info['description'].split())}"
    if study.fingerprint:
        text = f"{text.rstrip('.')}. Fingerprint {study.fingerprint[:16]}"
    return f"{text.rstrip('.')}."


def licence(name: str) -> str:
    """A corpus's licence, and what it asks of those who use it."""
    text = f"{name}."
    if "-NC" in name.upper():
        text += " Non-commercial use only; models trained on it inherit that."
    if "-SA" in name.upper():
        text += " What is derived from it is shared under the same licence."
    if name.upper().startswith("CC"):
        text += " Its authors are to be cited." if "CC0" not in name.upper() else ""
    return text


def _protocol(protocol: Protocol) -> str:
    text = protocol.name.replace("_", " ")
    if protocol.description:
        return f"{text}: {protocol.description}"
    if protocol.speaker_independent is None:
        return text
    return f"{text}: {'speaker-independent' if protocol.speaker_independent else 'SPEAKER-DEPENDENT'}"


def _chosen(selection: Selection) -> str:
    text = f"among {numbers.some(selection.candidates)}, by UA on {selection.by}"
    if selection.chosen:
        text += f". {'; '.join(f'Fold {fold}: {name}' for fold, name in selection.chosen.items())}"
    return f"{text}."


def _setting(sources: Sources) -> str:
    settings: dict[str, list[str]] = {}
    for name, variant in sources.variants.items():
        uses = variant.known.uses_speaker
        settings.setdefault(f"transductive, by {join(uses)}" if uses else "inductive", []).append(name)
    if len(settings) == 1:
        return f"{next(iter(settings))}."
    return "; ".join(f"{setting}: {numbers.some(names)}" for setting, names in settings.items()) + "."


def _runs(sources: Sources) -> str:
    variants = sources.variants.values()
    folds, seeds = max(v.folds for v in variants), max(v.seeds for v in variants)
    runs = sum(v.runs for v in variants)
    text = f"{count(runs, 'run')}: {count(len(variants), 'variant')} × {count(folds, 'fold')} × {count(seeds, 'seed')}"
    if runs < len(variants) * folds * seeds:
        text += " at most"
    vary = "UA varies" if sources.summary.emotions else "figures vary"
    return text + (f". With one seed, how much {vary} between seeds is not known." if seeds == 1 else ".")


def _detectable(sources: Sources) -> str:
    known = [one.detectable for one in sources.summary.comparisons if one.detectable is not None]
    if not known:
        return "not known: no comparison has an interval."
    if min(known) > 1:
        return "none that UA can have: this study is too small."
    several = ", by comparison" if "to" in numbers.detectable(known) else ""
    return (
        f"{numbers.detectable(known)} points{several} (the true difference of UA for which 80 % of such studies "
        "reach the verdict “difference”)."
    )


def trained(sources: Sources) -> list[str]:
    """Where the variants were trained: one sentence for each combination of hardware, versions and code.

    Each names the seeds that were trained there, and the variants where there are several such places.
    """
    places: dict[str, dict[str, list[str]]] = {}  # place -> seeds -> variants
    for name, variant in sources.variants.items():
        for provenance in variant.known.trained:
            seeds = ", ".join(map(str, provenance.seeds))
            seeds = f"{plural(len(provenance.seeds), 'seed')} {seeds}" if seeds else ""
            places.setdefault(describe_provenance(provenance), {}).setdefault(seeds, []).append(name)
    texts = []
    for text, by_seeds in places.items():
        alone = len(places) == len(by_seeds) == 1
        parts = [
            ", ".join(part for part in ("" if alone else numbers.some(names), seeds) if part)
            for seeds, names in by_seeds.items()
        ]
        texts += [f"{text} ({'; '.join(parts)})" if any(parts) else text] if text else []
    return texts


def describe_provenance(provenance: Provenance) -> str:
    """Hardware, versions and code of one process in words."""
    hardware = provenance.hardware
    devices = count(hardware["devices"], "device") if hardware.get("devices") else ""
    parts = [str(part) for part in (hardware.get("device"), hardware.get("platform"), devices) if part]
    parts += [f"{name} {version}" for name, version in provenance.versions.items()]
    if provenance.code:
        parts.append(f"code {provenance.code[:12]}")
    return ", ".join(parts)


def _time(seconds: Mapping[str, float]) -> str:
    phases = [f"{name} {numbers.clock(spent)}" for name, spent in seconds.items() if name != "total" and spent >= 0.5]
    total = numbers.clock(seconds["total"]) if seconds.get("total") else ""
    return ". Of this: ".join(part for part in (total, ", ".join(phases)) if part) + "."


def _verdict(protocol: Protocol, of: str) -> str:
    """The verdict of a protocol's audit in a sentence."""
    folds = protocol.audit.get("folds") or []
    where = f"Audit of the split{of}" + (f" ({count(len(folds), 'fold')})" if folds else "")
    if protocol.verdict is None:  # of a study before audits had verdicts
        return f"{where}: no verdict was recorded."
    verdict = protocol.verdict if protocol.verdict == "independent" else protocol.verdict.upper()
    return f"{where}: {verdict}; {protocol.audit['reason']}."


def missing(sources: Sources) -> Iterator[Block]:
    """Failed variants, diverged runs, recordings left out, labels changed, and what was not recorded."""
    study = sources.summary.study
    items = [f"{name} failed: {message}" for name, message in study.failed.items()]
    for name, variant in sources.variants.items():
        items += [
            f"{name}: fold {run.fold}, seed {run.seed} diverged at step {run.step}; its predictions are missing"
            for run in variant.known.diverged
        ]
    items += [sentence_case(text) for text in (*study.left_out, *study.labels, *study.notes)]
    variants = sources.variants.values()
    crossed = any(len(question.factors) > 1 for question in sources.questions)
    absent = {
        "an audit of the split": not any(protocol.audit for protocol in study.protocols),
        "factorial effects": crossed and not any(question.effects for question in sources.questions),
        "multiply-adds": not any(v.known.cost for v in variants),
        "latency": not any(v.known.cost and v.known.cost.latency for v in variants),
        "learning curves": not sources.curves,
        "figures by speaker and gender": not any(v.fairness for v in variants),
        "calibration": not any(v.calibration and v.calibration.ece is not None for v in variants),
        "robustness": not sources.summary.robustness,
        "attention weights": not sources.pictures,
        "the licence of the corpus": not study.corpus_info.get("licence"),
        "hardware and versions of the training": not any(v.known.trained for v in variants),
        "the variants' configurations": not sources.configs,
    }
    left_out = [what for what, is_absent in absent.items() if is_absent]
    if left_out:
        items.append(f"Not recorded, and so not in this report: {', '.join(left_out)}.")
    names = (*sources.summary.variants, *sources.summary.emotions, *study.speakers)
    boxes = missing_signs("".join(names))
    if boxes:
        items.append(f"No font of this machine has {boxes}: boxes in figures as PDF, not in the page, SVG and tables.")
    if items:
        yield Items(tuple(items))


def methods_paragraph(sources: Sources) -> Iterator[Block]:
    """The methods paragraph and its references."""
    text = methods.paragraph(sources.summary, sources.configs)
    citation = sources.summary.study.corpus_info.get("citation", "")
    yield Text(references.plain(text, citation))
    yield Code("BibTeX", references.bibtex(references.citations(text), citation))
