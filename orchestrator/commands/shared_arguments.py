"""Arguments that several commands have, and the values that they take."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

from unlearn.core.paths import local_path

from ..base.text import is_address


def recipe_arguments(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """Declares RECIPE and --set."""
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        nargs=nargs,
        help="a YAML file, or the name of a shipped recipe (see `orchestrator recipes`)",
    )
    set_argument(
        parser,
        "override a recipe value, for example --set training.epochs=10 or --set methods.0.gamma=0.9; may be repeated",
    )


def set_argument(parser: argparse.ArgumentParser, help: str, metavar: str = "a.b=v") -> None:
    """Declares --set."""
    parser.add_argument("--set", dest="overrides", metavar=metavar, action="append", default=[], help=help)


def output_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares --output, --store and --force."""
    parser.add_argument("--output", metavar="DIR", type=folder_name, help="output folder (default: runs/NAME)")
    said = "store of finished units, shared between experiments (default: OUTPUT/store)"
    parser.add_argument("--store", metavar="DIR|s3://…", help=said)
    force_argument(parser)


def output_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """Declares --output."""
    said = f"output folder (default: {default})"
    parser.add_argument("--output", metavar="DIR", type=folder_name, default=Path(default), help=said)


JOINED = "(default: RAY_ADDRESS where set, else local)"


def address_argument(parser: argparse.ArgumentParser, help: str) -> None:
    """Declares --address of the Ray cluster to work on."""
    joined = os.environ.get("RAY_ADDRESS") or None
    # An empty one, as of an unset variable of the shell, says nothing.
    parser.add_argument(
        "--address", metavar="auto|HOST:PORT|local", default=joined, type=lambda text: text or joined, help=help
    )


def running_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares where units run and how results are printed."""
    address_argument(
        parser,
        f"Ray cluster to use; local starts one here {JOINED}; inline runs units in this process without Ray",
    )
    json_argument(parser, "print results as one JSON document on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    code_argument(parser)


def experiment_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of what runs a recipe: `run`, `search` and `league`."""
    recipe_arguments(parser)
    output_arguments(parser)
    running_arguments(parser)


CODE = "let the recipe name methods, attacks, sources and models as package.module:Class, which imports that code"


def code_argument(parser: argparse.ArgumentParser, help: str = CODE) -> None:
    """Declares --allow-code, which was --allow-factory."""
    parser.add_argument("--allow-code", "--allow-factory", dest="allow_factory", action="store_true", help=help)


def force_argument(parser: argparse.ArgumentParser) -> None:
    """Declares --force."""
    parser.add_argument(
        "--force",
        action="store_true",
        help="use the output folder although it holds files that are not ours, or another experiment; replaces files of the same names",
    )


def folder_argument(parser: argparse.ArgumentParser) -> None:
    """Declares DIR."""
    parser.add_argument("folder", metavar="DIR", type=local_path, help="output folder of a run")


def folder_name(text: str) -> Path:
    """Returns the folder that an argument names, for argparse. An unset shell variable is no
    folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("'' names no folder; is a variable of the shell not set?")
    if is_address(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no folder; give one, and --store for finished work on S3")
    return local_path(text)


def json_argument(parser: argparse.ArgumentParser, help: str = "print one JSON document") -> None:
    """Declares --json."""
    parser.add_argument("--json", action="store_true", help=help)


def gib(text: str) -> float:
    """Returns a number above 0, for argparse."""
    return _number(text, sys.float_info.max, "give a number of GiB above 0")


def gap(text: str) -> float:
    """Returns a gap of AUC for argparse: above 0, and 0.5 at the most."""
    return _number(text, 0.5, "give a gap of AUC above 0, 0.5 at the most")


def _number(text: str, most: float, allowed: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; {allowed}")
    return value


def listed(text: str) -> str:
    """Returns names with commas between them as they are, for argparse, where none is empty."""
    if text.strip() and not all(name.strip() for name in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed, a name is empty; give names as a,b")
    return text


def whole(least: int) -> Callable[[str], int]:
    """Returns the reader of a whole number of `least` or more, for argparse."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give a whole number of {least} or more")
        return int(text)

    return read
