"""Every attack on every method of an outputs table, from one pass over its logits, as the rows of `results.json`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ..attacks.registry import ATTACKS
from ..distances.base import DIVERGENCES
from ..distances.compare import DEFAULT_DIVERGENCES, distances, equal_count, first_of
from ..metrics.areas import Areas
from ..metrics.evaluation import paired_difference, worst_samples
from ..metrics.row import PRIMARY, Row
from ..outputs.measured import FOLD, METHOD, MODEL_ID, PARAMS, Measured
from ..outputs.sources import Source, as_source
from .check import Examination, Problem, check
from .judged import judged, reads_confidences, tuned_threshold
from .population import partners, population_problems
from .runner import InProcess, Runner, scores_of
from .verdicts import judge_rows

__all__ = ["Audit", "Problem", "audit", "check", "run_attacks"]


@dataclass(frozen=True)
class Group:
    """The models of one row, as indices: `test` under attack, `everyone` of all folds, `fitting` those that U-LiRA may fit on."""

    method: str
    params: str
    everyone: np.ndarray
    test: np.ndarray
    fitting: np.ndarray


@dataclass
class Audit:
    """What `results.json` and `curves.json` hold of an audit, and the notes of its attacks."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {"roc": [], "confidence": [], "training": [], "unlearning": []}
    )
    notes: list[str] = field(default_factory=list)


def run_attacks(
    outputs: Source | pa.Table | Iterable[pa.Table], names: Sequence[str] = (PRIMARY,), seed: int = 0, **options: Any
) -> list[dict[str, Any]]:
    """Returns the rows of `audit`."""
    return audit(outputs, names, seed, **options).rows


def audit(
    outputs: Source | pa.Table | Iterable[pa.Table],
    names: Sequence[str] = (PRIMARY,),
    seed: int = 0,
    *,
    settings: dict[str, dict[str, Any]] | None = None,
    divergences: Sequence[str] = DEFAULT_DIVERGENCES,
    num_classes: int | None = None,
    bootstrap: int = 2000,
    population: Source | pa.Table | Iterable[pa.Table] | Examination | None = None,
    examined: Examination | None = None,
    runner: Runner | None = None,
) -> Audit:
    """Attacks the originals (`no_unlearn`), fresh retrained models (`retrain`) and each method of an outputs table.

    Retrain's models are rows of role `unlearned`, method `retrain`, fold `test`: models that no attacker was fitted on.

    **Arguments:**

    - `outputs`: tables, or a `Source` such as `ParquetFiles`, which is never held whole.
    - `names`: attacks to run, of `ATTACKS`. `settings`: options of attacks by name; those not given are the defaults, and
        XGBoost is tuned over its candidates.
    - `divergences`: per-sample distances to the retrained models, of `DIVERGENCES`; left out where labels have no logit.
    - `num_classes`: of labels, where the logits have fewer columns. `seed`, `bootstrap`: of attacks and intervals.
    - `population`: the same models' outputs on samples that none was trained on, the z of RMIA; or what `Examination.of` found in them.
    - `examined`: what `Examination.of(outputs)` found, where it was asked already; its survey is used up. `runner`: fits and scores attacks that
        read logits; the default does so in this process.

    **Raises:** `ValueError` naming every problem of the input, before anything is fitted.
    """
    source = as_source(outputs)
    examined = examined or Examination.of(source, num_classes)
    problems = examined.problems(names)
    others: Examination | None = None
    if population is not None:
        given = population
        others = given if isinstance(given, Examination) else Examination.of(as_source(given), num_classes)
        problems += population_problems(examined, others, names)
    if any(problem.fatal for problem in problems):
        raise ValueError("\n".join(str(problem) for problem in problems if problem.fatal))
    run = _Run(
        examined.measured(),
        source,
        names,
        seed,
        settings or {},
        bootstrap,
        runner or InProcess(),
        None if others is None else others.measured(),
        Audit(notes=[str(problem) for problem in problems]),
    )
    return run.everything(divergences)


