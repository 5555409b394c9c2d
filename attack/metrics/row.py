"""One line of the results, typed. JSON appears only at the border: `Row.from_json` and
`Row.to_json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .harm import Harm
from .measure import Measure
from .verdict import Verdict

PRIMARY = "xgboost"  # the attack whose metrics have no prefix in results
NO_UNLEARN, RETRAIN = "no_unlearn", "retrain"  # the two reference rows of every result

Status = Literal["done", "failed"]
WorstSample = Mapping[str, float | None]  # sample_id with auc and score_difference, or with value


def metric_name(attack: str, metric: str) -> str:
    """Returns what an attack's metric is called in results: `u_lira/auc`, and `auc` for the primary
    attack."""
    return metric if attack == PRIMARY else f"{attack}/{metric}"


def auc_attack(metric: str) -> str | None:
    """Returns the attack whose AUC this metric is, None for every other metric."""
    if metric == "auc":
        return PRIMARY
    return metric.removesuffix("/auc") if metric.endswith("/auc") else None


def auc_names(metrics: Iterable[str]) -> list[str]:
    """Returns the metrics that are an AUC: the primary attack's first, the others by name."""
    return sorted({name for name in metrics if auc_attack(name)}, key=lambda name: (name != "auc", name))


@dataclass(frozen=True)
class Attacker:
    """How an attack was fitted for a row.

    **Arguments:**

    - `path`: `in_process` or `distributed`. `params`: the settings, tuned ones included.
    - `validation_f1`, `threshold`: None where the attack has none. `notes`: what the fit has to
        say.
    - `rows`: outputs that it was fitted on. `seconds`: of fitting and scoring. Both None where not
        known.
    """

    path: str
    params: Mapping[str, Any]
    validation_f1: float | None = None
    threshold: float | None = None
    notes: tuple[str, ...] = ()
    rows: int | None = None
    seconds: float | None = None

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Attacker:
        """Returns what `to_json` wrote, or a row's entry in `attacks`."""
        known = {name: document[name] for name in cls.__dataclass_fields__ if document.get(name) is not None}
        given = {"path": "", "params": {}} | known
        return cls(**given | {"notes": tuple(given.get("notes", ()))})

    def to_json(self) -> dict[str, Any]:
        """Returns the entry of `results.json`."""
        found = asdict(self) | {"notes": list(self.notes)}
        return {name: value for name, value in found.items() if value is not None or name not in ("rows", "seconds")}


