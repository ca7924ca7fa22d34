"""Encoders on this machine: taken from where they are published, kept with licence, source and hash, and loaded.

`DATA/encoders/NAME` is a checkpoint folder like Hugging Face's (`config.json`, `preprocessor_config.json`,
`model.safetensors`, of the encoder alone, in float32) with `encoder.json` and SHA256SUMS beside them.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ser_jax import checksums, extras
from ser_jax.corpora import default_data_dir
from ser_jax.encoders import emotion2vec, smart_turn, weights
from ser_jax.encoders.architecture import (
    CONFIG,
    PREPROCESSOR,
    PROCESSOR,
    Architecture,
    make_architecture,
    read_architecture,
    read_configuration,
)
from ser_jax.encoders.catalogue import DEFAULT, HUB, KNOWN, is_hub_name
from ser_jax.errors import UserError, brief, did_you_mean
from ser_jax.files import atomic_folder, read_json

WEIGHTS, CARD = "model.safetensors", "encoder.json"
_OLDER = "pytorch_model.bin"
_FILES = (WEIGHTS, f"{WEIGHTS}.index.json", _OLDER, f"{_OLDER}.index.json")  # of which a checkpoint folder has one
_OF_CARD = {"family": str, "layers": int, "width": int, "parameters": int, "sha256": str, "source": str, "licence": str}


@dataclasses.dataclass(frozen=True)
class LoadedEncoder:
    """An encoder with its weights.

    Attributes:
        name: of its folder.
        architecture: sizes and settings from its configuration.
        parameters: of the module that `ser_jax.encoders.weights.make_module` makes.
        sha256: of its weights and its architecture; the same wherever they come from.
        source, licence: what is known of them, "" where nothing is.
    """

    name: str
    architecture: Architecture
    parameters: dict[str, Any]
    sha256: str
    source: str = ""
    licence: str = ""

    def describe(self) -> dict[str, str]:
        """Returns what goes into the card of anything made with it."""
        return {"name": self.name, "sha256": self.sha256, "source": self.source, "licence": self.licence}


def encoder_folder(name: str, data_dir: str | os.PathLike | None = None) -> Path:
    """Returns the folder of the encoder `name`, whether or not it exists."""
    return Path(data_dir or default_data_dir()) / "encoders" / name


def available(data_dir: str | os.PathLike | None = None) -> dict[str, dict[str, Any]]:
    """Returns the cards of the encoders on this machine, by name."""
    cards = sorted(encoder_folder("", data_dir).glob(f"*/{CARD}"))
    return {path.parent.name: _read_card(path.parent) for path in cards if not path.parent.name.startswith(".")}


def load(encoder: str, data_dir: str | os.PathLike | None = None) -> LoadedEncoder:
    """Returns the encoder of that name on this machine, or of a checkpoint folder.

    Raises UserError if there is none (naming the command that gets it), and for weights that do not fit their
    configuration or have changed since `encoders get`.
    """
    folder = encoder_folder(encoder, data_dir)
    if not encoder or not (folder / CARD).is_file():
        folder = Path(encoder)
        if not encoder or not folder.is_dir():
            raise UserError(_unknown(encoder, data_dir))
    architecture, tensors = _read_folder(folder)
    card = _read_card(folder) if (folder / CARD).is_file() else {}
    sha256 = hash_of(architecture, tensors)
    if card and card["sha256"] != sha256:
        raise UserError(
            f"{folder}: sha256 {sha256[:12]}, but {CARD} says {card['sha256'][:12]}; remove this folder, and take "
            "the encoder again"
        )
    for file in (CONFIG, PREPROCESSOR, CARD):
        checksums.check(folder / file)
    parameters = weights.to_parameters(architecture, tensors, str(folder))
    known = {key: card.get(key, "") for key in ("source", "licence")}
    return LoadedEncoder(folder.resolve().name, architecture, parameters, sha256, **known)


def refuse_folder(encoder: str, data_dir: str | os.PathLike | None = None) -> None:
    """Raises UserError for a checkpoint folder, which whoever predicts with a model trained on it would not have."""
    if not (encoder_folder(encoder, data_dir) / CARD).is_file() and Path(encoder).is_dir():
        raise UserError(
            f"encoder {encoder}: found a folder, expected a name; take it first: "
            f"python launch.py encoders get {encoder}"
        )


def get(
    what: str, data_dir: str | os.PathLike | None = None, *, name: str | None = None, licence: str | None = None
) -> Path:
    """Takes an encoder to `DATA/encoders/NAME` and returns that folder.

    `what` is a known name, a name on the Hugging Face hub (OWNER/NAME), a checkpoint folder, a PyTorch file that
    fairseq or OpenAI published, a file of emotion2vec, or the ONNX file of the default encoder. Raises UserError for
    what cannot be had, and for weights that do not fit their configuration; nothing is left half-written.
    """
    path = Path(what)
    if path.suffix == ".onnx" and path.is_file():
        content, source = path.read_bytes(), path.name
        return _take_smart_turn(content, source, data_dir, name, licence)
    if what == DEFAULT and not path.exists():
        return _take_smart_turn(smart_turn.download(), f"package {smart_turn.PACKAGE}", data_dir, name, licence)
    if path.is_file():
        return _take(path, name or path.stem, path.name, licence or "", data_dir)
    if path.is_dir():
        return _take(path, name or path.resolve().name, path.resolve().name, licence or "", data_dir)
    if what in KNOWN or is_hub_name(what):
        hub = KNOWN[what].hub if what in KNOWN else what
        licence = licence or next((known.licence for known in KNOWN.values() if known.hub == hub), "")
        folder = _download(hub)
        return _take(folder, name or what.split("/")[-1], f"{HUB}{hub}", licence, data_dir)
    raise UserError(_unknown(what, data_dir))


def hash_of(architecture: Architecture, tensors: Mapping[str, np.ndarray]) -> str:
    """Returns the sha256 of an architecture and its tensors, as `clean_names` gives them."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(architecture), sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name], "<f4").tobytes())
    return digest.hexdigest()


