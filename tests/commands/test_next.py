"""The commands that other commands propose are what the parser takes, wherever the data and the results are."""

import re
import shlex

import numpy as np
import pandas as pd
import pytest

from ser_jax.commands import prepare, study
from ser_jax.commands.main import _split, make_parser
from ser_jax.corpora.corpus import make_corpus


def parsed(proposed):
    """What the parser makes of each command between backticks, as a shell passes it on."""
    found = []
    for command in re.findall(r"`(.*?)`(?:, |$)", proposed):
        arguments, overrides = _split(shlex.split(command))
        args, rest = make_parser().parse_known_args(arguments)
        assert rest == [] and (not overrides or args.config), command
        found.append((args, overrides))
    return found


PLACES = ["runs/mine", "my data/$HOME", "it's", "a;b & c", "`x`"]


@pytest.mark.parametrize("place", [None, *PLACES])
def test_what_a_prepared_corpus_is_looked_at_and_trained_with(place):
    table = pd.DataFrame({"id": [f"u{i}" for i in range(30)], "emotion": "joy"})
    table["speaker"] = table["id"]
    corpus = make_corpus("own", table, [np.full(9, i, np.int16) for i in range(30)], ("joy",))
    found = parsed(prepare._next(corpus, place))
    assert [args.command for args, _ in found] == ["inspect", "audit", "study"]
    assert all(args.data_dir == place for args, _ in found)
    assert [args.corpus for args, _ in found[:2]] == ["own", "own"]
    args, overrides = found[2]
    assert args.config == "configs/baselines.py:own" and args.dry_run
    assert overrides == ["--config.protocol.name=grouped_k_fold", "--config.protocol.num_folds=5"]


@pytest.mark.parametrize(
    ("pooled", "encoder", "config"),
    [
        (True, "", "configs/encoder.py:own"),
        (True, "mine", "configs/encoder.py:own,mine"),
        (False, "mine", "configs/studies/attention.py:own,encoder_pooling,mine"),
    ],
)
@pytest.mark.parametrize("place", [None, *PLACES])
def test_what_hidden_states_are_trained_with(pooled, encoder, config, place):
    ((args, overrides),) = parsed(prepare._next_of_states("own", encoder, pooled, place))
    assert (args.command, args.config, args.data_dir, args.dry_run) == ("study", config, place, True)
    assert overrides == []


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("variants", "variant"), [(1, None), (2, "NAME")])
def test_what_a_trained_model_is_used_with(place, variants, variant):
    (predict, _), (compare, _) = parsed(study._next(place, variants))
    assert (predict.command, predict.workdir, predict.variant) == ("predict", place, variant)
    assert compare.command == "compare" and place in compare.results
