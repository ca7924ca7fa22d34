"""One network on any prepared corpus, tested on unseen speakers.

python launch.py prepare emodb --source DIR_OR_ZIP
python launch.py train configs/recipe.py:emodb,cnn
python launch.py train configs/recipe.py:emodb,shufflenet_v2,transductive

The arguments are a corpus, a model (`python launch.py models`) and how the tested speaker is treated. An inductive
model judges each recording by itself. A transductive one is normalised by the tested speaker's other recordings,
without their labels: the corpus has to say who speaks, and figures of the two kinds are not to be compared.
`--config.model.OPTION=VALUE` changes the model's options. How the recipe was found is in docs/recipes.md. Expected UA,
transductive, on two CPU cores: EMO-DB 82 % with ShuffleNet V2 after six minutes, 85 % with the CNN after eleven;
RAVDESS 63 % and 71 to 72 % after 16 minutes.
"""

from ser_jax.config import choose, completed, merge

MODELS = {
    "shufflenet_v2": {"name": "shufflenet_v2", "width": 0.5, "activation": "hard_swish", "attention": "eca"},
    "cnn": {"name": "cnn", "width": 16, "activation": "hard_swish", "attention": "eca", "pooling": "mean"},
    "crnn": {"name": "crnn", "channels": 3},  # features, deltas and second deltas
}
WITH_BATCH_NORMALISATION = ("shufflenet_v2", "cnn", "crnn", "tcn")
RECIPE = {
    "protocol": {"validation_speakers": 0},  # a fixed schedule: nothing is selected
    "frontend": {"hop_ms": 20.0, "trim_db": 40.0},
    "augmentation": {"speed": 0.15, "vocal_tract": 0.1, "spec_augment": 0.5},
    "optimizer": {"learning_rate": 5e-3},
    "training": {"crop_seconds": 2.0},
}
USES = {
    "inductive": {"frontend": {"normalization": "utterance"}},
    "transductive": {"frontend": {"normalization": "speaker"}, "evaluation": {"window_seconds": 6.0}},
}
CORPORA = {  # what the published figures were trained with
    "emodb": {"optimizer": {"warmup_epochs": 5.0}, "training": {"train_epochs": 50.0, "validate_epochs": 10.0}},
    "ravdess": {
        "protocol": {"name": "grouped_k_fold", "num_folds": 6},
        "optimizer": {"warmup_epochs": 5.0},
        "training": {"train_epochs": 50.0, "validate_epochs": 10.0},
    },
}
CORPORA["both"] = CORPORA["ravdess"]  # `prepare merge --name both --corpora emodb,ravdess`
EMODB_TRANSDUCTIVE = {"frontend": {"trim_db": 0.0}, "evaluation": {"window_seconds": 9.0}}  # no utterance is longer


def get_config(corpus: str = "emodb", model: str = "shufflenet_v2", use: str = "inductive") -> dict:
    """Returns the training of one model on one corpus."""
    config = merge(completed({"model": MODELS.get(model, {"name": model})}), {**RECIPE, "corpus": {"name": corpus}})
    config = merge(merge(config, choose("use", use, USES)), CORPORA.get(corpus, {}))
    if model == "crnn":
        config = merge(config, {"frontend": {"deltas": 2}})
    if use == "transductive" and model in WITH_BATCH_NORMALISATION:
        config = merge(config, {"evaluation": {"batch_statistics": "speaker"}})
    return merge(config, EMODB_TRANSDUCTIVE) if (corpus, use) == ("emodb", "transductive") else config
