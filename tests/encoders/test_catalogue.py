"""The encoders that are known by name, and the commands that get them and others."""

import pytest

from ser_jax.encoders.catalogue import command


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("smart-turn-v3.2", "package pipecat-ai==1.14.0", "smart-turn-v3.2"),
        ("wavlm-large", "https://huggingface.co/microsoft/wavlm-large", "wavlm-large"),
        ("mine", "https://huggingface.co/microsoft/wavlm-large", "microsoft/wavlm-large --name mine"),
        ("wavlm-large", "https://huggingface.co/someone/other", "someone/other --name wavlm-large"),
        ("other", "https://huggingface.co/someone/other", "someone/other"),
        ("mine", "checkpoint", "FOLDER --name mine"),
        ("mine", "https://huggingface.co/a b; c", "FOLDER --name mine"),
    ],
)
def test_the_command_that_gets_an_encoder_follows_from_its_source(name, source, expected):
    assert command(name, source) == f"python launch.py encoders get {expected}"
