"""What unlearning did to samples that nobody asked to forget: the types of a collateral audit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .measure import Measure, mean_measure


@dataclass(frozen=True)
class Difference:
    """One thing under a row's models and under retrained ones.

    **Arguments:**

    - `what`: a sample's id, a class or a value of a column.
    - `value`, `retrain`, `before`: the mean over the row's models, over retrained models, and over
        models before unlearning. `before` is None where there are none.
    - `difference`: `value` less `retrain`; `low`, `high`: its 95 % interval, which holds for all
        that were looked at together. None: no end.
    - `clear`: whether the models are clearly above retrained ones and above those before
        unlearning.
    """

    what: str
    value: float
    retrain: float
    before: float | None
    difference: float
    low: float | None
    high: float | None
    clear: bool


def ends(low: float, high: float) -> tuple[float | None, float | None]:
    """Returns an interval with None for infinite ends."""
    return (low if math.isfinite(low) else None, high if math.isfinite(high) else None)


Groups = Mapping[str, Sequence[Difference]]
GROUPED = ("exposure", "errors", "errors_unseen")


@dataclass(frozen=True)
class Harm:
    """What a collateral audit found of one row.

    **Arguments:**

    - `retained`, `unseen`: how many samples of each were looked at.
    - `aucs`: by model, how well retained samples are told from unseen ones by φ.
    - `auc`: their mean beside that of retrained models.
    - `easier`: how many retained samples became easier to find. `samples`: the clearest of them.
    - `exposure`, `errors`, `errors_unseen`: by class and by a column; errors in percent.
    - `klom`: `retain/mean`, `retain/p95`, `test/mean` and `test/p95`.
    """

    retained: int
    unseen: int
    aucs: tuple[float, ...]
    auc: Difference
    easier: int
    samples: tuple[Difference, ...]
    exposure: Groups = field(default_factory=dict)
    errors: Groups = field(default_factory=dict)
    errors_unseen: Groups = field(default_factory=dict)
    klom: Mapping[str, float] = field(default_factory=dict)

    def measures(self, sources: Sequence[str]) -> dict[str, Measure]:
        """Returns what a table shows of it, by metric.

        **Arguments:** `sources`: the trained models behind `aucs`, in order.
        """
        models = len(self.aucs)
        ends = None if self.auc.low is None or self.auc.high is None else (self.auc.low, self.auc.high)
        return {
            "retained_auc": mean_measure(dict(zip(sources, self.aucs, strict=True)), 0.0, 1.0),
            "retained_auc_minus_retrain": Measure.of(self.auc.difference, ends, models=models),
            "easier_to_find": Measure(float(self.easier), models=models),
            **{f"klom/{name.replace('/', '_')}": Measure(value, models=models) for name, value in self.klom.items()},
        }

    def named(self, classes: Sequence[str], group: str, names: Sequence[str]) -> Harm:
        """Returns the same with classes and groups by name; `group` is what the grouping is
        called."""

        def groups(found: Groups) -> dict[str, tuple[Difference, ...]]:
            return {
                (group if by == "group" else by): tuple(
                    replace(each, what=(names if by == "group" else classes)[int(each.what)]) for each in listed
                )
                for by, listed in found.items()
            }

        return replace(
            self,
            exposure=groups(self.exposure),
            errors=groups(self.errors),
            errors_unseen=groups(self.errors_unseen),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns JSON data that `from_json` reads."""
        found = asdict(self)
        groups = {name: {by: list(listed) for by, listed in found[name].items()} for name in GROUPED}
        return {**found, "aucs": list(self.aucs), "samples": list(found["samples"]), **groups}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Harm:
        """Returns what `to_json` wrote."""

        def differences(listed: Sequence[Mapping[str, Any]]) -> tuple[Difference, ...]:
            return tuple(Difference(**each) for each in listed)

        parts: dict[str, Any] = {
            "aucs": tuple(document["aucs"]),
            "auc": Difference(**document["auc"]),
            "samples": differences(document["samples"]),
        }
        for name in GROUPED:
            parts[name] = {by: differences(listed) for by, listed in document[name].items()}
        return cls(**{name: document[name] for name in cls.__dataclass_fields__} | parts)
