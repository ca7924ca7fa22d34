"""Pre-extracted features, packed: one array [frames, dims] per utterance, end to end in one memory-mapped array.

On disk they are the folder DATA/packed/CORPUS/features/NAME with `values.npy`, `index.parquet` and `features.json`, and
their SHA256SUMS. NumPy's files have no bfloat16: its bits are kept as uint16, and `features.json` says "dtype". They
belong to one corpus by its fingerprint. Nothing here needs TensorFlow or JAX.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from ser_jax import bounded, checksums
from ser_jax.corpora import integrity, packed_folder
from ser_jax.corpora.corpus import Corpus, refuse_full_disk
from ser_jax.corpora.feature_source import FeatureSource, read_features
from ser_jax.errors import UserError, brief, did_you_mean, reading
from ser_jax.files import atomic_folder, read_json

_BLOCK = 1 << 16  # frames that are hashed together

FORMAT_VERSION = 1  # of the folder; a folder of another version is refused
WITH_DTYPE = 2  # the version of a folder whose values are bfloat16, which earlier code would take for whole numbers
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

_VALUES, _INDEX, _DESCRIPTION = "values.npy", "index.parquet", "features.json"


@dataclasses.dataclass(frozen=True)
class Packed:
    """One array of frames per utterance of a corpus: features, or tracks such as arousal and valence.

    Utterance i, by its row in the corpus's table, has `values[start[i] : start[i] + num_frames[i]]`; frame t is centred
    on `t * frame_ms`. `frame_ms` is 0 where every utterance has a single frame for the whole of it. `names` are those
    of the dims, "0", "1", ... where unknown. `fingerprint` changes with any value.
    """

    values: Float[np.ndarray, "total_frames dims"]
    start: Int[np.ndarray, " utterances"]
    num_frames: Int[np.ndarray, " utterances"]
    names: tuple[str, ...]
    frame_ms: float
    name: str = ""
    fingerprint: str = ""
    info: dict[str, Any] = dataclasses.field(default_factory=dict)


def frames(packed: Packed, i: int | np.integer) -> Float[np.ndarray, "frames dims"]:
    """Returns the frames of utterance `i` (its row number), a view."""
    return packed.values[packed.start[i] : packed.start[i] + packed.num_frames[i]]


def in_place_of_samples(corpus: Corpus, packed: Packed) -> Corpus:
    """Returns the corpus with frames where its samples were: what a model that takes them is fed with.

    `info["features"]` says which frames they are, `info["features_info"]` how they were made.
    """
    table = corpus.utterances.assign(start=packed.start, num_samples=packed.num_frames)
    which = {"name": packed.name, "dims": len(packed.names), "frame_ms": packed.frame_ms}
    info = corpus.info | {"features": which | {"fingerprint": packed.fingerprint}, "features_info": packed.info}
    return dataclasses.replace(corpus, utterances=table, samples=packed.values, info=info)


def features_folder(corpus_name: str, name: str, data_dir: str | os.PathLike | None = None) -> Path:
    """Returns the folder of the packed features `name` of a corpus, whether or not it exists."""
    return packed_folder(corpus_name, data_dir) / "features" / name


def pack_features(
    name: str,
    source: str | os.PathLike,
    corpus: Corpus,
    data_dir: str | os.PathLike | None = None,
    frame_ms: float = 0.0,
    *,
    names: Sequence[str] | None = None,
    licence: str = "",
) -> Packed:
    """Checks features against the corpus (see `read_features`) and packs them as its features `name`.

    `frame_ms` is the time from one frame to the next; 0 where every utterance has one array [dims]. `names` are those
    of the dims, where the source does not tell. What was packed under the same name before is replaced.
    Raises UserError for features that do not fit the corpus, a name that is none, a missing `frame_ms`, a full disk.
    """
    check_features_name(name)
    with read_features(source, corpus) as found:
        if frame_ms < 0 or not np.isfinite(frame_ms) or (frame_ms == 0 and found.num_frames.max() > 1):
            raise UserError(
                f"--frame_ms {frame_ms:g}: expected the time from one frame to the next in milliseconds; {source} has "
                f"up to {found.num_frames.max()} frames per utterance"
            )
        found = dataclasses.replace(found, names=tuple(names or found.names or map(str, range(found.dims))))
        if len(set(found.names)) != found.dims:
            raise UserError(
                f"--dims {','.join(found.names[:5])}: expected {found.dims} different names, one for each dim"
            )
        return pack_source(name, found, corpus, data_dir, frame_ms, {"source": Path(source).name, "licence": licence})


def check_features_name(name: str) -> str:
    """Returns the name; raises UserError where it cannot be one of features."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UserError(f"features {name!r}: expected a name of letters, digits, _, - and .")
    return name


