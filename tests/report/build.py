"""Results and curves as a run would write them, from simulated attack scores. Only the reading of them is under test here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from attack.audit.verdicts import with_verdict
from attack.metrics.evaluation import Scores, evaluate, worst_samples
from attack.metrics.harm import Difference, Harm
from attack.metrics.row import Row
from attack.metrics.verdict import Leak, Verdict, VerdictWord
from orchestrator.experiments.samples import picture

MODELS, SAMPLES = 5, 60
# What a run writes of its methods: name in print, and the data that they see.
METHODS: dict[str, dict[str, Any]] = {
    "pgu": {"title": "PGU", "access": "moments", "validation": True},
    "eu_k": {"title": "EU-k", "access": "retain", "validation": False},
    "cf_k": {"title": "CF-k", "access": "retain", "validation": False},
    "finetune": {"title": "Finetune", "access": "retain", "validation": False},
}


def verdict(word: VerdictWord, reason: str = "As planted", **attacks: tuple[float, float | None]) -> Verdict:
    """Returns a verdict with leaks. **Arguments:** `attacks`: AUC and share left of each; None: it sees nothing."""
    leaks = []
    for name, (auc, left) in attacks.items():
        ends = (None, None) if left is None else (left - 0.1, left + 0.1)
        leaks.append(Leak(name, auc, 0.5, left is not None, left, *ends))
    seen = [leak for leak in leaks if leak.sees]
    strongest = max(seen, key=lambda leak: abs(leak.auc - 0.5), default=None)
    return Verdict(word, reason, tuple(leaks), strongest.attack if strongest else None)


def judged(row: dict[str, Any], found: Verdict) -> dict[str, Any]:
    """Returns a row of `results.json` with its verdict, as `Row.to_json` writes it."""
    return with_verdict(Row.from_json(row), found).to_json()


def scores(generator: np.random.Generator, shift: float) -> Scores:
    """Confidences of an attacker in (0, 1): logistic of a normal, a little different for each model."""
    logits = generator.normal(shift, 1.0, (MODELS, SAMPLES)) + generator.normal(0, 0.1, (MODELS, 1))
    ids = np.repeat([f"model-{i}" for i in range(MODELS)], SAMPLES)
    return Scores(1 / (1 + np.exp(-logits.ravel())), ids, np.tile(np.arange(SAMPLES), MODELS))


def row(
    index: int,
    method: str,
    params: dict[str, Any],
    shift: float,
    errors: tuple[float, float, float],
    *,
    lira: bool = False,
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Returns a finished row with its curves; `shift` is how far its models' scores lie from retrained ones."""
    generator = np.random.default_rng(100 + index)
    retrained = scores(np.random.default_rng(1), 0.0)
    tested = scores(generator, shift)
    evaluation = evaluate(tested, retrained, threshold=0.5, seed=index, bootstrap=200)
    metrics: dict[str, Any] = dict(evaluation.metrics)
    intervals = dict(evaluation.ci)
    for name, value in zip(("error_forget", "error_retain", "error_test"), errors, strict=True):
        metrics[name] = value
        intervals[name] = [max(0.0, value - 0.6), value + 0.7]
    metrics["seconds_per_model"] = None if method == "no_unlearn" else 42.5 if method == "retrain" else 1.75 + index
    metrics["speedup_vs_retrain"] = None if method == "no_unlearn" else 42.5 / metrics["seconds_per_model"]
    metrics["epochs"] = None if method == "no_unlearn" else 12.4
    bins = np.linspace(0, 1, 41)
    curves: dict[str, list[Any]] = {"roc": [], "confidence": [], "unlearning": []}
    for attack in ("xgboost", "u_lira") if lira else ("xgboost",):
        curves["roc"].append(
            {"row": index, "attack": attack, "fpr": evaluation.roc.fpr.tolist(), "tpr": evaluation.roc.tpr.tolist()}
        )
        counts = {
            "unlearned": np.histogram(tested.scores, bins)[0],
            "retrained": np.histogram(retrained.scores, bins)[0],
        }
        curves["confidence"].append(
            {"row": index, "attack": attack, "edges": bins.tolist(), **{k: v.tolist() for k, v in counts.items()}}
        )
    if lira:
        metrics["u_lira/auc"], intervals["u_lira/auc"] = metrics["auc"] + 0.02, [v + 0.02 for v in intervals["auc"]]
    if method not in ("no_unlearn", "retrain"):
        for model in range(MODELS):
            length = 9 + model
            accuracy = 1.0 / (1.0 + np.exp(np.arange(length) - 7.0 + 0.3 * model))
            history = [
                {
                    "epoch": e,
                    "forget_accuracy": float(a),
                    "validation_accuracy": 0.9 - 0.004 * e,
                    "loss": 1.0 - 0.05 * e,
                }
                for e, a in enumerate(accuracy)
            ]
            curves["unlearning"].append(
                {"row": index, "model_id": f"{method} {model}", "stopped_at": length - 2, "history": history}
            )
    result = {
        "method": method,
        "params": params,
        "metrics": metrics,
        "ci": intervals,
        "status": "done",
        "seconds": metrics["seconds_per_model"],
        "verdict": "",
        "models": MODELS,
        "worst_samples": {
            "xgboost": worst_samples(tested, retrained),
            "klom": [{"sample_id": 500 + index, "value": 2.5}, {"sample_id": 400 + index, "value": None}],
        },
        "attacks": {
            "xgboost": {
                "path": "in_process",
                "params": {"max_depth": 6},
                "validation_f1": 0.71,
                "rows": 3200,
                "notes": [],
            }
        },
    }
    word: VerdictWord = "remembers" if shift > 0.3 else "over_unlearned" if shift < -0.3 else "forgot"
    attacks: dict[str, tuple[float, float | None]] = {"xgboost": (metrics["auc"], shift / 1.3)}
    if lira:
        attacks["u_lira"] = (metrics["u_lira/auc"], shift / 1.3)
    return {**result, **judged(result, verdict(word, **attacks))}, curves


