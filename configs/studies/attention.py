"""Does attention help speech emotion recognition, which attention, and by how much? Three questions, 20 variants.

python launch.py study configs/studies/attention.py
python launch.py study configs/studies/attention.py:emodb
python launch.py study configs/studies/attention.py:emodb,eca
python launch.py study configs/studies/attention.py:emodb,encoder_pooling

The arguments are any prepared corpus that says who speaks and the name of one question: shufflenet, encoder or
recurrent; or eca, the claim alone: with and without, in the recipe's network; or cnn, the claim in a plain CNN; or
encoder_pooling, inductive heads on the states that `prepare encoder CORPUS --encoder smart-turn-v3.2 --layers 1,2,3
--average 4` keeps; the name of another encoder, whose states are those of three layers too, may follow. Without
arguments, the models are tiny and the corpus is the built-in one. Every variant is measured
against its twin without that attention, with the same folds, seeds, batches and augmentation. What two corpora said
with five seeds is in docs/answer.md; one H200 took seven and a half minutes for it (docs/scaling.md).
"""

from configs import recipe
from ser_jax.config import choose, completed, merge
from ser_jax.errors import UserError

CONDITIONS = ("noise_20", "noise_10", "noise_0", "reverberation_0.6", "band_limit_4000", "telephone", "alone")
WITHOUT_BATCH_NORMALISATION = {"evaluation": {"batch_statistics": "running"}}  # there are none to take
TINY = {  # the built-in voices, with an input and a schedule that two cores manage
    "corpus": {"options": {"num_speakers": 6, "utterances_per_speaker": 60}},
    "frontend": {"hop_ms": 20.0, "num_mels": 40, "normalization": "train"},
    "optimizer": {"learning_rate": 4e-3, "warmup_epochs": 1.0},
    "training": {"batch_size": 16, "crop_seconds": 1.2, "train_epochs": 20.0, "validate_epochs": 10.0},
}
ON_STATES = {  # the encoder has heard the waveforms already, so that these cannot be changed
    "frontend": {
        "kind": "precomputed",
        "normalization": "train",
        "trim_db": 0.0,
        "hop_ms": 10.0,
    },
    "augmentation": {"speed": 0.0, "vocal_tract": 0.0, "spec_augment": 0.0, "mixup": 0.2},
    "model": {"name": "encoder_head", "states": 3, "dropout": 0.3},
    "optimizer": {"learning_rate": 1e-3},
    "training": {"crop_seconds": 3.0},
    "evaluation": {"window_seconds": 9.0, "batch_statistics": "running"},
}
PUBLISHED_SCHEDULE = {  # of the heads in docs/results; that of any other corpus follows from its utterances
    "optimizer": {"warmup_epochs": 1.0},
    "training": {"train_epochs": 20.0, "validate_epochs": 10.0},
}


def on_states(config: dict, corpus: str) -> dict:
    """Returns the recipe `config` as it is for heads on the states of an encoder."""
    config = merge(config, ON_STATES)
    return merge(config, PUBLISHED_SCHEDULE) if corpus in recipe.CORPORA else config


def get_config(corpus: str = "synthetic", question: str = "", encoder_name: str = "") -> dict:
    """Returns the study, whole or one question of it, on a corpus."""
    if encoder_name and question != "encoder_pooling":
        raise UserError(f"question {question}: takes no encoder, found {encoder_name!r}")
    base = completed(TINY) if corpus == "synthetic" else recipe.get_config(corpus, use="transductive")
    questions = {make.__name__: make for make in (shufflenet, encoder, recurrent, eca, cnn, encoder_pooling)}
    chosen = (shufflenet, encoder, recurrent) if not question else (choose("question", question, questions),)
    study = {
        "title": f"Does attention help speech emotion recognition? {corpus}",
        "questions": [make(corpus == "synthetic") for make in chosen],
    }
    if question == "encoder_pooling":
        features = {"frontend": {"features": f"{encoder_name or 'smart-turn-v3.2'}.frames"}}
        return merge(merge(on_states(base, corpus), features), {"study": study})
    return merge(base, {"evaluation": {"robustness": CONDITIONS}, "study": study})


def shufflenet(tiny: bool) -> dict:
    """Channel attention and hard-swish, as Udeh et al. (2025) put them into ShuffleNet V2."""
    return {
        "name": "shufflenet",
        "text": "Does channel attention help ShuffleNet V2, and does hard-swish?",
        "base": {"model": {"name": "shufflenet_v2", "width": "tiny" if tiny else 0.5}},
        "factors": (
            {"name": "activation", "field": "model.activation", "levels": ("relu", "hard_swish")},
            {"name": "attention", "field": "model.attention", "levels": ("none", "se", "eca")},
        ),
        "compare": ("attention",),
    }


def eca(tiny: bool) -> dict:
    """The first question's last two variants, for where there is time for no more."""
    network = {"name": "shufflenet_v2", "width": "tiny" if tiny else 0.5, "activation": "hard_swish"}
    return {
        "name": "eca",
        "text": "Does efficient channel attention help ShuffleNet V2 with hard-swish?",
        "base": {"model": network},
        "factors": ({"name": "attention", "field": "model.attention", "levels": ("none", "eca")},),
    }


