"""How each kind of unit is made."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..plan.units import Unit
from ..recipe.options import build
from ..store import Attempt
from .context import Context, save_model


def execute_train(unit: Unit, context: Context, attempt: Attempt) -> dict[str, Any]:
    """Trains one model from its seed."""
    from unlearn import Training, train

    spec = unit.spec
    training = build(Training, spec["training"])
    indices = None if spec["indices"] == "all" else context.data.split.retain
    if context.data.indices_digest(indices) != spec["indices"]:
        raise RuntimeError("the split of this worker is not the one that the plan was made with")
    model = context.new_model(spec["model"], spec["seed"])
    loader = context.loader(
        "train", indices, batch_size=training.batch_size, shuffle=True, augment=training.augment, seed=spec["seed"]
    )
    history = train(model, loader, training, seed=spec["seed"], device=context.device, graphs=context.graphs)
    save_model(attempt, model)
    return {"model": spec["model"], "dropped_classes": [], "history": history}


def execute_moments(unit: Unit, context: Context, attempt: Attempt) -> dict[str, Any]:
    """Second moments of the full training data, in one pass with the training augmentation."""
    from unlearn import second_moments

    model = context.load_model(unit.spec["model"])
    loader = context.loader("train", augment=unit.spec["augment"], seed=0)
    moments = second_moments(model, loader)
    moments.save(attempt.path("moments.safetensors"))
    return {}


def execute_basis(unit: Unit, context: Context, attempt: Attempt) -> dict[str, Any]:
    """Decomposes G(D) − G(D_f). Needs the forget set and the stored moments only."""
    from unlearn import SecondMoments, second_moments

    moments = SecondMoments.load(context.store.fetch(unit.spec["moments"], "moments.safetensors"))
    model = context.load_model(unit.spec["model"])
    forget = context.loader("train", context.data.split.forget)
    basis = (moments - second_moments(model, forget)).decompose()
    basis.save(attempt.path("basis.safetensors"))
    return {"warnings": list(basis.warnings)}


def execute_unlearn(unit: Unit, context: Context, attempt: Attempt) -> dict[str, Any]:
    """Applies one method to one model. The method is handed what it declares and nothing more."""
    from unlearn import METHODS, CoreBasis

    from .incremental import unlearn_in_steps

    spec = unit.spec
    params = dict(spec["params"])
    if "seed" in params:
        params["seed"] = spec["seed"]
    method = build(METHODS[spec["method"]], params)
    given = method_inputs(method, context, spec["seed"])
    steps: list[dict[str, Any]] = []
    if "basis" in spec:
        given["moments"] = context.cached(
            spec["basis"], lambda: CoreBasis.load(context.store.fetch(spec["basis"], "basis.safetensors"))
        )
    if "moments" in spec:
        result, steps = unlearn_in_steps(unit, method, context, given)
    else:
        result = method.unlearn(context.load_model(spec["model"]), **given)
    save_model(attempt, result.model)
    return {
        "model": context.store.meta(spec["model"])["model"],
        "dropped_classes": [int(c) for c in context.data.split.forget_classes],
        "history": result.history,
        "stopped_at": result.stopped_at,
        "notes": list(result.notes),
        "steps": steps,
        "basis_seconds": context.store.meta(spec["basis"])["seconds"] if "basis" in spec else 0.0,
    }


def method_inputs(method: Any, context: Context, seed: int) -> dict[str, Any]:
    """Returns the loaders that `method` declares it needs, and the worker's captured steps where it takes them; moments
    are the caller's to add."""
    split = context.data.split
    required = method.requires()
    batch_size = getattr(method, "batch_size", None) or 128
    given: dict[str, Any] = {"forget": context.loader("train", split.forget, batch_size=batch_size)}
    if method.access == "retain":
        augment = getattr(method, "augment", None)
        given["retain"] = context.loader(
            "train", split.retain, batch_size=batch_size, shuffle=True, augment=augment, seed=seed
        )
    if getattr(method, "uses_graphs", False):
        given["graphs"] = context.graphs
    if "validation" in required:
        given["validation"] = context.loader("test", split.val)
    if "monitor" in required:
        # Stopping looks at the validation half, so that the reported half of the test data stays unseen.
        given["monitor"] = {"retain": context.loader("train", split.retain), "test": context.loader("test", split.val)}
    if split.forget_classes:
        given["num_classes"] = context.data.dataset.num_classes
        given["forget_classes"] = tuple(int(c) for c in split.forget_classes)
    return given


def execute_outputs(unit: Unit, context: Context, attempt: Attempt) -> dict[str, Any]:
    """Forget-set logits of one model, and its errors on D_f, D_r, validation and test where it is measured."""
    from unlearn import predict

    from .outputs import write_fragment

    data, split = context.data, context.data.split
    model = context.load_model(unit.spec["model"])
    dropped = bool(context.store.meta(unit.spec["model"])["dropped_classes"])
    classes = data.kept_classes if dropped else np.arange(data.dataset.num_classes)

    def measure(part: str, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, float | None]:
        logits, labels = predict(model, context.loader(part, indices, batch_size=512))
        array, truth = logits.numpy(), labels.numpy()
        correct = classes[array.argmax(axis=1)] == truth
        return array, truth, (100.0 * float(1.0 - correct.mean()) if len(truth) else None)

    logits, labels, error = measure("train", split.forget)
    if not dropped and len(data.kept_classes) < data.dataset.num_classes:
        logits = logits[:, data.kept_classes]  # every model shows the attacker the same columns
    kept = [int(c) for c in data.kept_classes]
    write_fragment(
        attempt.path("outputs.parquet"),
        split.forget,
        labels,
        logits,
        classes=kept if len(kept) < data.dataset.num_classes else None,
    )
    errors: dict[str, float | None] = {"error_forget": error}
    if unit.spec["errors"]:
        for name, part, indices in (
            ("retain", "train", split.retain),
            ("val", "test", split.val),
            ("test", "test", split.test),
        ):
            errors[f"error_{name}"] = measure(part, indices)[2]
    return {"errors": errors, "rows": len(labels), "columns": int(logits.shape[1])}


def execute_attack(unit: Unit, context: Context, attempt: Attempt) -> dict[str, Any]:
    """Fits one candidate of an attack in this process."""
    from .scoring import fit_candidate

    return fit_candidate(unit, context.store, attempt, threads=context.threads)


def execute_score(unit: Unit, context: Context, attempt: Attempt) -> dict[str, Any]:
    """Scores one method's models against the test-fold retrained models with one attack."""
    from .scoring import score_row

    return score_row(unit, context.store, attempt)


def execute_distance(unit: Unit, context: Context, attempt: Attempt) -> dict[str, Any]:
    """Measures how far one method's models are from retrained ones, sample by sample."""
    from .scoring import measure_distances

    return measure_distances(unit, context.store)


def execute_sleep(unit: Unit, context: Context, attempt: Attempt) -> dict[str, Any]:
    """Sleeps; for benchmarks of the scheduling itself."""
    time.sleep(float(unit.spec["seconds"]))
    return {}


KINDS: dict[str, Callable[[Unit, Context, Attempt], dict[str, Any]]] = {
    "train": execute_train,
    "moments": execute_moments,
    "basis": execute_basis,
    "unlearn": execute_unlearn,
    "outputs": execute_outputs,
    "attack": execute_attack,
    "score": execute_score,
    "distance": execute_distance,
    "sleep": execute_sleep,
}
