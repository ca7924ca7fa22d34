"""Which settings make a good recipe? Each one against the start of the search, on validation speakers.

python launch.py study configs/studies/recipes.py
python launch.py study configs/studies/recipes.py:ravdess,regularisation

The arguments are a corpus and the name of one question. Each fold is tested on its validation speaker, and its test
speaker is left out, so no choice uses the test speaker of its fold. Four folds and a short schedule; docs/recipes.md
has the results. The variants of "regularisation" share one compiled program.
"""

from configs import recipe
from ser_jax.config import choose, merge

START = {  # what the recipe of EMO-DB was before
    "frontend": {"normalization": "train"},
    "augmentation": {"mixup": 0.5},
    "optimizer": {"learning_rate": 2e-3},
    "training": {"train_epochs": 40.0},
    "evaluation": {"batch_statistics": "running", "window_seconds": 0.0},
}
FOUND = {  # by the first two questions
    "frontend": {"normalization": "speaker"},
    "augmentation": {"mixup": 0.0},
    "optimizer": {"learning_rate": 5e-3},
}
QUESTIONS = (
    {
        "name": "input",
        "text": "Which input should the network have?",
        "factors": (
            {
                "name": "normalisation",
                "field": "frontend.normalization",
                "levels": ("train", "speaker"),
            },
            {"name": "crop", "field": "training.crop_seconds", "levels": (2.0, 3.0)},
        ),
    },
    {
        "name": "regularisation",
        "text": "Which regularisation helps?",
        "base": {"frontend": {"normalization": "speaker"}},
        "factors": (
            {"name": "mixup", "field": "augmentation.mixup", "levels": (0.5, 0.0)},
            {"name": "SpecAugment", "field": "augmentation.spec_augment", "levels": (0.5, 1.0)},
            {"name": "weight decay", "field": "optimizer.weight_decay", "levels": (0.05, 0.3)},
            {"name": "learning rate", "field": "optimizer.learning_rate", "levels": (2e-3, 5e-3)},
            {"name": "noise", "field": "augmentation.noise", "levels": (0.0, 0.5)},
        ),
    },
    {
        "name": "together",
        "text": "Which changes help together with those of the first two questions?",
        "base": {**FOUND, "folds": ()},
        "factors": (
            {"name": "SpecAugment", "field": "augmentation.spec_augment", "levels": (0.5, 1.0)},
            {"name": "weight decay", "field": "optimizer.weight_decay", "levels": (0.05, 0.2)},
            {"name": "learning rate", "field": "optimizer.learning_rate", "levels": (5e-3, 1e-2)},
            {"name": "mixup", "field": "augmentation.mixup", "levels": (0.0, 0.25)},
        ),
    },
    {
        "name": "resolution",
        "text": "Which time resolution is best?",
        "base": FOUND,
        "factors": (
            {"name": "pooling", "field": "model.pooling", "levels": ("mean", "statistics")},
            {"name": "time stride", "field": "model.time_stride", "levels": (32, 8)},
            {"name": "hop", "field": "frontend.hop_ms", "levels": (20.0, 10.0)},
        ),
    },
    {
        "name": "test",
        "text": "How should an utterance of a new speaker be tested?",
        "design": "grid",
        "base": {**FOUND, "folds": ()},
        "factors": (
            {"name": "batch statistics", "field": "evaluation.batch_statistics", "levels": ("running", "speaker")},
            {"name": "window", "field": "evaluation.window_seconds", "levels": (0.0, 9.0)},
        ),
    },
    {
        "name": "encoder",
        "text": "Which learning rate suits the encoder?",
        "design": "grid",
        "base": {**FOUND, "evaluation": {"window_seconds": 9.0}, "model": {"name": "transformer"}},
        "factors": (
            {"name": "mixing", "field": "model.mixing", "levels": ("self_attention", "none")},
            {"name": "learning rate", "field": "optimizer.learning_rate", "levels": (2e-3, 1e-3, 5e-3, 1e-2)},
        ),
    },
    {
        "name": "recurrent",
        "text": "Which learning rate and time resolution suit recurrent networks?",
        "base": {**FOUND, "evaluation": {"window_seconds": 9.0}, "model": {"hidden": 64}},
        "factors": (
            {"name": "network", "field": "model.name", "levels": ("attention_rnn", "rnn")},
            {"name": "learning rate", "field": "optimizer.learning_rate", "levels": (5e-3, 2e-3)},
            {"name": "hop", "field": "frontend.hop_ms", "levels": (20.0, 40.0)},
        ),
    },
    {
        "name": "crnn",
        "text": "Which learning rate suits the CRNN?",
        "base": {
            **FOUND,
            "frontend": {"normalization": "speaker", "deltas": 2},
            "evaluation": {"batch_statistics": "speaker", "window_seconds": 9.0},
            "model": {"name": "crnn", "channels": 3},
        },
        "factors": ({"name": "learning rate", "field": "optimizer.learning_rate", "levels": (5e-3, 2e-3)},),
    },
    {
        "name": "inductive",
        "text": "Which recipe is best for a single recording of an unknown speaker?",
        "base": {
            **FOUND,
            "frontend": {"normalization": "train", "trim_db": 40.0},
            "augmentation": {"mixup": 0.0, "gain": 10.0},
            "model": recipe.MODELS["cnn"],
        },
        "factors": (
            {
                "name": "normalisation",
                "field": "frontend.normalization",
                "levels": ("train", "utterance"),
            },
            {
                "name": "network",
                "levels": (
                    {"name": "CNN", "changes": {}},
                    {"name": "ShuffleNet V2", "changes": {"model": recipe.MODELS["shufflenet_v2"]}},
                ),
            },
            {"name": "vocal tract", "field": "augmentation.vocal_tract", "levels": (0.1, 0.2)},
            {"name": "SpecAugment", "field": "augmentation.spec_augment", "levels": (0.5, 1.0)},
            {"name": "speed", "field": "augmentation.speed", "levels": (0.15, 0.0)},
        ),
    },
    {
        "name": "teacher",
        "text": "Does distillation from an ensemble of three help a network?",  # of the same folds and base
        "base": {
            **FOUND,
            "model": recipe.MODELS["cnn"],
            "evaluation": {"batch_statistics": "speaker", "window_seconds": 9.0},
        },
        "factors": (
            {
                "name": "teacher",
                "levels": (
                    {"name": "labels alone", "changes": {}},
                    {"name": "half", "changes": {"training": {"teacher": "runs/teacher", "teacher_share": 0.5}}},
                    {
                        "name": "teacher alone",
                        "changes": {"training": {"teacher": "runs/teacher", "teacher_share": 1.0}},
                    },
                ),
            },
        ),
    },
    {
        "name": "unlabelled",
        "text": "Does masked reconstruction on another corpus, without labels, help an encoder?",
        "design": "grid",
        "base": {**FOUND, "evaluation": {"window_seconds": 9.0}, "model": {"name": "transformer"}},
        "factors": (
            {
                "name": "parameters",
                "levels": (
                    {"name": "drawn", "changes": {}},
                    {"name": "from hidden frames", "changes": {"training": {"initial": "runs/unlabelled"}}},
                ),
            },
            {"name": "learning rate", "field": "optimizer.learning_rate", "levels": (5e-3, 2e-3)},
        ),
    },
    {
        "name": "beginning",
        "text": "Does initialisation from a training on another corpus help?",
        "base": FOUND,
        "factors": (
            {
                "name": "parameters",
                "levels": (
                    {"name": "drawn", "changes": {}},
                    {"name": "from RAVDESS", "changes": {"training": {"initial": "runs/ravdess_all"}}},
                ),
            },
            {"name": "epochs", "field": "training.train_epochs", "levels": (40.0, 80.0)},
        ),
    },
)


def get_config(corpus: str = "emodb", question: str = "") -> dict:
    """Returns the study, whole or one question of it, on a corpus."""
    questions = {each["name"]: {"design": "one_at_a_time", **each} for each in QUESTIONS}
    chosen = [choose("question", question, questions)] if question else list(questions.values())
    config = merge(recipe.get_config("emodb", use="transductive"), START)
    changes = {
        "corpus": {"name": corpus},
        "protocol": {"validation_speakers": 1, "tested": "validation"},
        "folds": [0, 3, 5, 8],
        "evaluation": {"latency": False},
        "study": {"title": f"Which ingredients make a recipe? {corpus}", "questions": chosen},
    }
    return merge(config, changes)
