"""Encoders against transformers, with the weights that transformers wrote."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.encoders import architecture, weights
from ser_jax.encoders.layers import normalize_waveform
from ser_jax.encoders.whisper import log_mel
from tests.encoders import checkpoints
from tests.encoders.applied import apply, noise, to_float64
from tests.encoders.checkpoints import torch, transformers
from tests.programs import equations

ODD, EVEN = 2_403, 3_200  # samples; Whisper's reference takes all of its positions alone


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", params=checkpoints.NAMES)
def pair(request, tmp_path_factory):
    """A transformers model in float64, the architecture and the parameters that are read from its folder."""
    model = checkpoints.make_reference(request.param)
    folder = checkpoints.save(model, tmp_path_factory.mktemp(request.param), normalize=False)
    spec = architecture.read_architecture(folder)
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    assert set(weights.read_tensors(folder / "model.safetensors")) <= set(tensors)
    return model, spec, to_float64(spec, tensors)


def lengths(spec):
    return (spec.max_samples,) if spec.family == "whisper" else (ODD, EVEN)


def reference_input(model, spec, waveform):
    if spec.family != "whisper":
        return torch.tensor(waveform)[None]
    frames = mel_of(waveform, spec)
    return torch.tensor(np.asarray(frames)).transpose(1, 2)


def mel_of(waveform, spec):
    return log_mel(jnp.asarray(waveform)[None], jnp.array([len(waveform)]), spec.mel_bands)


def test_every_layer_is_transformers_own(pair):
    model, spec, parameters = pair
    for samples in lengths(spec):
        waveform = noise(samples)
        with torch.no_grad():
            layers, final = checkpoints.reference_states(model, reference_input(model, spec, waveform))
        ours = apply(spec, parameters, waveform)
        np.testing.assert_allclose(ours.layers, layers.numpy(), rtol=0, atol=1e-10)
        np.testing.assert_allclose(ours.final, final.numpy(), rtol=0, atol=1e-10)
        assert int(ours.num_frames[0]) == final.shape[1]


def test_float32_rounds_no_more_than_transformers(pair):
    _, spec, parameters = pair
    waveform = noise(lengths(spec)[0])
    exact = apply(spec, parameters, waveform)
    single = jax.tree.map(lambda x: x.astype(np.float32), parameters)
    rounded = apply(spec, single, waveform.astype(np.float32), dtype=jnp.float32)
    assert rounded.final.dtype == jnp.float32
    np.testing.assert_allclose(rounded.layers, exact.layers, rtol=1e-5, atol=1e-5)


def test_bfloat16_keeps_the_direction(pair):
    _, spec, parameters = pair
    waveform = noise(lengths(spec)[0])
    exact = apply(spec, parameters, waveform).final
    half = apply(spec, jax.tree.map(lambda x: x.astype(np.float32), parameters), waveform, dtype=jnp.bfloat16)
    assert half.final.dtype == jnp.bfloat16
    half = np.asarray(half.final, np.float64)
    cosine = np.sum(half * exact) / np.linalg.norm(half) / np.linalg.norm(exact)
    assert cosine > 0.999


@pytest.mark.parametrize("pair", ["wavlm-layer"], indirect=True)
def test_bfloat16_leaves_softmax_norms_gates_and_relative_positions_in_float32(pair):
    _, spec, parameters = pair
    module = weights.make_module(spec, dtype=jnp.bfloat16)
    waveform = jnp.zeros((1, lengths(spec)[0]), jnp.float32)
    single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), parameters)
    traced = jax.make_jaxpr(lambda p, w: module.apply({"params": p}, w, jnp.array([w.shape[1]])))(single, waveform)
    sensitive = {"exp", "rsqrt", "sqrt", "logistic", "reduce_sum", "gather"}
    found = {
        (equation.primitive.name, equation.invars[0].aval.dtype)
        for equation in equations(traced.jaxpr)
        if equation.primitive.name in sensitive and equation.invars[0].aval.dtype != jnp.int64
    }
    assert {name for name, _ in found} == sensitive - {"sqrt"}
    assert not [name for name, dtype in found if dtype == jnp.bfloat16]
    scores = [
        equation.outvars[0].aval.dtype
        for equation in equations(traced.jaxpr)
        if equation.primitive.name == "dot_general"
        and equation.outvars[0].aval.shape[:2] == (1, spec.heads)
        and equation.outvars[0].aval.shape[2] == equation.outvars[0].aval.shape[3]
    ]
    assert scores == [jnp.float32]


def test_padding_changes_nothing(pair):
    _, spec, parameters = pair
    short = 1_000 if spec.family != "whisper" else 7_777
    waveforms = [noise(n, seed) for seed, n in enumerate((lengths(spec)[0], short))]
    together = apply(spec, parameters, *waveforms, pad=0 if spec.max_samples else 500)
    for i, waveform in enumerate(waveforms):
        alone = apply(spec, parameters, waveform)
        frames = alone.layers.shape[2]
        assert int(together.num_frames[i]) == frames
        np.testing.assert_allclose(together.layers[:, i, :frames], alone.layers[:, 0], rtol=0, atol=1e-10)
        np.testing.assert_allclose(together.final[i, :frames], alone.final[0], rtol=0, atol=1e-10)
        assert not np.any(together.layers[:, i, frames:]) and not np.any(together.final[i, frames:])


def test_a_stack_cut_short_ends_with_the_inner_layer(pair):
    _, spec, parameters = pair
    waveform = noise(lengths(spec)[0])
    whole = apply(spec, parameters, waveform)
    cut = apply(spec, weights.truncate(parameters, 2), waveform, depth=2)
    assert cut.final is None
    np.testing.assert_allclose(cut.layers, whole.layers[:3], rtol=0, atol=1e-12)


@pytest.mark.parametrize("pair", ["wavlm-layer"], indirect=True)
def test_remat_changes_no_gradient(pair):
    _, spec, parameters = pair
    waveform = noise(lengths(spec)[0])

    def loss(parameters, remat):
        return jnp.sum(jnp.square(apply(spec, parameters, waveform, remat=remat).final))

    plain, again = (jax.jit(jax.grad(loss), static_argnums=1)(parameters, remat) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), plain, again)


@pytest.mark.parametrize(
    "pair", ["wav2vec2-group", "hubert-layer", "wavlm-group", "data2vec", "whisper"], indirect=True
)
def test_gradients_are_transformers_own(pair):
    model, spec, parameters = pair
    waveform = noise(lengths(spec)[0])
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.zero_grad()
    _, final = checkpoints.reference_states(model, reference_input(model, spec, waveform))
    factors = torch.linspace(-1, 1, final.numel(), dtype=torch.float64).reshape(final.shape)
    (final * factors).sum().backward()

    def loss(parameters):
        return jnp.sum(apply(spec, parameters, waveform).final * jnp.asarray(factors.numpy()))

    ours = jax.jit(jax.grad(loss))(parameters)
    theirs = {  # weight norm has no gradient of its product: those of the rest are compared
        name: parameter.grad.numpy() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    compared = 0
    for path, name, layout in (
        ("query/kernel", "self_attn.q_proj.weight" if spec.family == "whisper" else "attention.q_proj.weight", "T"),
        ("value/bias", "self_attn.v_proj.bias" if spec.family == "whisper" else "attention.v_proj.bias", ""),
        ("feed_forward_norm/scale", "final_layer_norm.weight", ""),
    ):
        module, leaf = path.split("/")
        for n in range(spec.depth):
            expected = theirs[f"encoder.layers.{n}.{name}"]
            expected = expected.T if layout else expected
            scale = np.abs(expected).max()
            np.testing.assert_allclose(ours["layers"][module][leaf][n], expected, rtol=0, atol=1e-10 * scale)
            compared += 1
    first = "encoder.conv1" if spec.family == "whisper" else "feature_extractor.conv_layers.0.conv"
    expected = theirs[f"{first}.weight"].transpose(2, 1, 0)
    found = ours["conv1" if spec.family == "whisper" else "conv0"]["kernel"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    if spec.family == "wavlm":
        expected = theirs["encoder.layers.0.attention.rel_attn_embed.weight"]
        np.testing.assert_allclose(ours["relative_positions"], expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    assert compared == 3 * spec.depth


@pytest.mark.parametrize("pair", ["wav2vec2-layer"], indirect=True)
def test_the_waveform_is_normalised_as_its_extractor_does(pair):
    model, spec, parameters = pair
    waveform = 3 * noise(ODD) + 0.5
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    expected = extractor(waveform, sampling_rate=16_000).input_values[0]
    with torch.no_grad():
        _, final = checkpoints.reference_states(model, torch.tensor(expected, dtype=torch.float64)[None])
    ours = apply(spec.__class__(**(vars(spec) | {"normalize": True})), parameters, waveform)
    np.testing.assert_allclose(ours.final, final.numpy(), rtol=0, atol=1e-5)  # the extractor rounds to float32
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(apply(spec, parameters, waveform).final, final.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bands", [80, 128])
def test_log_mel_is_that_of_whispers_extractor(bands):
    waveform = noise(16_123) * np.linspace(0, 1, 16_123) ** 4  # more than 8 decades of power
    extractor = transformers.WhisperFeatureExtractor(feature_size=bands)
    expected = extractor(waveform, sampling_rate=16_000, padding=False).input_features[0].T
    ours = log_mel(jnp.asarray(waveform)[None], jnp.array([len(waveform)]), bands)
    assert np.sum(expected == expected.min()) > 10  # what lies below the 8 decades is cut off
    np.testing.assert_allclose(ours[0], expected, rtol=0, atol=2e-5)


def test_an_utterance_that_ends_with_the_last_position_takes_the_last_ones_of_whisper():
    last, first = (
        weights.make_module(architecture.WhisperArchitecture(2, 1, 1, 2, 4, 9, align=align))
        for align in ("last", "first")
    )
    mel = jnp.asarray(np.random.default_rng(0).normal(size=(1, 10, 4)), jnp.float32)

    def layers(module, variables, length):
        return module.apply(variables, mel[:, :length], jnp.array([length]), method="from_log_mel").layers

    params = last.init(jax.random.key(0), mel, jnp.array([10]), method="from_log_mel")["params"]
    for length in (6, 10):
        rolled = {**params, "positions": jnp.roll(params["positions"], length // 2, axis=0)}
        expected = layers(first, {"params": rolled}, length)
        np.testing.assert_allclose(layers(last, {"params": params}, length), expected, atol=1e-6)


def test_a_click_past_the_last_frame_of_an_utterance_changes_no_log_mel_in_padding():
    waveform = np.random.default_rng(0).normal(size=(1, 790)).astype(np.float32) / 1e4
    waveform[0, 780] = 1.0  # the last frame sees up to sample 679
    padded = jnp.asarray(np.pad(waveform, ((0, 0), (0, 500))))
    alone = log_mel(jnp.asarray(waveform), jnp.array([790]), 80)
    np.testing.assert_allclose(log_mel(padded, jnp.array([790]), 80)[:, :4], alone, atol=1e-5)


def test_a_waveform_is_normalised_over_its_own_samples_alone():
    alone = np.random.default_rng(0).normal(2.0, 0.5, 50)
    padded = jnp.asarray(np.stack([np.append(alone, np.zeros(30)), np.append(alone, np.full(30, 9.0))]))
    found = normalize_waveform(padded, jnp.array([50, 50]))
    np.testing.assert_allclose(found[:, :50], np.stack([(alone - alone.mean()) / alone.std()] * 2), rtol=1e-5)
    np.testing.assert_array_equal(found[:, 50:], 0)
