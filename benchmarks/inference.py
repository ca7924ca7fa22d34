"""A trained model on one utterance of 3 s, and on a thousand, against PyTorch and ONNX Runtime.

python -m benchmarks.inference [--model NAME ...] [--option NAME=VALUE ...] [--utterances 1000] [--batch 50]

From log-mel to logits, which all three compute from the same weights; ONNX Runtime runs the export of the PyTorch twin.
Ours has its weights as constants of the program, as the export has. Ours from the waveform on, log-mel included, is
given beside them. Latency is one utterance at a time, fifty in a turn; throughput is batches. The logits are compared
before anything is timed. Then all take turns. Compiling, exporting and loading are apart. A twin that cannot be
exported has no ONNX row, and the reason is printed.
Prints a table, and a JSON line for each contestant to stderr.
"""

import argparse
import contextlib
import copy
import importlib
import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.common import (
    REFERENCES,
    add_model_arguments,
    agree,
    chosen_models,
    done,
    emit,
    take_turns,
    timed,
)
from benchmarks.models import TWINS
from ser_jax import machine
from ser_jax.frontend import Frontend, features
from ser_jax.models import build

sys.path.insert(0, str(REFERENCES))

NUM_CLASSES = 7
SAMPLE_RATE = 16_000
CALLS = 50  # with one utterance, of a turn


def main() -> None:
    """Times every model and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser, TWINS)
    parser.add_argument("--seconds", type=float, default=3.0, help="of an utterance")
    parser.add_argument("--hop_ms", type=float, default=20.0)
    parser.add_argument("--utterances", type=int, default=1000, help="for the throughput; 0 leaves it out")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=20, help="turns of one utterance at a time")
    parser.add_argument("--turns", type=int, default=3, help="turns of all utterances")
    parser.add_argument("--threads", type=int, default=machine.cores(), help="of PyTorch and ONNX Runtime")
    parser.add_argument("--torch_device", default="cpu", help="of PyTorch; ONNX Runtime takes what it has")
    args = parser.parse_args()
    chosen = chosen_models(parser, args, ["shufflenet_v2", "transformer", "crnn", "rnn"])
    torch.set_num_threads(args.threads)
    print(f"{'':34}{'one':>10}{'against ours':>14}{'in batches':>12}{'against ours':>14}{'ready after':>13}")
    for name, options in chosen:
        benchmark(name, options, args)


def benchmark(name: str, options: dict[str, str], args: argparse.Namespace) -> None:
    """Times one model and prints its rows."""
    model = build(name, NUM_CLASSES, **options)
    options = {option: getattr(model, option) for option in options}
    net, variables = twin_of(name, options, model, args.features)
    frontend = Frontend(num_mels=args.features, hop_ms=args.hop_ms)
    rng = np.random.default_rng(0)
    samples = round(args.seconds * SAMPLE_RATE)
    waveforms = {size: 0.1 * rng.standard_normal((size, samples), np.float32) for size in (1, args.batch)}
    inputs = {size: log_mel(frontend, waveform) for size, waveform in waveforms.items()}

    rows: dict[str, dict[int, Callable]] = {}
    ready = {}
    makers = {
        "ser_jax": lambda size: jax_program(model, variables, inputs[size]),
        "PyTorch": lambda size: torch_program(net, inputs[size], name, args.torch_device),
        "ONNX Runtime": lambda size: onnx_program(net, inputs[size], name, args.threads),
        "ser_jax, from the waveform": lambda size: jax_program(model, variables, waveforms[size], frontend),
    }
    for contestant, make in makers.items():
        try:
            rows[contestant], ready[contestant] = timed(lambda make=make: {size: make(size) for size in inputs})
        except ImportError as error:
            print(f"  {name}, {contestant}: left out ({error})")
        except Exception as error:
            if contestant != "ONNX Runtime":
                raise
            print(f"  {name}: PyTorch cannot export it ({type(error).__name__}: {str(error).splitlines()[0][:80]})")
    agree(name, {contestant: calls[args.batch]() for contestant, calls in rows.items()}, 1e-3)

    def repeated(size: int, times: int) -> dict[str, Callable]:
        return {name: lambda call=calls[size]: [call() for _ in range(times)] for name, calls in rows.items()}

    one = take_turns(repeated(1, CALLS), args.repeats)
    batches = -(-args.utterances // args.batch)
    many = take_turns(repeated(args.batch, batches), args.turns) if batches else {}
    for contestant in rows:
        figures: dict[str, Any] = {
            "model": name,
            "options": options,
            "contestant": contestant,
            "one_seconds": float(np.median(one[contestant])) / CALLS,
            "one_against_ours": float(np.median(one[contestant] / one["ser_jax"])),
            "ready_seconds": ready[contestant],
        }
        label = name if contestant == "ser_jax" else f"  {contestant.removeprefix('ser_jax, ')}"
        text = f"{label:34}{1e3 * figures['one_seconds']:7.2f} ms{figures['one_against_ours']:13.2f}x"
        if batches:
            figures["utterances_per_second"] = batches * args.batch / float(np.median(many[contestant]))
            figures["many_against_ours"] = float(np.median(many[contestant] / many["ser_jax"]))
            text += f"{figures['utterances_per_second']:10.0f}/s{figures['many_against_ours']:13.2f}x"
        else:
            text += f"{'':26}"
        setting = {key: value for key, value in vars(args).items() if key not in ("model", "option")}
        emit("inference", **figures, **setting)
        print(f"{text}{ready[contestant]:11.1f} s", flush=True)


def twin_of(name: str, options: dict[str, Any], model: Any, num_features: int) -> tuple[torch.nn.Module, Any]:
    """The PyTorch twin, ready for evaluation, and its weights as our model's variables."""
    module, network = importlib.import_module(TWINS[name][0]), TWINS[name][1]
    torch.manual_seed(0)
    sizes = () if name == "shufflenet_v2" else (num_features,)
    net = getattr(module, network)(NUM_CLASSES, *sizes, **options)
    example = jnp.zeros((1, 64, num_features)), jnp.full(1, 64)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *example, train=False))
    return net.eval(), jax.tree.map(jnp.array, module.variables_of(net, shapes))


