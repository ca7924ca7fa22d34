"""Writes a trained model as a file that runs without ser_jax: a waveform in, probabilities of the emotions out.

  python launch.py export emodb --to stablehlo --out emodb.stablehlo
  python launch.py export emodb --to onnx --out emodb.onnx
  python launch.py export runs/calls --to savedmodel --out calls.savedmodel --seconds 60 --recordings a.wav b.wav

The file takes a recording as float32 at 16 kHz, padded with zeros to --seconds, and its number of samples. FILE.json in
the same folder names the emotions. Before the file is kept, it is tested in its own runtime, in a process without
ser_jax, on one core, on the recordings given or on built-in voices. If a probability differs from the model's by more
than 1e-4 (0.05 with --int8), nothing is written. docs/exporting.md shows how to use it.
"""

import argparse

from ser_jax.commands.common import start_jax

# What each format imports, of the extra "export". The formats themselves import JAX.
MODULES = {
    "stablehlo": (),
    "onnx": ("tensorflow", "tf2onnx", "onnxruntime"),
    "savedmodel": ("tensorflow",),
    "tflite": ("tensorflow", "ai_edge_litert"),
}
TARGETS = tuple(MODULES)
TOLERANCE = 1e-4
TOLERANCE_INT8 = 0.05
_REPEATS = 5  # calls of which the median is the latency
_VOICES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("model", metavar="MODEL", help="a folder that `train`, `study` or `publish` made, or emodb")
    parser.add_argument("--to", required=True, metavar="FORMAT", help=f"one of {', '.join(TARGETS)}")
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write, and FILE.json")
    parser.add_argument(
        "--recordings",
        nargs="+",
        default=[],
        metavar="FILE",
        help="recordings for the comparison with the model (default: built-in voices)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="length of the longest recording (default: 30, or an encoder's window)",
    )
    parser.add_argument("--int8", action="store_true", help="weights of 8 bits")
    parser.add_argument("--data_dir", metavar="DIR", help="where its encoder is (default: SER_JAX_DATA, else ./data)")
    parser.add_argument("--variant", metavar="NAME", help="the variant to use, where the workdir has several")
    parser.add_argument("--fold", metavar="NAME", help="only the runs of this fold")
    parser.add_argument("--seed", metavar="N", type=int, help="only the runs of this seed")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    import json
    from pathlib import Path

    from ser_jax.errors import UserError
    from ser_jax.files import atomic_file, atomic_folder

    _check(args)
    out = Path(args.out)

    import numpy as np

    from ser_jax import api
    from ser_jax.corpora.corpus import SAMPLE_RATE
    from ser_jax.export import program as programs
    from ser_jax.export import runtime
    from ser_jax.export.formats import FORMATS
    from ser_jax.numbers import count
    from ser_jax.studies import baselines, workdirs

    start_jax()
    form = FORMATS[args.to]
    found = workdirs.find(api.find_folder(args.model), args.variant, option="model")
    if len(found) == 1:  # several are refused next
        seconds = programs.check_exportable(found[0].metadata, args.seconds, args.model)
    model = api.load(args.model, variant=args.variant, fold=args.fold, seed=args.seed, data_dir=args.data_dir)
    restored = model.recogniser.restored
    waveforms = _recordings(args.recordings)
    if restored.is_baseline:
        folds = baselines.load_folds(restored.folder)
        recogniser = programs.of_linear([folds[run["fold"]] for run in model.runs])
    else:
        recogniser = programs.of_network(restored.metadata, restored.folder, model.recogniser.runs, args.int8)
    program = programs.make_program(restored.metadata, recogniser, seconds, args.data_dir, args.int8)
    for name, waveform in waveforms.items():
        if len(waveform) > program.max_samples:
            length = len(waveform) / SAMPLE_RATE
            raise UserError(f"{name}: {length:.1f} s, longer than --seconds {seconds:g}; expected a larger one")
        if reason := model.recogniser.refusal(waveform):
            raise UserError(f"{name}: {reason}")
    expected = model.recogniser.predict(workdirs.recordings(waveforms, model.emotions), False).probabilities
    with (atomic_folder if form.is_folder else atomic_file)(out) as temporary:
        num_int8 = form.write(program, temporary)
        size = sum(path.stat().st_size for path in [temporary, *temporary.rglob("*")] if path.is_file())
        heard = [waveform / np.float32(32768) for waveform in waveforms.values()]
        ran = runtime.run(form.load, form.runtime, temporary, program.max_samples, heard, _REPEATS)
        largest = float(np.max(np.abs(ran.probabilities - expected)))
        most = TOLERANCE_INT8 if args.int8 else TOLERANCE
        if not largest <= most:
            raise UserError(
                f"{out}: its probabilities differ from the model's by {largest:.2g}, expected at most {most:g}; "
                "nothing was written"
            )
        with atomic_file(out.with_name(f"{out.name}.json")) as described:
            about = {"format": args.to, "emotions": list(model.emotions), "sample_rate": SAMPLE_RATE}
            described.write_text(json.dumps(about | {"max_samples": program.max_samples}, indent=1) + "\n")
    print(f"{out}: {size / 1e6:.2f} MB; {out}.json names the emotions")
    compared = count(len(waveforms), "recording")
    where = f"on {compared}, in {form.runtime}"
    print(f"largest difference from the model {where}: {largest:.2g} (at most {most:g})")
    if args.int8:
        missed = program.num_rounded - num_int8
        more = f"; {missed:,} more are rounded but stay float32: the converter merged their axes" if missed > 0 else ""
        share = 100 * num_int8 / program.num_weights
        print(f"weights of 8 bits: {num_int8:,} of {program.num_weights:,} ({share:.1f} %){more}")
        changed = np.sum(np.argmax(ran.probabilities, axis=1) != np.argmax(expected, axis=1))
        print(f"another emotion than the model's: {changed} of {compared}")
    lengths = np.array([len(waveform) / SAMPLE_RATE for waveform in waveforms.values()])
    print(
        f"median time on one core: {1000 * np.median(ran.seconds):.1f} ms, of recordings of {np.median(lengths):.1f} s"
    )
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuses options that cannot be had, before anything is loaded."""
    from pathlib import Path

    from ser_jax import extras
    from ser_jax.errors import UserError, did_you_mean

    if args.to not in TARGETS:
        raise UserError(f"--to {args.to}: not a format{did_you_mean(args.to, TARGETS)}")
    extras.require("export", f"--to {args.to}", *MODULES[args.to])
    if args.seconds is not None and not 0 < args.seconds <= 600:
        raise UserError(f"--seconds {args.seconds:g}: expected more than 0 and at most 600")
    out = Path(args.out)
    if out.suffix != f".{args.to}":
        raise UserError(f"--out {out}: expected a name that ends in .{args.to}")
    kind = "folder" if args.to == "savedmodel" else "file"
    taken = out.exists() if args.to == "savedmodel" else out.is_dir()
    if taken or not out.parent.is_dir():
        raise UserError(f"--out {out}: expected a {'new ' if taken else ''}{kind} in a folder that is there")
    if (out.parent / "model.safetensors").exists():
        raise UserError(
            f"--out {out}: its folder is a published model, which is never changed; expected another folder"
        )


def _recordings(files: list[str]) -> dict:
    """The 16-bit samples of recordings by their names, or of built-in voices where none is given.

    Soft ones are scaled up, as the model and the program scale floating point.
    """
    import numpy as np

    from ser_jax.corpora.audio import heard, read_recording
    from ser_jax.corpora.corpus import SAMPLE_RATE, waveform
    from ser_jax.corpora.synthetic import make_synthetic

    if files:
        read = {file: read_recording(file).samples / np.float32(32768) for file in dict.fromkeys(files)}
        return {file: heard(file, samples, SAMPLE_RATE).samples for file, samples in read.items()}
    voices = make_synthetic("synthetic", num_speakers=_VOICES, utterances_per_speaker=1)
    return {f"built-in voice {row + 1}": waveform(voices, row) for row in range(len(voices.utterances))}
