"""How each kind of unit is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from unlearn import CoreBasis, Fisher, SecondMoments, fisher_diagonal, predict, second_moments, train

from ..base.values import Record
from ..plan.facts import BasisFacts, Facts, ModelFacts, OutputsFacts, UnlearnFacts, facts_of
from ..plan.kept import retained_rows
from ..plan.specs import (
    BasisSpec,
    FisherSpec,
    GivenSpec,
    MomentsSpec,
    OutputsSpec,
    PlainSpec,
    RetainedSpec,
    TrainSpec,
    UnlearnSpec,
    UnseenSpec,
)
from ..plan.trained import drawn_part
from ..plan.units import Unit
from ..recipe.options import option_names
from ..store import Attempt
from .collateral import measure_collateral
from .context import Context, save_model
from .incremental import unlearn_in_steps
from .inputs import method_inputs
from .outputs import write_fragment
from .ranking import execute_rank
from .scoring import fit_candidate, measure_distances, score_row
from .traces import measure_traces

ATTACKERS = 8  # fitted ones that a worker keeps: rows with the same attacker have it fitted once


def execute_train(unit: Unit[TrainSpec], context: Context, attempt: Attempt) -> ModelFacts:
    """Trains one model from its seed."""
    spec, training = unit.spec, unit.spec.training
    indices = None if spec.indices == "all" else context.data.split.retain
    if spec.part:
        seed, models, number = spec.part
        indices = drawn_part(len(context.data.dataset.train.labels), seed, models, number)
    if context.data.indices_digest(indices) != spec.indices:
        raise RuntimeError("the split of this worker is not the one that the plan was made with")
    model = context.new_model(spec.model, spec.seed)
    loader = context.loader(
        "train", indices, batch_size=training.batch_size, shuffle=True, augment=training.augment, seed=spec.seed
    )
    history = train(model, loader, training, seed=spec.seed, device=context.device, graphs=context.graphs)
    save_model(attempt, model)
    return ModelFacts(spec.model.to_json(), [], history)


def execute_given(unit: Unit[GivenSpec], context: Context, attempt: Attempt) -> Facts:
    """Refuses: nobody but the user has this model."""
    raise RuntimeError(
        f"{unit.name}: its weights are no longer in the store; the same `orchestrator verify` puts them back"
    )


def execute_moments(unit: Unit[MomentsSpec], context: Context, attempt: Attempt) -> Facts:
    """Second moments of the full training data, in one pass with the training augmentation."""
    model = context.load_model(unit.spec.model)
    loader = context.loader("train", augment=unit.spec.augment, seed=0)
    second_moments(model, loader, stride_one=unit.spec.stride_one).save(attempt.path("moments.safetensors"))
    return Facts()


def execute_basis(unit: Unit[BasisSpec], context: Context, attempt: Attempt) -> BasisFacts:
    """Decomposes G(D) − G(D_f). Needs the forget set and the stored moments only.

    With `clean` it decomposes G of the retained data, as the published release does to depoison.
    """
    spec, split = unit.spec, context.data.split
    model = context.load_model(spec.model)
    if spec.clean:
        retain = context.loader("train", split.retain, augment=spec.augment, seed=0)
        basis = second_moments(model, retain, stride_one=spec.stride_one).decompose()
    else:
        moments = SecondMoments.load(context.store.fetch(spec.moments, "moments.safetensors"))
        forget = context.loader("train", split.forget, augment=spec.augment, seed=1)
        own = second_moments(model, forget, layers=moments.parts, stride_one=moments.stride_one)
        basis = moments.decompose(minus=own)
    basis.save(attempt.path("basis.safetensors"))
    return BasisFacts(list(basis.warnings))


def execute_fisher(unit: Unit[FisherSpec], context: Context, attempt: Attempt) -> Facts:
    """A per-sample statistic of the full training data, such as the Fisher diagonal, in one
    pass."""
    model = context.load_model(unit.spec.model)
    fisher = fisher_diagonal(model, context.loader("train"), statistic=unit.spec.statistic)
    fisher.save(attempt.path("fisher.safetensors"))
    return Facts()


def execute_unlearn(unit: Unit[UnlearnSpec], context: Context, attempt: Attempt) -> UnlearnFacts:
    """Applies one method to one model. The method is handed what it declares and nothing more."""
    spec, store = unit.spec, context.store
    method = spec.params
    if "seed" in option_names(type(method)):
        method = replace(method, **{"seed": spec.seed})
    given = method_inputs(method, context, spec.seed)
    steps: Sequence[Record] = ()
    if spec.basis:
        given["moments"] = context.cached(
            spec.basis, lambda: CoreBasis.load(store.fetch(spec.basis, "basis.safetensors"))
        )
    if spec.fisher:
        given["fisher"] = context.cached(
            spec.fisher, lambda: Fisher.load(store.fetch(spec.fisher, "fisher.safetensors"))
        )
    if spec.moments or method.in_steps:
        result, steps = unlearn_in_steps(unit, method, context, given)
    else:
        result = method.unlearn(context.load_model(spec.model), **given)
    save_model(attempt, result.model)
    return UnlearnFacts(
        model=facts_of(store, spec.model, ModelFacts).model,
        dropped_classes=[int(c) for c in context.data.split.forget_classes],
        history=result.history,
        stopped_at=result.stopped_at,
        notes=list(result.notes),
        steps=steps,
        basis_seconds=store.meta(spec.basis)["seconds"] if spec.basis else 0.0,
    )


def execute_outputs(unit: Unit[OutputsSpec], context: Context, attempt: Attempt) -> OutputsFacts:
    """Forget-set logits of one model, and its errors on D_f, D_r, validation and test where it is
    measured.

    Where classes are removed, an unlearned model has no outputs for them. On D_r and unseen images
    all models are then asked about the other classes only. Else the original would have the harder
    task, and unlearning would seem to gain accuracy.
    """
    data, split = context.data, context.data.split
    model = context.load_model(unit.spec.model)
    dropped = bool(facts_of(context.store, unit.spec.model, ModelFacts).dropped_classes)
    known = data.kept_classes if dropped else np.arange(data.dataset.num_classes)

    parts = {"error_forget": ("train", split.forget)}
    if unit.spec.errors:
        parts |= {"error_retain": ("train", split.retain), "error_val": ("test", split.val)}
        parts |= {"error_test": ("test", split.test)}
    errors: dict[str, float | None] = {}
    # The forget set comes last: its logits are kept.
    for name, (part, indices) in reversed(parts.items()):
        logits, labels = (found.numpy() for found in predict(model, context.loader(part, indices, batch_size=512)))
        asked = data.kept_classes if unit.spec.among_kept and name != "error_forget" else known
        correct = asked[logits[:, np.isin(known, asked)].argmax(axis=1)] == labels
        errors[name] = 100.0 * float(1.0 - correct.mean()) if len(labels) else None
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
    return OutputsFacts(errors, len(labels), int(logits.shape[1]))


def execute_unseen(unit: Unit[UnseenSpec], context: Context, attempt: Attempt) -> OutputsFacts:
    """Logits of one model on images that it was not trained on: `validation` calibrates attacks,
    `test` is compared with."""
    split, half = context.data.split, unit.spec.limit // 2
    val, test = split.val[:half], split.test[: unit.spec.limit - half]
    ids = np.concatenate([val, test])
    logits, labels = predict(context.load_model(unit.spec.model), context.loader("test", ids, batch_size=512))
    sets = np.repeat(["validation", "test"], [len(val), len(test)])
    write_fragment(attempt.path("outputs.parquet"), ids, labels.numpy(), logits.numpy(), sets=sets)
    return OutputsFacts({}, len(ids), int(logits.shape[1]))


def execute_retained(unit: Unit[RetainedSpec], context: Context, attempt: Attempt) -> OutputsFacts:
    """Logits of one model on retained images, which every model was trained on."""
    rows = retained_rows(context.data.split, unit.spec.limit, unit.spec.seed)
    logits, labels = predict(context.load_model(unit.spec.model), context.loader("train", rows, batch_size=512))
    sets = np.repeat("retain", len(rows))
    write_fragment(attempt.path("outputs.parquet"), rows, labels.numpy(), logits.numpy(), sets=sets)
    return OutputsFacts({}, len(rows), int(logits.shape[1]))


def execute_sleep(unit: Unit[PlainSpec], context: Context, attempt: Attempt) -> Facts:
    """Sleeps; for benchmarks of the scheduling itself."""
    seconds = unit.spec.values["seconds"]
    if not isinstance(seconds, int | float):
        raise ValueError(f"seconds: {seconds!r} is not allowed; give a number")
    time.sleep(seconds)
    return Facts()


KINDS: dict[str, Callable[[Any, Context, Attempt], Facts | Record]] = {
    "train": execute_train,
    "given": execute_given,
    "moments": execute_moments,
    "basis": execute_basis,
    "fisher": execute_fisher,
    "unlearn": execute_unlearn,
    "rank": execute_rank,
    "outputs": execute_outputs,
    "attack": lambda unit, context, attempt: fit_candidate(unit.spec, context.store, attempt),
    "score": lambda unit, context, attempt: score_row(
        unit, context.store, attempt, partial(context.cached, keep=ATTACKERS)
    ),
    "distance": lambda unit, context, attempt: measure_distances(unit, context.store),
    "unseen": execute_unseen,
    "retained": execute_retained,
    "collateral": lambda unit, context, attempt: measure_collateral(unit.spec, context.store, context.data.groups),
    "traces": lambda unit, context, attempt: measure_traces(unit.spec, context.store),
    "sleep": execute_sleep,
}
