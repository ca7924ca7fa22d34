"""Prints the emotions of recordings: any file that libsndfile reads, of any rate and length.

  python launch.py predict a.wav                          # by the model that comes with ser_jax
  python launch.py predict recordings/ --out emotions.csv
  python launch.py predict meeting.wav --timeline meeting.TextGrid --timeline meeting.png
  python launch.py predict a.wav b.flac --workdir runs/emodb

The probabilities are the mean over the workdir's runs (all folds and seeds), or over those of one fold or seed. A
recording longer than the model's window is averaged over windows. A model that is normalised by speaker takes the
recordings of one call as one speaker's, and needs some ten of them. A file that cannot be read is named on standard
error, the others are predicted, and the exit status is 2.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ser_jax.commands.common import start_jax

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ser_jax.api import Model
    from ser_jax.errors import UserError
    from ser_jax.statistics.abstention import Abstention
    from ser_jax.studies.heard_files import HeardFile

_TABLES = (".csv", ".parquet", ".jsonl")
_EMBEDDINGS = (".npz", ".parquet")
_TIMELINES = (".csv", ".jsonl", ".txt", ".TextGrid", ".png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="recordings (wav, flac, ogg, mp3, ...), folders of them, patterns with *, or - for standard input",
    )
    parser.add_argument("--microphone", metavar="SECONDS", type=float, help="record so long instead of reading files")
    model = parser.add_argument_group("the model")
    model.add_argument(
        "--workdir",
        metavar="DIR",
        help="a folder that `train`, `study` or `publish` made, or the name of a model that comes with ser_jax "
        "(default: emodb_encoder, or emodb where its encoder is not on this machine)",
    )
    model.add_argument("--variant", metavar="NAME", help="the variant to use, where the workdir has several")
    model.add_argument("--fold", metavar="NAME", help="only the runs of this fold")
    model.add_argument("--seed", metavar="N", type=int, help="only the runs of this seed")
    model.add_argument(
        "--data_dir", metavar="DIR", help="where pretrained encoders are, for a model that needs one (see `encoders`)"
    )
    model.add_argument(
        "--abstain",
        metavar="SHARE",
        type=float,
        help="give no emotion where the confidence is low: below the threshold that this share (0.2: a fifth) of the "
        "model's predictions for unseen speakers falls short of; UA with and without them is printed",
    )
    output = parser.add_argument_group(
        "what is written; of several recordings OUT-NAME in the place of OUT, or a folder"
    )
    output.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    output.add_argument("--out", metavar="FILE", help="write the table to FILE.csv, FILE.parquet or FILE.jsonl")
    output.add_argument(
        "--timeline",
        metavar="OUT",
        action="append",
        default=[],
        help="the emotions over time, a row for each window, as OUT.csv, OUT.jsonl, OUT.txt (labels for Audacity), "
        "OUT.TextGrid (Praat) or OUT.png; several times for several kinds",
    )
    output.add_argument("--window", metavar="SECONDS", type=float, help="of a timeline (default: the model's own)")
    output.add_argument("--hop", metavar="SECONDS", type=float, help="between two windows (default: half a window)")
    output.add_argument(
        "--embeddings", metavar="FILE", help="the input vectors of the classifier, as FILE.npz or FILE.parquet"
    )
    output.add_argument("--attention", metavar="OUT.png", help="draw the attention weights")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    import sys

    from ser_jax.errors import printed

    files, places = _checked(args)

    import numpy as np
    import pandas as pd

    from ser_jax import api
    from ser_jax.corpora.audio import printable
    from ser_jax.studies.heard_files import abstain, recognise

    start_jax()
    workdir, missing = args.workdir or api.DEFAULT, ""
    if not args.workdir and not args.attention:  # the more accurate model has no attention to draw
        workdir, missing = api.best_here(args.data_dir)
    model = api.load(workdir, variant=args.variant, fold=args.fold, seed=args.seed, data_dir=args.data_dir)
    if not args.workdir:
        print(f"model: {workdir}; its card is {model.folder}/README.md", file=sys.stderr)
    if missing:
        print(f"note: `python launch.py encoders get {missing}` enables a more accurate model", file=sys.stderr)
    abstention = model.abstention(args.abstain) if args.abstain is not None else None
    if abstention:
        print(f"note: {_cost(abstention)}", file=sys.stderr)
    if args.timeline:
        api.check_timeline(model.recogniser, args.hop, args.window)
    errors: list[UserError] = []
    tables, vectors = [], []
    for group in _groups(args, model, files, errors):
        table, embeddings = recognise(model.recogniser, group, errors, embeddings=bool(args.embeddings))
        tables.append(table if abstention is None else abstain(table, model.emotions, abstention))
        vectors.append(embeddings)
        well = [one for one in group if one.name in set(table["file"])]
        for one in well if args.timeline else []:
            _write_timelines(args, model, one, abstention, [place[one.name] for place in places["timeline"]])
        if args.attention and well:
            _draw_attention(model, well, places["attention"][0])
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"file": [], "notes": []})
    table["file"] = table["file"].map(printable)  # a name that is not UTF-8 can be in no table
    for file, notes in zip(table["file"], table["notes"], strict=True):
        if notes:
            print(f"note: {printed(f'{file}: {notes}')}", file=sys.stderr)
    if model.adapts and len(table):
        taken = f"the {len(table)} recordings are taken for one speaker's"
        known = taken if len(table) > 1 else "with one recording of a speaker it is lost"
        print(f"note: this model is normalised by speaker; {known}", file=sys.stderr)
    if args.embeddings and len(table):
        _write_embeddings(table["file"].tolist(), np.concatenate([own for own in vectors if len(own)]), args.embeddings)
    _tell(table, args.out, args.json)
    for error in errors:
        print(f"error: {printed(error)}", file=sys.stderr)
    return 2 if errors else 0


# --- What is asked for, checked before anything is computed. ---


def _checked(args: argparse.Namespace) -> tuple[list[str], dict[str, list[dict[str, Path]]]]:
    """Returns the files, and by option where the file about each of them goes."""
    from ser_jax.corpora.inputs import expand
    from ser_jax.errors import UserError

    if bool(args.files) == (args.microphone is not None):
        found = "both" if args.files else "neither"
        raise UserError(f"predict: found {found}, expected files, or --microphone SECONDS")
    for option in ("hop", "window"):
        if getattr(args, option) is not None and not args.timeline:
            raise UserError(f"--{option}: is of a timeline; expected --timeline beside it")
    files = ["microphone"] if args.microphone is not None else expand(args.files)
    _check_file("--out", args.out, _TABLES)
    _check_file("--embeddings", args.embeddings, _EMBEDDINGS)
    attention = [args.attention] if args.attention else []
    places = {
        "timeline": [_places("--timeline", path, files, _TIMELINES) for path in args.timeline],
        "attention": [_places("--attention", path, files, (".png",)) for path in attention],
    }
    written: list[tuple[str, str | Path | None]] = [("--out", args.out), ("--embeddings", args.embeddings)]
    written += [(f"--{name}", path) for name, own in places.items() for each in own for path in each.values()]
    options: dict[str, str] = {}
    for option, path in written:
        if path is None:
            continue
        other = options.setdefault(os.path.realpath(path), option)
        if other != option:
            raise UserError(f"{option} {path}: {other} writes this file too; expected another name")
    return files, places


def _check_file(option: str, path: str | None, suffixes: Sequence[str]) -> None:
    from ser_jax.errors import UserError

    if path is None:
        return
    if Path(path).suffix not in suffixes:
        raise UserError(f"{option} {path}: expected a name that ends in {', '.join(suffixes)}")
    if not Path(path).parent.is_dir():
        raise UserError(f"{option} {path}: no such folder as {Path(path).parent}")


def _places(option: str, path: str, files: Sequence[str], suffixes: Sequence[str]) -> dict[str, Path]:
    """Where the file about every recording goes.

    `path`, or of several recordings `path` with the recording's name; in a folder, the recording's name with the first
    suffix.
    """
    from ser_jax.errors import UserError

    names = {file: "stdin" if file == "-" else Path(file).stem for file in files}
    if Path(path).is_dir():
        places = {file: Path(path) / f"{name}{suffixes[0]}" for file, name in names.items()}
    else:
        _check_file(option, path, suffixes)
        out = Path(path)
        several = {file: out.with_name(f"{out.stem}-{name}{out.suffix}") for file, name in names.items()}
        places = several if len(files) > 1 else {files[0]: out}
    if len(set(places.values())) < len(files):
        raise UserError(f"{option} {path}: two recordings have the same name; take them one at a time")
    return places


def _groups(
    args: argparse.Namespace, model: "Model", files: Sequence[str], errors: "list[UserError]"
) -> "Iterator[list[HeardFile]]":
    """Yields the recordings, of files or of the microphone."""
    from ser_jax.corpora.microphone import record
    from ser_jax.studies.heard_files import from_samples, read_groups

    if args.microphone is None:
        yield from read_groups(model.recogniser, files, errors)
        return
    yield [from_samples(model.recogniser, files[0], record(args.microphone))]


# --- What is printed and written. ---


def _cost(abstention: "Abstention") -> str:
    """What an abstention costs, in one line."""
    said = (
        f"no emotion below a confidence of {abstention.threshold:.2f}; of {abstention.utterances} utterances "
        f"of unseen speakers {100 * abstention.coverage:.0f} % are answered, with {100 * abstention.ua:.1f} % UA, "
        f"where all have {100 * abstention.ua_all:.1f} %"
    )
    lost = f"; none that is {', '.join(abstention.unanswered)}" if abstention.unanswered else ""
    return said + lost


def _tell(table: "pd.DataFrame", out: str | None, as_json: bool) -> None:
    """Prints the table, or writes it to a file."""
    from ser_jax.files import atomic_file

    if out:
        with atomic_file(out) as temporary:
            _write_table(table, temporary, Path(out).suffix)
    if as_json:
        print(table.to_json(orient="records", lines=True, force_ascii=False, double_precision=15), end="")
    elif len(table) and not out:
        shown = table.drop(columns="notes")
        if "emotion" in shown:
            shown = shown.fillna({"emotion": "-"})
        print(shown.to_string(index=False, float_format="{:.3f}".format))


def _write_table(table: "pd.DataFrame", path: Path, suffix: str) -> None:
    if suffix == ".csv":
        table.to_csv(path, index=False)
    elif suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_json(path, orient="records", lines=True, force_ascii=False, double_precision=15)


def _write_embeddings(files: Sequence[str], vectors: "np.ndarray", path: str) -> None:
    """Writes `files` and `embeddings` [files, dims] as .npz, or as .parquet with a column for each dim, e0, e1 ..."""
    import numpy as np
    import pandas as pd

    from ser_jax.files import atomic_file

    vectors = vectors.astype(np.float32)
    with atomic_file(path) as temporary:
        if path.endswith(".npz"):
            with temporary.open("wb") as file:
                np.savez(file, files=np.array(files), embeddings=vectors)
        else:
            table = pd.DataFrame(vectors, columns=[f"e{i}" for i in range(vectors.shape[1])])
            table.insert(0, "file", list(files))
            table.to_parquet(temporary, index=False)


def _write_timelines(
    args: argparse.Namespace, model: "Model", one: "HeardFile", abstention: "Abstention | None", paths: Sequence[Path]
) -> None:
    from ser_jax import api
    from ser_jax.report.timeline import write_timeline
    from ser_jax.studies.heard_files import abstain
    from ser_jax.studies.recognise import probability_columns
    from ser_jax.studies.workdirs import recordings

    recording = recordings({one.name: one.waveform}, model.emotions)
    table = api.timeline_of(model.recogniser, recording, args.hop, args.window)
    columns = probability_columns(model.emotions)
    if abstention is not None:
        table = abstain(table, model.emotions, abstention)
    for path in paths:
        write_timeline(path, table, columns, f"{Path(one.name).name} ({model.name})")


def _draw_attention(model: "Model", group: "Sequence[HeardFile]", places: dict[str, Path]) -> None:
    from ser_jax.report.attention_figure import attention_figure
    from ser_jax.studies import restored

    waveforms = {one.name: one.waveform for one in group}
    for file, title, look in restored.look_at(model.recogniser.restored, waveforms, model.recogniser.runs[0]):
        attention_figure(look, title, places[file])
