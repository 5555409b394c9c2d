"""Arguments that several commands have, and the values that they take."""

from __future__ import annotations

import argparse
import math
from pathlib import Path


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


def set_argument(parser: argparse.ArgumentParser, help: str) -> None:
    """Declares --set."""
    parser.add_argument("--set", dest="overrides", metavar="a.b=v", action="append", default=[], help=help)


def output_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares --output and --store."""
    parser.add_argument("--output", metavar="DIR", type=folder_name, help="output folder (default: runs/NAME)")
    parser.add_argument(
        "--store",
        metavar="DIR|s3://…",
        help="store of finished units, shared between experiments (default: OUTPUT/store)",
    )
    force_argument(parser)


def running_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares where units run and how results are printed."""
    parser.add_argument(
        "--address",
        metavar="auto|HOST:PORT|local",
        help="Ray cluster to use; local starts one here (default: RAY_ADDRESS where set, else local); inline runs units in this process without Ray",
    )
    json_argument(parser, "print results as one JSON document on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    code_argument(parser)


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
    parser.add_argument("folder", metavar="DIR", type=Path, help="output folder of a run")


def folder_name(text: str) -> Path:
    """Returns the folder that an argument names, for argparse. An unset shell variable is no
    folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("'' names no folder; is a variable of the shell not set?")
    return Path(text).expanduser()


def json_argument(parser: argparse.ArgumentParser, help: str = "print one JSON document") -> None:
    """Declares --json."""
    parser.add_argument("--json", action="store_true", help=help)


def gib(text: str) -> float:
    """Returns a number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give a number of GiB above 0")
    return value


def gap(text: str) -> float:
    """Returns a gap of AUC for argparse: above 0, and 0.5 at the most."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 0.5:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give a gap of AUC above 0, 0.5 at the most")
    return value


def classes(text: str) -> int:
    """Returns a number of classes for argparse: 2 at the least."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give a whole number of 2 or more")
    return int(text)


def count(text: str) -> int:
    """Returns a whole number of 1 or more, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give a whole number of 1 or more")
    return int(text)
