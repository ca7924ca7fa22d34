"""Published models on the Hugging Face hub."""

import re
from pathlib import Path

from ser_jax import checksums, extras
from ser_jax.errors import UserError, reason_of
from ser_jax.training import published

PREFIX = "hub:"


def download(name: str) -> Path:
    """Returns the folder of the published model `hub:OWNER/NAME`, or `hub:OWNER/NAME@REVISION`, once it is here.

    Only the files of a published model are taken, and only those that have changed; none of them is code. Raises
    `UserError` for another form of name, and for what the hub does not give.
    """
    match = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?", name.removeprefix(PREFIX))
    if match is None:
        raise UserError(f"model {name!r}: expected {PREFIX}OWNER/NAME")
    hub = extras.load("encoders", f"model {name}", "huggingface_hub")
    files = [published.WEIGHTS, published.METADATA, published.CARD, published.TESTED, checksums.FILE]
    try:
        folder = Path(hub.snapshot_download(match[1], revision=match[2], allow_patterns=files))
    except Exception as error:  # of the network, of the hub, of its client: all say why in their text
        raise UserError(f"model {name}: the Hugging Face hub did not give it ({reason_of(error)})") from error
    if not published.is_published(folder):
        raise UserError(f"model {name}: no published model; expected what `publish` writes, with {published.WEIGHTS}")
    return folder