def _take_smart_turn(
    content: bytes, source: str, data_dir: str | os.PathLike | None, name: str | None, licence: str | None
) -> Path:
    tensors = smart_turn.dequantize(content, source)
    licence = licence or KNOWN[DEFAULT].licence
    return _keep(
        name or DEFAULT, tensors, smart_turn.CONFIG, smart_turn.PREPROCESSOR, source, source, licence, data_dir
    )


def _take(path: Path, name: str, source: str, licence: str, data_dir: str | os.PathLike | None) -> Path:
    """Takes the checkpoint at `path`: a folder like Hugging Face's, or one file, by itself or in any other folder."""
    file = _only_file(path) if path.is_dir() else path
    if file is None:
        return _take_folder(path, name, source, licence, data_dir)
    return _keep(name, *_foreign_file(file), str(file), source, licence, data_dir)


def _take_folder(folder: Path, name: str, source: str, licence: str, data_dir: str | os.PathLike | None) -> Path:
    _, tensors = _read_folder(folder)
    config, preprocessor, *_ = read_configuration(folder)
    if (folder / CARD).is_file():
        card = _read_card(folder)
        source, licence = card["source"] or source, licence or card["licence"]
    return _keep(name, tensors, config, preprocessor, str(folder), source, licence, data_dir)


def _keep(
    name: str,
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    path: str,
    source: str,
    licence: str,
    data_dir: str | os.PathLike | None,
) -> Path:
    """Writes an encoder's folder, which appears whole or not at all, once what is at `path` fits its configuration."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UserError(f"encoder {name!r}: expected a name of letters, digits, _, - and .; give one by --name")
    architecture = make_architecture(config, preprocessor, path, path)
    kept = {key: np.ascontiguousarray(value) for key, value in weights.clean_names(tensors).items()}
    weights.to_parameters(architecture, kept, path)
    folder, sha256 = encoder_folder(name, data_dir), hash_of(architecture, kept)
    before = _licence_before(folder, sha256)
    with atomic_folder(folder) as temporary:
        for file, content in ((CONFIG, config), (PREPROCESSOR, preprocessor)):
            (temporary / file).write_text(json.dumps(dict(content), indent=1) + "\n", encoding="utf-8")
        save_file(kept, temporary / WEIGHTS)
        card = {
            "name": name,
            "family": architecture.family,
            "layers": architecture.depth,
            "width": architecture.width,
            "parameters": int(sum(value.size for value in kept.values())),
            "sha256": sha256,
            "source": source,
            "licence": licence or before,
        }
        (temporary / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        checksums.write_all(temporary)
    return folder


def _licence_before(folder: Path, sha256: str) -> str:
    """The licence of the same encoder, taken before; refuses another one, which whatever was made with it needs."""
    try:
        card = _read_card(folder)
    except UserError:
        return ""  # there is none, or a damaged one
    if card["sha256"] != sha256:
        raise UserError(
            f"{folder}: has another encoder (sha256 {card['sha256'][:12]}, from {card['source'] or 'unknown'}); "
            "expected another --name, or remove this folder first"
        )
    return card["licence"]


def _read_folder(folder: Path) -> tuple[Architecture, weights.Tensors]:
    """The architecture of a checkpoint folder, and its encoder's tensors."""
    if own := _only_file(folder):
        tensors, config, preprocessor = _foreign_file(own)
        return make_architecture(config, preprocessor, str(own), str(own)), weights.clean_names(tensors)
    architecture = read_architecture(folder)
    for file in _FILES:
        if (folder / file).is_file():
            return architecture, weights.clean_names(weights.read_tensors(folder / file))
    raise UserError(f"{folder}: no weights; expected {WEIGHTS} or {_OLDER} beside {CONFIG}")