def log_mel(frontend: Frontend, waveform: np.ndarray) -> np.ndarray:
    """Normalised log-mel, [batch, frames, features]."""
    program = jax.jit(lambda waveform, lengths: features(frontend, waveform, lengths)[0])
    return np.asarray(program(waveform, np.full(len(waveform), waveform.shape[1], np.int32)))


def jax_program(model: Any, variables: Any, inputs: np.ndarray, frontend: Frontend | None = None) -> Callable:
    """Our model, compiled; with a `frontend`, from the waveform on."""

    def forward(inputs: jax.Array, lengths: jax.Array) -> jax.Array:
        if frontend is not None:
            inputs, lengths = features(frontend, inputs, lengths)
        return model.apply(variables, inputs, lengths, train=False).logits

    lengths = jnp.full(len(inputs), inputs.shape[1], jnp.int32)
    program = jax.jit(forward).lower(inputs, lengths).compile()

    def call() -> jax.Array:
        logits = program(inputs, lengths)
        done(logits)
        return logits

    return call


def torch_inputs(inputs: np.ndarray, name: str) -> tuple[torch.Tensor, ...]:
    """What a twin takes."""
    if name == "shufflenet_v2":
        return (torch.from_numpy(inputs)[:, None],)
    return torch.from_numpy(inputs), torch.full((len(inputs),), inputs.shape[1])


def torch_program(net: torch.nn.Module, inputs: np.ndarray, name: str, device: str) -> Callable:
    """The twin; the logits come to the host, so that the clock waits for its device."""
    net = copy.deepcopy(net).to(device)
    arguments = [argument.to(device) for argument in torch_inputs(inputs, name)]

    def call() -> np.ndarray:
        with torch.inference_mode(), torch.device(device):  # the twins make their masks on the default device
            return net(*arguments).cpu().numpy()

    return call


def onnx_program(net: torch.nn.Module, inputs: np.ndarray, name: str, threads: int) -> Callable:
    """The twin's export for this batch, in ONNX Runtime."""
    import onnxruntime

    arguments = torch_inputs(inputs, name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        names = ["features", "lengths"][: len(arguments)]
        # The older exporter knows packed sequences, the newer one knows scaled dot-product attention.
        old = not any(isinstance(part, torch.nn.MultiheadAttention) for part in net.modules())
        with contextlib.redirect_stdout(io.StringIO()):
            torch.onnx.export(net, arguments, path, input_names=names, dynamo=not old, opset_version=17 if old else 18)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=onnxruntime.get_available_providers())
    kept = {entry.name for entry in session.get_inputs()}  # the export drops an input that its trace made a constant
    feed = {key: value.numpy() for key, value in zip(names, arguments, strict=True) if key in kept}
    return lambda: session.run(None, feed)[0]


if __name__ == "__main__":
    main()
