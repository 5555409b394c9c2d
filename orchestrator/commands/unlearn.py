"""`orchestrator unlearn`: one model of the user's own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from unlearn import SecondMoments, UnlearnError, second_moments
from unlearn.methods.base import Needs

from ..base.errors import Fault, RecipeError, UserError
from ..base.values import Record, finite
from ..experiments.preflight import new_model
from ..plan.data import load_data
from ..plan.plan import check_method
from ..recipe.choices import Point
from ..recipe.recipe import load_recipe
from ..records.progress import Progress
from ..work.checkpoint import load_weights
from ..work.context import Context
from ..work.devices import check_device
from ..work.first_look import first_accuracy, look_at, remarks, require_trained
from ..work.inputs import method_inputs
from ..work.weights_file import WeightsFile
from .ending import print_json


def main(args: argparse.Namespace) -> int:
    output = WeightsFile(args.output)
    output.claim({"--model": args.model, "--moments": args.moments, "--recipe": Path(args.recipe)}, args.force)
    check_device(args.device)
    recipe = load_recipe(args.recipe, args.overrides)
    point = _point(recipe.methods, args.method, recipe.name)
    method = point.method
    progress = Progress(quiet=args.json)
    counting = progress.counting("decoding images")
    data = load_data(recipe, None, counting, allow_factory=args.allow_factory, trains=False)
    check_method(method, recipe, data)
    if method.in_steps:
        raise UserError(f"--method: {point.name} forgets in steps, and `unlearn` at once; use `orchestrator run`")
    context = Context(None, data, device=args.device, allow_factory=args.allow_factory)
    model = new_model(recipe, context)
    for note in load_weights(model, args.model):
        progress.say(f"{args.model}: {note}")
    found = look_at(model, context, [method])
    told = require_trained(model, context, first_accuracy(model, context), args.anyway)
    for note in (*told, *data.split.notes, *remarks(found)):
        progress.say(note)
    given = method_inputs(method, context, recipe.seed)
    progress.say(
        f"{point.name} on {args.model}: forgetting {len(data.split.forget):,} of {len(data.dataset.train.labels):,} samples"
    )
    try:
        if method.needs().access == "moments":
            augment = recipe.training.augment
            given["moments"] = _moments(args.moments, model, context, augment, method.needs(), progress)
        result = method.unlearn(
            model.eval(), **given, on_epoch=lambda row: progress.say(f"  epoch {row.get('epoch')}: {_brief(row)}")
        )
    except UnlearnError as error:
        raise UserError(f"{point.name}: {error}") from None
    document = finite(
        {
            "method": {"name": point.name, "params": point.params},
            "stopped_at": result.stopped_at,
            "notes": result.notes,
            "history": result.history,
            "output": str(args.output),
        }
    )
    output.write(result.model, document)
    if args.json:
        print_json(document)
    else:
        print(f"unlearned weights: {args.output}")
    return 0


def _point(points: Sequence[Point], wanted: str | None, recipe: str) -> Point:
    if not points:
        fault = Fault("methods", [], "the recipe has no method", "at least one, as --set 'methods=[{name: pgu}]'")
        raise RecipeError([fault], recipe)
    chosen = [point for point in points if wanted in (None, point.name)]
    if not chosen:
        names = ", ".join(dict.fromkeys(point.name for point in points))
        raise RecipeError([Fault("--method", wanted, "not in the recipe", names)], recipe)
    return chosen[0]


def _moments(
    path: Path | None, model: nn.Module, context: Context, augment: str | None, needs: Needs, progress: Progress
) -> SecondMoments:
    if path is None:
        progress.say("no --moments given: computing second moments of the training data now, in one pass")
        rows = context.data.split.retain if needs.clean_moments else None
        loader = context.loader("train", rows, augment=augment)
        return second_moments(model.eval(), loader, stride_one=needs.stride_one)
    try:
        return SecondMoments.load(path)
    except FileNotFoundError:
        raise UserError(f"--moments: {str(path)!r}: no such file") from None
    except UnlearnError as error:
        raise UserError(f"--moments: {error}; give a file that SecondMoments.save wrote") from None


def _brief(row: Record) -> str:
    return ", ".join(
        f"{name} {value:.4g}" for name, value in row.items() if isinstance(value, float) and name != "seconds"
    )