def _only_file(folder: Path) -> Path | None:
    """The checkpoint in a folder that says nothing of its architecture; None where it does, or holds no checkpoint."""
    if (folder / CONFIG).exists():
        return None
    own = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.pt"))
    if len(own) > 1:
        raise UserError(
            f"{folder}: {len(own)} checkpoints ({own[0].name}, ...) and no {CONFIG} that says which; name one file"
        )
    return own[0] if own else None


def _foreign_file(path: Path) -> tuple[weights.Tensors, dict[str, Any], dict[str, Any]]:
    from ser_jax.encoders import foreign

    if path.suffix == ".safetensors":
        tensors, config, preprocessor = weights.read_tensors(path), None, None
        if emotion2vec.is_one(tensors):
            config, preprocessor = emotion2vec.configuration(path, tensors)
    else:
        tensors, config, preprocessor = foreign.read_pytorch(path)
    if config is None or preprocessor is None:
        hint = f"put it in a folder with {CONFIG}"
        if (path.parent / CONFIG).is_file():
            hint = f"give the folder {path.parent}, whose {CONFIG} does"
        raise UserError(f"{path}: does not say how the encoder is built; {hint}")
    return tensors, config, preprocessor


def _download(hub: str) -> Path:
    huggingface_hub = extras.load("encoders", f"encoder {hub}", "huggingface_hub")
    files = [CONFIG, PREPROCESSOR, PROCESSOR, emotion2vec.FLAGS]
    try:
        newer, older = ["*.safetensors", "*.safetensors.index.json"], ["pytorch_model*.bin", f"{_OLDER}.index.json"]
        folder = Path(huggingface_hub.snapshot_download(hub, allow_patterns=[*files, *newer]))
        if not any(folder.glob("*.safetensors")):
            folder = Path(huggingface_hub.snapshot_download(hub, allow_patterns=[*files, *older]))
        if not any((folder / file).is_file() for file in _FILES):
            folder = Path(huggingface_hub.snapshot_download(hub, allow_patterns=[emotion2vec.FLAGS, "*.pt"]))
    except Exception as error:  # of the network, of the hub, of its client: all say why in their text
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"encoder {hub}: the Hugging Face hub did not give it ({reason})") from error
    return folder


def _read_card(folder: Path) -> dict[str, Any]:
    try:
        card = read_json(folder / CARD)
        if not isinstance(card, dict):
            raise ValueError("not an object")
        if wrong := [key for key, kind in _OF_CARD.items() if type(card.get(key)) is not kind]:
            raise ValueError(f"{wrong[0]} {brief(card.get(wrong[0]))}, expected {_OF_CARD[wrong[0]].__name__}")
        return card
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder / CARD}: damaged, take the encoder again ({' '.join(str(error).split())})") from error


def _unknown(encoder: str, data_dir: str | os.PathLike | None) -> str:
    folder = encoder_folder("", data_dir)
    if encoder in KNOWN:
        return f"encoder {encoder} is not in {folder}: run `python launch.py encoders get {encoder}`"
    hint = did_you_mean(encoder, [*available(data_dir), *KNOWN])
    return f"encoder {brief(encoder)}: no folder, and no such name in {folder}{hint} (`python launch.py encoders`)"
