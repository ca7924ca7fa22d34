import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ser_jax.errors import UserError
from ser_jax.models import build
from ser_jax.models.attention_rnn import ATTENTION, Alignment
from ser_jax.models.decoding import decode_text

REFERENCES = Path(__file__).parents[1] / "references"

CLASSES, BANDS, SYMBOLS = 3, 5, 4
LENGTHS = np.array([9, 4, 1])
NUM_FRAMES = jnp.asarray(LENGTHS)
TINY = {"hidden": 4, "decoder_hidden": 8, "location_filters": 2, "location_width": 5}
TEXT = {"text": "characters", "num_symbols": SYMBOLS}
TOKENS = np.array([[0, 2, 1, 3], [1, 3, -1, -1], [-1, -1, -1, -1]])
LABEL = np.array([2, 0, 1])


@pytest.fixture(scope="module")
def features():
    return jnp.asarray(np.random.default_rng(0).normal(size=(3, 9, BANDS)), jnp.float32)


def tiny(**options):
    return build("attention_rnn", CLASSES, **{**TINY, **options})


def random_variables(model, bands, scale=1.0):
    """Random weights without compiling an initialisation: kernels by their inputs, and no biases."""
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 9, bands)), jnp.array([9]), train=False)
    )
    rng = np.random.default_rng(0)

    def draw(shape):
        inputs = shape.shape[-2] if len(shape.shape) > 1 else np.inf
        return jnp.asarray(scale * rng.normal(size=shape.shape) / np.sqrt(inputs), jnp.float32)

    return jax.tree.map(draw, shapes)


# Against PyTorch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ATTENTION[1:])
def test_an_attention_step_by_step_and_its_gradients_equal_pytorch_s(kind, jit, monkeypatch):
    """Four tokens long, every one with the weights of the one before."""
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(REFERENCES)
    import torch_attention_rnn as twin

    torch.manual_seed(0)
    frames, queries, outputs = 6, 8, 8 if kind == "dot" else 5
    net = twin.Alignment(kind, queries, outputs, 2, 3)
    memory, states = torch.randn(3, frames, outputs), torch.randn(4, 3, queries)
    lengths = torch.tensor([6, 2, 1])
    real = torch.arange(frames)[None] < lengths[:, None]
    factors = torch.randn(4, 3, frames)
    inputs = [memory.requires_grad_(), states.requires_grad_()]
    weights, expected = real / lengths[:, None], []
    for state in states:
        weights = net(state, memory, weights, real)
        expected.append(weights)
    expected = torch.stack(expected)
    (expected * factors).sum().backward()

    model = Alignment(kind, queries, outputs, 2, 3)

    def to_jax(tensor):
        return jnp.asarray(tensor.detach().numpy())

    start = (to_jax(lengths)[:, None], jnp.asarray((real / lengths[:, None]).numpy()))

    def run(parameters, memory, states):
        keys = model.apply(parameters, memory, method="keys")
        weights, found = start[1], []
        for state in states:
            weights = model.apply(parameters, state, keys, weights, start[0][:, 0])
            found.append(weights)
        return jnp.sum(jnp.stack(found) * to_jax(factors)), jnp.stack(found)

    wrapped = torch.nn.Module()
    wrapped.alignment = net
    if kind == "dot":
        parameters = {}
    else:
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), to_jax(memory), method="keys"))["params"]
        own = twin.variables_of(wrapped, {"params": {"alignment": shapes}})
        parameters = {"params": own["params"]["alignment"]}
    step = jit(jax.grad(run, argnums=(0, 1, 2), has_aux=True))
    gradients, found = step(parameters, to_jax(memory), to_jax(states))
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(np.sum(found, -1), 1, atol=1e-5)
    assert (np.asarray(found)[:, ~real.numpy()] == 0).all()
    for ours, theirs in zip(gradients[1:], inputs, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), atol=1e-4)
    if kind != "dot":
        theirs = twin.variables_of(wrapped, {"params": {"alignment": shapes}}, gradients=True)["params"]["alignment"]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), gradients[0]["params"], theirs)


def test_a_whole_model_and_its_gradients_equal_those_recorded_of_pytorch(jit):
    with np.load(REFERENCES / "attention_rnn.npz") as arrays:
        assert_equal_to(dict(arrays), {**TINY, **TEXT, "attention": "location", "tracks": 2}, jit)


