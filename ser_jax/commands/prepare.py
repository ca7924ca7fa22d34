"""Verify recordings, resample them to 16 kHz, and pack them as a corpus for the other commands.

`prepare features` does the same for pre-extracted features: one array [frames, dims] or [dims] per utterance of a
corpus, in a folder of .npy or .npz files, or a .npz, .h5, .hdf5 or .parquet file. `prepare encoder CORPUS` computes
such features: the hidden states of a pretrained encoder (see `encoders`).
"""

from __future__ import annotations

import argparse
import os
import shlex
from typing import TYPE_CHECKING

from ser_jax.commands.common import add_label_arguments, label_changes

if TYPE_CHECKING:
    from ser_jax.corpora.corpus import Corpus
    from ser_jax.corpora.features import Packed

EXAMPLES = """examples:
  python launch.py prepare emodb --source DOWNLOADED.zip
  python launch.py prepare ravdess --source FOLDER_WITH_THE_WAVS
  python launch.py prepare folder --name calls --source RECORDINGS --table calls.csv
  python launch.py prepare folder --name calls --source FOLDER_WITH_A_FOLDER_PER_EMOTION
  python launch.py prepare folder --name calls --source RECORDINGS --table calls.csv --map angry=anger --skip bad
  python launch.py prepare merge --name both --corpora emodb,ravdess
  python launch.py prepare features --corpus emodb --name wavlm --source FILE_OR_FOLDER --frame_ms 20
  python launch.py prepare encoder emodb --encoder smart-turn-v3.2
  python launch.py prepare encoder emodb --encoder smart-turn-v3.2 --pooled

The table (CSV, TSV, JSON lines, Parquet) has the columns path (below --source), emotion and speaker, and optionally id,
gender, text, transcript, language, session, intensity, and start and end, for segments of long recordings; any further
column is kept (docs/your_corpus.md). A metadata.csv, .jsonl or .parquet in --source is taken without --table. Built-in
corpora (synthetic, localized, uniform, null) need no preparing. Features become
the input of a model by --config.frontend.kind=precomputed --config.frontend.features=wavlm; a .parquet table of them
has a column id and either lists, or a column per dim and, with several frames, a column frame.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `prepare`."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "what",
        help="emodb, ravdess or another published corpus (`launch.py corpora` lists them), folder: your own "
        "recordings, merge: several corpora as one, features: pre-extracted ones, or encoder: hidden states, for a "
        "prepared corpus",
    )
    parser.add_argument("corpus_of_states", nargs="?", metavar="CORPUS", help="of encoder: the prepared corpus")
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
    named = parser.add_argument_group("folder, merge and features")
    named.add_argument("--name", help="the name of your corpus, or of the features, for the other commands")
    own = parser.add_argument_group("folder")
    own.add_argument("--table", help="the utterances; without it, --source has a folder per emotion")
    own.add_argument(
        "--rename",
        metavar="OLD=NEW,...",
        help="what columns of the table mean: --rename Datei=path,Sprecher=speaker (--map renames emotions)",
    )
    own.add_argument(
        "--emotions", help="the allowed emotions in the order of the classes, as a,b,c (default: all, sorted)"
    )
    own.add_argument(
        "--no_speakers",
        action="store_true",
        help="the table has no speakers; speaker-independent protocols will refuse the corpus",
    )
    own.add_argument(
        "--skip", choices=("bad",), help="leave out what cannot be used, and name it in the corpus, audit and reports"
    )
    own.add_argument("--min_seconds", type=float, metavar="S", help="what is shorter cannot be used (default: 0.1)")
    own.add_argument(
        "--unify",
        action="store_true",
        help="treat names that differ only by case, zeros, spaces or signs as one, in the most frequent spelling",
    )
    labels = parser.add_argument_group("names of emotions (folder and merge)")
    add_label_arguments(labels)
    merge = parser.add_argument_group("merge")
    merge.add_argument("--corpora", help="the prepared corpora to merge, as a,b,c")
    features = parser.add_argument_group("features")
    features.add_argument("--corpus", help="the corpus that the features are of")
    features.add_argument(
        "--frame_ms", type=float, help="milliseconds from a frame to the next; not for one array [dims] per utterance"
    )
    features.add_argument("--dims", help="names of the dims, as a,b,c, if the source has none")
    features.add_argument("--licence", help="a note on the licence of the features, kept with them")
    encoder = parser.add_argument_group("encoder; the features are called ENCODER.frames or ENCODER.pooled, or --name")
    encoder.add_argument("--encoder", help="name of the encoder (`encoders` lists them)")
    encoder.add_argument("--pooled", action="store_true", help="mean and deviation of each state, instead of frames")
    encoder.add_argument("--layers", help="layers, as 0,1,2,final: 0 is the input of the first layer (default: all)")
    encoder.add_argument(
        "--window_seconds",
        type=float,
        help="longer utterances are encoded in equal parts of at most that (default: 20, or the encoder's limit)",
    )
    encoder.add_argument(
        "--trim_db",
        type=float,
        help="leave out leading and trailing frames this many dB below the loudest (default: 0, none)",
    )
    encoder.add_argument("--average", type=int, help="keep the means of so many consecutive frames (default: 1, all)")
    encoder.add_argument(
        "--speeds",
        help="with --pooled: encode each utterance at these speeds, as a slower or faster tape, and keep all "
        "versions: --speeds 0.88,0.94,1,1.06,1.12 (default: 1)",
    )
    encoder.add_argument(
        "--dtype",
        choices=("float16", "bfloat16", "float32"),
        help="type of the stored states (default: float16; with --pooled float32)",
    )


def run(args: argparse.Namespace) -> int:
    """Prepares the corpus or the features and prints what there is and what was verified."""
    from ser_jax.corpora import default_data_dir, packed_folder

    _refuse_foreign_flags(args)
    data_dir = args.data_dir or default_data_dir()
    if args.what == "features":
        return _prepare_features(args, data_dir)
    if args.what == "encoder":
        return _prepare_states(args, data_dir)
    corpus = _prepare_corpus(args, data_dir)
    print(_summary(corpus))
    print(f"packed in     {packed_folder(corpus.name, data_dir)}")
    print(f"next          {_next(corpus, args.data_dir)}")
    return 0


def _next(corpus: Corpus, data_dir: str | None) -> str:
    """The commands that a corpus in `--data_dir` is looked at with, and what is trained on it first."""
    speakers, steps = corpus.utterances["speaker"].nunique(), [f"inspect {corpus.name}"]
    if _can_leave_one_out(corpus):
        folds = f" {_MANY_FOLDS}" if speakers > _FEW_SPEAKERS else ""
        steps += [f"audit {corpus.name}", f"study configs/baselines.py:{corpus.name}{folds} --dry_run"]
    return ", ".join(f"`{step}{_in_folder(data_dir)}`" for step in steps)


def _can_leave_one_out(corpus: Corpus) -> bool:
    """Whether there are known speakers to train on beside one who is left out."""
    from ser_jax.corpora.protocols import speakers_known

    return speakers_known(corpus) and corpus.utterances["speaker"].nunique() > 1


def _in_folder(data_dir: str | None) -> str:
    return f" --data_dir {shlex.quote(data_dir)}" if data_dir else ""


def _prepare_corpus(args: argparse.Namespace, data_dir: str | os.PathLike) -> Corpus:
    from ser_jax.corpora import layouts
    from ser_jax.corpora.labels import parse_map
    from ser_jax.corpora.merge import merge_corpora
    from ser_jax.corpora.prepare import Options, check_name, prepare_corpus, prepare_folder, prepare_layout
    from ser_jax.errors import UserError

    if args.what == "merge":
        if not args.name or not args.corpora:
            raise UserError("prepare merge: expected --name NAME and --corpora CORPUS,CORPUS")
        if args.source:
            raise UserError("prepare merge: --source has no meaning here, see prepare --help")
        check_name(args.name)
        return merge_corpora(args.name, _split(args.corpora), data_dir, label_changes(args))
    if args.what not in ("folder", *layouts.names()):
        return prepare_corpus(args.what, args.source, data_dir, allow_mismatch=args.allow_mismatch, force=args.force)
    if args.what == "folder" and not (args.name and args.source):
        raise UserError("prepare folder: expected --name NAME and --source FOLDER")
    if not args.source:
        raise UserError(f"prepare {args.what}: expected --source FOLDER, from {layouts.load(args.what).homepage}")
    options = Options(
        table=args.table,
        emotions=_split(args.emotions),
        speakers=not args.no_speakers,
        renamed=parse_map(args.rename, "--rename", "Datei=path,Sprecher=speaker") if args.rename else {},
        labels=label_changes(args, unify=args.unify),
        skip_bad=args.skip == "bad",
        force=args.force,
        **({} if args.min_seconds is None else {"min_seconds": args.min_seconds}),
    )
    if args.what != "folder":
        return prepare_layout(args.what, args.source, data_dir, options)
    return prepare_folder(args.name, args.source, data_dir, options)


def _prepare_features(args: argparse.Namespace, data_dir: str | os.PathLike) -> int:
    from ser_jax.corpora import load_corpus
    from ser_jax.corpora.features import features_folder, pack_features
    from ser_jax.errors import UserError

    if not args.corpus or not args.name or not args.source:
        raise UserError("prepare features: expected --corpus CORPUS, --name NAME and --source FILE_OR_FOLDER")
    corpus = load_corpus(args.corpus, data_dir)
    packed = pack_features(
        args.name,
        args.source,
        corpus,
        data_dir,
        args.frame_ms or 0.0,
        names=_split(args.dims),
        licence=args.licence or "",
    )
    print(_features_summary(packed, corpus))
    print(f"packed in     {features_folder(corpus.name, packed.name, data_dir)}")
    return 0


def _prepare_states(args: argparse.Namespace, data_dir: str | os.PathLike) -> int:
    from ser_jax.corpora import load_corpus
    from ser_jax.corpora.features import features_folder
    from ser_jax.encoders import catalogue, extract, store
    from ser_jax.errors import UserError

    if not args.corpus_of_states or not args.encoder:
        raise UserError("prepare encoder: expected a corpus and --encoder NAME")
    store.refuse_folder(args.encoder, data_dir)
    encoder = store.load(args.encoder, data_dir)  # before the corpus, which may have to be made
    corpus = load_corpus(args.corpus_of_states, data_dir)
    form = "pooled" if args.pooled else "frames"
    layers, trim_db, average = _split(args.layers), args.trim_db or 0.0, 1 if args.average is None else args.average
    request = extract.make_request(
        encoder.architecture,
        form,
        layers,
        args.window_seconds,
        args.dtype,
        trim_db,
        average,
        _numbers("--speeds", args.speeds) or [1.0],
    )
    packed = extract.prepare_states(corpus, encoder, request, data_dir, name=args.name, force=args.force)
    print(_features_summary(packed, corpus))
    print(f"states        {', '.join(request.states)}")
    print(f"encoder       {encoder.name} ({encoder.licence or 'licence unknown'}), sha256 {encoder.sha256}")
    print(f"packed in     {features_folder(corpus.name, packed.name, data_dir)}")
    has_study = args.name is None and (args.pooled or len(request.states) == _STATES_OF_STUDY)
    if has_study and _can_leave_one_out(corpus):
        other = "" if encoder.name == catalogue.DEFAULT else encoder.name
        print(f"next          {_next_of_states(args.corpus_of_states, other, args.pooled, args.data_dir)}")
    return 0


def _next_of_states(corpus: str, encoder: str, pooled: bool, data_dir: str | None) -> str:
    """The command of the study that takes hidden states; `encoder` is "" for the one that its configuration names."""
    config = f"encoder.py:{corpus}" if pooled else f"studies/attention.py:{corpus},encoder_pooling"
    last = f",{encoder}" if encoder else ""
    return f"`study configs/{config}{last} --dry_run{_in_folder(data_dir)}`"


def _split(names: str | None) -> list[str] | None:
    return [name.strip() for name in names.split(",")] if names else None


def _numbers(flag: str, text: str | None) -> list[float]:
    from ser_jax.errors import UserError
    from ser_jax.numbers import to_float

    try:
        return [to_float(number) for number in _split(text) or []]
    except ValueError:
        raise UserError(f"{flag} {text}: expected numbers, as 0.9,1,1.1") from None


_FEW_SPEAKERS = 20  # of whom each can be left out in turn without hours of training
_MANY_FOLDS = "--config.protocol.name=grouped_k_fold --config.protocol.num_folds=5"

_STATES_OF_STUDY = 3  # that the heads of configs/studies/attention.py take

_FLAGS = {  # that only some of what can be prepared has
    "folder": (
        *(
            "name",
            "table",
            "rename",
            "emotions",
            "no_speakers",
            "skip",
            "min_seconds",
            "unify",
            "map",
            "synonyms",
            "drop",
        ),
    ),
    "merge": ("name", "corpora", "map", "synonyms", "drop"),
    "features": ("name", "corpus", "frame_ms", "dims", "licence"),
    "encoder": (
        "name",
        "corpus_of_states",
        "encoder",
        "pooled",
        "layers",
        "window_seconds",
        "dtype",
        "trim_db",
        "average",
        "speeds",
    ),
    "published": ("allow_mismatch",),
    "layout": ("emotions", "skip", "min_seconds", "map", "synonyms", "drop"),
}


def _refuse_foreign_flags(args: argparse.Namespace) -> None:
    from ser_jax.corpora import layouts
    from ser_jax.errors import UserError

    own = _FLAGS.get(args.what, _FLAGS["layout" if args.what in layouts.names() else "published"])
    for flag in dict.fromkeys(flag for flags in _FLAGS.values() for flag in flags):
        if getattr(args, flag) not in (None, False) and flag not in own:
            spelled = args.corpus_of_states if flag == "corpus_of_states" else f"--{flag}"
            raise UserError(f"prepare {args.what}: {spelled} has no meaning here, see prepare --help")


def _features_summary(packed: Packed, corpus: Corpus) -> str:
    from ser_jax.corpora.corpus import SAMPLE_RATE

    dims = ", ".join(packed.names[:5]) + (", ..." if len(packed.names) > 5 else "")
    lines = [
        f"features      {packed.name} of {corpus.name}",
        f"utterances    {len(packed.start)}, all of the corpus",
        f"dims          {len(packed.names)} ({dims}), {packed.values.dtype}",
        f"frames        {len(packed.values)}, {packed.num_frames.min()} to {packed.num_frames.max()} per utterance",
    ]
    if packed.frame_ms:
        minutes = len(packed.values) * packed.frame_ms / 60_000
        speech = len(corpus.samples) / SAMPLE_RATE / 60
        lines.append(f"minutes       {minutes:.1f} at {packed.frame_ms:g} ms a frame; the corpus has {speech:.1f}")
    return "\n".join([*lines, f"fingerprint   {packed.fingerprint}"])


def _summary(corpus: Corpus) -> str:
    from ser_jax.corpora.audio import NOTES
    from ser_jax.corpora.corpus import SAMPLE_RATE
    from ser_jax.corpora.labels import look_alike, spellings_of_texts
    from ser_jax.corpora.protocols import speakers_known
    from ser_jax.corpora.targets import DIMENSIONS, range_of
    from ser_jax.numbers import count

    counts = corpus.utterances["emotion"].value_counts()
    speakers = corpus.utterances["speaker"].nunique() if speakers_known(corpus) else "unknown"
    check = corpus.info["source_check"]
    lines = [
        f"corpus        {corpus.name}",
        f"utterances    {len(corpus.utterances)}",
        f"speakers      {speakers}",
        f"emotions      {', '.join(f'{emotion} {counts.get(emotion, 0)}' for emotion in corpus.emotions) or 'none'}",
        f"minutes       {len(corpus.samples) / SAMPLE_RATE / 60:.1f}",
        f"fingerprint   {corpus.fingerprint}",
    ]
    for name in [name for name in DIMENSIONS if name in corpus.utterances]:
        least, most, known = range_of(corpus.utterances, name)
        lines.append(f"{name:<14}{f'{least:g} to {most:g}, ' if known else ''}known of {known} utterances")
    differences = [kind for kind in ("missing", "extra", "changed") if check.get(kind)]
    outcome = "MISMATCH" if differences else "verified"
    # As "nothing: your own recordings" or "nothing anew: packed before as ..."
    nothing, _, whose = check["verified_against"].partition(": ")
    if nothing.startswith("nothing"):
        lines.append(f"files         {check['files']}, not compared with a release: {whose}")
    else:
        lines.append(f"{outcome:<14}{check['files']} files, compared with {check['verified_against']}")
    for kind in differences:
        lines.append(f"{kind:<14}{len(check[kind])} files: {_some(check[kind])}")
    lines += [f"labels        {said}" for said in corpus.info.get("labels", [])]
    lines += [f"left out      {left['where']}: {left['what']}" for left in corpus.info.get("left_out", [])[:20]]
    if len(corpus.info.get("left_out", [])) > 20:
        lines.append(f"left out      {len(corpus.info['left_out']) - 20} more, all in corpus.json")
    unused = corpus.info.get("unused", {"files": 0})
    if unused["files"]:
        lines.append(
            f"not used      {count(unused['files'], 'audio file')} that no row names: {_some(unused['first'])}"
        )
    for kind, ids in corpus.info.get("notes", {}).items():
        lines.append(f"{NOTES[kind]}: {len(ids)} recordings: {_some(ids)}")
    empty = [emotion for emotion in corpus.emotions if emotion not in counts]
    if corpus.info.get("left_out") and empty:
        lines.append(
            f"note: there is no utterance of {', '.join(empty)}; --drop {','.join(empty)} leaves the class out"
        )
    alike = look_alike(corpus.emotions)
    if alike:
        lines.append(f"note: {', '.join(alike)} look alike; if they are one emotion, --map merges them")
    spellings = [" = ".join(map(repr, alike)) for alike in spellings_of_texts(corpus.utterances["text"])]
    if spellings:
        lines.append(
            f"note: texts that differ by case, spaces or signs alone count as one text: {len(spellings)}: "
            f"{_some(spellings)}"
        )
    return "\n".join(lines)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
