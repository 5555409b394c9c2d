"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..recipe.sections import Recipe


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Prints what a command came to; where nobody reads that any more, how it ended is
    unchanged."""
    with contextlib.suppress(BrokenPipeError):
        yield
        sys.stdout.flush()


def console(width: int, **options: Any) -> Any:
    """Returns a console of Rich's for standard output, `width` wide where that is no terminal."""
    from rich.console import Console

    class Ours(Console):
        # Rich would end the process with 1, which here means that units failed
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Ours(width=None if sys.stdout.isatty() else width, **options)


def recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares RECIPE and --set."""
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped recipe (see `orchestrator recipes`)"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="a.b=v",
        action="append",
        default=[],
        help="override a recipe value, for example --set training.epochs=10 or --set methods.0.gamma=0.9; may be repeated",
    )


def output_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares --output and --store."""
    parser.add_argument("--output", metavar="DIR", type=folder_name, help="output folder (default: runs/NAME)")
    parser.add_argument(
        "--store",
        metavar="DIR|s3://…",
        help="store of finished units, shared between experiments (default: OUTPUT/store)",
    )
    force_argument(parser)


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares where units run and how results are printed."""
    parser.add_argument(
        "--address",
        metavar="auto|HOST:PORT|local",
        help="Ray cluster to use; local starts one here (default: RAY_ADDRESS where set, else local); inline runs units in this process without Ray",
    )
    parser.add_argument("--json", action="store_true", help="print results as one JSON document on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument(
        "--allow-factory",
        action="store_true",
        help="let the recipe name a model as package.module:factory, which imports that code",
    )


def force_argument(parser: argparse.ArgumentParser) -> None:
    """Declares --force."""
    parser.add_argument(
        "--force",
        action="store_true",
        help="use the output folder although it holds files that are not ours, or another experiment; replaces files of the same names",
    )


def folder_name(text: str) -> Path:
    """Returns the folder that an argument names, for argparse. An unset shell variable is no
    folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("'' names no folder; is a variable of the shell not set?")
    return Path(text).expanduser()


def positive(text: str) -> int:
    """Returns a number of at least 1, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def load(args: argparse.Namespace) -> Recipe:
    """Returns the recipe that the arguments name; raises `RecipeError` also for a --store with
    credentials in it."""
    from ..base.errors import RecipeError
    from ..recipe.places import store_faults
    from ..recipe.recipe import load_recipe

    faults = store_faults(getattr(args, "store", None))
    if faults:
        raise RecipeError(faults, "orchestrator")

    return load_recipe(args.recipe, args.overrides)


def folder_argument(parser: argparse.ArgumentParser) -> None:
    """Declares DIR."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="output folder of a run")


def print_json(document: Any) -> None:
    """Prints one JSON document on standard output."""
    print(json.dumps(document, indent=1, allow_nan=False))
