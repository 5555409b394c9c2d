"""Every attack on every method of an outputs table, from one pass over it, as the rows of `results.json`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .check import Problem, check
from .divergence import DIVERGENCES
from .evaluation import Evaluation, Scores, evaluate, paired_difference, worst_samples
from .metrics import ks_distance
from .outputs import entropy, joined, logits_matrix, rows_where, sorted_by_id, text_column
from .registry import ATTACKS

PRIMARY = "xgboost"
CURVE_POINTS = 400
CORNER_POINTS = 100  # the corner of very low FPR decides the log-log figure: all of its points are kept
CONFIDENCE_BINS = 40
DEFAULT_DIVERGENCES = ("klom", "forgetting_quality")

__all__ = ["Audit", "Problem", "audit", "check", "run_attacks"]


@dataclass(frozen=True)
class Group:
    """The models of one row: `test` under attack, `everyone` of all folds; `pool` says whether U-LiRA may fit on the others."""

    method: str
    params: str
    everyone: pa.Table
    pool: bool

    @property
    def test(self) -> pa.Table:
        return self.everyone.filter(pc.equal(self.everyone["fold"], "test"))

    @property
    def fitting(self) -> pa.Table:
        """Models outside the test fold, none where they are no product of unlearning."""
        others = self.everyone.filter(pc.not_equal(self.everyone["fold"], "test"))
        return others if self.pool else others.slice(0, 0)


@dataclass
class Audit:
    """What `results.json` and `curves.json` hold of an audit, and the notes of its attacks."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {"roc": [], "confidence": [], "training": [], "unlearning": []}
    )
    notes: list[str] = field(default_factory=list)


def run_attacks(
    table: pa.Table | Iterable[pa.Table], names: Sequence[str] = (PRIMARY,), seed: int = 0, **options: Any
) -> list[dict[str, Any]]:
    """Returns the rows of `audit`."""
    return audit(table, names, seed, **options).rows


def audit(
    tables: pa.Table | Iterable[pa.Table],
    names: Sequence[str] = (PRIMARY,),
    seed: int = 0,
    *,
    settings: dict[str, dict[str, Any]] | None = None,
    divergences: Sequence[str] = DEFAULT_DIVERGENCES,
    num_classes: int | None = None,
    bootstrap: int = 2000,
) -> Audit:
    """Attacks the originals (`no_unlearn`), fresh retrained models (`retrain`) and each method of an outputs table.

    Retrain's models are rows of role `unlearned`, method `retrain`, fold `test`: models that no attacker was fitted on.

    **Arguments:**

    - `names`: attacks to run, of `ATTACKS`. `settings`: options of attacks by name; those not given are the defaults, and
        XGBoost is tuned over its candidates.
    - `divergences`: per-sample distances to the retrained models, of `DIVERGENCES`; left out where labels have no logit.
    - `num_classes`: of labels, where the logits have fewer columns. `seed`, `bootstrap`: of attacks and intervals.

    **Raises:** `ValueError` naming every problem of the input, before anything is fitted.
    """
    listed = [tables] if isinstance(tables, pa.Table) else list(tables)
    problems = check(listed, names, num_classes)
    if any(problem.fatal for problem in problems):
        raise ValueError("\n".join(str(problem) for problem in problems if problem.fatal))
    table = sorted_by_id(joined(listed))
    groups = _groups(table)
    negative = rows_where(table, role="retrained", fold="test")
    found = Audit(notes=[str(problem) for problem in problems])
    evaluations: dict[tuple[str, int], Evaluation] = {}
    for group in groups:
        found.rows.append(_empty_row(group))
    for name in names:
        _run_attack(
            name, names, table, groups, negative, seed, (settings or {}).get(name), bootstrap, found, evaluations
        )
    for index, group in enumerate(groups):
        if len(group.test):
            _describe(found.rows[index], group, negative, rows_where(table, role="retrained"), divergences)
    _differences(found, evaluations, names, groups, seed, bootstrap)
    found.notes = sorted(set(found.notes))
    return found


def _groups(table: pa.Table) -> list[Group]:
    """Returns no_unlearn, retrain, then each (method, params) of the unlearned rows, sorted."""
    unlearned = rows_where(table, role="unlearned")
    groups = [Group("no_unlearn", "{}", rows_where(table, role="original"), pool=False)]
    groups.append(Group("retrain", "{}", rows_where(unlearned, method="retrain"), pool=False))
    pairs = unlearned.group_by(["method", "params"]).aggregate([]).to_pylist()
    for pair in sorted(pairs, key=lambda p: (p["method"], p["params"])):
        if pair["method"] != "retrain":
            mine = rows_where(unlearned, method=pair["method"], params=pair["params"])
            groups.append(Group(pair["method"], pair["params"], mine, pool=True))
    return groups