def failed(method: str, params: dict[str, Any], error: str) -> dict[str, Any]:
    """Returns a row that did not finish."""
    metrics = dict.fromkeys(
        ("error_forget", "error_retain", "error_test", "seconds_per_model", "speedup_vs_retrain", "epochs")
    )
    return {
        **{"method": method, "params": params, "metrics": metrics, "ci": {}, "status": "failed", "seconds": None},
        **{"verdict": "", "models": 0, "error": error},
    }


def document(rows: list[dict[str, Any]], name: str = "cifar10-sweep") -> dict[str, Any]:
    """Returns a results document around rows, with what is known of their methods."""
    return {
        "schema": 1,
        "recipe": {
            "name": name,
            "description": "PGU over γ on CIFAR-10",
            "seed": 0,
            "dataset": {"source": "parquet", "train": "train.parquet", "limit": {"train": 5000}},
            "scenario": {"kind": "samples", "per_class": 100},
            "model": {"name": "small_vgg", "width": 0.25},
            "training": {"optimizer": "sgd", "lr": 0.01, "epochs": 40},
            "shadows": {"originals": 10, "retrained": 10, "split": [4, 1, 5]},
            "methods": [{"name": "pgu", "gamma": {"grid": [0.99, 0.9]}}, {"name": "eu_k", "k": 2}],
            "attacks": [{"name": "xgboost"}],
        },
        "rows": [{**METHODS.get(row["method"], {}), **row} for row in rows],
        "stages": {"train": 5025.0, "unlearn": 61.2, "score": 0.4},
        "environment": {
            "work": {"units_executed": 40, "units_reused": 2},
            "versions": {"torch": "2.13.0", "unlearning-orchestrator": "0.1.0"},
            "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": True},
            "hardware": {"where": "one process", "cpus": 2, "python": "3.11.7"},
            "notes": ["worker 3 was lost and its 2 units ran elsewhere"],
            "dataset": {"name": "cifar10", "digest": "d" * 64, "train": 5000, "test": 2000, "classes": 10},
            "split": {"forget": 1000, "retain": 4000, "val": 1000, "test": 1000, "digest": "e" * 64},
        },
    }


def training_curves(epochs: int = 12) -> list[dict[str, Any]]:
    """Returns histories of shadow models of both roles."""
    return [
        {
            "model_id": f"{role}-{model}",
            "role": role,
            "history": [
                {"epoch": e + 1, "loss": 2.0 * 0.7**e + 0.01 * model, "accuracy": 1 - 0.8**e} for e in range(epochs)
            ],
        }
        for role in ("original", "retrained")
        for model in range(4)
    ]


