"""Checks which speakers, texts and recordings a protocol puts into both training and test data.

The verdict is "independent" (exit status 0), "leaks" or "cannot be told" (exit status 1). Independent means that no
speaker, no recording, near copies included, and no overlapping segments of one recording are in both; nor a session or
text, for protocols that promise this. Validation data count as training data.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from ser_jax.commands.common import add_data_argument

if TYPE_CHECKING:
    from ser_jax.corpora.corpus import Corpus
    from ser_jax.corpora.protocols import Protocol


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `audit`."""
    parser.add_argument("corpus", nargs="?", help="a prepared corpus, or synthetic, localized, uniform, null")
    parser.add_argument(
        "--protocol",
        help="leave_one_speaker_out, grouped_k_fold, leave_one_session_out, speaker_and_text_independent, official, "
        "random or everything (default: leave_one_speaker_out)",
    )
    parser.add_argument("--folds", type=int, help="number of folds, or of groups of speakers")
    parser.add_argument("--seed", type=int, help="for protocols that draw folds (default: 0)")
    parser.add_argument(
        "--file",
        help="a list of folds, for the protocol official: .jsonl, .json or .csv, or a folder in EmoBox's layout",
    )
    parser.add_argument("--source", help="of a merged corpus: the one whose speakers are tested")
    parser.add_argument(
        "--validation_speakers", type=int, help="validation speakers, taken from training (default: none)"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="audit the split that this configuration trains; --config.KEY=VALUE changes it"
    )
    parser.add_argument("--variant", metavar="NAME", help="of a configuration whose variants have several splits")
    add_data_argument(parser)
    parser.add_argument(
        "--verify",
        action="store_true",
        help="hash the whole corpus again, and refuse it if it is damaged",
    )
    parser.add_argument("--json", action="store_true", help="print the audit as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints the audit; returns 0 where all that has to be apart is apart, else 1."""
    from ser_jax.corpora.audit import audit
    from ser_jax.corpora.corpus import verify

    corpus, protocol = _of_config(arguments) if arguments.config else _of_options(arguments)
    if arguments.verify:
        verify(corpus, again=True)
    report = audit(corpus, protocol)
    print(json.dumps(report.as_dict(), indent=1) if arguments.json else table(report.as_dict()))
    return int(report.verdict != "independent")


def _of_options(arguments: argparse.Namespace) -> tuple[Corpus, Protocol]:
    from ser_jax.corpora import load_corpus
    from ser_jax.corpora.protocols import make_protocol
    from ser_jax.errors import UserError

    if not arguments.corpus:
        raise UserError("audit: expected the name of a corpus, or --config")
    for option, value in (("--variant", arguments.variant), (arguments.overrides[:1], arguments.overrides)):
        if value:
            raise UserError(f"audit: {''.join(option)} is about a configuration, expected --config FILE beside it")
    corpus = load_corpus(arguments.corpus, arguments.data_dir)
    protocol = make_protocol(
        corpus,
        arguments.protocol or "leave_one_speaker_out",
        validation_speakers=arguments.validation_speakers or 0,
        num_folds=arguments.folds,
        seed=arguments.seed or 0,
        file=arguments.file,
        source=arguments.source,
    )
    return corpus, protocol


def _of_config(arguments: argparse.Namespace) -> tuple[Corpus, Protocol]:
    """The corpus and the folds that a configuration trains: all its variants, or the one that is named."""
    from ser_jax.config import read
    from ser_jax.errors import UserError
    from ser_jax.studies.plan import make_plan, one_variant
    from ser_jax.studies.variants import load
    from ser_jax.training.runs import runs_of

    for name in ("corpus", "protocol", "folds", "seed", "file", "source", "validation_speakers"):
        if getattr(arguments, name) is not None:
            raise UserError(f"audit --config: --{name} is the configuration's, as --config.KEY=VALUE")
    settings = read.load(arguments.config, arguments.overrides)
    if arguments.variant is not None:
        settings = one_variant(settings, arguments.variant)
    variants = make_plan(settings).variants
    first, *others = variants.values()
    if any(other[group] != first[group] for other in others for group in ("corpus", "protocol")):
        raise UserError(
            f"audit --config: the variants have several splits, expected --variant NAME, one of {', '.join(variants)}"
        )
    corpus, protocol = load(first, arguments.data_dir)
    runs_of(first, protocol)  # are there
    return corpus, protocol


def table(report: dict[str, Any]) -> str:
    """Returns the audit as text: one line per fold, then the findings and the verdict."""
    speakers = f"{report['num_speakers']} speakers" if report["num_speakers"] else "some of unknown speakers"
    lines = [
        f"{report['corpus']}: {report['num_utterances']} utterances, {speakers}",
        f"{report['protocol']}: {report['description']}",
        "",
    ]
    width = max(4, *(len(fold["name"]) for fold in report["folds"]))
    columns = ("train", "valid", "test", "speakers", "texts", "sessions", "recordings")
    lines.append(f"{'':{width}}  {'utterances':>19}  in training and test")
    lines.append("  ".join((f"{'fold':{width}}", *(f"{name:>5}" for name in columns))))
    for fold in report["folds"]:
        numbers = [fold["num_train"], fold["num_validation"], fold["num_test"]]
        numbers += [len(fold[name]) for name in ("speakers", "texts", "sessions", "recordings")]
        cells = (f"{number:>{max(5, len(name))}}" for name, number in zip(columns, numbers, strict=True))
        lines.append("  ".join((f"{fold['name']:{width}}", *cells)))
    verdict = f"verdict: {report['verdict']}: {report['reason']}"
    return "\n".join([*lines, "", *(f"- {finding}" for finding in report["findings"]), verdict])