def pack_source(
    name: str,
    found: FeatureSource,
    corpus: Corpus,
    data_dir: str | os.PathLike | None,
    frame_ms: float,
    info: dict[str, Any],
) -> Packed:
    """Packs features that were found good for the corpus; `info` is kept with them. See `pack_features`."""
    folder = features_folder(corpus.name, check_features_name(name), data_dir)
    description = {
        "format_version": FORMAT_VERSION,
        **_told(found.dtype),
        "name": name,
        "corpus": corpus.name,
        "corpus_fingerprint": corpus.fingerprint,
        "dims": found.dims,
        "names": found.names,
        "frame_ms": float(frame_ms),
        "num_frames": int(found.num_frames.sum()),
        "info": info,
    }
    with refuse_full_disk(folder), atomic_folder(folder) as temporary:
        index = pd.DataFrame({"id": corpus.utterances["id"], "num_frames": found.num_frames})
        index.insert(1, "start", np.cumsum(found.num_frames) - found.num_frames)
        index.to_parquet(temporary / _INDEX, index=False)
        digest = _digest(description, index)
        _write_values(temporary / _VALUES, found, digest)
        description["fingerprint"] = digest.hexdigest()
        text = json.dumps(description, indent=1, ensure_ascii=False)
        (temporary / _DESCRIPTION).write_text(text, encoding="utf-8")
        checksums.write_all(temporary)
    return load_features(corpus, name, data_dir)


def _told(dtype: np.dtype) -> dict[str, Any]:
    """What the description says of a dtype that the file of the values does not tell."""
    return {"format_version": WITH_DTYPE, "dtype": "bfloat16"} if dtype == BFLOAT16 else {}


def _digest(description: dict[str, Any], index: pd.DataFrame) -> Any:
    """The beginning of a fingerprint, which the values follow."""
    told = [description["names"], float(description["frame_ms"]), index.to_dict("list")]
    return hashlib.sha256(json.dumps([*told, *([description["dtype"]] if "dtype" in description else [])]).encode())


def _content(description: dict[str, Any], index: pd.DataFrame, values: np.ndarray) -> str:
    digest = _digest(description, index)
    stored = values.dtype.newbyteorder("<")  # a header that tells another order of bytes tells other values
    for start in range(0, len(values), _BLOCK):
        digest.update(np.ascontiguousarray(values[start : start + _BLOCK], stored))
    return digest.hexdigest()