@dataclass
class _Run:
    """One audit on its way: what it works on, and what it has found so far."""

    measured: Measured
    source: Source
    names: Sequence[str]
    seed: int
    settings: dict[str, dict[str, Any]]
    bootstrap: int
    runner: Runner
    population: Measured | None
    found: Audit
    areas: dict[tuple[str, int], Areas] = field(default_factory=dict)  # of each attack and row
    references: dict[tuple[str, int], Areas] = field(
        default_factory=dict
    )  # of Retrain's models under that row's attacker

    def everything(self, divergences: Sequence[str]) -> Audit:
        self.groups = _groups(self.measured)
        self.retrain = next(i for i, group in enumerate(self.groups) if group.method == "retrain")
        self.negative = self.measured.where(role="retrained", fold="test")
        self.found.rows += [self._empty_row(group) for group in self.groups]
        for name in self.names:
            self._attack(name)
        for index, group in enumerate(self.groups):
            if len(group.test):
                self._describe(self.found.rows[index], group, divergences)
        self._differences()
        judgements = judge_rows([Row.from_json(row) for row in self.found.rows])
        for row, verdict in zip(self.found.rows, judgements, strict=True):
            if verdict is not None:
                row["verdict"] = verdict.told(len(self.names))
        self.found.notes = sorted(set(self.found.notes))
        return self.found

    def _empty_row(self, group: Group) -> dict[str, Any]:
        row: dict[str, Any] = {
            "method": group.method,
            "params": _params(group.params),
            "metrics": {},
            "ci": {},
            "status": "done",
            "seconds": None,
            "verdict": "",
            "models": len(group.test),
            "retrained_models": len(self.negative),
            "attacks": {},
            "worst_samples": {},
            "notes": [],
        }
        if not len(group.test):
            wanted = "role unlearned, method retrain" if group.method == "retrain" else "this role"
            row["verdict"] = f"Not measured: no models of {wanted} in fold test."
        return row

    def _attack(self, name: str) -> None:
        """Fits one attack once, or for each method where it is of that kind, and scores every group."""
        attack = ATTACKS[name]
        base = self.measured.where(role=("original", "retrained"))
        if not attack.per_method:
            targets = np.unique(np.concatenate([self.negative, *(group.test for group in self.groups)]))
            started = time.perf_counter()
            fitted = self._fitted(name, base)
            scores = self._scores(name, fitted, targets)
            threshold = self._threshold(name, fitted, self.measured.where(role="original", fold="validation"))
            seconds = time.perf_counter() - started
            for index, group in enumerate(self.groups):
                if len(group.test):
                    self._evaluate(name, index, fitted, scores, threshold, seconds)
            return
        for index, group in enumerate(self.groups):
            if len(group.test) and len(group.fitting):
                started = time.perf_counter()
                fitted = self._fitted(name, np.concatenate([base, group.fitting]))
                # Retrain's models have nothing to fit on, but this attacker can be asked about them as about the method's.
                reference = self.groups[self.retrain].test
                scores = self._scores(name, fitted, np.concatenate([self.negative, group.test, reference]))
                if len(reference):
                    self.references[name, index] = self._areas(reference, scores)
                members = np.asarray([m for m in group.fitting if self.measured.models[m][FOLD] == "validation"], int)
                threshold = self._threshold(name, fitted, members)
                self._evaluate(name, index, fitted, scores, threshold, time.perf_counter() - started)

    def _fitted(self, name: str, models: np.ndarray) -> Any:
        attack = ATTACKS[name]
        given = dict(self.settings.get(name, {}))
        if "seed" in getattr(attack, "__dataclass_fields__", {}):
            given.setdefault("seed", self.seed)
        attempts = [attack(**given)]
        if hasattr(attack, "candidates"):  # of settings that are given, none is tuned: candidates may become the same
            attempts = list(dict.fromkeys(attack(**{**candidate, **given}) for candidate in attack.candidates()))
        if reads_confidences(attack):
            chosen = self.measured.only(models)
            more = {"population": self.population} if self._with_population(attack) else {}
            fitted = [attempt.fit(chosen, **more) for attempt in attempts]
        else:
            fitted = self.runner.fit(attempts, self.source, self.measured, models)
        return fitted[0] if len(fitted) == 1 else max(fitted, key=lambda attacker: attacker.validation_f1)

    def _with_population(self, attack: Any) -> bool:
        return self.population is not None and getattr(attack, "takes_population", False)

    def _scores(self, name: str, fitted: Any, models: np.ndarray) -> dict[int, np.ndarray]:
        """Returns the scores of each of the models, `(S,)` in the order of the samples."""
        attack = ATTACKS[name]
        if not reads_confidences(attack):
            return self.runner.score(fitted, self.source, self.measured, models)
        others = self.population if self._with_population(attack) else None
        places = None if others is None else partners(self.measured, others)

        def score(m: int) -> np.ndarray:
            # Its own rows of the population by their numbers: ids alone do not tell unlearned models of two methods apart.
            more = {} if others is None or places is None else {"population": others.only(places[[m]])}
            return np.asarray(fitted.score(self.measured.only(np.asarray([m])), **more), dtype=np.float64)

        # Model by model, so that what scoring takes does not grow with their number.
        return {int(m): score(m) for m in models}

    def _threshold(self, name: str, fitted: Any, members: np.ndarray) -> float | None:
        """Returns the threshold of an attacker; where it has none of its own, tuned on `members` of the validation fold."""
        others = self.measured.where(role="retrained", fold="validation")

        def scores() -> list[np.ndarray]:
            found = self._scores(name, fitted, np.concatenate([members, others]))
            return [np.concatenate([found[int(m)] for m in side]) for side in (members, others)]

        threshold, notes = tuned_threshold(name, fitted, len(members), len(others), scores)
        self.found.notes += [f"{name}: {note}" for note in notes]
        return threshold

    def _evaluate(
        self,
        name: str,
        index: int,
        fitted: Any,
        scores: dict[int, np.ndarray],
        threshold: float | None,
        seconds: float,
    ) -> None:
        group, row = self.groups[index], self.found.rows[index]
        positives, negatives = (scores_of(scores, self.measured, models) for models in (group.test, self.negative))
        evaluation, curves = judged(
            name, positives, negatives, threshold=threshold, seed=self.seed, bootstrap=self.bootstrap
        )
        self.areas[name, index] = evaluation.areas
        row["notes"] += [note for note in evaluation.notes if note not in row["notes"]]
        prefix = "" if name == PRIMARY else f"{name}/"
        row["metrics"].update({f"{prefix}{key}": value for key, value in evaluation.metrics.items()})
        row["ci"].update({f"{prefix}{key}": value for key, value in evaluation.ci.items()})
        row["worst_samples"][name] = worst_samples(positives, negatives)
        row["attacks"][name] = {
            "path": "in_process" if reads_confidences(ATTACKS[name]) else self.runner.path(ATTACKS[name]),
            "params": _settings(fitted, name, self.settings.get(name)),
            "validation_f1": getattr(fitted, "validation_f1", None),
            "threshold": threshold,
            "notes": list(fitted.notes),
            "seconds": seconds,
        }
        self.found.notes.extend(f"{name}: {note}" for note in fitted.notes)
        for kind, curve in curves.items():
            self.found.curves[kind].append({"row": index, "attack": name, **curve})

    def _describe(self, row: dict[str, Any], group: Group, divergences: Sequence[str]) -> None:
        """Adds what compares distributions with retrained models', and says where nothing was done."""
        retrained = self.measured.where(role="retrained")
        sizes = [len(g.everyone) for g in self.groups if len(g.test)]
        count = min(equal_count(sizes, len(retrained)), len(group.everyone))
        found = distances(
            self.measured,
            tested=group.test,
            negative=self.negative,
            models=self._first_of(group.everyone, count),
            retrained=self._first_of(retrained, count),
            originals=() if group.method in ("no_unlearn", "retrain") else self.groups[0].everyone,
            divergences=[DIVERGENCES[name]() for name in divergences],
        )
        row["distance_models"] = count
        row["metrics"].update(found.metrics)
        row["worst_samples"].update(found.worst_samples)
        row["notes"].extend(found.notes)

    def _first_of(self, models: np.ndarray, count: int) -> np.ndarray:
        names = [(self.measured.models[m][FOLD], self.measured.models[m][MODEL_ID]) for m in models]
        # In the table's order again: no distance depends on it, and rows that follow each other are not copied.
        return np.sort(models[first_of(names, count)])

    def _areas(self, models: np.ndarray, scores: dict[int, np.ndarray]) -> Areas:
        """Returns the areas of models against the retrained ones of the test fold."""
        positives, negatives = (scores_of(scores, self.measured, side) for side in (models, self.negative))
        negative_models, others = negatives.by_model()
        return Areas.of(positives.by_model()[1], others, negative_models)

    def _differences(self) -> None:
        """Adds the AUC's difference to Retrain, with its interval, of attacks that scored both.

        Both by one attacker: a `per_method` attack, fitted on a method's own models, is put to Retrain's too. Retrained models
        as they are, outside the fit, they have 0.5 there but for the luck of the models, and that of the negatives cancels.
        """
        for (name, index), areas in self.areas.items():
            reference = self.references.get((name, index), self.areas.get((name, self.retrain)))
            if index == self.retrain or reference is None:
                continue
            prefix = "" if name == PRIMARY else f"{name}/"
            difference, interval = paired_difference(areas, reference, seed=self.seed, bootstrap=self.bootstrap)
            self.found.rows[index]["metrics"][f"{prefix}auc_minus_retrain"] = difference
            if interval is not None:
                self.found.rows[index]["ci"][f"{prefix}auc_minus_retrain"] = interval