@pytest.mark.parametrize(
    "options",
    [
        {"cell": "lstm", "attention": "none", "subsampling": 1, "depth": 1},
        {"cell": "gru", "attention": "additive", "subsampling": 4, "depth": 3},
    ],
    ids=lambda options: options["attention"],
)
def test_a_whole_model_and_its_gradients_equal_pytorch_s(options, jit, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(REFERENCES)
    from make_attention_rnn import reference

    options = {**TINY, **TEXT, "tracks": 2, **options}
    assert_equal_to(reference(options), options, jit)


def assert_equal_to(arrays, options, jit):
    model = build("attention_rnn", CLASSES, **options)
    inputs = {name: jnp.asarray(arrays[f"inputs.{name}"]) for name in ("features", "lengths", "tokens", "label")}
    names = ("logits", "tokens", "tracks")

    def objective(variables):
        output = model.apply(
            variables,
            inputs["features"],
            inputs["lengths"],
            train=True,
            tokens=inputs["tokens"],
            label=inputs["label"],
        )
        return sum(jnp.sum(getattr(output, name) * arrays[f"factors.{name}"]) for name in names), output

    shapes = jax.eval_shape(lambda: random_variables(model, BANDS))
    gradient, output = jit(jax.grad(objective, has_aux=True))(tree_of(arrays["variables"], shapes))
    for name in names:
        np.testing.assert_allclose(getattr(output, name), arrays[f"outputs.{name}"], atol=1e-4)
    expected = tree_of(arrays["gradient"], shapes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), gradient, expected)
    if options["attention"] == "none":
        assert output.attention == {}
    else:
        alignment = output.attention["alignment"]
        assert (alignment.axes, alignment.stride) == (("batch", "tokens", "frames"), model.subsampling)
        np.testing.assert_allclose(alignment.weights, arrays["weights"], atol=1e-4)


def tree_of(vector, shapes):
    """The tree whose leaves, end to end, are `vector`."""
    leaves, structure = jax.tree.flatten(shapes)
    parts = np.split(vector, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return structure.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


# Sizes and options --------------------------------------------------------------------------------------------------


def num_parameters(model):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 9, BANDS)), jnp.array([9]), train=True))
    return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(shapes))


def test_an_attention_adds_its_own_parameters_and_no_others():
    none = num_parameters(tiny(attention="none"))
    queries, outputs = 8, 8
    additive = outputs * queries + queries + queries * queries + queries
    own = {"additive": additive, "dot": 0, "general": outputs * queries}
    own["location"] = additive + 5 * 2 + 2 * queries
    assert {kind: num_parameters(tiny(attention=kind)) - none for kind in own} == own


