"""What unlearning did to samples that nobody asked to forget: the types of a collateral audit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
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

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Difference:
        """Returns what `to_json` wrote."""
        return cls(**document)

    def to_json(self) -> dict[str, Any]:
        """Returns JSON data."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def ends(low: float, high: float) -> tuple[float | None, float | None]:
    """Returns an interval with None for infinite ends."""
    return (low if math.isfinite(low) else None, high if math.isfinite(high) else None)


Groups = Mapping[str, Sequence[Difference]]


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

        def groups(found: Groups) -> dict[str, list[dict[str, Any]]]:
            return {name: [each.to_json() for each in listed] for name, listed in found.items()}

        return {
            "retained": self.retained,
            "unseen": self.unseen,
            "aucs": list(self.aucs),
            "auc": self.auc.to_json(),
            "easier": self.easier,
            "samples": [each.to_json() for each in self.samples],
            "exposure": groups(self.exposure),
            "errors": groups(self.errors),
            "errors_unseen": groups(self.errors_unseen),
            "klom": dict(self.klom),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Harm:
        """Returns what `to_json` wrote."""

        def groups(name: str) -> dict[str, tuple[Difference, ...]]:
            return {key: tuple(map(Difference.from_json, listed)) for key, listed in document[name].items()}

        return cls(
            document["retained"],
            document["unseen"],
            tuple(document["aucs"]),
            Difference.from_json(document["auc"]),
            document["easier"],
            tuple(map(Difference.from_json, document["samples"])),
            groups("exposure"),
            groups("errors"),
            groups("errors_unseen"),
            document["klom"],
        )
