import numpy as np
import pytest
from sklearn.metrics import accuracy_score, recall_score

from ser_jax.errors import UserError
from ser_jax.predictions import PREFIX
from ser_jax.statistics.abstention import choose_threshold
from tests.statistics.made_tables import EMOTIONS, make_table


@pytest.fixture(scope="module")
def table():
    return make_table(variants=("eca",), utterances=30)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.7])
def test_so_many_go_unanswered_and_the_cost_is_that_of_the_others(table, share):
    found = choose_threshold(table, share)
    columns = [PREFIX + emotion for emotion in EMOTIONS]
    mean = table.groupby("utterance")[columns].mean()
    labels = table.groupby("utterance")["label"].first()
    confidence = found.confidences(mean.to_numpy())
    answered = confidence >= found.threshold
    assert found.utterances == len(mean) == 180
    assert found.coverage == answered.mean() == pytest.approx(1 - share)  # of 180, as many as the share says
    said = np.array(EMOTIONS)[mean.to_numpy().argmax(axis=1)]
    for rows, ua, wa in ((answered, found.ua, found.wa), (answered | True, found.ua_all, found.wa_all)):
        assert ua == pytest.approx(recall_score(labels[rows], said[rows], average="macro", zero_division=0))
        assert wa == pytest.approx(accuracy_score(labels[rows], said[rows]))
    assert found.ua > found.ua_all and found.unanswered == ()


def test_confidence_is_calibrated(table):
    """Seeds that are averaged are not sure enough, and probabilities may be too sure: the temperature mends both."""
    columns = [PREFIX + emotion for emotion in EMOTIONS]
    sure = table[columns].to_numpy() ** 4
    bold = table.assign(**dict(zip(columns, (sure / sure.sum(axis=1, keepdims=True)).T, strict=True)))
    for one, wrong in ((table, -0.1), (bold[bold["seed"] == 0], 0.1)):
        found = choose_threshold(one, 0.3)
        mean = one.groupby("utterance")[columns].mean().to_numpy()
        assert (mean.max(axis=1).mean() - found.wa_all) / wrong > 1
        assert found.confidences(mean).mean() == pytest.approx(found.wa_all, abs=0.04)


def test_an_emotion_that_is_never_answered_is_named(table):
    columns = [PREFIX + emotion for emotion in EMOTIONS]
    unsure = (table["label"] == "joy").to_numpy()[:, None]
    flat = np.where(unsure, 0.25 + np.array([0.01, 0, -0.01, 0]), table[columns].to_numpy())
    found = choose_threshold(table.assign(**dict(zip(columns, flat.T, strict=True))), 0.5)
    assert found.unanswered == ("joy",)


def test_what_has_no_confidence_and_shares_that_cannot_be_are_refused(table):
    for share in (0.0, 1.0, -0.2, float("nan")):
        with pytest.raises(UserError, match="abstention: found a share of"):
            choose_threshold(table, share)
    columns = [PREFIX + emotion for emotion in EMOTIONS]
    hard = np.eye(4)[table[columns].to_numpy().argmax(axis=1)]
    one = table.assign(**dict(zip(columns, hard.T, strict=True))).query("seed == 0")
    with pytest.raises(UserError, match="every probability is 0 or 1"):
        choose_threshold(one, 0.5)
