"""Describe a corpus: speakers x emotions, lengths, levels, clipping, silence, copies, and what is unknown.

  python launch.py inspect CORPUS
  python launch.py inspect CORPUS --html corpus.html     # the same with pictures, in one file

Recordings that sound the same are found as by `audit`. Folds are not looked at; use `audit` for them.
"""

import argparse
from typing import Any

from ser_jax.commands.common import add_data_argument

_MOST_ROWS = 40  # of the table of speakers that is printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("corpus", help="a prepared corpus, or synthetic, localized, uniform, null")
    parser.add_argument("--html", metavar="FILE", help="write a page with pictures")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    add_data_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    import json
    from pathlib import Path

    from ser_jax.corpora import load_corpus
    from ser_jax.corpora.inspection import inspect
    from ser_jax.errors import UserError

    if args.html and not Path(args.html).resolve().parent.is_dir():
        raise UserError(f"--html {args.html}: no such folder as {Path(args.html).parent}")
    found = inspect(load_corpus(args.corpus, args.data_dir))
    if args.html:
        from ser_jax.files import atomic_file
        from ser_jax.report.inspection_page import page

        with atomic_file(args.html) as temporary:
            temporary.write_text(page(found, text(found)), encoding="utf-8")
    print(json.dumps(found, indent=1, ensure_ascii=False) if args.json else text(found))
    if args.html and not args.json:
        print(f"page          {args.html}")
    return 0


def text(found: dict[str, Any]) -> str:
    """Returns what `inspect` found as text: totals, speakers x emotions, then what deserves a look."""
    from ser_jax.numbers import count

    speakers = "unknown" if found["speakers"] is None else str(found["speakers"])
    genders = {"gender unknown" if name == "unknown" else name: number for name, number in found["genders"].items()}
    if list(genders) != ["gender unknown"]:
        speakers += f" ({', '.join(f'{name} {number}' for name, number in genders.items())})"
    lines = [
        f"corpus        {found['corpus']}",
        f"utterances    {found['utterances']}, {found['minutes']:.1f} minutes",
        f"speakers      {speakers}",
        f"seconds       {_spread(found['seconds'], '.2f')}",
        f"level, dB     {_spread(found['level_db'], '.0f')}",
    ]
    for name, values in found["dimensions"].items():
        lines.append(f"{name:<14}{_spread(values, '.3g')}; known of {values['known']}")
    for name in ("rates", "channels"):
        if found[name]:
            files = [f"{key}: {count(number, 'file')}" for key, number in found[name].items()]
            lines.append(f"{name:<14}{', '.join(files)}")
    unknown = [name for name, share in found["columns"].items() if share == 0]
    partly = [f"{name} {100 * share:.0f} %" for name, share in found["columns"].items() if 0 < share < 1]
    lines += [f"not known     {', '.join(unknown)}"] if unknown else []
    lines += [f"partly known  {', '.join(partly)}"] if partly else []
    lines += ["", *_table(found), ""]
    for name, words in (("silent", "silent"), ("soft", "softer than -60 dB"), ("clipped", "clipped")):
        lines += [f"- {words}: {len(found[name])}: {_some(found[name])}"] if found[name] else []
    for name, words in (("copies", "copies"), ("near_copies", "near copies")):
        groups = [" = ".join(group) for group in found[name]]
        lines += [f"- {words}: {len(groups)}: {_some(groups)}"] if groups else []
    if found["missing_cells"]:
        lines.append(
            f"- no utterance: {len(found['missing_cells'])} of {_cells(found)}: {_some(found['missing_cells'])}"
        )
    lines += [f"- labels: {said}" for said in found["labels"]]
    if found["left_out"]:
        lines.append(
            f"- left out as bad: {len(found['left_out'])}: {_some([one['where'] for one in found['left_out']])}"
        )
    return "\n".join(lines).rstrip()


def _table(found: dict[str, Any]) -> list[str]:
    rows, emotions = found["speakers_x_emotions"], list(found["emotions"])
    if not emotions:
        counts = [f"{speaker or '?'} {count}" for speaker, count in found["utterances_of_speakers"].items()]
        more = f", ... and {len(counts) - _MOST_ROWS} more speakers" if len(counts) > _MOST_ROWS else ""
        return [f"no emotions; utterances of each speaker: {', '.join(counts[:_MOST_ROWS])}{more}"]
    width = max(8, *(len(name) for name in rows))
    columns = [max(5, len(name)) for name in emotions]
    lines = [" ".join([f"{'':{width}}", *(f"{name:>{size}}" for name, size in zip(emotions, columns, strict=True))])]
    for speaker, row in list(rows.items())[:_MOST_ROWS]:
        cells = (f"{row[name]:>{size}}" for name, size in zip(emotions, columns, strict=True))
        lines.append(" ".join([f"{speaker or '?':{width}}", *cells]))
    if len(rows) > _MOST_ROWS:
        lines.append(f"... and {len(rows) - _MOST_ROWS} more speakers (--json, --html)")
    totals = (f"{found['emotions'][name]:>{size}}" for name, size in zip(emotions, columns, strict=True))
    return [*lines, " ".join([f"{'all':{width}}", *totals])]


def _cells(found: dict[str, Any]) -> int:
    return len(found["speakers_x_emotions"]) * len(found["emotions"])


def _spread(values: dict[str, Any], form: str) -> str:
    if values["median"] is None:
        return "none is known"
    return f"{values['least']:{form}} to {values['most']:{form}}, half of them {values['quarter']:{form}} to " + (
        f"{values['three_quarters']:{form}}"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
