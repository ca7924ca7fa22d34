"""Abstention: below which confidence a model should rather not answer, and what that costs.

The threshold is chosen on predictions for unseen speakers, by models of the same configuration. The predictions of an
utterance by several seeds are averaged, as those of a model's runs are at use. One temperature (Guo et al. 2017, ICML,
section 4.2) is fitted to all of them; a confidence is the highest probability after it. Selective prediction: El-Yaniv
and Wiener 2010, JMLR 11.
"""

import dataclasses

import numpy as np
import pandas as pd
from jaxtyping import Float

from ser_jax.errors import UserError
from ser_jax.predictions import PREFIX, labels_of, probabilities_of
from ser_jax.statistics.calibration import fit_temperature, scale


@dataclasses.dataclass(frozen=True)
class Abstention:
    """A threshold, and its effect on the predictions for unseen speakers on which it was chosen.

    Attributes:
        threshold: the lowest calibrated confidence of an answer.
        temperature: divides the logits, to calibrate the confidence.
        coverage: the share of utterances that are answered.
        ua, wa: unweighted and plain accuracy on those that are answered.
        ua_all, wa_all: on all of them.
        utterances: how many there are.
        unanswered: emotions of which none is answered; they do not count in `ua`.
    """

    threshold: float
    temperature: float
    coverage: float
    ua: float
    wa: float
    ua_all: float
    wa_all: float
    utterances: int
    unanswered: tuple[str, ...]

    def confidences(self, probabilities: Float[np.ndarray, "rows classes"]) -> Float[np.ndarray, " rows"]:
        """Returns the calibrated confidence of each row: the highest probability after the temperature."""
        return _confidences(probabilities, self.temperature)


def choose_threshold(predictions: pd.DataFrame, share: float) -> Abstention:
    """Returns the threshold below which a share of the utterances, the least confident, lie.

    `predictions` are one variant's (see `ser_jax.predictions`). Raises `UserError` for a share outside 0 to 1, and
    where every probability is 0 or 1.
    """
    if not 0 < share < 1:
        raise UserError(f"abstention: found a share of {share:g}, expected more than 0 and less than 1")
    columns = [name for name in predictions.columns if name.startswith(PREFIX)]
    table = predictions.groupby("utterance").agg({"label": "first", **dict.fromkeys(columns, "mean")})
    probabilities, labels = probabilities_of(table), labels_of(table)
    if ((probabilities == 0) | (probabilities == 1)).all():
        raise UserError("abstention: every probability is 0 or 1, so there is no confidence to go by")
    temperature = fit_temperature(probabilities, labels)
    confidence = _confidences(probabilities, temperature)
    threshold = float(np.quantile(confidence, share, method="higher"))
    answered, right = confidence >= threshold, probabilities.argmax(axis=1) == labels
    emotions = np.array([name.removeprefix(PREFIX) for name in columns])
    present = np.unique(labels)
    kept = np.unique(labels[answered])
    return Abstention(
        threshold=threshold,
        temperature=temperature,
        coverage=float(answered.mean()),
        ua=float(np.mean([right[answered & (labels == label)].mean() for label in kept])),
        wa=float(right[answered].mean()),
        ua_all=float(np.mean([right[labels == label].mean() for label in present])),
        wa_all=float(right.mean()),
        utterances=len(table),
        unanswered=tuple(emotions[np.setdiff1d(present, kept)].tolist()),
    )


def _confidences(probabilities: Float[np.ndarray, "rows classes"], temperature: float) -> Float[np.ndarray, " rows"]:
    return scale(np.asarray(probabilities, np.float64), np.full(len(probabilities), temperature)).max(axis=1)