def _write_values(path: Path, found: FeatureSource, digest: Any) -> None:
    """Writes all utterances' frames one after the other; unlike a memory map, this notices a full disk."""
    of_bits = found.dtype == BFLOAT16
    stored = np.dtype(np.uint16 if of_bits else found.dtype).newbyteorder("<")
    header = {"descr": stored.str, "fortran_order": False, "shape": (int(found.num_frames.sum()), found.dims)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for row in range(len(found.num_frames)):
            values = found.read(row)
            content = (values.astype(BFLOAT16).view(np.uint16) if of_bits else values).astype(stored).tobytes()
            digest.update(content)
            file.write(content)


def available_features(corpus_name: str, data_dir: str | os.PathLike | None = None) -> list[str]:
    """Returns the names of a corpus's packed features."""
    found = features_folder(corpus_name, "", data_dir).glob(f"*/{_DESCRIPTION}")
    return sorted(path.parent.name for path in found if not path.parent.name.startswith("."))


def load_features(corpus: Corpus, name: str, data_dir: str | os.PathLike | None = None) -> Packed:
    """Returns the packed features `name` of a corpus, or of a part of its utterances, memory-mapped.

    Raises UserError for features that are not there (naming the nearest), were made for another corpus of this name
    (by its fingerprint), are damaged, or of another format version.
    """
    folder = features_folder(corpus.name, name, data_dir)
    if not name or not (folder / _DESCRIPTION).is_file():
        available = available_features(corpus.name, data_dir)
        hint = did_you_mean(name, available) or "; it has none"
        commands = f"`python launch.py prepare encoder {corpus.name}`, `prepare features --corpus {corpus.name}`"
        raise UserError(f"corpus {corpus.name} has no features {brief(name)} in {folder.parent}{hint} ({commands})")
    description, index, values = read_packed(folder)
    if description["corpus_fingerprint"] != corpus.fingerprint:
        raise UserError(
            f"{folder}: made for the corpus {corpus.name} of fingerprint {description['corpus_fingerprint'][:12]}, "
            f"but this one's is {corpus.fingerprint[:12]}; prepare the features again"
        )
    with reading(_damaged(folder)):
        index = index.set_index("id").loc[corpus.utterances["id"]]
    return Packed(
        values=values,
        start=index["start"].to_numpy(),
        num_frames=index["num_frames"].to_numpy(),
        names=tuple(description["names"]),
        frame_ms=description["frame_ms"],
        name=name,
        fingerprint=description["fingerprint"],
        info=description["info"],
    )


def read_packed(folder: Path, *, again: bool = False) -> tuple[dict[str, Any], pd.DataFrame, np.ndarray]:
    """Returns what a folder of packed features holds: its description, where each utterance's frames are, all frames.

    Raises UserError where they are damaged or of another format version. With `again` they are hashed even if they were
    found right before; see `ser_jax.corpora.integrity`.
    """
    with reading(_damaged(folder)):
        description = read_json(folder / _DESCRIPTION)
        of_bits = "dtype" in description
        version = WITH_DTYPE if of_bits else FORMAT_VERSION
        if description["format_version"] != version:
            raise UserError(
                f"{folder}: features of format version {brief(description['format_version'])}, expected "
                f"{version}; prepare them again"
            )
        values = np.load(folder / _VALUES, mmap_mode="r")
        index = bounded.read_parquet(folder / _INDEX)
        shape = (description["num_frames"], description["dims"])
        if values.shape != shape or index["num_frames"].sum() != len(values):
            raise ValueError(f"{_VALUES} is {values.shape}, expected {shape}")
        if (description["dtype"], values.dtype.str) != ("bfloat16", "<u2") if of_bits else values.dtype.kind != "f":
            told = f"{_DESCRIPTION} says {description['dtype']}" if of_bits else "expected float16 or float32"
            raise ValueError(f"{_VALUES} is of {values.dtype}, {told}")
        if missing := {"corpus_fingerprint", "names", "frame_ms", "info"} - description.keys():
            raise ValueError(f"{_DESCRIPTION} has no {min(missing)}")

        def hashed() -> str:
            found = _content(description, index, values)
            if found == description["fingerprint"]:  # which does not depend on all of features.json
                checksums.check(folder / _DESCRIPTION)
            return found

        content = integrity.content(folder, (_VALUES, _INDEX, _DESCRIPTION), hashed, again=again)
        if content != description["fingerprint"]:
            expected = description["fingerprint"][:12]
            raise ValueError(f"its values are those of {content[:12]}, its fingerprint says {expected}")
    return description, index, values.view(BFLOAT16) if of_bits else values


def _damaged(folder: Path) -> str:
    return f"{folder}: damaged features, prepare them again"
