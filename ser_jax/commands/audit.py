"""Say which speakers, texts and recordings a protocol puts on both sides of train and test.

The exit status is 1 where a speaker stands on both sides of a fold, and 0 otherwise.
"""

import argparse
import json
from typing import Any

from ser_jax.commands.common import add_data_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `audit`."""
    parser.add_argument("corpus", help="a prepared corpus, or synthetic, localized, uniform, null")
    parser.add_argument(
        "--protocol",
        default="leave_one_speaker_out",
        help="leave_one_speaker_out, grouped_k_fold, leave_one_session_out, speaker_and_text_independent, official, "
        "random or everything (default: %(default)s)",
    )
    parser.add_argument("--folds", type=int, help="number of folds, or of groups of speakers")
    parser.add_argument("--seed", type=int, default=0, help="for protocols that draw folds (default: %(default)s)")
    parser.add_argument(
        "--file",
        help="a list of folds, for the protocol official: .jsonl, .json or .csv, or a folder in EmoBox's layout",
    )
    parser.add_argument("--source", help="of a merged corpus: the one whose speakers are tested")
    parser.add_argument("--validation_speakers", type=int, default=1, help="taken from training (default: %(default)s)")
    add_data_argument(parser)
    parser.add_argument(
        "--verify",
        action="store_true",
        help="hash the whole corpus again, and refuse it if it is damaged",
    )
    parser.add_argument("--json", action="store_true", help="print the audit as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints the audit; returns 1 where a speaker stands on both sides of a fold, else 0."""
    from ser_jax.corpora import load_corpus
    from ser_jax.corpora.audit import audit
    from ser_jax.corpora.corpus import verify
    from ser_jax.corpora.protocols import make_protocol

    corpus = load_corpus(arguments.corpus, arguments.data_dir)
    if arguments.verify:
        verify(corpus, again=True)
    protocol = make_protocol(
        corpus,
        arguments.protocol,
        validation_speakers=arguments.validation_speakers,
        num_folds=arguments.folds,
        seed=arguments.seed,
        file=arguments.file,
        source=arguments.source,
    )
    report = audit(corpus, protocol)
    print(json.dumps(report.as_dict(), indent=1) if arguments.json else table(report.as_dict()))
    return int(report.leaks_speakers)


def table(report: dict[str, Any]) -> str:
    """Returns the audit as text: one line per fold, then the findings and the verdict."""
    lines = [
        f"{report['corpus']}: {report['num_utterances']} utterances, {report['num_speakers']} speakers",
        f"{report['protocol']}: {report['description']}",
        "",
    ]
    width = max(4, *(len(fold["name"]) for fold in report["folds"]))
    columns = ("train", "valid", "test", "speakers", "texts", "sessions", "recordings")
    lines.append(f"{'':{width}}  {'utterances':>19}  on both sides")
    lines.append("  ".join((f"{'fold':{width}}", *(f"{name:>5}" for name in columns))))
    for fold in report["folds"]:
        numbers = [fold["num_train"], fold["num_validation"], fold["num_test"]]
        numbers += [len(fold[name]) for name in ("speakers", "texts", "sessions", "recordings")]
        cells = (f"{number:>{max(5, len(name))}}" for name, number in zip(columns, numbers, strict=True))
        lines.append("  ".join((f"{fold['name']:{width}}", *cells)))
    verdict = "speakers stand on both sides" if report["leaks_speakers"] else "no speaker stands on both sides"
    return "\n".join([*lines, "", *(f"- {finding}" for finding in report["findings"]), f"verdict: {verdict}"])
