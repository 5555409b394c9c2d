"""`orchestrator verify`: from one checkpoint to a page about this model and these samples."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from unlearn import SOURCES, ImageDataset
from unlearn.core.paths import local_path, matches

from ..base.errors import EXIT_OK, EXIT_UNITS_FAILED, Fault, RecipeError, UserError, nearest
from ..base.text import redact
from ..base.yaml_text import YamlFault, load
from ..experiments.estimate import estimate
from ..experiments.verify import Case, Request, examine, verify
from ..plan.data import load_data
from ..plan.stages import STAGE_TITLES
from ..recipe.files import apply_override
from ..recipe.own_code import unknown
from ..recipe.places import store_faults
from ..recipe.recipe import changed, check_recipe
from ..recipe.sections import Recipe
from ..records.folder import SHADOWS
from ..records.progress import Progress, duration
from ..report.verification import Verification, table
from ..store import Store, existing_store
from ..work.checkpoint import guess_architecture
from . import printing
from .ending import print_json
from .run import run_options

# Whose faults are told as an option's: a recipe's section or field.
OPTIONS = {
    "dataset": "--data",
    "dataset.test": "--test",
    "dataset.preprocess": "--preprocess",
    "scenario": "--forget",
    "model": "--arch",
    "methods": "--method",
}
STAND_IN = "resnet18"  # takes images of any shape, until the architecture is known


def main(args: argparse.Namespace) -> int:
    progress = Progress(quiet=args.quiet)
    uri = args.store or str(args.output / "store")
    for fault in store_faults(args.store):
        raise UserError(str(fault))
    store = existing_store(uri)
    for option, path in (("--model", args.model), *(("--unlearned", path) for path in args.unlearned)):
        if not path.is_file():
            problem = "is a folder; give the file in it" if path.is_dir() else "no such file"
            raise UserError(f"{option}: {str(path)!r}: {problem}")
    methods = tuple(_named("--method", text) for text in args.method or ([] if args.unlearned else ["pgu"]))
    with _by_option():
        recipe, decoded = _recipe(args, methods, store, progress.say)
        request = Request(args.model, recipe, methods, tuple(args.unlearned), args.anyway)
        case = examine(request, store, progress.say, allow_factory=args.allow_factory, decoded=decoded)
    planned = _planned(case, store, uri)
    if args.plan_only:
        if args.json:
            print_json({"recipe": dict(request.recipe.document), "methods": methods, "plan": planned})
        else:
            print("\n".join(_told(planned)))
        return EXIT_OK
    for line in _told(planned):
        progress.say(line)
    again = redact(shlex.join(["orchestrator", *args.words]))
    options = replace(run_options(args, "verify"), output=args.output / SHADOWS, store=uri, again=again)
    found, result = verify(case, args.output, options)
    with printing.shown():
        if args.json:
            print_json(found.to_json())
        else:
            _present(found, args.output)
    failed = result.failed or any(subject.word == "failed" for subject in found.subjects)
    return EXIT_UNITS_FAILED if failed else EXIT_OK


def _recipe(
    args: argparse.Namespace, methods: Sequence[dict[str, object]], store: Store | None, say: Callable[[str], None]
) -> tuple[Recipe, ImageDataset | None]:
    """Returns the recipe of the shadow models that the arguments ask for, and its data where they
    were decoded.

    The architecture is looked for last: that takes longest, and everything else may be wrong.
    """
    document: dict[str, object] = {
        "name": "verify",
        "description": f"Shadow models for {args.model.name}.",
        "dataset": _dataset(args),
        "scenario": _scenario(args.forget),
        "model": _named("--arch", args.arch) if args.arch else {},
        "shadows": {"originals": args.shadows, "retrained": 0, "split": [0, 0, args.shadows]},
        "attacks": [],
        "outputs": {"test": 0},
        "tracking": {"uri": None},
    }
    for override in args.overrides:
        apply_override(document, override, "--set")

    def checked(model: object) -> Recipe:
        check_recipe({**document, "model": model, "methods": list(methods)}, "verify")
        return check_recipe({**document, "model": model}, "verify")

    model = document["model"]
    if not isinstance(model, dict) or "name" in model:
        return checked(model), None
    recipe = checked({"name": STAND_IN})
    dataset = load_data(recipe, store, keep=False, allow_factory=args.allow_factory).dataset
    say("no --arch: holding the weights against every known architecture, which may take minutes")
    return changed(recipe, model={**model, "name": guess_architecture(args.model)}), dataset


@contextlib.contextmanager
def _by_option() -> Iterator[None]:
    """Names the options that faults of the recipe come from: nobody here has written a recipe."""
    try:
        yield
    except RecipeError as error:
        faults = []
        for fault in error.faults:
            option = OPTIONS.get(fault.field) or OPTIONS.get(fault.field.partition(".")[0])
            faults.append(replace(fault, field=f"{option} ({fault.field})") if option else fault)
        raise RecipeError(faults, error.recipe) from None


def _dataset(args: argparse.Namespace) -> dict[str, object]:
    given = args.data
    test = {} if args.test is None else {"test": args.test}
    more = {} if args.preprocess is None else {"preprocess": args.preprocess}
    if given.lstrip().startswith("{"):
        return {**_mapping("--data", given), **test, **more}
    if given in SOURCES:
        return {"source": given, **test, **more}
    folder = local_path(given)
    given = os.path.expanduser(given)
    _require_there("--data", given, SOURCES)
    if args.test is not None:
        _require_there("--test", args.test)
    if folder.is_dir() and (folder / "train").is_dir() and args.test is None:
        return {"source": "image_folder", "train": f"{given}/train", "test": f"{given}/test", **more}
    if args.test is None:
        raise UserError(
            f"--test: not given; name unseen images beside --data {given!r}, or give a folder with train/ and test/"
        )
    return {"source": "image_folder" if folder.is_dir() else "parquet", "train": given, **test, **more}


def _require_there(option: str, place: str, sources: Iterable[str] = ()) -> None:
    """Raises `RecipeError` where a place on this machine is not there.

    **Arguments:** `sources`: names that it may be a slip of.
    """
    if "://" in place or any(map(os.path.exists, matches(os.path.expanduser(place)))):
        return
    if sources and ":" in place:
        raise RecipeError([unknown(option, place, "data source", SOURCES)], "verify")
    allowed = ", ".join(["Parquet files", "an image folder", *sources])
    what = "no such file, folder or source" if sources else "no such file or folder"
    raise RecipeError([Fault(option, place, what, allowed, nearest(place, sources))], "verify")


def _scenario(text: str) -> dict[str, object]:
    """Returns the scenario that --forget asks for: a mapping, a file of ids, COLUMN=a,b or ids."""
    if text.lstrip().startswith("{"):
        return {"kind": "samples", **_mapping("--forget", text)}
    if os.path.isfile(path := os.path.expanduser(text)):  # False for a list too long for a name
        return {"kind": "samples", "ids": path}
    column, equals, values = text.partition("=")
    if equals:
        return {"kind": "samples", "where": {"column": column, "in": _values(values)}}
    if Path(text).suffix.lower() in (".csv", ".parquet", ".txt"):
        raise UserError(f"--forget: {text!r}: no such file; give a file of ids, COLUMN=a,b or ids as a,b")
    return {"kind": "samples", "ids": _values(text)}


def _values(text: str) -> list[str]:
    found = [value.strip() for value in text.split(",")]
    if not all(found):
        raise UserError(f"--forget: {text!r}: a name is empty; give a file of ids, COLUMN=a,b or ids as a,b")
    return found


def _named(option: str, text: str) -> dict[str, object]:
    """Returns a section with a name: `pgu`, or `{name: pgu, gamma: 0.9}`."""
    return _mapping(option, text) if text.lstrip().startswith("{") else {"name": text}


def _mapping(option: str, text: str) -> dict[str, object]:
    try:
        found = load(text)
    except YamlFault as error:
        raise UserError(f"{option}: {text!r}: {error}") from None
    if not isinstance(found, Mapping):
        raise UserError(f"{option}: {text!r}: not a mapping; give {{name: value, …}}")
    return dict(found)


def _planned(case: Case, store: Store | None, uri: str) -> dict[str, object]:
    """Returns what will run and about what it costs, as JSON data."""
    plan = case.plan()
    found = estimate(plan, store, case.data.digest, 1)
    counts = {stage: {"units": n["units"], "stored": n["stored"]} for stage, n in found["stages"].items()}
    return {
        "store": uri,
        "model": case.recipe.model.to_json(),
        "training": case.recipe.section("training"),
        "forget": len(case.data.split.forget),
        "stages": counts,
        "training_core_seconds": round(case.training_seconds(store), 1),
    }


def _told(planned: dict[str, object]) -> list[str]:
    stages, seconds = planned["stages"], planned["training_core_seconds"]
    assert isinstance(stages, dict)
    assert isinstance(seconds, float)
    parts = [
        f"{counts['units']} {STAGE_TITLES[stage]} ({counts['stored']} stored)"
        for stage, counts in stages.items()
        if counts["units"]
    ]
    cores = os.cpu_count() or 1
    return [
        f"forget {planned['forget']} samples; model {planned['model']}",
        f"assumed training (--set training.…): {planned['training']}",
        f"plan: {', '.join(parts)}",
        f"training takes about {duration(seconds)} of one core here, {duration(seconds / cores)} on {cores}",
    ]


def _present(found: Verification, folder: Path) -> None:
    """Prints the table, the verdicts and where the rest lies."""
    lines = table(found)
    shown = Table(*lines[0], box=None, pad_edge=False)
    for line in lines[1:]:
        shown.add_row(*line)
    console = printing.console(140, soft_wrap=not sys.stdout.isatty(), highlight=False)
    console.print(shown)
    for subject in found.subjects:
        word = f"{subject.word}: " if subject.unlearned else ""
        print(f"{subject.name}: {word}{subject.reason}")
    for subject in found.subjects:
        if subject.unlearned and subject.samples:
            names = ", ".join(sample.id for sample in subject.samples[:8])
            print(f"{subject.name}: {len(subject.samples)} samples stand out: {names}")
        if subject.file:
            print(f"weights: {folder / subject.file}")
    print(f"report: {folder / 'report.html'}")
