"""Forgetting in steps, until a model fails: every step is stored as soon as it is done, so that a
stress test resumes.

Of the running second moments only the last two states are kept: one to go on from, one in case that
one is torn.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from attack.metrics.roc import pair_auc
from unlearn import ArrayLoader, SecondMoments, Training, UnlearnError, UnlearnResult, accuracy, predict, train
from unlearn.core.errors import MethodDidNothing, NothingToForget, UnlearnTooFast
from unlearn.core.rounding import within
from unlearn.methods.base import Inputs, Method
from unlearn.methods.pgu.incremental import next_moments
from unlearn.moments.fisher import Fisher, fisher_diagonal

from ..base.values import Record
from ..plan.facts import Facts, ModelFacts, StepFacts, facts_of
from ..plan.specs import RunningSpec, StepSpec, UnlearnSpec
from ..plan.steps import grouped_steps
from ..plan.trained import array_digest
from ..plan.units import Unit
from ..recipe.options import settings_of
from ..store import CorruptObject
from .commit import commit_unit
from .context import Context, save_model
from .inputs import method_inputs

# Options that say when to stop and what follows; what a step does to a model does not depend on
# them.
_NOT_OF_A_STEP = ("fail_points", "audit_every", "recover_epochs", "recover_lr")


def unlearn_in_steps(
    unit: Unit[UnlearnSpec], method: Method, context: Context, given: Inputs
) -> tuple[UnlearnResult, list[dict[str, float | None]]]:
    """Forgets step after step from the model and the moments that `unit` names.

    **Returns:** the last model with the history of all steps, and a row for each step. A row has
    `step`, `per_class` (forgotten so far), `test_accuracy`, `forget_accuracy` of this step's
    samples before and after, `epochs`, `stopped_at`, `seconds`. Where moments are recomputed it has
    `drift`, the largest relative Frobenius distance of a layer's running moments from those. Where
    it was audited it has `audit_auc`. The
    row of step 0 is the model as given; `recovered_test_accuracy` is on the last row where there
    was fine-tuning.
    """
    return _Chain(unit, method, context, given).run()


class _Chain:
    def __init__(self, unit: Unit[UnlearnSpec], method: Method, context: Context, given: Inputs):
        self.unit, self.method, self.context, self.given = unit, method, context, given
        self.store = context.store
        self.steps = grouped_steps(context.data, method.steps().size)
        self.recompute = method.steps().recompute_moments
        self.spec = unit.spec
        self.params = {k: v for k, v in settings_of(unit.spec.params).items() if k not in _NOT_OF_A_STEP}
        if unit.spec.code:
            self.params["code"] = unit.spec.code
        self.digests = [array_digest(step) for step in self.steps]
        # Of the step that was made last in this process: what the next one starts from.
        self.model: tuple[int, nn.Module] | None = None
        self.running: tuple[int, SecondMoments] | None = None

    def run(self) -> tuple[UnlearnResult, list[dict[str, float | None]]]:
        rows = [self._start()]
        history: list[dict[str, float | None]] = []
        notes: list[str] = []
        for number in range(1, len(self.steps) + 1):
            unit = self._step(number)
            if not self.store.has(unit.key):
                self._forget(number)
            made = facts_of(self.store, unit.key, StepFacts)
            passed = history[-1]["epoch"] if history else 0
            history += [
                {**row, "step": number, "epoch": passed + row.get("epoch", place)}
                for place, row in enumerate(made.history, start=1)
            ]
            notes += [note for note in made.notes if note not in notes]
            rows.append(dict(made.row))
            if self._failed(rows):
                break
            if self._due(number):
                rows[-1]["audit_auc"] = self._audited(number)
        last = len(rows) - 1
        model = self._model(last)
        if self.method.steps().audit_every and last and "audit_auc" not in rows[-1]:
            rows[-1]["audit_auc"] = self._audited(last)
        recovered = self._recovered(model, last)
        if recovered is not None:
            rows[-1]["recovered_test_accuracy"] = recovered
        for number in (last - 1, last) if self.spec.moments else ():
            self.store.remove(self._moments(number).key)
        return UnlearnResult(model, history, None, notes), rows

    def _step(self, number: int) -> Unit[StepSpec]:
        return self._unit(StepSpec, number)

    def _moments(self, number: int) -> Unit[StepSpec]:
        return self._unit(RunningSpec, number)

    def _unit(self, kind: type[StepSpec], number: int) -> Unit[StepSpec]:
        spec = self.spec
        done = tuple(self.digests[:number])
        made = kind(spec.model, spec.moments, spec.method, self.params, spec.seed, done)
        return Unit(made, f"{self.unit.name} {kind.kind} {number}")

    def _start(self) -> dict[str, float | None]:
        model = self._model(0)
        tested = accuracy(model, self.context.loader("test", self.context.data.split.test))
        return {"step": 0, "per_class": 0, "forgotten": 0, "test_accuracy": tested}

    def _failed(self, rows: Sequence[Record]) -> bool:
        limit = self.method.steps().fail_points
        return limit is not None and failed(rows[0], rows[-1], limit)

    def _due(self, number: int) -> bool:
        every = self.method.steps().audit_every
        return every is not None and number % every == 0

    def _audited(self, number: int) -> float:
        """Returns the AUC of confidence in the label: all samples forgotten so far against unseen
        ones."""
        data, context = self.context.data, self.context
        forgotten = context.loader("train", np.concatenate(self.steps[:number]))
        found = [
            confidence(self._model(number), loader) for loader in (forgotten, context.loader("test", data.split.test))
        ]
        return pair_auc(*found)

    def _forget(self, number: int) -> None:
        """Makes one step and commits its model, and then the running moments."""
        started = time.perf_counter()
        unit, data = self._step(number), self.context.data
        ids = self.steps[number - 1]
        model = self._model(number - 1)
        given = method_inputs(self.method, self.context, self.spec.seed, ids, self._left(number))
        if "fisher" in self.given:
            given["fisher"] = self._fisher(number, model)
        forget = given["forget"]
        running, drift = None, None
        if self.spec.moments:
            before = self._running(number - 1)
            running = moments = next_moments(model, forget, before)
            if self.recompute:
                remaining = self.context.loader("train", self._left(number))
                moments = next_moments(model, forget, before, remaining=remaining)
                drift = largest_drift(running, moments)
            given["moments"] = moments.decompose()
        try:
            result = self.method.unlearn(model, **given)
        except (NothingToForget, UnlearnTooFast, MethodDidNothing) as error:
            if number == 1 and isinstance(error, MethodDidNothing):
                raise  # settings that move nothing, not a model that has nothing left to forget
            # The model as it is lies nearer to the goal than any pass would bring it: the step is
            # made by leaving it.
            result = UnlearnResult(model, [{"epoch": 0}], 0, [f"steps may leave the model as it was: {error}"])
        except UnlearnError as error:
            raise UnlearnError(f"step {number} of {len(self.steps)}: {error}") from error
        forgotten = np.concatenate(self.steps[:number])
        row = {
            "step": number,
            "per_class": _per_class(len(forgotten), data.dataset.num_classes),
            "forgotten": len(forgotten),
            "test_accuracy": accuracy(result.model, self.context.loader("test", data.split.test)),
            "forget_accuracy_before": accuracy(model, forget),
            "forget_accuracy": accuracy(result.model, forget),
            "forgotten_accuracy": accuracy(result.model, self.context.loader("train", forgotten)),
            "epochs": result.history[-1].get("epoch", len(result.history)) if result.history else 0,
            "stopped_at": result.stopped_at,
            "drift": drift,
            "seconds": time.perf_counter() - started,
        }
        trained = facts_of(self.store, self.spec.model, ModelFacts)
        facts = StepFacts(trained.model, [], result.history, row, list(result.notes))
        if running is not None:
            # The moments first: a step that is committed can be gone on from.
            with self.store.attempt(self._moments(number).key) as attempt:
                running.save(attempt.path("moments.safetensors"))
                commit_unit(self._moments(number), attempt, Facts(), 0.0)
        with self.store.attempt(unit.key) as attempt:
            save_model(attempt, result.model)
            commit_unit(unit, attempt, facts, time.perf_counter() - started)
        self.model = (number, result.model)
        if running is not None:
            self.running = (number, running)
            if number >= 2:
                self.store.remove(self._moments(number - 2).key)

    def _fisher(self, number: int, model: nn.Module) -> Fisher:
        """Returns the statistic of the model before a step: the one given, or of what is left."""
        given = self.given["fisher"]
        assert given is not None
        if number == 1:
            return given
        remaining = self.context.loader("train", self._left(number - 1))
        return fisher_diagonal(model, remaining, statistic=given.statistic)

    def _left(self, number: int) -> np.ndarray:
        """Returns the sample ids that are left after a step."""
        gone = np.concatenate([np.zeros(0, dtype=np.int64), *self.steps[:number]])
        return np.setdiff1d(np.arange(len(self.context.data.dataset.train.labels)), gone)

    def _model(self, number: int) -> nn.Module:
        if self.model is not None and self.model[0] == number:
            return self.model[1]
        return self.context.load_model(self._step(number).key if number else self.spec.model)

    def _running(self, number: int) -> SecondMoments:
        """Returns the running moments after a step: held, stored, or carried on from the last state
        that is stored."""
        if self.running is not None and self.running[0] == number:
            return self.running[1]
        found = None
        for back in range(number, 0, -1):
            key = self._moments(back).key
            if self.store.has(key):
                try:
                    found = SecondMoments.load(self.store.fetch(key, "moments.safetensors"))
                    break
                except CorruptObject:
                    continue
        else:
            back = 0
        if found is None:
            found = SecondMoments.load(self.store.fetch(self.spec.moments, "moments.safetensors"))
        for step in range(back + 1, number + 1):
            found = next_moments(self._model(step - 1), self.context.loader("train", self.steps[step - 1]), found)
        return found

    def _recovered(self, model: nn.Module, last: int) -> float | None:
        """Returns test accuracy after fine-tuning a copy on what is left, where that is asked
        for."""
        epochs = self.method.steps().recover_epochs
        if not epochs:
            return None
        rate = self.method.steps().recover_lr
        training = Training(lr=rate, final_lr=rate / 10, epochs=epochs, augment=None)
        tuned = copy.deepcopy(model)
        loader = self.context.loader(
            "train", self._left(last), batch_size=training.batch_size, shuffle=True, seed=self.spec.seed
        )
        train(tuned, loader, training, seed=self.spec.seed, device=self.context.device)
        return accuracy(tuned, self.context.loader("test", self.context.data.split.test))


def confidence(model: nn.Module, loader: ArrayLoader) -> np.ndarray:
    """Returns log p_y − log(1 − p_y) of every image, float64 `(n,)`."""
    logits, labels = predict(model, loader)
    wide = logits.double()
    own = wide.gather(1, labels[:, None])[:, 0]
    others = wide.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    found: np.ndarray = (own - others).numpy()
    return found


def failed(first: Record, last: Record, points: float) -> bool:
    """Whether test accuracy has fallen by more than `points` from one row of a chain to another."""
    return not within(100.0 * (float(first["test_accuracy"]) - float(last["test_accuracy"])), points)


def _per_class(forgotten: int, classes: int) -> int | float:
    """Returns the samples of each class on average, whole where every step takes as many."""
    whole, rest = divmod(forgotten, classes)
    return whole if rest == 0 else forgotten / classes


def failing_point(rows: Sequence[Record], points: float | None) -> float | None:
    """Returns the samples of each class that were forgotten when the model first failed; None where
    it did not."""
    if points is None:
        return None
    return next((row["per_class"] for row in rows[1:] if failed(rows[0], row, points)), None)


def largest_drift(running: SecondMoments, fresh: SecondMoments) -> float:
    """Returns the largest relative Frobenius distance of a layer's running moments from those
    computed anew."""
    found = 0.0
    for name, matrix in fresh.matrices.items():
        apart = (running.matrices[name].double() - matrix.double()).norm() / matrix.double().norm()
        found = max(found, float(apart))
    return found
