"""Hours of speech that a pretrained encoder processes in an hour, against transformers and ONNX Runtime.

python -m benchmarks.extraction [--shape NAME ...] [--seconds 3] [--batch 16] [--precision float32] [--turns 5]

Encoders of published shapes with random weights, which all contestants load from one checkpoint folder. From a batch of
waveforms to the mean of the last hidden state over frames. Transformers attends by PyTorch's fused operation where it
has that, which WavLM does not. It and ONNX Runtime, which runs its export, are given Whisper's log-mel for nothing,
positions cut to the recordings' length. The means are compared before anything is timed. The share of the limit, ours
alone, sets the products and convolutions, as PyTorch counts them, against a product of large matrices on the same
device. A shape that fails is named at the end, and the others are measured.
Prints a table, and a JSON line for each contestant to stderr.
"""

import argparse
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import agree, done, emit, take_turns, timed
from ser_jax import machine
from ser_jax.encoders import store
from ser_jax.encoders.weights import make_module
from ser_jax.encoders.whisper import log_mel

SAMPLE_RATE = 16_000
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {  # family, and what differs from its configuration's defaults
    "small": ("Whisper", {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}),
    "whisper_tiny": ("Whisper", {}),
    "wav2vec2_base": ("Wav2Vec2", {}),
    "wavlm_large": ("WavLM", _LARGE | {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "whisper_large": (
        "Whisper",
        {
            "d_model": 1280,
            "encoder_layers": 32,
            "encoder_attention_heads": 20,
            "encoder_ffn_dim": 5120,
            "num_mel_bins": 128,
        },
    ),
}
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}  # of the largest value


def main() -> None:
    """Times every shape and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=sorted(SHAPES), help="only this one; may be repeated")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a recording")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", choices=sorted(TOLERANCE), default="float32")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=machine.cores(), help="of PyTorch and ONNX Runtime")
    parser.add_argument("--torch_device", default="cpu", help="of PyTorch; ONNX Runtime is measured on a CPU alone")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    failed = []
    for shape in args.shape or ["whisper_tiny", "wav2vec2_base"]:
        try:
            benchmark(shape, args)
        except (Exception, SystemExit) as error:  # the others are to be measured
            failed.append(f"{shape}: {str(error) or type(error).__name__}".splitlines()[0])
            print(failed[-1], flush=True)
    if failed:
        raise SystemExit("; ".join(failed))


def benchmark(shape: str, args: argparse.Namespace) -> None:
    """Times one shape and prints its rows."""
    samples = round(args.seconds * SAMPLE_RATE) // 320 * 320  # whole frames of Whisper
    waveforms = 0.1 * np.random.default_rng(0).standard_normal((args.batch, samples), np.float32)
    net = reference(shape, samples)
    with tempfile.TemporaryDirectory() as folder:
        net.save_pretrained(folder)
        (Path(folder) / "preprocessor_config.json").write_text('{"sampling_rate": 16000, "do_normalize": false}')
        encoder = store.load(folder)
        for part in net.modules():  # which the export does not know
            if is_parametrized(part, "weight"):
                remove_parametrizations(part, "weight")
        inputs = waveforms
        if shape_is_whisper := net.config.model_type == "whisper":
            lengths = jnp.full(args.batch, samples)
            inputs = np.asarray(log_mel(jnp.asarray(waveforms), lengths, net.config.num_mel_bins)).transpose(0, 2, 1)
        peer = Mean(net.encoder if shape_is_whisper else net).eval()
        calls, ready = {}, {}
        makers = {"ser_jax": lambda: jax_program(encoder, waveforms, args.precision)}
        makers["transformers"] = lambda: torch_program(peer, inputs, args)
        if args.torch_device == "cpu" and args.precision == "float32":
            makers["ONNX Runtime"] = lambda: onnx_program(peer, inputs, Path(folder), args.threads)
        for contestant, make in makers.items():
            calls[contestant], ready[contestant] = timed(make)
        agree(shape, {contestant: call() for contestant, call in calls.items()}, TOLERANCE[args.precision])
        seconds = take_turns(calls, args.turns)
    heard = args.batch * samples / SAMPLE_RATE
    for contestant, turns in seconds.items():
        figures = {
            "shape": shape,
            "contestant": contestant,
            "hours_per_hour": heard / float(np.median(turns)),
            "against_ours": float(np.median(turns / seconds["ser_jax"])),
            "ready_seconds": ready[contestant],
        }
        if contestant == "ser_jax":
            most = matmul_rate(args.precision)
            figures["share_of_limit"] = operations(peer, inputs) / float(np.median(turns)) / most
        emit("extraction", **figures, **{key: value for key, value in vars(args).items() if key != "shape"})
        share = f"{figures['share_of_limit']:12.0%}" if "share_of_limit" in figures else ""
        print(
            f"{shape:15}{contestant:14}{figures['hours_per_hour']:9.0f} h in an hour"
            f"{figures['against_ours']:8.2f}x{share}",
            flush=True,
        )


def reference(shape: str, samples: int) -> Any:
    """A model of transformers with random weights."""
    family, changes = SHAPES[shape]
    if family == "Whisper":
        changes = {**changes, "max_source_positions": samples // 320, "decoder_layers": 1, "vocab_size": 64}
        changes["decoder_attention_heads"] = 1
        changes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**changes)
    model = getattr(transformers, f"{family}Model")
    config._attn_implementation = "sdpa" if model._supports_sdpa else "eager"
    return model(config).eval()


class Mean(torch.nn.Module):
    """The mean over frames of a model's last hidden state."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The means, [batch, width], in float32."""
        return self.model(inputs).last_hidden_state.float().mean(1)


def jax_program(encoder: store.LoadedEncoder, waveforms: np.ndarray, precision: str) -> Callable[[], jax.Array]:
    """Our encoder, from the waveform on, compiled."""
    parameters = jax.device_put(encoder.parameters)
    program = jax.jit(functools.partial(mean_state, encoder, precision)).lower(parameters, waveforms).compile()

    def call() -> jax.Array:
        means = program(parameters, waveforms)
        done(means)
        return means

    return call


def mean_state(encoder: store.LoadedEncoder, precision: str, parameters: Any, waveforms: Any) -> jax.Array:
    """The mean over frames of the final state, [batch, width]; no recording is padded."""
    module = make_module(encoder.architecture, dtype=jnp.dtype(precision))
    with jax.default_matmul_precision("highest" if precision == "float32" else "default"):
        found = module.apply({"params": parameters}, waveforms, jnp.full(len(waveforms), waveforms.shape[1]))
    return jnp.mean(found.final.astype(jnp.float32), 1)


def torch_program(peer: torch.nn.Module, inputs: np.ndarray, args: argparse.Namespace) -> Callable[[], np.ndarray]:
    """Transformers' encoder; the means come to the host, so that the clock waits for its device."""
    dtype = getattr(torch, args.precision)
    net = peer.to(args.torch_device, dtype)
    batch = torch.from_numpy(np.array(inputs)).to(args.torch_device, dtype)

    def call() -> np.ndarray:
        with torch.inference_mode():
            return net(batch).cpu().numpy()

    return call


def onnx_program(peer: torch.nn.Module, inputs: np.ndarray, folder: Path, threads: int) -> Callable[[], np.ndarray]:
    """The export of transformers' encoder for this batch, in ONNX Runtime."""
    import onnxruntime

    path = folder / "encoder.onnx"
    torch.onnx.export(peer, (torch.from_numpy(np.array(inputs)),), path, input_names=["inputs"], dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"inputs": inputs})[0]


def operations(peer: torch.nn.Module, inputs: np.ndarray) -> float:
    """Floating-point operations of the products and convolutions of a batch, as PyTorch counts them."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        peer.to("cpu", torch.float32)(torch.from_numpy(np.array(inputs[:1])))
    return float(counter.get_total_flops()) * len(inputs)


def matmul_rate(precision: str) -> float:
    """Floating-point operations a second of a product of two large matrices."""
    size = 2048 if jax.default_backend() == "cpu" else 8192  # a small one takes a GPU less time than its call
    matrix = jnp.ones((size, size), precision)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest" if precision == "float32" else None))
    done(product(matrix))
    seconds = min(timed(lambda: done(product(matrix)))[1] for _ in range(5))
    return 2 * size**3 / seconds


if __name__ == "__main__":
    main()
