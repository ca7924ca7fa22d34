import functools
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image

from ser_jax.frontend import Frontend
from ser_jax.inference import attention
from ser_jax.models import build
from ser_jax.models.output import Attention, Output
from ser_jax.report.attention_figure import DPI, HEADS, LAYERS, attention_figure

FRAMES = 50  # of a stride of 4, at 10 ms: two seconds


def looked(axes, shape, names=("part",), tokens=()):
    weights = np.random.default_rng(0).random((1, *shape)).astype(np.float32)
    if axes[-1] == "frames":
        weights /= weights.sum(-1, keepdims=True)
    return attention.Look(
        log_mel=np.random.default_rng(1).normal(size=(201, 80)),
        mel_frequencies=np.linspace(20, 8000, 80),
        seconds=2.0,
        probabilities={"anger": 0.7, "neutral": 0.3},
        attention={name: Attention(weights, ("batch", *axes), 4) for name in names},
        frame_seconds=0.01,
        tokens=tokens,
    )


def inches(path):
    height, width = image.imread(path).shape[:2]
    return height / DPI, width / DPI


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        (("frames",), (FRAMES,)),
        (("heads", "frames"), (4, FRAMES)),
        (("tokens", "frames"), (12, FRAMES)),
        (("tokens", "frames"), (1, FRAMES)),
        (("queries", "frames"), (FRAMES, FRAMES)),
        (("heads", "queries", "frames"), (2, FRAMES, FRAMES)),
        (("channels",), (24,)),
    ],
)
def test_every_kind_of_attention_is_drawn_without_a_warning(tmp_path, recwarn, axes, shape):
    attention_figure(looked(axes, shape), "a.wav: anger 0.70", tmp_path / "out.png")
    height, width = inches(tmp_path / "out.png")
    assert width == pytest.approx(9, abs=0.02)
    assert 3 < height < 8
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    assert not recwarn.list


def test_more_layers_heads_and_tokens_than_fit_are_left_out(tmp_path):
    axes = ("heads", "queries", "frames")
    most = looked(axes, (HEADS, 5, 5), [f"block{i}" for i in range(LAYERS)])
    more = looked(axes, (2 * HEADS, 5, 5), [f"block{i}" for i in range(2 * LAYERS)])
    for name, look in (("most", most), ("more", more)):
        attention_figure(look, name, tmp_path / f"{name}.png")
    assert inches(tmp_path / "most.png") == inches(tmp_path / "more.png")
    attention_figure(looked(("tokens", "frames"), (300, FRAMES)), "long", tmp_path / "long.png")
    assert inches(tmp_path / "long.png")[0] < 13


def test_a_decoder_s_rows_are_its_tokens(tmp_path):
    padded = looked(("tokens", "frames"), (40, FRAMES), tokens=("anger", *"no", "(end)"))
    attention_figure(padded, "text", tmp_path / "text.png")
    assert inches(tmp_path / "text.png")[0] < 5


class Peak(nn.Module):
    """Attends to the frame whose features are largest, two by two."""

    @nn.compact
    def __call__(self, features, num_frames, *, train):
        loudness = jnp.pad(features.sum(-1), ((0, 0), (0, features.shape[1] % 2)), constant_values=-jnp.inf)
        weights = jax.nn.softmax(100 * loudness.reshape(len(features), -1, 2).max(-1))
        return Output(nn.Dense(2)(features.mean(1)), {"peak": Attention(weights, ("batch", "frames"), 2)})


def test_a_look_has_the_time_axis_of_its_recording():
    waveform = 1e-3 * np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    waveform[12_000:12_200] *= 100
    frontend = Frontend(hop_ms=20.0, num_mels=40, normalization="none")
    variables = Peak().init(jax.random.key(0), jnp.zeros((1, 8, 40)), jnp.array([8]), train=False)
    found = attention.look(Peak(), variables, frontend, None, ("anger", "neutral"), waveform, precision="float32")
    peak = found.attention["peak"]
    assert peak.weights.shape == (1, 26)  # of 51 frames
    assert np.argmax(peak.weights[0]) * peak.stride * found.frame_seconds == pytest.approx(0.75, abs=0.03)
    assert found.log_mel.shape == (101, 80)
    assert np.argmax(found.log_mel.sum(1)) / 100 == pytest.approx(0.755, abs=0.02)
    assert found.seconds == 1.0
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert np.all(np.diff(found.mel_frequencies) > 0)


def test_what_only_fills_an_utterance_up_is_cut_off_as_frames_and_as_queries():
    weights = np.arange(2.0 * 5 * 5).reshape(1, 2, 5, 5)
    output = Output(jnp.zeros((1, 2)), {"block": Attention(weights, ("batch", "heads", "queries", "frames"), 4)})
    found = attention.own_frames(output, 9)["block"].weights
    np.testing.assert_array_equal(found, weights[:, :, :3, :3])


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("float32", ("float32", "highest")), ("bfloat16", ("bfloat16", "bfloat16"))],
)
def test_a_look_is_taken_in_the_precision_of_the_training(precision, expected):
    noted, waveform = [], np.zeros(4_000, np.float32)

    class Noting(nn.Module):
        @nn.compact
        def __call__(self, features, num_frames, *, train):
            noted.append((features.dtype.name, jax.config.jax_default_matmul_precision))
            return Output(jnp.zeros((1, 2)))

    frontend = Frontend(hop_ms=20.0, num_mels=8, normalization="none")
    attention.look(Noting(), {}, frontend, None, ("anger", "neutral"), waveform, precision=precision)
    assert set(noted) == {expected}


def test_a_decoder_of_text_is_looked_at_while_it_emits_its_own_text():
    jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    model = build("attention_rnn", 2, hidden=8, decoder_hidden=16, text="characters", num_symbols=4)
    initialise = jit(lambda key: model.init(key, jnp.zeros((1, 8, 40)), jnp.array([8]), train=False))
    variables = initialise(jax.random.key(1, impl="rbg"))
    waveform = np.random.default_rng(0).normal(size=8_000).astype(np.float32)
    symbols = ("a", "b", "c", "(end)")
    found = attention.look(
        model,
        variables,
        Frontend(num_mels=40),
        None,
        ("anger", "neutral"),
        waveform,
        precision="float32",
        symbols=symbols,
    )
    assert found.tokens[0] in found.probabilities
    assert set(found.tokens[1:]) <= set(symbols)
    assert 1 < len(found.tokens) <= found.attention["alignment"].weights.shape[1]
    np.testing.assert_allclose(found.attention["alignment"].weights.sum(-1), 1, atol=1e-5)


def test_importing_the_figure_imports_neither_matplotlib_nor_jax():
    code = (
        "import sys; from ser_jax.report import attention_figure; "
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'jax', 'tensorflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
