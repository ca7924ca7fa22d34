"""Configurations: one tree of defaults, the files in configs/ that change it, and `--config.x=y` on top.

A configuration is made as an `ml_collections.ConfigDict` and used as a plain nested dict, which is what a workdir keeps
as JSON. A `config.json` of a workdir can be given wherever a file of configs/ can.
"""

import ast
import contextlib
import copy
import dataclasses
import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ser_jax.errors import UserError

# Groups whose keys are checked where they are used: they depend on the corpus, on the model, and on the study.
_FREE = {"config.corpus.options", "config.model", "config.study.variants"}


def default() -> dict:
    """Returns every key of a configuration with its default; what is not here cannot be configured."""
    return {
        "corpus": {
            "name": "synthetic",  # a built-in corpus, or one that `prepare` made
            "options": {},  # of a built-in corpus: num_speakers, utterances_per_speaker, seed, ...
            "tracks": "",  # the name of tracks that a model's time-continuous head learns beside the emotion; "": none
            "symbols": "",  # a text with all symbols that a model may write; empty: those of the corpus's transcripts
        },
        "protocol": {
            "name": "leave_one_speaker_out",
            "validation_speakers": 1,  # taken from the training side; 0: a fixed schedule, nothing to select
            "num_folds": 0,  # of the protocols that group speakers or draw at random; 0: the protocol's own default
            "num_text_groups": 2,  # of speaker_and_text_independent
            "seed": 0,
            "file": "",  # of a protocol from file
            "source": "",  # of a merged corpus: whose speakers are tested, the other sources are learnt; "": all are
            "tested": "test",  # validation: to choose by, on the validation speakers, with the test speakers left out
        },
        "feed": "auto",  # resident: the corpus on the devices; streaming: from record files by tf.data; auto: what fits
        "order": {  # of the utterances, the same by either feed
            "lanes": 1,  # parts of the corpus that are read side by side, each giving its share of every batch
            "window": 8192,  # utterances among which a lane shuffles
        },
        "folds": (),  # numbers of the folds to train; empty: all of them
        "seeds": (0,),
        "frontend": {  # fields of ser_jax.frontend.Frontend
            "kind": "log_mel",  # log_mel | mfcc | histogram | functionals | precomputed
            "num_mels": 64,
            "window_ms": 25.0,
            "hop_ms": 10.0,
            "fft_size": 0,  # 0: the smallest power of two that holds a window
            "fmin": 20.0,
            "fmax": 8000.0,
            "trim_db": 0.0,  # silence before and after is left out: softer by so much than the loudest; 0: nothing is
            "mel_scale": "slaney",
            "num_mfcc": 20,
            "deltas": 0,
            "histogram_bins": 64,  # of kind histogram: the levels of every mel band, the softest first
            "histogram_range_db": 80.0,  # below the utterance's loudest level
            "histogram_assignment": "hard",  # soft: a level is shared by two bins
            "features": "",  # of kind precomputed: the name under which `prepare features` packed them
            "normalization": "utterance",  # none | utterance | train (the training fold's statistics) | speaker
        },
        "augmentation": {  # strengths, fields of ser_jax.frontend.Strengths; 0 is off
            "speed": 0.0,
            "time_shift": 0.0,
            "gain": 0.0,
            "noise": 0.0,
            "vocal_tract": 0.0,
            "spec_augment": 0.0,
            "mixup": 0.0,
        },
        "model": {  # fields of the model's linen module
            "name": "shufflenet_v2",
            "width": 0.5,
            "attention": "eca",
            "activation": "hard_swish",
        },
        "objective": {  # the weight of each loss
            "emotion": 1.0,  # cross-entropy
            "text": 0.3,  # cross-entropy of the transcript's symbols
            "tracks": 1.0,  # 1 - the concordance correlation coefficient
            "frames": 0.0,  # squared error of the features of hidden frames; 0: none are hidden
        },
        "masking": {  # of frames that are hidden in training for the model to tell, fields of ser_jax.frontend.Masking
            "share": 0.4,  # of an utterance's frames
            "span": 10,  # frames that are hidden together
        },
        "optimizer": {
            "learning_rate": 2e-3,
            "weight_decay": 0.05,
            "warmup_epochs": 5.0,
            "warmup_steps": -1,
            "gradient_clip": 1.0,  # of the global norm
            "ema_decay": 0.99,  # 0: the last parameters are used
            "label_smoothing": 0.1,
            "class_weights": False,  # True: inversely to the classes' frequency in the training fold
        },
        "training": {
            "batch_size": 32,
            "accumulate": 1,  # parts of a batch that the network sees one after another, to save memory
            "split": "auto",  # what devices share out: runs | batch | auto: the batch of a single run
            "initial": "",  # a workdir, trained on another corpus, whose parameters the runs begin with; "": drawn
            "heads": "shared",  # one classifier; source: of a merged corpus, one for each that it was merged from
            "teacher": "",  # a workdir, trained on the same folds, whose probabilities the runs learn; "": labels alone
            "teacher_share": 0.5,  # of what they say in what is learnt; the rest is the label
            "crop_seconds": 3.0,
            "train_epochs": 50.0,
            "train_steps": -1,
            "validate_epochs": 10.0,
            "validate_steps": -1,
            "checkpoint_seconds": 120.0,  # at most, between two checkpoints
        },
        "evaluation": {
            "window_seconds": 0.0,  # 0: as long as a training crop; longer utterances are averaged over windows
            "batch_size": 32,
            "batch_statistics": "running",  # of batch normalisation: running averages, or those of the "speaker"
            "latency": True,  # whether the time that a recording of 3 s takes is measured, variants by turns
            "robustness": (),  # conditions that every run is tested under as well: ser_jax/corpora/perturbations.py
        },
        "study": {
            "title": "",
            "variants": {},  # name -> what differs from this tree, as a part of it
            "comparisons": (),  # pairs (variant, the variant that it is measured against)
            "questions": (),  # each a dict with factors or variants of its own, see ser_jax/studies/plan.py
        },
    }