def _groups(measured: Measured) -> list[Group]:
    """Returns no_unlearn, retrain, then each (method, params) of the unlearned rows, sorted."""

    def group(method: str, params: str, everyone: np.ndarray, pool: bool) -> Group:
        in_test = np.asarray([measured.models[m][FOLD] == "test" for m in everyone], dtype=bool)
        # Outside the test fold there is nothing to fit on where the models are no product of unlearning.
        return Group(method, params, everyone, everyone[in_test], everyone[~in_test] if pool else everyone[:0])

    unlearned = measured.where(role="unlearned")
    groups = [group("no_unlearn", "{}", measured.where(role="original"), False)]
    groups.append(group("retrain", "{}", measured.where(role="unlearned", method="retrain"), False))
    pairs = {(measured.models[m][METHOD], measured.models[m][PARAMS]) for m in unlearned}
    groups += [
        group(method, params, measured.where(role="unlearned", method=method, params=params), True)
        for method, params in sorted(pairs)
        if method != "retrain"
    ]
    return groups


def _params(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {"params": text}
    return found if isinstance(found, dict) else {"params": found}


def _settings(attacker: Any, name: str, options: dict[str, Any] | None) -> dict[str, Any]:
    attack: Any = getattr(attacker, "attack", None)
    return asdict(attack if hasattr(attack, "__dataclass_fields__") else ATTACKS[name](**(options or {})))