def test_a_text_adds_the_embeddings_and_one_head_and_tracks_another():
    text = num_parameters(tiny(**TEXT)) - num_parameters(tiny())
    assert text == CLASSES * 4 + SYMBOLS * 4 + 8 * SYMBOLS + SYMBOLS
    assert num_parameters(tiny(tracks=2)) - num_parameters(tiny()) == 8 * 2 + 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "dot", "decoder_hidden": 6}, "expected decoder_hidden 8, or attention general"),
        ({"subsampling": 4}, "subsampling 4 with depth 2; expected at most 2"),
        ({"location_width": 4}, "location_width 4; expected an odd number"),
        ({"num_symbols": 4}, "num_symbols 4 without text; expected 0"),
        ({"attention": "self_attention"}, "unknown attention of model attention_rnn: 'self_attention'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        tiny(**options)


def test_a_text_without_its_number_of_symbols_is_refused():
    with pytest.raises(UserError, match="text words needs num_symbols"):
        num_parameters(tiny(text="words"))


# Text ---------------------------------------------------------------------------------------------------------------

SOFT_LABEL = np.eye(CLASSES, dtype=np.float32)[LABEL]


@pytest.fixture(scope="module")
def with_text():
    """The output of a model with text and tracks: compiled once for all calls of the same kind."""
    model = tiny(**TEXT, cell="gru", tracks=2)
    variables = random_variables(model, BANDS, scale=3.0)

    def run(train, dropout, features, lengths, tokens, label, rate, key):
        cloned = model.clone(scheduled_sampling=rate, dropout=dropout)
        targets = {} if tokens is None else {"tokens": tokens, "label": label}
        rngs = {"dropout": key}
        return cloned.apply(variables, features, lengths, train=train, rngs=rngs, **targets)

    program = jax.jit(run, static_argnums=(0, 1), compiler_options={"xla_backend_optimization_level": 0})

    def apply(features, tokens=TOKENS, label=SOFT_LABEL, train=False, rate=0.0, dropout=0.0, seed=0):
        tokens, label = (None if x is None else jnp.asarray(x) for x in (tokens, label))
        features = jnp.asarray(features)
        # The rate is traced, as a population's are.
        return program(train, dropout, features, NUM_FRAMES, tokens, label, jnp.float32(rate), jax.random.key(seed))

    return apply


def test_padding_of_utterances_and_texts_changes_no_token_and_no_track(with_text, features):
    expected = with_text(features)
    more = np.pad(np.asarray(features), ((0, 0), (0, 4), (0, 0)))
    more = np.where((np.arange(13)[None] < LENGTHS[:, None])[..., None], more, 9)
    found = with_text(more, tokens=np.pad(TOKENS, ((0, 0), (0, 2)), constant_values=-1))
    real = TOKENS >= 0
    np.testing.assert_allclose(found.tokens[:, :4][real], expected.tokens[real], atol=1e-5)
    np.testing.assert_allclose(found.tracks[:, :9], expected.tracks, atol=1e-5)
    assert (np.asarray(found.tracks)[:, 9:] == 0).all()
    assert (np.asarray(expected.tracks)[1, LENGTHS[1] :] == 0).all()


def test_an_utterance_without_frames_has_finite_tokens_and_gradients(features, jit):
    model = tiny(**TEXT, cell="gru", depth=1, subsampling=1, attention="location", tracks=1)

    def objective(variables):
        output = model.apply(
            variables,
            features,
            jnp.array([9, 0, 0]),
            train=True,
            tokens=jnp.asarray(TOKENS),
            label=jnp.asarray(LABEL),
        )
        return jnp.sum(output.tokens) + jnp.sum(output.logits) + jnp.sum(output.tracks)

    value, gradients = jit(jax.value_and_grad(objective))(random_variables(model, BANDS))
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_a_token_depends_on_the_label_and_the_tokens_before_it_alone(with_text, features):
    expected = with_text(features).tokens
    changed = np.abs(with_text(features, label=np.roll(SOFT_LABEL, 1, 1)).tokens - expected).max(-1)
    assert (changed > 1e-6).all()
    other = TOKENS.copy()
    other[0, 2] = 0
    changed = np.abs(with_text(features, tokens=other).tokens - expected)[0].max(-1)
    assert (changed[:3] < 1e-6).all() and changed[3] > 1e-6


def test_soft_labels_are_mixed_and_no_label_is_the_model_s_own(with_text, features):
    soft = with_text(features)
    np.testing.assert_allclose(with_text(features, label=LABEL).tokens, soft.tokens, atol=1e-5)
    own = np.eye(CLASSES, dtype=np.float32)[np.argmax(soft.logits, -1)]
    np.testing.assert_allclose(with_text(features, label=None).tokens, with_text(features, label=own).tokens, atol=1e-5)


def test_sampling_never_is_teacher_forcing_and_sampling_always_is_the_model_s_own_text(with_text, features):
    forced = with_text(features)
    never = with_text(features, train=True, rate=0.0)
    np.testing.assert_allclose(never.tokens, forced.tokens, atol=1e-6)

    always = with_text(features, train=True, rate=1.0)
    own = np.argmax(always.tokens, -1)
    assert (own != TOKENS)[0].any()
    emotion = np.eye(CLASSES, dtype=np.float32)[np.argmax(forced.logits, -1)]
    free = with_text(features, tokens=own, label=emotion)
    np.testing.assert_allclose(always.tokens, free.tokens, atol=1e-5)
    np.testing.assert_allclose(with_text(features, rate=1.0).tokens, forced.tokens, atol=1e-6)


def test_dropout_changes_logits_in_training_alone(with_text, features):
    one, two = (with_text(features, train=True, dropout=0.5, seed=seed) for seed in (0, 1))
    calm = with_text(features)
    for name in ("logits", "tokens"):
        assert not np.allclose(getattr(one, name), getattr(two, name))
        assert not np.allclose(getattr(one, name), getattr(calm, name))
    np.testing.assert_array_equal(with_text(features, dropout=0.5, seed=1).tokens, calm.tokens)


def test_dropout_is_drawn_anew_for_every_token(features, jit):
    model = tiny(**TEXT, attention="none", cell="gru", dropout=0.5)
    variables = jax.tree.map(jnp.zeros_like, random_variables(model, BANDS))
    variables["params"]["readout"]["bias"] += 1.0  # whatever is read out is the same for all tokens
    variables["params"]["symbol_head"]["kernel"] += jnp.arange(8.0)[:, None] ** 2
    text = {"tokens": jnp.zeros((3, 4), jnp.int32), "label": jnp.asarray(LABEL)}

    def run(variables, key):
        return model.apply(variables, features, NUM_FRAMES, train=True, rngs={"dropout": key}, **text).tokens[..., 0]

    found = jit(run)(variables, jax.random.key(0))
    assert len(np.unique(found)) == found.size


def test_half_precision_features_give_nearly_the_same_logits_in_single_precision(with_text, features):
    single, half = with_text(features), with_text(features.astype(jnp.bfloat16))
    assert half.logits.dtype == half.tokens.dtype == half.attention["alignment"].weights.dtype == jnp.float32
    np.testing.assert_allclose(half.logits, single.logits, atol=0.2)


# Learning -----------------------------------------------------------------------------------------------------------

COPIED, LONGEST = 6, 10  # symbols to copy, and the most of them in a sequence
STEPS, BATCH, HIDDEN = 300, 32, 16


def sequences(key, batch):
    """Sequences of 3 to LONGEST symbols, one-hot over frames, and the tokens of them and of their reversals."""
    symbols_key, length_key = jax.random.split(key)
    symbols = jax.random.randint(symbols_key, (batch, LONGEST), 0, COPIED)
    lengths = jax.random.randint(length_key, (batch,), 3, LONGEST + 1)
    places = jnp.arange(LONGEST + 1)[None]
    features = jax.nn.one_hot(symbols, COPIED)

    def tokens(symbols):
        text = jnp.pad(symbols, ((0, 0), (0, 1)))
        return jnp.where(places < lengths[:, None], text, jnp.where(places == lengths[:, None], COPIED, -1))

    reverse = jnp.take_along_axis(symbols, jnp.clip(lengths[:, None] - 1 - places[:, :-1], 0), 1)
    return features, lengths, jnp.stack([tokens(symbols), tokens(reverse)])


def accuracies(attention, jit):
    """Token accuracies of decoded copies and reversals of new sequences: of all, and of the longest."""
    options = {"cell": "gru", "hidden": HIDDEN, "depth": 1, "decoder_hidden": 2 * HIDDEN, "subsampling": 1}
    model = build("attention_rnn", 2, attention=attention, text="characters", num_symbols=COPIED + 1, **options)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(0.01, STEPS)))

    def loss(parameters, features, lengths, tokens):
        label = jnp.zeros(len(lengths), jnp.int32)
        output = model.apply({"params": parameters}, features, lengths, train=True, tokens=tokens, label=label)
        real = tokens >= 0
        losses = optax.softmax_cross_entropy_with_integer_labels(output.tokens, jnp.maximum(tokens, 0))
        # The emotion is always the first, so that the text follows in decoding what it followed in training.
        return jnp.sum(losses * real) / jnp.sum(real) - jnp.mean(jax.nn.log_softmax(output.logits)[:, 0])

    def train_and_decode(parameters, reversed_tokens):
        def step(state, key):
            features, lengths, tokens = sequences(key, BATCH)
            parameters, optimizer_state = state
            gradient = jax.grad(loss)(parameters, features, lengths, tokens[reversed_tokens])
            updates, optimizer_state = optimizer.update(gradient, optimizer_state)
            return (optax.apply_updates(parameters, updates), optimizer_state), None

        keys = jax.random.split(jax.random.key(1), STEPS)
        (parameters, _), _ = jax.lax.scan(step, (parameters, optimizer.init(parameters)), keys)
        return decode_text(model, {"params": parameters}, features, lengths, max_tokens=LONGEST + 1).tokens

    features, lengths, tokens = sequences(jax.random.key(2), 200)
    program = jit(lambda parameters: jax.vmap(train_and_decode, (None, 0))(parameters, jnp.arange(2)))
    right, real = np.asarray(program(random_variables(model, COPIED)["params"]) == tokens), np.asarray(tokens >= 0)
    longest = real & np.asarray(lengths == LONGEST)[None, :, None]
    return [(right[task][real[task]].mean(), right[task][longest[task]].mean()) for task in range(2)]


def test_with_attention_it_learns_to_copy_and_to_reverse_and_without_it_cannot(jit):
    for (overall, longest), (_, longest_without) in zip(
        accuracies("general", jit), accuracies("none", jit), strict=True
    ):
        assert overall >= 0.99 and longest >= 0.99
        assert longest_without < 0.75
