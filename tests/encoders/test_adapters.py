"""The upper layers of an encoder: the encoder's own until something is trained, and LoRA as PyTorch has it."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.encoders import weights
from ser_jax.encoders.adapters import ADAPTATIONS, LowerLayers, UpperLayers, _low_rank, upper_weights
from ser_jax.encoders.architecture import Emotion2vecArchitecture, Wav2Vec2Architecture, WhisperArchitecture
from ser_jax.models import build
from ser_jax.training.encoder import Upper

FRAMES, LENGTHS = 9, np.array([9, 5])
WHISPER = WhisperArchitecture(width=8, depth=3, heads=2, hidden=12, mel_bands=10, positions=50)
WAVLM = Wav2Vec2Architecture(
    family="wavlm", width=8, depth=3, heads=2, hidden=12, conv_widths=(4,), conv_kernels=(40,), conv_strides=(40,),
    conv_bias=False, conv_norm="group", pre_norm=False, projection_norm=True, position_kernel=4, position_groups=2,
    position_layers=0, buckets=8, max_distance=20, epsilon=1e-5, normalize=False,
)  # fmt: skip


SHAPE = dataclasses.asdict(WAVLM) | {"family": "emotion2vec", "conv_norm": "layer", "position_layers": 2, "buckets": 0}
EMOTION2VEC = Emotion2vecArchitecture(**SHAPE, extra_tokens=3, prenet_depth=1)
ALL = pytest.mark.parametrize("spec", [WHISPER, WAVLM, EMOTION2VEC], ids=["whisper", "wavlm", "emotion2vec"])


def drawn(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 2, shapes)


def waveforms(spec):
    samples = np.random.default_rng(1).normal(0, 0.1, (2, FRAMES * spec.hop)).astype(np.float32)
    return jnp.asarray(samples), jnp.asarray(LENGTHS * spec.hop)


def collections(spec, parameters, first, trained=None):
    return {"encoder": {"weights": upper_weights(parameters, first, spec.depth - first)}, "params": trained or {}}


@ALL
def test_before_anything_is_trained_they_are_the_encoders_own_layers(spec):
    parameters = drawn(weights.parameter_shapes(spec))
    whole = jax.jit(weights.make_module(spec).apply)({"params": parameters}, *waveforms(spec))
    found = {}
    for adapt in ADAPTATIONS:
        layers = UpperLayers(spec, 2, adapt)

        @jax.jit
        def run(*given, layers=layers):
            trained = layers.init(jax.random.key(0), *given).get("params", {})
            return layers.apply(collections(spec, parameters, 1, trained), *given)

        found[adapt] = run(whole.layers[1], whole.num_frames, whole.tokens[1])
    np.testing.assert_array_equal(found["lora"], found["frozen"])
    np.testing.assert_array_equal(found["full"], found["frozen"])
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(found["frozen"][:, row, :length], whole.layers[2:, row, :length], atol=1e-5)


@ALL
def test_padding_changes_nothing_and_every_trained_part_something(spec):
    parameters = drawn(weights.parameter_shapes(spec))
    x = jnp.asarray(np.random.default_rng(2).normal(size=(1, 5, 8)), jnp.float32)
    padded = jnp.concatenate([x, jnp.full((1, 4, 8), 9.0)], 1)
    tokens = x[:, ::-1][:, : spec.extra_tokens]
    layers = UpperLayers(spec, 2, "lora", rank=2, projections=("query", "key", "value", "output", "feed_forward_in"))

    @jax.jit
    def run(trained, x):
        return layers.apply(collections(spec, parameters, 1, trained), x, jnp.array([5]), tokens)

    shapes = jax.eval_shape(lambda: layers.init(jax.random.key(0), x, jnp.array([5]), tokens))["params"]
    trained = drawn(shapes, seed=3)
    alone = run(trained, x)
    np.testing.assert_allclose(run(trained, padded)[:, :, :5], alone, rtol=1e-5, atol=1e-5)
    for name in layers.projections:
        without = trained | {name: jax.tree.map(np.zeros_like, trained[name])}
        assert np.abs(run(without, x) - alone).max() > 1e-3, name


@ALL
def test_from_waveforms_lower_layers_are_the_encoders_own_with_its_gradients(spec):
    parameters = drawn(weights.parameter_shapes(spec))
    samples, lengths = waveforms(spec)
    layers, own = LowerLayers(spec, 1, states=2, stem="full"), weights.make_module(spec, depth=1)
    towards = jnp.asarray(np.random.default_rng(5).normal(size=(2, 2, FRAMES, 8)), jnp.float32)
    kept = weights.truncate(parameters, 1)
    trained = jax.eval_shape(lambda: layers.init(jax.random.key(0), samples, lengths))["params"]
    trained = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), trained)

    @jax.jit
    def both(trained, kept):
        def ours(trained):
            louder = samples.at[1, LENGTHS[1] * spec.hop :].set(9.0)  # past the end
            states, num_frames, _ = layers.apply({"encoder": {"weights": kept}, "params": trained}, louder, lengths)
            return jnp.sum(jnp.moveaxis(states, 2, 0) * towards), (states, num_frames)

        def theirs(kept):
            states = own.apply({"params": kept}, samples, lengths).layers
            return jnp.sum(states * towards), states

        return [jax.value_and_grad(one, has_aux=True)(given) for one, given in ((ours, trained), (theirs, kept))]

    ((_, (states, num_frames)), gradient), ((_, expected), wanted) = both(trained, kept)
    np.testing.assert_array_equal(num_frames, LENGTHS)
    np.testing.assert_allclose(states, jnp.moveaxis(expected, 0, 2), atol=1e-5)
    assert any(name.startswith("conv") for name in gradient) and "layers" not in gradient
    for name, part in gradient.items():
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(part)) > 1e-3, name
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), part, wanted[name])


@pytest.mark.parametrize("depth", [1, 50])
def test_what_lora_is_drawn_from_does_not_depend_on_the_number_of_layers(depth):
    found = _low_rank(jax.random.key(0), (depth, 64, 32), 100)
    np.testing.assert_allclose(np.std(found["down_kernel"]), 64**-0.5, rtol=0.03)
    assert found["up_kernel"].shape == (depth, 100, 32) and not np.any(found["up_kernel"])


def test_without_the_state_of_its_extra_tokens_an_encoder_has_no_upper_layers():
    with pytest.raises(ValueError, match="the layers of emotion2vec are given no state of its 3 extra tokens"):
        UpperLayers(EMOTION2VEC, 1).init(jax.random.key(0), jnp.zeros((1, 5, 8)), jnp.array([5]))


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("stem", ["frozen", "projection"])
def test_what_is_trained_of_the_part_before_the_layers(stem, pre_norm):
    module = LowerLayers(dataclasses.replace(WAVLM, pre_norm=pre_norm), stem=stem)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *waveforms(WAVLM)))
    names = {"projection_norm", "projection", "positions"} if stem == "projection" else set()
    if names and not pre_norm:  # else this norm follows the layers
        names.add("norm")
    assert set(shapes.get("params", {})) == names


def test_a_head_on_waveforms_is_the_head_on_their_states():
    parameters = drawn(weights.parameter_shapes(WHISPER))
    samples, lengths = waveforms(WHISPER)
    options = {"layers": 1, "adapt": "lora", "state": 3, "width": 0, "pooling": "self_attentive"}
    whole = jax.jit(weights.make_module(WHISPER).apply)({"params": parameters}, samples, lengths)
    below = {"below": {"weights": weights.truncate(parameters, 1)}}
    above = {"adapter": {"weights": upper_weights(parameters, 1, 1)}}
    features = jnp.concatenate(list(whole.layers[:2]), -1)

    found = []
    for inputs, own_lengths, collection, more in (
        (features, jnp.asarray(LENGTHS), above, {}),
        (samples[..., None], lengths, below | above, {"waveforms": True, "lower": 1}),
    ):
        model = build("encoder_head", 4, states=2, encoder=WHISPER, **options, **more)
        shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), inputs, own_lengths)
        trained = drawn(shapes["params"], seed=6)
        run = jax.jit(lambda variables, *of, model=model: model.apply(variables, *of, train=False))
        found.append(run({"encoder": collection, "params": trained}, inputs, own_lengths))
    np.testing.assert_allclose(found[0].logits, found[1].logits, atol=1e-5)
    weights_of, strides = zip(
        *((one.attention["pooling"].weights, one.attention["pooling"].stride) for one in found), strict=True
    )
    np.testing.assert_allclose(*weights_of, atol=1e-5)
    assert strides == (1, WHISPER.hop)


@pytest.mark.parametrize("spec", [WAVLM, EMOTION2VEC], ids=["wavlm", "emotion2vec"])
def test_a_head_takes_a_layer_for_the_same_whether_it_is_of_the_lower_or_the_upper_ones(spec):
    parameters = drawn(weights.parameter_shapes(spec))
    samples, lengths = waveforms(spec)
    found = []
    for lower in (1, 2):
        collection = {"below": {"weights": weights.truncate(parameters, lower)}}
        collection |= {"adapter": {"weights": upper_weights(parameters, lower, 2 - lower)}} if lower < 2 else {}
        options = {"states": lower + 1, "lower": lower, "layers": 2 - lower, "state": 3, "width": 0}
        model = build("encoder_head", 4, encoder=spec, waveforms=True, **options)
        shapes = jax.eval_shape(
            functools.partial(model.init, train=False), jax.random.key(0), samples[..., None], lengths
        )
        variables = {"encoder": collection, "params": drawn(shapes["params"], seed=6)}
        found.append(
            jax.jit(functools.partial(model.apply, train=False))(variables, samples[..., None], lengths).logits
        )
    np.testing.assert_allclose(*found, atol=1e-5)


@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_gradients_are_those_of_pytorch(adapt):
    from tests.encoders import checkpoints
    from tests.encoders.checkpoints import torch

    model = checkpoints.make_reference("whisper")
    width, rank, alpha = 32, 3, 6.0
    spec = WhisperArchitecture(width=width, depth=3, heads=4, hidden=48, mel_bands=80, positions=40)
    rng = np.random.default_rng(4)
    x, towards = rng.normal(size=(1, FRAMES, width)), rng.normal(size=(1, FRAMES, width))
    projections = ("query", "feed_forward_out")
    with jax.enable_x64(True):
        tensors = {name: value.numpy() for name, value in model.state_dict().items()}
        parameters = weights.to_parameters(spec, weights.clean_names(tensors, np.float64), "test")
        layers = UpperLayers(spec, 2, adapt, rank, alpha, projections)
        shapes = jax.eval_shape(lambda: layers.init(jax.random.key(0), jnp.asarray(x), jnp.array([FRAMES])))["params"]
        trained = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) / 9 * (adapt == "lora"), shapes)

        def objective(trained):
            found = layers.apply(collections(spec, parameters, 1, trained), jnp.asarray(x), jnp.array([FRAMES]))
            return jnp.sum(found[-1] * towards)

        ours = jax.tree.map(np.asarray, jax.jit(jax.grad(objective))(trained))

    theirs, matrices = torch.tensor(x), {}
    for number, layer in enumerate(model.encoder.layers[1:]):
        modules = {"query": layer.self_attn.q_proj, "feed_forward_out": layer.fc2}
        for name, module in modules.items() if adapt == "lora" else ():
            down, up = (
                torch.tensor(trained[name][part][number], requires_grad=True) for part in ("down_kernel", "up_kernel")
            )
            matrices[name, number] = {"down_kernel": down, "up_kernel": up}
            module.register_forward_hook(
                lambda _, given, out, down=down, up=up: out + alpha / rank * (given[0] @ down @ up)
            )
        found = layer(theirs, None)
        theirs = found[0] if isinstance(found, tuple) else found
        if adapt == "full":
            matrices |= {(name, number): {"kernel": module.weight} for name, module in modules.items()}
    (theirs * torch.tensor(towards)).sum().backward()
    assert len(matrices) == 4
    for (name, number), parts in matrices.items():
        for part, tensor in parts.items():
            expected = tensor.grad.numpy() if adapt == "lora" else tensor.grad.numpy().T
            assert np.abs(expected).max() > 1e-3
            np.testing.assert_allclose(ours[name][part][number], expected, rtol=1e-8, atol=1e-10)


@ALL
def test_what_a_checkpoint_keeps_of_an_encoder_is_the_same_after_it_was_read(spec):
    described = Upper({"name": "tiny", "sha256": "0"}, spec, 1, 1, {}).describe()
    assert json.loads(json.dumps(described)) == described
