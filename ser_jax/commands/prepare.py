"""Verify recordings, resample them to 16 kHz, and pack them as a corpus that every other command can use."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ser_jax.corpora.corpus import Corpus

EXAMPLES = """examples:
  python launch.py prepare emodb --source DOWNLOADED.zip
  python launch.py prepare ravdess --source FOLDER_WITH_THE_WAVS
  python launch.py prepare folder --name calls --source RECORDINGS --table calls.csv
  python launch.py prepare folder --name calls --source FOLDER_WITH_A_FOLDER_PER_EMOTION

The table is a CSV with the columns path (below --source), emotion and speaker, and optionally id, gender, text,
language, session, intensity; any further column is kept. Built-in corpora (synthetic, localized, uniform, null) need no
preparing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `prepare`."""
    parser.epilog = EXAMPLES
    parser.add_argument("corpus", help="emodb, ravdess, or folder: your own recordings")
    parser.add_argument("--source", help="the owner's archive (zip) or a folder; without it, the archive is downloaded")
    parser.add_argument(
        "--data_dir", help="where corpora are kept (default: the environment's SER_JAX_DATA, else data)"
    )
    parser.add_argument("--force", action="store_true", help="prepare again what is already prepared")
    published = parser.add_argument_group("published corpora")
    published.add_argument(
        "--allow_mismatch",
        action="store_true",
        help="take files that are not those of the release: use changed ones, do without missing ones, leave out extra "
        "ones, and record which",
    )
    own = parser.add_argument_group("folder")
    own.add_argument("--name", help="the name of your corpus, for the other commands")
    own.add_argument("--table", help="CSV of the utterances; without it, --source has a folder per emotion")
    own.add_argument(
        "--emotions", help="the allowed emotions in the order of the classes, as a,b,c (default: all, sorted)"
    )
    own.add_argument(
        "--no_speakers",
        action="store_true",
        help="the table has no speakers; speaker-independent protocols will refuse the corpus",
    )


def run(args: argparse.Namespace) -> int:
    """Prepares the corpus and prints what it holds and what was verified."""
    from ser_jax.corpora import default_data_dir, packed_folder
    from ser_jax.corpora.prepare import prepare_corpus, prepare_folder
    from ser_jax.errors import UserError

    _refuse_foreign_flags(args)
    data_dir = args.data_dir or default_data_dir()
    if args.corpus == "folder":
        if not args.name or not args.source:
            raise UserError("prepare folder: expected --name NAME and --source FOLDER")
        emotions = [emotion.strip() for emotion in args.emotions.split(",")] if args.emotions else None
        corpus = prepare_folder(
            args.name,
            args.source,
            data_dir,
            table=args.table,
            emotions=emotions,
            speakers=not args.no_speakers,
            force=args.force,
        )
    else:
        corpus = prepare_corpus(
            args.corpus, args.source, data_dir, allow_mismatch=args.allow_mismatch, force=args.force
        )
    print(_summary(corpus))
    print(f"packed in     {packed_folder(corpus.name, data_dir)}")
    return 0


def _refuse_foreign_flags(args: argparse.Namespace) -> None:
    from ser_jax.errors import UserError

    own = {"--name": args.name, "--table": args.table, "--emotions": args.emotions, "--no_speakers": args.no_speakers}
    foreign = {"--allow_mismatch": args.allow_mismatch} if args.corpus == "folder" else own
    for flag, value in foreign.items():
        if value:
            raise UserError(f"prepare {args.corpus}: {flag} has no meaning here, see prepare --help")


def _summary(corpus: Corpus) -> str:
    from ser_jax.corpora.corpus import SAMPLE_RATE

    counts = corpus.utterances["emotion"].value_counts()
    speakers = corpus.utterances["speaker"].nunique() if corpus.info["speakers_known"] else "unknown"
    check = corpus.info["source_check"]
    lines = [
        f"corpus        {corpus.name}",
        f"utterances    {len(corpus.utterances)}",
        f"speakers      {speakers}",
        f"emotions      {', '.join(f'{emotion} {counts.get(emotion, 0)}' for emotion in corpus.emotions)}",
        f"minutes       {len(corpus.samples) / SAMPLE_RATE / 60:.1f}",
        f"fingerprint   {corpus.fingerprint}",
    ]
    differences = [kind for kind in ("missing", "extra", "changed") if check.get(kind)]
    outcome = "MISMATCH" if differences else "verified"
    lines.append(f"{outcome:<14}{check['files']} files against {check['verified_against']}")
    for kind in differences:
        names = ", ".join(check[kind][:5]) + (", ..." if len(check[kind]) > 5 else "")
        lines.append(f"{kind:<14}{len(check[kind])} files: {names}")
    return "\n".join(lines)
