"""What the distributed attack trains: an actor that is asked for a candidate, and whose workers
train it.

The actor has two methods. `train` is for trials and the driver; it answers when the candidate is
fitted. `next` is for the workers; it answers when there is something to train. So nobody polls.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attack.attacks.xgboost import CONSTANT, FittedXGBoost, XGBoostAttack
from attack.library import load_xgboost
from attack.metrics.roc import best_f1


@dataclass(frozen=True)
class Wanted:
    """A candidate that the workers are to train."""

    number: int
    attack: XGBoostAttack


@dataclass(frozen=True)
class Part:
    """What one worker knows of its validation rows.

    **Arguments:**

    - `labels` bool and `scores` float32: of its n rows. `labels` is true for originals.
    - `lowest`, `highest`: of each feature among all its rows.
    - `external`: whether it paged its data from disk. `share`: of the table's rows that it learned
      from. `cuts_share`: of these, that bins were found on.
    """

    labels: NDArray[np.bool_]
    scores: NDArray[np.float32]
    lowest: NDArray[np.float32]
    highest: NDArray[np.float32]
    external: bool
    share: float
    cuts_share: float = 1.0


@dataclass(frozen=True)
class Trained:
    """A candidate as the workers hand it back: the trees in XGBoost's own bytes, and the part of
    each worker.
    """

    number: int
    model: bytes
    parts: tuple[Part, ...]


class CandidateTrainer:
    """An asynchronous actor: a few megabytes that need no shared file system.

    Candidates are trained one by one. Trials and workers that begin again lose and repeat nothing.
    `train` answers at once for a candidate that is fitted. `next` names the first that is not.
    """

    def __init__(self, label_classes: int) -> None:
        self._label_classes = label_classes
        self._wanted: dict[int, XGBoostAttack] = {}
        self._fitted: dict[int, asyncio.Future[FittedXGBoost]] = {}
        self._changed = asyncio.Condition()

    async def train(self, number: int, attack: XGBoostAttack) -> FittedXGBoost:
        """Has the workers train candidate `number`, waits for it and returns it.

        **Raises:** `ValueError` where the validation rows give no threshold.
        """
        if number not in self._fitted:
            self._wanted[number] = attack
            self._fitted[number] = asyncio.get_running_loop().create_future()
            async with self._changed:
                self._changed.notify_all()
        return await asyncio.shield(self._fitted[number])

    async def next(self, trained: Trained | None = None) -> Wanted:
        """Takes what the workers have trained, waits until a candidate is wanted and returns it."""
        if trained is not None and not self._fitted[trained.number].done():
            answer = self._fitted[trained.number]
            try:
                answer.set_result(assemble(self._wanted[trained.number], self._label_classes, trained))
            except ValueError as error:
                answer.set_exception(error)
        async with self._changed:
            while (wanted := self._first_open()) is None:
                await self._changed.wait()
        return wanted

    def _first_open(self) -> Wanted | None:
        """Returns the first candidate that was asked for and is not fitted."""
        for number, attack in self._wanted.items():
            if not self._fitted[number].done():
                return Wanted(number, attack)
        return None


def assemble(attack: XGBoostAttack, label_classes: int, trained: Trained) -> FittedXGBoost:
    """Returns the attacker of the trees, with the threshold of the best F1 on all workers'
    validation rows.

    **Raises:** `ValueError` where a role has no validation rows.
    """
    xgboost = load_xgboost()

    booster = xgboost.Booster()
    booster.load_model(bytearray(trained.model))
    parts = trained.parts
    labels = np.concatenate([part.labels for part in parts])
    scores = np.concatenate([part.scores for part in parts]).astype(np.float64)
    lowest = np.min([part.lowest for part in parts], axis=0)
    highest = np.max([part.highest for part in parts], axis=0)
    notes = [] if (highest > lowest).any() else [CONSTANT]
    external = sum(part.external for part in parts)
    if external:
        notes.append(f"{external} of {len(parts)} workers paged their data from disk")
    if parts[0].share < 1.0:
        notes.append(f"fitted on a random {parts[0].share:.2%} of the rows, as many as the workers were to hold")
    if parts[0].cuts_share < 1.0:
        notes.append(f"bins were found on a random {parts[0].cuts_share:.2%} of the rows that were fitted on")
    for role, value in (("original", 1), ("retrained", 0)):
        if not (labels == value).any():
            raise ValueError(
                f"role: no {role!r} rows in fold 'validation'; the shadow attack needs models of both roles there"
            )
    threshold, f1 = best_f1(labels.astype(np.float64), scores)
    return FittedXGBoost(attack, booster, label_classes, threshold, f1, notes)