def _empty_row(group: Group) -> dict[str, Any]:
    row: dict[str, Any] = {
        "method": group.method,
        "params": _params(group.params),
        "metrics": {},
        "ci": {},
        "status": "done",
        "seconds": None,
        "verdict": "",
        "models": len(pc.unique(group.test["model_id"])),
        "attacks": {},
        "worst_samples": {},
        "notes": [],
    }
    if not len(group.test):
        wanted = "role unlearned, method retrain" if group.method == "retrain" else "this role"
        row["verdict"] = f"Not measured: no models of {wanted} in fold test."
    return row


def _params(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {"params": text}
    return found if isinstance(found, dict) else {"params": found}


def _run_attack(
    name: str,
    names: Sequence[str],
    table: pa.Table,
    groups: Sequence[Group],
    negative: pa.Table,
    seed: int,
    options: dict[str, Any] | None,
    bootstrap: int,
    found: Audit,
    evaluations: dict[tuple[str, int], Evaluation],
) -> None:
    """Fits one attack once, or for each method where it is of that kind, and scores every group."""
    per_method = ATTACKS[name].per_method
    population = rows_where(table, role=("original", "retrained"))
    started = time.perf_counter()
    fitted = None if per_method else _fitted(name, population, seed, options)
    fit_seconds = time.perf_counter() - started
    against = None if fitted is None else scores_of(fitted, negative)
    for index, group in enumerate(groups):
        if not len(group.test) or (per_method and not len(group.fitting)):
            continue
        started = time.perf_counter()
        attacker: Any = fitted
        if per_method:
            attacker = _fitted(name, pa.concat_tables([population, group.fitting]), seed, options)
        negatives = against if against is not None else scores_of(attacker, negative)
        positives = scores_of(attacker, group.test)
        threshold = getattr(attacker, "threshold", None)
        evaluation = evaluate(
            positives, negatives, threshold=threshold, seed=seed, bootstrap=bootstrap, directional=not per_method
        )
        evaluations[name, index] = evaluation
        row = found.rows[index]
        prefix = "" if name == PRIMARY else f"{name}/"
        row["metrics"].update({f"{prefix}{key}": value for key, value in evaluation.metrics.items()})
        row["ci"].update({f"{prefix}{key}": value for key, value in evaluation.ci.items()})
        said = evaluation.verdict if len(names) == 1 else f"{evaluation.verdict} ({name})"
        row["verdict"] = max(row["verdict"], said, key=_gravity)
        row["worst_samples"][name] = worst_samples(positives, negatives)
        row["attacks"][name] = {
            "path": "in_process",
            "params": _settings(attacker, name, options),
            "validation_f1": getattr(attacker, "validation_f1", None),
            "threshold": threshold,
            "notes": list(attacker.notes),
            "seconds": time.perf_counter() - started + (0.0 if per_method else fit_seconds),
        }
        found.notes.extend(f"{name}: {note}" for note in attacker.notes)
        for kind, curve in curves(evaluation, positives, negatives, name == PRIMARY).items():
            found.curves[kind].append({"row": index, "attack": name, **curve})


def _fitted(name: str, table: pa.Table, seed: int, options: dict[str, Any] | None) -> Any:
    attack = ATTACKS[name]
    given = dict(options or {})
    if "seed" in getattr(attack, "__dataclass_fields__", {}):
        given.setdefault("seed", seed)
    if hasattr(attack, "candidates"):
        fitted = [attack(**{**candidate, **given}).fit(table) for candidate in attack.candidates()]
        return max(fitted, key=lambda attacker: attacker.validation_f1)
    return attack(**given).fit(table)


def _settings(attacker: Any, name: str, options: dict[str, Any] | None) -> dict[str, Any]:
    attack: Any = getattr(attacker, "attack", None)
    return asdict(attack if hasattr(attack, "__dataclass_fields__") else ATTACKS[name](**(options or {})))


def _gravity(verdict: str) -> int:
    """Ranks verdicts: one attack that succeeds is enough to break a claim of forgetting. Of equals the first attack's stands."""
    order = ("Not decided", "Forgot", "Told apart", "Over-unlearned", "Did not forget")
    return next((rank for rank, start in enumerate(order) if verdict.startswith(start)), -1)


def scores_of(fitted: Any, table: pa.Table) -> Scores:
    """Returns a fitted attack's scores of a table's rows, with their models and samples."""
    scores = np.asarray(fitted.score(table), dtype=np.float64)
    return Scores(scores, text_column(table, "model_id").astype(str), table["sample_id"].to_numpy())


def curves(
    evaluation: Evaluation, positive: Scores, negative: Scores, probabilities: bool
) -> dict[str, dict[str, Any]]:
    """Returns the ROC, thinned out for drawing, and histograms of the scores of both sides.

    **Arguments:** `probabilities`: scores lie in [0, 1], so that histograms of all rows share their bins.
    """
    curve = evaluation.roc
    last = len(curve.fpr) - 1
    keep = np.linspace(0, last, CURVE_POINTS).round().astype(int)
    keep = np.unique(np.concatenate([keep, np.arange(min(CORNER_POINTS, last + 1))]))
    both = np.concatenate([positive.scores, negative.scores])
    finite = both[np.isfinite(both)]
    low, high = (0.0, 1.0) if probabilities or not len(finite) else (float(finite.min()), float(finite.max()))
    edges = np.linspace(low, high if high > low else low + 1.0, CONFIDENCE_BINS + 1)
    return {
        "roc": {"fpr": curve.fpr[keep].tolist(), "tpr": curve.tpr[keep].tolist()},
        "confidence": {
            "edges": edges.tolist(),
            "unlearned": np.histogram(positive.scores, edges)[0].tolist(),
            "retrained": np.histogram(negative.scores, edges)[0].tolist(),
        },
    }


def _describe(
    row: dict[str, Any], group: Group, negative: pa.Table, retrained: pa.Table, divergences: Sequence[str]
) -> None:
    """Adds what compares distributions: log-entropy's KS distance, error on the forget set, KLoM, forgetting quality."""
    logs = [np.log(np.maximum(entropy(logits_matrix(side)), 1e-30)) for side in (group.test, negative)]
    row["metrics"]["ks_log_entropy"] = ks_distance(logs[0], logs[1])
    mine, theirs = _equally_many(group.everyone, retrained)
    for name in divergences:
        divergence = DIVERGENCES[name]()
        try:
            measured = divergence.measure(mine, theirs)
        except ValueError as error:
            row["metrics"][f"{name}/{divergence.headline}"] = None
            row["notes"].append(f"{name}: not measured: {error}")
            continue
        row["metrics"].update({f"{name}/{key}": value for key, value in measured.summary.items()})
        row["worst_samples"][name] = [
            {"sample_id": i, "value": v if np.isfinite(v) else None} for i, v in measured.worst()
        ]
        row["notes"].extend(measured.notes)


def _equally_many(mine: pa.Table, theirs: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Returns both groups cut to the same number of models, those of the test fold first: histograms need like numbers."""
    ordered = []
    for side in (mine, theirs):
        models = side.group_by(["fold", "model_id"]).aggregate([]).to_pylist()
        models.sort(key=lambda m: (("test", "validation", "train").index(m["fold"]), m["model_id"]))
        ordered.append([model["model_id"] for model in models])
    fewest = min(len(models) for models in ordered)
    return rows_where(mine, model_id=ordered[0][:fewest]), rows_where(theirs, model_id=ordered[1][:fewest])


def _differences(
    found: Audit,
    evaluations: dict[tuple[str, int], Evaluation],
    names: Sequence[str],
    groups: Sequence[Group],
    seed: int,
    bootstrap: int,
) -> None:
    """Adds the AUC's difference to Retrain, with its interval, for attacks that were measured on both."""
    reference = next(i for i, group in enumerate(groups) if group.method == "retrain")
    for name in names:
        if (name, reference) not in evaluations:
            continue
        prefix = "" if name == PRIMARY else f"{name}/"
        for index in range(len(groups)):
            if index != reference and (name, index) in evaluations:
                difference, interval = paired_difference(
                    evaluations[name, index], evaluations[name, reference], seed=seed, bootstrap=bootstrap
                )
                found.rows[index]["metrics"][f"{prefix}auc_minus_retrain"] = difference
                if interval is not None:
                    found.rows[index]["ci"][f"{prefix}auc_minus_retrain"] = interval