@dataclass(frozen=True)
class Row:
    """A method with its parameters, and what was measured of its models.

    **Arguments:**

    - `metrics`: by name; `metric_name` gives an attack's. One that is known but could not be
        measured has no value.
    - `models`: how many of its models are under attack. `retrained_models`: how many they were held
        against.
    - `sources`: the trained models that its models were made from, in order. Empty where they are
        not known.
    - `attacks`, `worst_samples`: by attack; `worst_samples` also by distance.
    - `distance_models`: how many models its distances were measured on.
    - `verdict`: in words. `judged`: the same, typed; None in results of a version that judged by
        other rules.
    - `error`: why the row failed, empty where it is done.
    - `harm`: what happened to samples that nobody asked to forget; None where it was not looked at.
    - `title`: what to call the method in print. `access`: the data that it sees, as
        `unlearn.methods.base.Needs` names them; `validation`: whether held-out samples too;
        `watched`: the set whose accuracy ends it, `retain` or `test`. Empty where nothing is known
        of the method.
    """

    method: str
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Measure] = field(default_factory=dict)
    status: Status = "done"
    seconds: float | None = None
    models: int | None = None
    retrained_models: int | None = None
    sources: tuple[str, ...] = ()
    attacks: Mapping[str, Attacker] = field(default_factory=dict)
    worst_samples: Mapping[str, Sequence[WorstSample]] = field(default_factory=dict)
    distance_models: int | None = None
    notes: tuple[str, ...] = ()
    verdict: str = ""
    judged: Verdict | None = None
    error: str = ""
    title: str = ""
    access: str = ""
    validation: bool = False
    watched: str = ""
    harm: Harm | None = None

    def __getitem__(self, metric: str) -> Measure:
        """Returns a metric; one without a value where it was not measured."""
        return self.metrics.get(metric) or Measure(None)

    @property
    def done(self) -> bool:
        """Whether every unit of the row finished."""
        return self.status == "done"

    def aucs(self) -> dict[str, Measure]:
        """Returns the AUC of each attack that measured one, the primary attack's first."""
        names = [name for name in auc_names(self.metrics) if self[name].known]
        return {str(auc_attack(name)): self[name] for name in names}

    def to_json(self) -> dict[str, Any]:
        """Returns the row as `results.json` has it, schema 1."""
        found: dict[str, Any] = {
            "method": self.method,
            "params": dict(self.params),
            "metrics": {name: measure.value for name, measure in self.metrics.items()},
            "ci": {n: list(m.interval) for n, m in self.metrics.items() if m.interval is not None},
            "status": self.status,
            "seconds": self.seconds,
            "verdict": self.verdict,
            "models": self.models,
            "by_model": {n: self._in_order(m.by_model) for n, m in self.metrics.items() if m.by_model},
            "attacks": {name: attacker.to_json() for name, attacker in self.attacks.items()},
            "worst_samples": {name: [dict(sample) for sample in listed] for name, listed in self.worst_samples.items()},
            "notes": list(self.notes),
        }
        optional = {
            "retrained_models": self.retrained_models,
            "sources": list(self.sources),
            "distance_models": self.distance_models,
            "error": self.error,
            "title": self.title,
            "access": self.access,
            "validation": self.validation if self.access else None,
            "watched": self.watched,
            "judgement": None if self.judged is None else self.judged.to_json(),
            "collateral": None if self.harm is None else self.harm.to_json(),
        }
        if self.judged is not None:
            found["metrics"]["verdict_word"] = self.judged.word
        return found | {name: value for name, value in optional.items() if value not in (None, [], "")}

    def _in_order(self, by_model: Mapping[str, float]) -> list[float]:
        known = [by_model[name] for name in self.sources if name in by_model]
        return known or list(by_model.values())

    @classmethod
    def from_json(cls, document: Mapping[str, Any], experiment: str = "") -> Row:
        """Returns a row of `results.json`. Fields that an older version did not write are at their
        defaults.

        **Arguments:** `experiment`: names the experiment where rows of several are compared, so
        that no two of their models are taken for the same one.
        """
        names, intervals, by_model = (document.get(name) or {} for name in ("metrics", "ci", "by_model"))
        count, retrained = document.get("models"), document.get("retrained_models")
        method = str(document.get("method", "?"))
        sources = tuple(str(name) for name in document.get("sources") or ())
        metrics = {}
        for name, value in names.items():
            if name == "verdict_word":  # a word, which `judged` holds
                continue
            bounds = intervals.get(name)
            whole = bounds if bounds and len(bounds) == 2 and None not in bounds else None
            values = by_model.get(name) or ()
            models = [count] if auc_attack(name) is None else [count, retrained]
            known = [side for side in models if side is not None]
            keys = _model_names(method, sources, len(values), experiment)
            metrics[str(name)] = Measure.of(
                value, whole, dict(zip(keys, values, strict=False)), min(known, default=None)
            )
        return cls(
            method=method,
            params=document.get("params") or {},
            metrics=metrics,
            status="done" if document.get("status") == "done" else "failed",
            seconds=document.get("seconds"),
            models=count,
            retrained_models=retrained,
            sources=sources,
            attacks={str(n): Attacker.from_json(a) for n, a in (document.get("attacks") or {}).items() if a},
            worst_samples=document.get("worst_samples") or {},
            distance_models=document.get("distance_models"),
            notes=tuple(str(note) for note in document.get("notes") or ()),
            verdict=document.get("verdict") or "",
            judged=Verdict.from_json(document["judgement"]) if document.get("judgement") else None,
            error=document.get("error") or "",
            title=document.get("title") or "",
            access=document.get("access") or "",
            validation=bool(document.get("validation")),
            watched=document.get("watched") or "",
            harm=Harm.from_json(document["collateral"]) if document.get("collateral") else None,
        )


def _model_names(method: str, sources: Sequence[str], count: int, experiment: str) -> list[str]:
    """Returns what the models behind `count` values are called, nothing where that is not known.

    Results of an older version do not name them: they are numbered, since all methods start from
    the same originals in the same order. Only Retrain's models are others.
    """
    if sources and len(sources) != count:
        return []
    kind = RETRAIN if method == RETRAIN else "original"
    names = sources or [f"{kind} {i}" for i in range(count)]
    return [f"{experiment}:{name}" if experiment else name for name in names]
