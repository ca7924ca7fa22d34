"""The header of a published model's card: what a model hub lists and searches, as YAML."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

_LICENCES = {
    "apache-2.0",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-4.0",
    "mit",
    "odc-by",
    "pddl",
}  # by the hub's names for them
# This code's metrics by the hub's names for them; each is said beside, since recall is the mean over classes here.
_METRICS = {"ua": "recall", "wa": "accuracy", "macro_f1": "f1"}
TASK = "audio-classification"


def header(
    name: str,
    library: str,
    architecture: str,
    corpora: Sequence[Mapping[str, Any]],
    tests: Sequence[tuple[str, str, Mapping[str, tuple[str, float]]]],
) -> str:
    """Returns the header with the lines that enclose it.

    Args:
      name: of the model.
      library: what reads the model.
      architecture: the network's name.
      corpora: `info` of those that it was trained on.
      tests: of each, the corpus, what was tested, and metric -> (its name for readers, percent).
    """
    results = [
        {
            "task": {"type": TASK, "name": "Speech emotion recognition"},
            "dataset": {"type": corpus, "name": what},
            "metrics": [
                {"type": _METRICS[metric], "name": label, "value": round(percent, 1)}
                for metric, (label, percent) in metrics.items()
                if metric in _METRICS
            ],
        }
        for corpus, what, metrics in tests
    ]
    shown = {one["type"] for result in results for one in result["metrics"]}
    tree = {
        "library_name": library,
        "pipeline_tag": TASK,
        **licences([str(info.get("licence") or "") for info in corpora]),
        **_languages(corpora),
        "tags": ["speech-emotion-recognition", "speech", "jax", "flax", architecture],
        "metrics": [metric for metric in _METRICS.values() if metric in shown],
        "model-index": [{"name": name, "results": results}],
    }
    return f"---\n{yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)}---"


def licences(names: Sequence[str]) -> dict[str, Any]:
    """Returns what a header says of the licence of a model, from those of its corpora.

    Of several Creative Commons licences it is the one that has all of their terms; where there is none, or the hub has
    no name for one, it is "other", and `license_name` lists them.
    """
    parts = list(dict.fromkeys(part.strip() for name in names for part in name.split(" and ")))
    known = ["-".join(part.partition("(")[0].lower().split()) for part in parts]  # without a remark in brackets
    for one in known:
        if one in _LICENCES and all(other in _LICENCES and _terms(other) <= _terms(one) for other in known):
            return {"license": one}
    return {"license": "other", "license_name": ", ".join(part or "not known" for part in parts)}


def _terms(licence: str) -> set[str]:
    return set(licence.split("-"))


def _languages(corpora: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    found = [str(info.get("language") or "") for info in corpora]
    codes = sorted({code.strip() for text in found for code in text.replace(" and ", ",").split(",") if code.strip()})
    return {"language": codes} if codes and all(len(code) in (2, 3) for code in codes) else {}
