"""Who else was hurt: retained and unseen samples under unlearned models, against retrained ones.

A sample's exposure is by how many standard deviations its φ lies above unseen samples' mean φ,
under the same model. An attacker with a threshold finds first what is most exposed. Damage that
all samples share moves unseen ones too, and cancels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..distances.klom import KLoM
from ..metrics.apart import Apart, apart
from ..metrics.harm import Difference, Harm, ends
from ..metrics.roc import pair_auc

LISTED = 50  # samples, the clearest first


@dataclass(frozen=True)
class Side:
    """One group of models: φ, float64 `(M, S)`, and whether the class is right, bool `(M, S)`, of
    retained samples and of unseen ones."""

    retained: np.ndarray
    right: np.ndarray
    unseen: np.ndarray
    unseen_right: np.ndarray

    def exposure(self) -> np.ndarray:
        """Returns how exposed each retained sample is under each model, float64 `(M, S)`."""
        spread = self.unseen.std(axis=1, keepdims=True)
        # a model that treats all unseen samples alike exposes nothing by its φ
        spread = np.where(spread > 0.0, spread, np.inf)
        return np.asarray((self.retained - self.unseen.mean(axis=1, keepdims=True)) / spread)

    def aucs(self) -> np.ndarray:
        """Returns how well φ tells retained samples from unseen ones, float64 `(M,)`."""
        return np.asarray([pair_auc(mine, other) for mine, other in zip(self.retained, self.unseen, strict=True)])


def collateral(
    mine: Side,
    retrained: Side,
    before: Side | None,
    *,
    sample_ids: np.ndarray,
    groups: Mapping[str, np.ndarray],
    unseen_groups: Mapping[str, np.ndarray],
    seed: int = 0,
) -> Harm:
    """Compares one row's models with retrained ones, on samples that both were trained on and on
    samples that neither was.

    A sample became easier to find where it is clearly more exposed than under retrained models, and
    clearly more than before unlearning. Ordinary drift from one training to the next does neither.

    **Arguments:**

    - `before`: models before unlearning; None: the row is of those.
    - `sample_ids`: int64 `(S,)`, of the retained samples.
    - `groups`: by the name of a grouping, the group of each retained sample, integers `(S,)`; a
        negative one is in no group. `unseen_groups`: the same of the unseen samples.

    **Raises:** `ValueError` where a side has fewer than two models.
    """
    mine_exposed, theirs_exposed = mine.exposure(), retrained.exposure()
    before_exposed = None if before is None else before.exposure()
    names = [str(int(sample)) for sample in sample_ids]
    found = _differences(names, mine_exposed, theirs_exposed, before_exposed, seed)
    clear = sorted((each for each in found if each.clear), key=lambda each: -each.difference)
    aucs = mine.aucs()
    columns = [values[:, None] for values in (aucs, retrained.aucs())]
    earlier = None if before is None else before.aucs()[:, None]
    (auc,) = _differences(["AUC"], columns[0], columns[1], earlier, seed)
    errors = _errors(mine.right), _errors(retrained.right), None if before is None else _errors(before.right)
    unseen_errors = (
        _errors(mine.unseen_right),
        _errors(retrained.unseen_right),
        None if before is None else _errors(before.unseen_right),
    )
    return Harm(
        retained=len(sample_ids),
        unseen=mine.unseen.shape[1],
        aucs=tuple(aucs.tolist()),
        auc=auc,
        easier=len(clear),
        samples=tuple(clear[:LISTED]),
        exposure={
            name: _by_group(codes, mine_exposed, theirs_exposed, before_exposed, seed) for name, codes in groups.items()
        },
        errors={name: _by_group(codes, *errors, seed) for name, codes in groups.items()},
        errors_unseen={name: _by_group(codes, *unseen_errors, seed) for name, codes in unseen_groups.items()},
        klom=_klom(mine, retrained),
    )


def _differences(
    names: list[str], mine: np.ndarray, theirs: np.ndarray, before: np.ndarray | None, seed: int
) -> list[Difference]:
    against = apart(mine, theirs, seed=seed)
    earlier: Apart | None = None if before is None else apart(mine, before, seed=seed)
    means = mine.mean(axis=0), theirs.mean(axis=0)
    found = []
    for place, name in enumerate(names):
        low, high = ends(float(against.low[place]), float(against.high[place]))
        rose = earlier is None or float(earlier.low[place]) > 0.0
        found.append(
            Difference(
                name,
                float(means[0][place]),
                float(means[1][place]),
                None if before is None else float(before[:, place].mean()),
                float(against.difference[place]),
                low,
                high,
                clear=low is not None and low > 0.0 and rose,
            )
        )
    return found


def _by_group(
    codes: np.ndarray, mine: np.ndarray, theirs: np.ndarray, before: np.ndarray | None, seed: int
) -> tuple[Difference, ...]:
    """Returns the differences of the groups' means, the largest first."""
    known = [int(code) for code in np.unique(codes) if code >= 0]
    if not known:
        return ()

    def means(values: np.ndarray) -> np.ndarray:
        return np.stack([values[:, codes == code].mean(axis=1) for code in known], axis=1)

    earlier = None if before is None else means(before)
    found = _differences([str(code) for code in known], means(mine), means(theirs), earlier, seed)
    return tuple(sorted(found, key=lambda each: -each.difference))


def _errors(right: np.ndarray) -> np.ndarray:
    return 100.0 * (1.0 - right.astype(np.float64))


def _klom(mine: Side, retrained: Side) -> dict[str, float]:
    """Returns KLoM on retained and on unseen samples, over equally many models of both sides."""
    count = min(len(mine.retained), len(retrained.retained))
    found: dict[str, float] = {}
    for name, left, right in (
        ("retain", mine.retained, retrained.retained),
        ("test", mine.unseen, retrained.unseen),
    ):
        values = KLoM().of_margins(left[:count], right[:count])
        found |= {f"{name}/mean": float(values.mean()), f"{name}/p95": float(np.quantile(values, 0.95))}
    return found
