"""Forgetting quality ε: the best attack on each sample, as a bound like differential privacy's
(arXiv 2406.09073)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..outputs.measured import Measured
from ..settings import check_ranges
from .base import Divergence, PerSampleDivergence, margins

BLOCK_SAMPLES = 1_000


@dataclass(frozen=True)
class ForgettingQuality(PerSampleDivergence):
    """Per sample ε = max over attacks of max{log(1−δ−FPR) − log FNR, log(1−δ−FNR) − log FPR}.

    The attacks are those of the published evaluation: single and double thresholds on φ. So a rule
    calls a model unlearned where φ lies within an interval, or where it lies outside. The interval
    may be open to one side. All of them are tried. Perfect separation is ε = ∞. A rule with just
    one rate of 0 tells nothing with so few models and is left out, as in that evaluation.

    **Arguments:**

    - `delta`: δ. `width`: of the bins of ε; a sample scores 2/2^bin, bin 1 being ε < width. `bins`:
        the last bin.

    With N models a side, ε below ∞ cannot exceed log((1 − δ − 1/N)·N): few models hide how much is
    left.
    """

    name = "forgetting_quality"
    headline = "score"

    delta: float = 0.0
    width: float = 0.5
    bins: int = 13

    def __post_init__(self) -> None:
        check_ranges(self, {"delta": (0.0, 0.5), "width": (1e-3, 100.0), "bins": (1, 1000)})

    def measure(self, unlearned: pa.Table | Measured, retrained: pa.Table | Measured) -> Divergence:
        """Returns ε of each sample; the summary has the mean score in (0, 1] (1 = nothing left),
        the median ε and the share at ∞.

        The competition multiplies the mean by ratios of accuracies on retain and test data, which
        outputs on the forget set cannot tell. So a model that is ruined elsewhere may score well
        here.
        """
        samples, mine, theirs = margins(unlearned, retrained, self.name)
        values = self.of_margins(mine, theirs)
        median = float(np.median(values))
        summary: dict[str, float | None] = {
            "score": float(self.scores(values).mean()),
            "epsilon_median": median if np.isfinite(median) else None,
            "epsilon_infinite": float(np.isinf(values).mean()),
        }
        fewest = min(len(mine), len(theirs))
        ceiling = np.log((1.0 - self.delta - 1.0 / fewest) * fewest)
        notes = [f"forgetting_quality: with {fewest} models on a side ε is at most {ceiling:.2f}, or infinite"]
        return Divergence(samples, values, summary, notes)

    def scores(self, epsilon: np.ndarray) -> np.ndarray:
        """Returns each sample's score 2/2^bin."""
        number = np.where(np.isinf(epsilon), self.bins, np.floor(np.maximum(epsilon, 0.0) / self.width) + 1)
        return 2.0 / 2.0 ** np.minimum(number, self.bins)

    def headline_of(self, unlearned: np.ndarray, retrained: np.ndarray) -> float:
        """Returns the mean score."""
        return float(self.scores(self.of_margins(unlearned, retrained)).mean())

    def of_margins(self, unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
        """Returns ε for φ of each group, `(models, S)`; float64 `(S,)`, at least 0."""
        found = np.empty(unlearned.shape[1])
        for start in range(0, len(found), BLOCK_SAMPLES):
            part = slice(start, start + BLOCK_SAMPLES)
            found[part] = self._best(unlearned[:, part], retrained[:, part])
        return found

    def _best(self, unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
        """Returns the largest ε over all intervals of φ.

        A rule is told by how many models of each group it takes for unlearned ones. So ε is looked
        up in a table of all such pairs of counts.
        """
        values = np.concatenate([unlearned, retrained])
        is_unlearned = np.repeat([True, False], [len(unlearned), len(retrained)])
        order = np.argsort(values, axis=0, kind="stable")
        values = np.take_along_axis(values, order, axis=0)
        mine = is_unlearned[order]
        # Cuts lie before the first value, after each one and after the last, but not within a tie.
        none, edge = np.zeros((1, values.shape[1]), dtype=np.int64), np.ones((1, values.shape[1]), dtype=bool)
        cut = np.concatenate([edge, values[1:] > values[:-1], edge])
        low_mine, low_theirs = (np.concatenate([none, np.cumsum(side, axis=0)]) for side in (mine, ~mine))
        table = self._table(len(unlearned), len(retrained)).ravel()
        place = low_mine * (len(retrained) + 1) + low_theirs
        best = np.zeros(values.shape[1])
        for width in range(1, len(cut)):
            inside = np.where(cut[width:] & cut[:-width], table[place[width:] - place[:-width]], 0.0)
            np.maximum(best, inside.max(axis=0), out=best)
        return best

    def _table(self, unlearned: int, retrained: int) -> np.ndarray:
        """Returns ε of the rule that takes so many models of each group for unlearned ones.

        It is the larger one of that rule and of its opposite, float64 `(unlearned + 1, retrained +
        1)`.
        """
        hit = np.arange(unlearned + 1)[:, None] / unlearned
        wrong = np.arange(retrained + 1)[None, :] / retrained
        found: np.ndarray = np.maximum(self._epsilon(wrong, 1.0 - hit), self._epsilon(1.0 - wrong, hit))
        return found

    def _epsilon(self, fpr: np.ndarray, fnr: np.ndarray) -> np.ndarray:
        no_fpr, no_fnr = fpr < 1e-12, fnr < 1e-12
        with np.errstate(divide="ignore", invalid="ignore"):
            one = np.log(1.0 - self.delta - fpr) - np.log(fnr)
            two = np.log(1.0 - self.delta - fnr) - np.log(fpr)
        found = np.fmax(one, two)
        found = np.where(no_fpr ^ no_fnr, 0.0, found)
        found = np.where(no_fpr & no_fnr, np.inf, found)
        return np.nan_to_num(found, nan=0.0, posinf=np.inf, neginf=0.0)