def sweep(lira: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a γ sweep with every verdict in it: remembers, forgot, over-unlearned and failed."""
    points = [
        ("no_unlearn", {}, 1.3, (0.0, 0.0, 9.9)),
        ("retrain", {}, 0.0, (9.6, 0.0, 9.6)),
        ("pgu", {"gamma": 0.995, "lr": 0.05}, 1.2, (1.1, 0.0, 9.9)),
        ("pgu", {"gamma": 0.96, "lr": 0.05}, 0.02, (9.3, 0.0, 9.8)),
        ("pgu", {"gamma": 0.9, "lr": 0.05}, -0.02, (10.1, 0.1, 10.4)),
        ("pgu", {"gamma": 0.75, "lr": 0.05}, -1.1, (29.3, 8.2, 19.1)),
        ("eu_k", {"k": 2}, 0.7, (4.0, 0.0, 9.7)),
    ]
    built = [row(i, *point, lira=lira) for i, point in enumerate(points)]
    rows = [each for each, _ in built] + [
        failed("cf_k", {"k": 9}, "cf_k(k=9): ValueError: k: 9: the model has 5 layers")
    ]
    rows[2]["notes"] = [f"the early stop was not reached in {n} epochs" for n in (30, 31, 32)]
    curves = {
        kind: [each for _, found in built for each in found[kind]] for kind in ("roc", "confidence", "unlearning")
    }
    return document(rows), {**curves, "training": training_curves(), "incremental": stress_curves()}


def stress_curves() -> list[dict[str, Any]]:
    """Returns two chains of steps of row 2, one of which measured the drift of its moments."""
    return [
        {
            "row": 2,
            "model_id": f"chain {model}",
            "steps": [
                {
                    "per_class": 10 * n,
                    "test_accuracy": 0.9 - 0.01 * n * (model + 1),
                    "drift": 0.02 * n if model else None,
                }
                for n in range(6)
            ],
        }
        for model in range(2)
    ]


def many(n: int = 200) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns two references and `n` rows of two methods over two parameters each."""
    base, curves = sweep()
    rows = base["rows"][:2]
    found: dict[str, Any] = {
        kind: [c for c in curves[kind] if c["row"] < 2] for kind in ("roc", "confidence", "unlearning")
    }
    donors = {kind: [c for c in curves[kind] if c["row"] == 3] for kind in found}
    for i in range(n):
        method, params = (
            ("pgu", {"gamma": 1 - i / 400, "lr": 0.1 / (1 + i % 5)})
            if i % 2
            else ("finetune", {"lr": 0.001 * (1 + i), "epochs": i})
        )
        copied = json.loads(json.dumps(base["rows"][3])) | {"method": method, "params": params}
        copied["metrics"]["auc"] = 0.5 + i / 1000
        copied["metrics"]["error_test"] = 9 + i / 50
        rows.append(copied)
        for kind, donor in donors.items():
            found[kind] += [{**each, "row": i + 2} for each in donor]
    return document(rows), {**found, "training": curves["training"]}


def samples(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns 60 samples that stand out, each with a picture of noise, which does not compress."""
    generator = np.random.default_rng(0)
    rows = range(2, len(results["rows"]))
    return [
        {
            "sample_id": number,
            "id": f"p-{number:03d}",
            "class": f"class {number % 10}",
            "image": picture(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)),
            "rows": [row for row in rows if (row + number) % 5 == 0],
            "attacks": ["xgboost", "lira"] if number % 2 else ["rmia"],
            "confidence": generator.random(len(results["rows"])).tolist(),
        }
        for number in range(60)
    ]


def hurt(results: dict[str, Any], rows: int | None = None) -> None:
    """Gives every row, or the first `rows`, a collateral audit; the third hurt three samples and a group."""

    def difference(what: str, value: float, clear: bool = False) -> Difference:
        return Difference(what, value, 0.1, 0.0, value - 0.1, value - 0.6, value + 0.4, clear)

    for place, each in enumerate(results["rows"][:rows]):
        found = Harm(
            retained=2000,
            unseen=1000,
            aucs=(0.6, 0.61),
            auc=difference("AUC", 0.605),
            easier=3 if place == 2 else 0,
            samples=tuple(difference(str(n), 3.0, True) for n in (4, 5, 6)) if place == 2 else (),
            exposure={
                "class": tuple(difference(f"class {n}", 0.2) for n in range(10)),
                "team": (difference("u7", 2.0, place == 2),),
            },
            errors={"class": tuple(difference(f"class {n}", 0.2) for n in range(10))},
            klom={"retain/p95": 0.5, "test/p95": 0.4},
        )
        each["collateral"] = found.to_json()
        measures = found.measures(["a", "b"])
        each["metrics"] |= {name: measure.value for name, measure in measures.items()}


def write(folder: Path, results: dict[str, Any], curves: dict[str, Any] | None = None) -> Path:
    """Writes the two files that a report is made from; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    if curves is not None:
        (folder / "curves.json").write_text(json.dumps(curves), encoding="utf-8")
    return folder