def make_config(**changes: Any) -> Any:
    """Returns the defaults as an `ml_collections.ConfigDict` for a file in configs/ to change.

    `model` may be given as a dict: it replaces the default model whole, because models differ in their options.
    """
    import ml_collections

    config = default()
    config.update(changes)
    return ml_collections.ConfigDict(config)


def load(path: str, overrides: Sequence[str] = ()) -> dict:
    """Reads a configuration file (`FILE.py`, `FILE.py:ARGUMENT` or `FILE.json`) and applies `--config.x=y` overrides.

    Raises `UserError` for a missing file, for a key that does not exist (naming the nearest that does), and for a value
    of another type.
    """
    file = path.split(":")[0] if not path.endswith(".json") else path
    if not Path(file).is_file():
        raise UserError(f"--config {path}: no such file; expected one of configs/*.py or a workdir's config.json")
    config = _plain(_load_json(file, overrides) if file.endswith(".json") else _load_python(path, overrides))
    _check_tree(config, default(), "config")
    return config


def merge(config: dict, changes: dict, where: str = "config") -> dict:
    """Returns `config` with the leaves that `changes`, a part of such a tree, names.

    Raises `UserError` that names the nearest existing key for one that does not exist. Below `config.model` any key is
    taken: models differ in their options, which are checked when the model is built. Where the name of the model
    changes, the changes replace the model whole.
    """
    result = dict(config)
    for key, value in changes.items():
        if where not in _FREE:
            _check_key(key, config, where)
        if isinstance(config.get(key), dict) and isinstance(value, dict) and not _another_model(key, config, value):
            value = merge(config[key], value, f"{where}.{key}")
        result[key] = copy.deepcopy(value)
    return result


def completed(config: dict) -> dict:
    """Returns the configuration of an older training, with the defaults of what did not exist yet."""
    others = {key: value for key, value in config.items() if key != "model"}  # a model's own defaults are its module's
    return {**merge(default(), others), "model": config["model"]}


def deciding(config: dict) -> dict:
    """Returns the part of a variant's configuration that decides what is trained and what it predicts."""
    result = {key: value for key, value in config.items() if key not in ("study", "feed")}
    result["training"] = {
        key: value
        for key, value in config["training"].items()
        if key not in ("checkpoint_seconds", "split", "initial", "teacher")  # what these hold counts, not where it lies
    }
    result["evaluation"] = {name: config["evaluation"][name] for name in ("window_seconds", "batch_statistics")}
    return result


def steps(config: dict, section: str, name: str, steps_per_epoch: float) -> int:
    """Returns the duration `name` in steps, from `<name>_steps` or `<name>_epochs`, of which only one may be set.

    A duration that is not set is -1. Raises `UserError` where both or neither are.
    """
    in_steps, in_epochs = config[section][f"{name}_steps"], config[section][f"{name}_epochs"]
    where = f"config.{section}.{name}"
    if (in_steps >= 0) == (in_epochs >= 0):
        found = "both are set" if in_steps >= 0 else "neither is set"
        raise UserError(
            f"{where}_steps={in_steps} and {where}_epochs={in_epochs}: {found}; set one, and the other to -1"
        )
    return in_steps if in_steps >= 0 else round(in_epochs * steps_per_epoch)


def construct(kind: type, options: dict, where: str) -> Any:
    """Builds the dataclass `kind` from a group of options; raises `UserError` for an option that it does not have."""
    names = [field.name for field in dataclasses.fields(kind)]
    for key in options:
        if key not in names:
            raise UserError(f"{where} has no {key!r}{nearest(key, names)}")
    return kind(**options)


