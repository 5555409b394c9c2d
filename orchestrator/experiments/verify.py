"""From one checkpoint to evidence about that model: shadow models, unlearning, and what attacks say
of it alone."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import nn

from unlearn import ImageDataset, train

from ..base.errors import Fault, RecipeError, UserError
from ..base.files import write_synced
from ..base.values import digest
from ..plan.code import code_of_model
from ..plan.data import ExperimentData, load_data
from ..plan.facts import ModelFacts
from ..plan.plan import make_plan, with_given
from ..plan.rows import Plan
from ..plan.specs import GivenSpec
from ..plan.units import Label, Unit, default_threads
from ..recipe.choices import Point
from ..recipe.recipe import changed
from ..recipe.sections import Recipe
from ..records.folder import OutputFolder
from ..records.ownership import Owner
from ..report.verification import Verification, verification_page
from ..store import Store, open_store
from ..work.checkpoint import load_weights
from ..work.commit import commit_unit
from ..work.context import Context, save_model
from ..work.first_look import first_accuracy, look_at, remarks, require_trained
from ..work.tensors import tensors_of
from .one_model import LIMITS, Judged, judge
from .preflight import new_model
from .run import RunResult, run
from .stages import RunOptions

FEW_IMAGES, LONGEST_LOOK = 32, 5.0  # seconds of a training step that is worth timing
Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What is to be verified.

    **Arguments:** `recipe`: data, forget set, model, training and shadow models; without methods.
    `methods`: sections of a recipe's `methods`. `model`, `unlearned`: files of weights. `anyway`:
    go on although the model is no better than chance.
    """

    model: Path
    recipe: Recipe
    methods: tuple[dict[str, object], ...] = ()
    unlearned: tuple[Path, ...] = ()
    anyway: bool = False


@dataclass(frozen=True)
class Case:
    """A request with its data and models looked at: what `run` needs, nothing started yet."""

    request: Request
    data: ExperimentData
    points: tuple[Point, ...]
    given: tuple[Unit[GivenSpec], ...]
    models: tuple[nn.Module, ...]
    notes: tuple[str, ...]
    seconds_per_image: float

    @property
    def recipe(self) -> Recipe:
        return self.request.recipe

    def extended(self, plan: Plan, data: ExperimentData) -> Plan:
        """Returns the plan of the shadow models with the models under test."""
        return with_given(plan, data, self.given, self.points)

    def plan(self) -> Plan:
        """Returns all that will run."""
        return self.extended(make_plan(self.recipe, self.data), self.data)

    def training_seconds(self, store: Store | None) -> float:
        """Returns about how long training the missing shadow models takes, one after another."""
        missing = [u for u in self.plan().stages["train"] if store is None or not store.has(u.key)]
        return self.seconds_per_image * sum(unit.cost for unit in missing)


def examine(
    request: Request,
    store: Store | None,
    say: Say,
    *,
    allow_factory: bool = False,
    decoded: ImageDataset | None = None,
) -> Case:
    """Looks at the model, its data and its methods. Starts nothing and keeps nothing.

    **Arguments:** `decoded`: the recipe's data, where somebody has read them already.

    **Raises:** `RecipeError` or `UserError`, one line for each fault, where something does not fit.
    """
    recipe = request.recipe
    data = load_data(recipe, store, keep=False, allow_factory=allow_factory, decoded=decoded)
    if data.split.forget_classes or len(data.split.steps) > 1:
        fault = Fault(
            "--forget", recipe.scenario.kind, "one model is judged by samples", "samples, not classes or steps"
        )
        raise RecipeError([fault], recipe.name)
    points = changed(recipe, methods=list(request.methods)).methods
    methods = [point.method for point in points]
    context = Context(None, data, allow_factory=allow_factory)
    given, models, notes = [], [], []
    for path in (request.model, *request.unlearned):
        model = new_model(recipe, context)
        option = "--model" if path is request.model else "--unlearned"
        notes += [f"{path}: {note}" for note in load_weights(model, path, option)]
        name = "your model" if path is request.model else path.name
        found = look_at(model, context, methods if path is request.model else ())
        if path is request.model:
            for told in require_trained(model, context, first_accuracy(model, context), request.anyway):
                say(told)
            notes += remarks(found)
        spec = GivenSpec(_weights_digest(model), recipe.model, code_of_model(recipe.model.name))
        given.append(Unit(spec, name, Label("given", model_id=name)))
        models.append(model)
    names = [unit.name for unit in given]
    if len(set(names)) < len(names):
        raise UserError(f"--unlearned: two files have the name {max(names, key=names.count)!r}; rename one")
    pace = _seconds_per_image(models[0], context, recipe)
    notes += data.split.notes
    return Case(request, data, points, tuple(given), tuple(models), tuple(dict.fromkeys(notes)), pace)


