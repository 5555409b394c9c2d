"""What trials of the distributed attack and its workers tell each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attack.attacks.xgboost import FittedXGBoost, XGBoostAttack

NONE_YET, NO_MORE = "none yet", "no more"  # XGBoost broadcasts anything but None
POLL_SECONDS = 0.2


class Exchange:
    """Where trials say what they want and workers hand it back: an actor, a few megabytes that need no shared file system."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._wanted: dict[int, XGBoostAttack] = {}
        self._parts: dict[int, dict[int, dict[str, Any]]] = {}
        self._fitted: dict[int, FittedXGBoost] = {}
        self._problem = ""
        self._over = False

    def want(self, number: int, attack: XGBoostAttack) -> None:
        """Asks the workers for candidate `number`."""
        if number not in self._fitted:
            self._wanted[number] = attack

    def wanted(self) -> tuple[int, XGBoostAttack] | str:
        """Returns the next candidate that not all workers have handed back; `NONE_YET`, or `NO_MORE` after the last."""
        if self._over:
            return NO_MORE
        open_ones = ((n, a) for n, a in self._wanted.items() if len(self._parts.get(n, {})) < self._workers)
        return next(open_ones, NONE_YET)

    def put(self, number: int, rank: int, part: dict[str, Any]) -> None:
        """Takes what worker `rank` has of a candidate. From a worker that began again it is the same once more."""
        self._parts.setdefault(number, {})[rank] = part

    def parts(self, number: int) -> dict[int, dict[str, Any]] | str | None:
        """Returns what all workers handed back of a candidate; None where some have not, words where they never will."""
        if len(self._parts.get(number, {})) == self._workers:
            return self._parts[number]
        return self._problem or None

    def keep(self, number: int, fitted: FittedXGBoost) -> None:
        """Takes a candidate that was put together, and lets go of its parts."""
        self._fitted[number] = fitted
        self._wanted.pop(number, None)
        self._parts.pop(number, None)

    def take(self, number: int) -> FittedXGBoost:
        """Returns a candidate that was kept, and lets go of it."""
        return self._fitted.pop(number)

    def end(self, problem: str = "") -> None:
        """Sends the workers home: no more is wanted, or for `problem` none will come."""
        self._over, self._problem = True, problem
