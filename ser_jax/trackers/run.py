"""The data of a run for a tracker."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """One run of a study.

    Attributes:
      variant, fold, seed: which one.
      options: the variant's configuration, as `group.option` to a number, truth value or text.
      curves: (step, {figure: value}) for each row of its log, in order.
      scores: of its test utterances, such as {"test_ua": 0.78}; empty where it has no predictions.
      confusion: its confusion matrix as a PNG picture; empty where it has none.
    """

    variant: str
    fold: str
    seed: int
    options: dict[str, int | float | bool | str]
    curves: list[tuple[int, dict[str, float]]]
    scores: dict[str, float]
    confusion: bytes = dataclasses.field(repr=False)

    @property
    def name(self) -> str:
        """One that no other run of the study has."""
        return f"{self.variant}, {self.fold}, seed {self.seed}"

    @property
    def last_step(self) -> int:
        """The step of the last row of its log; 0 where it has none."""
        return self.curves[-1][0] if self.curves else 0

    def labels(self) -> dict[str, Any]:
        """Returns which run it is, as a tracker's tags."""
        return {"variant": self.variant, "fold": self.fold, "seed": self.seed}