def verify(case: Case, folder: Path, options: RunOptions) -> tuple[Verification, RunResult]:
    """Trains what is missing, unlearns, judges and writes `report.html`, `verify.json` and weights.

    **Arguments:** `options`: of the run of the shadow models, below `folder`.
    """
    output = OutputFolder(folder)
    weights = [unit.spec.weights for unit in case.given]
    output.take(Owner("verification", {"model": digest([weights[0], case.data.split_digest])[:16]}), options.force)
    try:
        store = open_store(options.store or str(options.output / "store"))
        for unit, model in zip(case.given, case.models, strict=True):
            _keep(unit, model, store)
        result = run(case.recipe, options, extend=case.extended)
        plan = case.plan()
        files = _write_weights(plan, store, output.path)
        judged = judge(plan, case.data, store, OutputFolder(options.output).failures(), files)
        found = _found(case, judged, result)
        page, document = output.path / "report.html", output.path / "verify.json"
        write_synced(document, json.dumps(found.to_json(), indent=1).encode())
        write_synced(page, verification_page(found).encode("utf-8", "replace"))
        output.seal([page, document])
    finally:
        output.unlock()
    return found, result


def _found(case: Case, judged: Judged, result: RunResult) -> Verification:
    data, work = case.data, result.document["environment"]["work"]
    return Verification(
        title=f"{case.request.model.name}: {len(data.split.forget)} samples to forget",
        model=case.recipe.model.name,
        digest=case.given[0].spec.weights,
        data=f"{data.dataset.name}: {len(data.dataset.train.labels):,} training images",
        forget=len(data.split.forget),
        subjects=judged.subjects,
        shadows=judged.shadows,
        checks=judged.checks,
        assumed=case.recipe.section("training"),
        architecture=case.recipe.section("model"),
        notes=[*case.notes, *(note for subject in judged.subjects for note in subject.notes)],
        allowed=judged.allowed,
        limits=LIMITS,
        work={"units_executed": work["units_executed"], "units_reused": work["units_reused"]},
    )


def _weights_digest(model: nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors_of(model).items()):
        found.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _keep(unit: Unit[GivenSpec], model: nn.Module, store: Store) -> None:
    """Puts a model of the user's own into the store, where it is not there yet."""
    if store.has(unit.key):
        return
    with store.attempt(unit.key) as attempt:
        save_model(attempt, model)
        commit_unit(unit, attempt, ModelFacts(unit.spec.model.to_json(), [], []), 0.0)


def _write_weights(plan: Plan, store: Store, folder: Path) -> dict[str, str]:
    """Writes the unlearned weights of each method; returns their file names by the method's."""
    files = {}
    for unit in plan.stages["unlearn"]:
        if store.has(unit.key):
            method = unit.label.method.replace(":", "-")
            file = f"unlearned-{method}-{unit.key[:8]}.safetensors"
            weights = load_file(store.fetch(unit.key, "model.safetensors"))
            write_synced(folder / file, save(weights, {"made_by": "orchestrator verify"}))
            files[unit.name] = file
    return files


def _seconds_per_image(model: nn.Module, context: Context, recipe: Recipe) -> float:
    """Returns the seconds of one core that one image costs in training, measured on a copy.

    A whole batch is timed where a small one is quick: convolutions cost less by the image then.
    """
    copy = context.new_model(recipe.model, seed=0)
    copy.load_state_dict(model.state_dict())
    training = replace(recipe.training, epochs=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(default_threads(recipe.resources.cpus_per_unit))
    most = min(recipe.training.batch_size, len(context.data.split.labels))
    pace = 0.0
    try:
        for count in (FEW_IMAGES, most, most):  # the first one warms up
            if pace * count > LONGEST_LOOK:
                break
            rows = np.arange(min(count, most))
            loader = context.loader("train", rows, batch_size=len(rows))
            started = time.process_time()
            train(copy, loader, training, seed=0)
            pace = (time.process_time() - started) / len(rows)
    finally:
        torch.set_num_threads(threads)
    return pace
