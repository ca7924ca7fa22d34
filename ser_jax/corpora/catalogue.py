"""What is known of the published corpora before they are prepared: facts that their builders and layouts declare."""

import importlib
from typing import Any

from ser_jax.corpora import BUILDERS, layouts


def published() -> dict[str, dict[str, Any]]:
    """Returns the facts of every published corpus by its name here.

    They are title, language (ISO 639-1), speech (what kind, in words), speakers, utterances (None: releases differ),
    protocol (of its literature), licence, and from (where it is to be had).
    """
    facts = {}
    for name in BUILDERS:
        module = importlib.import_module(f"ser_jax.corpora.builders.{name}")
        facts[name] = {
            "title": module.RELEASE.title,
            "language": module.LANGUAGE,
            "speech": module.SPEECH,
            "speakers": module.SPEAKERS,
            "utterances": len(module.RELEASE.hashes),
            "protocol": "leave_one_speaker_out",
            "licence": module.LICENCE,
            "from": module.RELEASE.url,
        }
    told = ("title", "language", "speech", "speakers", "utterances", "protocol", "licence")
    for name in layouts.names():
        layout = layouts.load(name)
        facts[name] = {key: getattr(layout, key) for key in told} | {"from": layout.homepage}
    return facts
