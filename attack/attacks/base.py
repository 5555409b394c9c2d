"""What an attack is, and what a fitted one is. A new attack derives from `Attack` and writes
`fit`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

FITTED = "train and validation"  # in `needs`: models of both folds, counted together
FITTED_FOLDS = ("train", "validation")

Needs = Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class Attack(ABC):
    """An attack: a frozen dataclass whose fields are its settings. The class says what it needs and
    what its score means.

    **Class attributes:**

    - `name`: in recipes, results and the registry.
    - `reads`: `logits`, or `confidences` where φ and the entropy are all that it reads.
        One that reads confidences must take a `Measured` for a table, as `Measured.of` does.
    - `learns`: `fit` learns from the rows. If not, it only checks them, and gets the first few.
    - `per_method`: it is fitted anew on each method's own models.
    - `reads_label`: it reads the label's own logit, which class removal drops.
    - `directed`: a high score means "trained on", so that a low one means too much forgetting.
    - `takes_population`: `fit` and `score` take outputs on samples that no model was trained on.
    - `needs`: by (role, fold), the least number of models to fit on. The fold may be `FITTED`.
        Unlearned models are counted for each method and setting.
    - `packages`: what it imports that an installation may lack. They are looked for before any
        work.
    """

    name: ClassVar[str]
    reads: ClassVar[Literal["logits", "confidences"]] = "logits"
    per_method: ClassVar[bool] = False
    learns: ClassVar[bool] = True
    reads_label: ClassVar[bool] = True
    directed: ClassVar[bool] = True
    takes_population: ClassVar[bool] = False
    needs: ClassVar[Needs] = {}
    packages: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def fit(self, outputs: Any) -> Fitted:
        """Fits on rows of the train and validation folds. The test fold is never looked at.

        **Raises:** `ValueError` where the outputs lack what the attack needs.
        """

    def settled(self, models: Sequence[int]) -> Self:
        """Returns the attack with what it leaves open decided for so many models to fit on.

        **Arguments:** `models`: on each side that it is fitted on.
        """
        return self

    @classmethod
    def candidates(cls) -> list[dict[str, Any]]:
        """Returns the settings that tuning tries, by their validation F1. None: the attack is not
        tuned."""
        return []

    @classmethod
    def fit_each(
        cls, outputs: Any, attacks: Sequence[Self], *, threads: int | None = None, device: str = "cpu"
    ) -> list[Fitted]:
        """Returns each of `attacks`, all of this class, fitted on the same outputs."""
        return [attack.fit(outputs) for attack in attacks]

    @classmethod
    def load(cls, folder: Path) -> Fitted:
        """Returns the attacker that `Fitted.save` wrote into `folder`. Only tuned attacks are
        stored."""
        raise NotImplementedError(f"{cls.name}: an attack with candidates must be able to load an attacker")

    @classmethod
    def setting_names(cls) -> list[str]:
        """Returns the names of its settings."""
        return [field.name for field in fields(cls)]


class Fitted(ABC):
    """A fitted attacker.

    **Attributes:** `attack`: what was fitted. `threshold`: its own, None where it has none.
    `validation_f1`: at that threshold. `notes`: what is to be known of the fit.
    """

    attack: Attack
    threshold: float | None = None
    validation_f1: float | None = None
    notes: Sequence[str] = ()

    @abstractmethod
    def score(self, outputs: Any) -> np.ndarray:
        """Returns a membership score for each row, float64 `(rows,)`, higher = member."""

    def save(self, folder: Path) -> None:
        """Writes the attacker into `folder`. Only tuned attacks are stored."""
        raise NotImplementedError(f"{type(self).__name__}: an attack with candidates must be able to save an attacker")
