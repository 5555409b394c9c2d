"""The arguments of `verify`, `new`, `jobs` and `completion`; nothing heavy is imported."""

from __future__ import annotations

import argparse
from pathlib import Path

from unlearn.core.paths import local_path

from .shared_arguments import (
    address_argument,
    code_argument,
    folder_name,
    json_argument,
    output_argument,
    set_argument,
    whole,
)

LEAST_SHADOWS = 5
SHELLS = ("bash", "zsh", "tcsh")
KINDS = ("method", "attack", "source", "model")


def verify(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `verify`."""
    parser.add_argument(
        "--model",
        metavar="CKPT",
        type=local_path,
        required=True,
        help="your weights: .safetensors, or a saved state_dict",
    )
    parser.add_argument(
        "--data",
        metavar="PLACE",
        required=True,
        help="what it was trained on: Parquet files, a folder with train/ and test/, the name of a source, or {source: …}",
    )
    parser.add_argument("--test", metavar="PLACE", help="images that it was not trained on, of the same kind as --data")
    parser.add_argument(
        "--forget",
        metavar="WHAT",
        required=True,
        help="COLUMN=a,b, a file of ids, ids as a,b, or a scenario as {per_class: 10}",
    )
    parser.add_argument(
        "--arch",
        metavar="NAME",
        help="its architecture: a name, or {name: small_vgg, width: 0.125} (default: found from the weights)",
    )
    parser.add_argument(
        "--preprocess", metavar="NAME", help="whose normalisation it was trained with, such as resnet50 or timm:NAME"
    )
    parser.add_argument(
        "--method",
        metavar="NAME",
        action="append",
        help="how to unlearn: a name, or {name: pgu, gamma: 0.9}; may be repeated (default: pgu)",
    )
    parser.add_argument(
        "--unlearned",
        metavar="CKPT",
        type=local_path,
        action="append",
        default=[],
        help="weights that you unlearned yourself; may be repeated",
    )
    parser.add_argument(
        "--shadows",
        metavar="N",
        type=whole(LEAST_SHADOWS),
        default=16,
        help="shadow models of each of two kinds (default: 16)",
    )
    set_argument(parser, "how it was trained, such as --set training.epochs=20; may be repeated")
    output_argument(parser, "runs/verify")
    parser.add_argument("--store", metavar="DIR|s3://…", help="store of finished units (default: OUTPUT/store)")
    address_argument(parser, "where units run (default: as for `orchestrator run`)")
    parser.add_argument("--plan-only", action="store_true", help="look at the model, say what would run, and stop")
    parser.add_argument("--anyway", action="store_true", help="go on although the model is no better than chance")
    parser.add_argument("--force", action="store_true", help="use the output folder although it holds something else")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    code_argument(parser, "let --arch, --method and --data name code of your own as package.module:Class")
    json_argument(parser)


def new(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `new`."""
    parser.add_argument("kind", metavar="KIND", choices=KINDS, help="method, attack, source or model")
    parser.add_argument("name", metavar="NAME", help="of the file, such as my_method")
    parser.add_argument(
        "--folder", metavar="DIR", type=folder_name, default=Path(), help="where it is written (default: here)"
    )


def jobs(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jobs`."""
    parser.add_argument("job", metavar="JOB", nargs="?", help="id of a job, as `submit` prints it (default: list all)")
    parser.add_argument("--address", metavar="http://HEAD:8265", required=True, help="the cluster's dashboard")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--follow", action="store_true", help="print its log until it ends")
    what.add_argument("--stop", action="store_true", help="stop it; what is finished is kept")
    json_argument(parser)


def completion(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `completion`."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or tcsh")