def cnn(tiny: bool) -> dict:
    """The same claim in a plain convolutional network."""
    return {
        "name": "cnn",
        "text": "Does efficient channel attention help a plain CNN?",
        "base": {"model": recipe.MODELS["cnn"] | ({"width": 4} if tiny else {})},
        "factors": ({"name": "attention", "field": "model.attention", "levels": ("none", "eca")},),
    }


def encoder(tiny: bool) -> dict:
    """Self-attention between frames, next to and on top of convolution, and attention in the pooling."""
    return {
        "name": "encoder",
        "text": "Does self-attention between frames help an encoder, and does attention in its pooling?",
        "base": {
            "model": {"name": "transformer", "size": "tiny" if tiny else "small"},
            **WITHOUT_BATCH_NORMALISATION,
        },
        "factors": (
            {
                "name": "mixing",
                "levels": (
                    {"name": "none", "changes": {"model": {"mixing": "none"}}},
                    {"name": "convolution", "changes": {"model": {"mixing": "convolution"}}},
                    {"name": "self-attention", "changes": {"model": {"mixing": "self_attention"}}},
                    {"name": "both", "changes": {"model": {"mixing": "conformer"}}, "against": "convolution"},
                ),
            },
            {
                "name": "pooling",
                "levels": (
                    {"name": "mean", "changes": {"model": {"pooling": "mean"}}},
                    {"name": "attentive", "changes": {"model": {"pooling": "self_attentive"}}},
                ),
            },
        ),
    }


def recurrent(tiny: bool) -> dict:
    """Attention in the pooling of a BiLSTM, and in the decoder of an encoder-decoder that emits the emotion."""
    hidden = {"hidden": 16, "depth": 1} if tiny else {"hidden": 64}
    pooled = {"name": "rnn", **hidden}
    decoded = {"name": "attention_rnn", **hidden, **({"decoder_hidden": 16, "subsampling": 1} if tiny else {})}
    return {
        "name": "recurrent",
        "text": "Does attention help recurrent networks, in pooling and in decoding?",
        "base": {**WITHOUT_BATCH_NORMALISATION, **({} if tiny else {"frontend": {"hop_ms": 40.0}})},  # half the time
        "variants": {
            "mean pooling": {"model": {**pooled, "pooling": "mean"}},
            "last frame": {"model": {**pooled, "pooling": "last"}},
            "attentive pooling": {"model": {**pooled, "pooling": "weighted"}},
            "decoder without attention": {"model": {**decoded, "attention": "none"}},
            "decoder with additive attention": {"model": {**decoded, "attention": "additive"}},
            "decoder with multiplicative attention": {"model": {**decoded, "attention": "general"}},
        },
        "comparisons": (
            ("attentive pooling", "mean pooling"),
            ("attentive pooling", "last frame"),
            ("decoder with additive attention", "decoder without attention"),
            ("decoder with multiplicative attention", "decoder without attention"),
        ),
    }


def encoder_pooling(tiny: bool) -> dict:
    """Attention on top of a pretrained encoder: in the pooling, between frames, over channels, and in a decoder.

    Attention in a pooling adds parameters. Each such head is measured against the plain pooling, and against one that
    has as many parameters in a hidden layer after the plain pooling; so has a block without attention in a second
    feed-forward layer, and a decoder without attention in a wider state. What all heads share is in `ON_STATES`, so
    that `--config.model.states=1` changes all of them.
    """
    del tiny  # the built-in corpus has no states until `prepare encoder synthetic` has made them
    return {
        "name": "encoder_pooling",
        "text": "Does attention help on top of a pretrained encoder?",
        "variants": {
            "mean": {"model": {"pooling": "mean"}},
            "mean, ECA": {"model": {"pooling": "mean", "attention": "eca"}},
            "mean, hidden layer of 67": {"model": {"pooling": "mean", "hidden": 67}},
            "self-attentive": {"model": {"pooling": "self_attentive"}},
            "mean, hidden layer of 22": {"model": {"pooling": "mean", "hidden": 22}},
            "multi-head": {"model": {"pooling": "multi_head"}},
            "mean and deviation": {"model": {"pooling": "statistics"}},
            "mean and deviation, hidden layer of 15": {"model": {"pooling": "statistics", "hidden": 15}},
            "attentive statistics": {"model": {"pooling": "attentive_statistics"}},
            "block without attention": {"model": {"depth": 1, "mixing": "none"}},
            "block with convolution": {"model": {"depth": 1, "mixing": "convolution"}},
            "block with self-attention": {"model": {"depth": 1, "mixing": "self_attention"}},
            "decoder without attention": {"model": {"decoder": "without_attention"}},
            "decoder without attention, state of 141": {
                "model": {"decoder": "without_attention", "decoder_hidden": 141}
            },
            "decoder with additive attention": {"model": {"decoder": "additive"}},
        },
        "comparisons": (
            ("mean, ECA", "mean"),
            ("self-attentive", "mean"),
            ("self-attentive", "mean, hidden layer of 67"),
            ("multi-head", "mean"),
            ("multi-head", "mean, hidden layer of 22"),
            ("attentive statistics", "mean and deviation"),
            ("attentive statistics", "mean and deviation, hidden layer of 15"),
            ("block with self-attention", "block without attention"),
            ("block with self-attention", "block with convolution"),
            ("decoder with additive attention", "decoder without attention"),
            ("decoder with additive attention", "decoder without attention, state of 141"),
        ),
    }