def differences(old: dict, new: dict, prefix: str = "config") -> Iterator[str]:
    """Yields one "path: old -> new" for each leaf in which two configurations differ."""
    for key in sorted({*old, *new}):
        path, a, b = f"{prefix}.{key}", old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, path)
        elif a != b:
            yield f"{path}: {a!r} -> {b!r}"


def _load_python(path: str, overrides: Sequence[str]) -> dict:
    from absl import flags
    from ml_collections import config_flags

    # A file names few of its model's options, or none: config_flags would refuse the others.
    of_model = [text for text in overrides if text.startswith("--config.model.")]
    if of_model:
        config = _load_python(path, [text for text in overrides if text not in of_model])
        return merge(config, {"model": {keys[-1]: value for keys, value in map(_parse, of_model)}})
    flag_values = flags.FlagValues()
    argv = ["launch.py", f"--config={path}", *_durations_unset_their_twins(overrides)]
    config_flags.DEFINE_config_file("config", flag_values=flag_values, sys_argv=argv)
    try:
        flag_values(argv)
        return flag_values.config.to_dict()
    except UserError:
        raise
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"--{error.flagname}: no such option; overrides look like --config.model.width=1.0") from error
    except (AttributeError, KeyError) as error:
        raise UserError(_explain_key(path, overrides, error)) from error
    except (TypeError, ValueError, flags.Error) as error:
        raise UserError(f"--config {path}: {_last_line(error)}") from error


def _explain_key(path: str, overrides: Sequence[str], error: Exception) -> str:
    """Names the override that does not fit the tree, and the nearest key; else says what the file itself raised."""
    tree = _load_python(path, ()) if overrides else default()
    for text in overrides:
        node, keys = tree, text.removeprefix("--config.").split("=")[0].split(".")
        for depth, key in enumerate(keys):
            if not isinstance(node, dict) or key not in node:
                where = ".".join(["config", *keys[:depth]])
                names = list(node) if isinstance(node, dict) else []
                return f"{text.split('=')[0]}: {where} has no {key!r}{nearest(key, names)}"
            node = node[key]
    return f"--config {path}: {_last_line(error)}"


def _last_line(error: Exception) -> str:
    """What an exception says, without the traceback that config_flags puts before it."""
    return str(error).strip().splitlines()[-1]


def _durations_unset_their_twins(overrides: Sequence[str]) -> list[str]:
    """Makes `--config.training.train_steps=100` enough, although the file sets `train_epochs`.

    Two units for one duration on the command line stay two, and are refused later.
    """
    names = {text.split("=")[0] for text in overrides}
    result = list(overrides)
    for name in sorted(names):
        for suffix, twin in (("_steps", "_epochs"), ("_epochs", "_steps")):
            other = name.removesuffix(suffix) + twin
            if name.endswith(suffix) and other not in names:
                result.append(f"{other}=-1")
    return result


def _load_json(path: str, overrides: Sequence[str]) -> dict:
    try:
        config = json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: not JSON ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError(f"--config {path}: not a configuration: it has no group model")
    config = completed(config)
    for text in _durations_unset_their_twins(overrides):
        keys, value = _parse(text)
        for key in reversed(keys):
            value = {key: value}
        config = merge(config, value)
    return config


def _parse(override: str) -> tuple[list[str], Any]:
    """Returns the keys and the value of `--config.KEY.KEY=VALUE`."""
    name, _, text = override.partition("=")
    return name.removeprefix("--config.").split("."), _value(text)


def _value(text: str) -> Any:
    """What a text spells in JSON or Python: a number, true, None, a list, a tuple; else the text itself."""
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError):
            return read(text)
    return text


def _plain(value: Any) -> Any:
    """Turns tuples into lists, as JSON will, so that a configuration equals its own copy in a workdir."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _check_tree(config: dict, reference: dict, where: str) -> None:
    for key, value in config.items():
        _check_key(key, reference, where)
        path = f"{where}.{key}"
        if isinstance(reference[key], dict):
            if not isinstance(value, dict):
                raise UserError(f"{path}: found {value!r}, expected a group of options")
            if path not in _FREE:
                _check_tree(value, reference[key], path)
    for key in reference:
        if key not in config:
            raise UserError(f"{where}: {key!r} is missing")


def _check_key(key: str, node: Any, where: str) -> None:
    names = list(node) if isinstance(node, dict) else []
    if key not in names:
        raise UserError(f"{where} has no {key!r}{nearest(key, names)}")


def _another_model(key: str, config: dict, changes: dict) -> bool:
    return key == "model" and changes.get("name", config[key].get("name")) != config[key].get("name")


def nearest(name: str, names: Sequence[str]) -> str:
    """Ends an error about a name that is not among `names`: the nearest of them, or else all."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; expected one of {', '.join(names)}" if names else ""
