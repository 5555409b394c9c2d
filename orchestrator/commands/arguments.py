"""The arguments of every command: one function each, by the command's name.

They stand apart from what the commands do, so that `--help` and a wrong option are answered before
anything heavy is imported.
"""

from __future__ import annotations

import argparse

from unlearn.core.paths import local_path

from .shared_arguments import (
    JOINED,
    address_argument,
    code_argument,
    experiment_arguments,
    folder_argument,
    folder_name,
    force_argument,
    gap,
    gib,
    json_argument,
    listed,
    output_argument,
    output_arguments,
    recipe_arguments,
    running_arguments,
    set_argument,
    whole,
)

DISTRIBUTED_ROWS = 2_000_000
VALUES_PER_ROW = 20  # of 10 classes: their probabilities, and the label one-hot


def run(parser: argparse.ArgumentParser) -> None:
    experiment_arguments(parser)
    parser.add_argument(
        "--fresh",
        metavar="METHOD",
        action="append",
        default=[],
        help="do this method's work again, whatever is stored; may be repeated",
    )


def plan(parser: argparse.ArgumentParser) -> None:
    recipe_arguments(parser)
    output_arguments(parser)
    parser.add_argument(
        "--slots",
        metavar="N",
        type=whole(1),
        help="units at once, for the time it would take (default: what fits here)",
    )
    parser.add_argument("--address", metavar="auto|HOST:PORT", help="a Ray cluster to take the number of slots from")
    parser.add_argument(
        "--detect",
        metavar="GAP",
        type=gap,
        help="also say how many models under test tell such a gap of AUC from none, such as 0.03; from the spread of results in "
        "--output, or of scores in --store",
    )
    code_argument(parser)
    json_argument(parser)


def submit(parser: argparse.ArgumentParser) -> None:
    recipe_arguments(parser, nargs="?")
    parser.add_argument("--address", metavar="http://HEAD:8265", required=True, help="the cluster's dashboard")
    parser.add_argument(
        "--task", choices=("run", "search", "league"), default="run", help="command that the job runs (default: run)"
    )
    parser.add_argument(
        "--output", metavar="DIR", help="output folder as the cluster sees it (default: runs/NAME in the job's folder)"
    )
    said = "store as the cluster sees it; give one, or results stay on the node of the driver"
    parser.add_argument("--store", metavar="DIR|s3://…", help=said)
    force_argument(parser)
    code_argument(parser)
    parser.add_argument(
        "--follow", action="store_true", help="print the job's log until it ends; interrupting leaves the job running"
    )
    parser.add_argument(
        "--stop",
        metavar="JOB",
        nargs="?",
        const=True,
        help="stop RECIPE's job, or this one; what is finished is kept",
    )
    parser.add_argument(
        "--ship-code",
        action="store_true",
        help="send this installation's code along, for clusters that do not have it installed",
    )
    parser.add_argument(
        "--env",
        metavar="NAME",
        action="append",
        default=[],
        help="pass this environment variable on to the job; may be repeated; whoever may use the cluster can read its value there",
    )
    json_argument(parser)


def status(parser: argparse.ArgumentParser) -> None:
    folder_argument(parser)
    parser.add_argument(
        "units",
        metavar="UNIT",
        nargs="*",
        help="names or keys of units: their attempts, where they ran, errors with tracebacks, and what their workers said",
    )
    json_argument(parser)


def watch(parser: argparse.ArgumentParser) -> None:
    folder_argument(parser)
    parser.add_argument("--interval", type=float, default=2.0, metavar="SECONDS", help="how often to look (default: 2)")
    json_argument(parser, "print one JSON document when the run ends; lines go to standard error")


def retry(parser: argparse.ArgumentParser) -> None:
    folder_argument(parser)
    parser.add_argument(
        "units", metavar="UNIT", nargs="*", help="names or keys of units (default: everything that is missing)"
    )
    parser.add_argument("--failed", action="store_true", help="only the units that failed, and what waits for them")
    running_arguments(parser)


def report(parser: argparse.ArgumentParser) -> None:
    folder_argument(parser)
    code_argument(parser)
    json_argument(parser, "print the results as one JSON document")


def table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=local_path, help="output folder of a run or an audit")
    parser.add_argument("--format", choices=("csv", "md", "latex"), default="md", help="default: md")
    parser.add_argument(
        "--columns",
        metavar="a,b",
        type=listed,
        help="of LaTeX: the metrics to show, in this order, such as auc,error_test",
    )
    parser.add_argument("--caption", metavar="TEXT", help="of LaTeX: a caption; the table is then scaled to the page")
    parser.add_argument("--label", metavar="NAME", help="of LaTeX: a label, such as tab:results")
    json_argument(parser, "print one JSON document instead, with every number in full")


def compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", metavar="DIR", type=local_path, nargs="+", help="output folders")
    parser.add_argument("--page", metavar="FILE", type=local_path, help="write a page instead, one HTML file")
    parser.add_argument("--format", choices=("csv", "md", "latex"), default="md", help="default: md")
    json_argument(parser, "print one JSON document instead, with every number in full")


def methods(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="print the card of this method")
    json_argument(parser)


def check_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", metavar="PKG:CLASS", help="package.module:Class, or the name of a method")
    json_argument(parser)


def show(parser: argparse.ArgumentParser) -> None:
    recipe_arguments(parser)
    code_argument(parser)
    json_argument(parser, "print one JSON document instead of YAML")


def schema(parser: argparse.ArgumentParser) -> None:
    json_argument(parser, "the schema is JSON in any case")


def audit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "outputs", metavar="OUTPUTS.parquet", nargs="*", help="files, folders or globs in the outputs schema"
    )
    parser.add_argument(
        "--mapping", metavar="FILE", type=local_path, help="YAML that names NumPy or CSV files of logits instead"
    )
    parser.add_argument(
        "--attacks", metavar="a,b", type=listed, default="xgboost", help="attacks to run, or all (default: xgboost)"
    )
    code_argument(parser)
    output_argument(parser, "runs/audit")
    force_argument(parser)
    parser.add_argument("--seed", type=whole(0), default=0, help="of attacks and intervals (default: 0)")
    set_argument(
        parser,
        "an option of an attack, for example --set rmia.gamma=2 or --set xgboost.max_depth=6; may be repeated",
        "ATTACK.OPTION=VALUE",
    )
    parser.add_argument(
        "--num-classes",
        type=whole(2),
        metavar="N",
        help="classes that labels may be of, where the logits of forgotten classes were dropped",
    )
    parser.add_argument(
        "--population",
        metavar="FILE",
        nargs="+",
        help="the same models' outputs on samples that none was trained on: the z of RMIA",
    )
    address_argument(parser, f"Ray cluster for large outputs; local starts one here {JOINED}")
    parser.add_argument(
        "--distributed-rows",
        type=whole(0),
        metavar="N",
        default=DISTRIBUTED_ROWS,
        help=f"from so many rows of 10 classes on XGBoost trains and scores on Ray; rows of more classes count for more: "
        f"by 2 values a class, so {DISTRIBUTED_ROWS * VALUES_PER_ROW // 2000:,} rows of 1,000 classes are as many as {DISTRIBUTED_ROWS:,} (default: {DISTRIBUTED_ROWS:,})",
    )
    parser.add_argument(
        "--scratch",
        type=local_path,
        metavar="DIR",
        help="folder on each node where workers on Ray spool what they read, about the logits' size; give one on a disk "
        "where the temporary folder is held in memory (default: each node's temporary folder)",
    )
    parser.add_argument(
        "--worker-memory",
        type=gib,
        metavar="GIB",
        help="memory that a worker on Ray may take for binned data, on its GPU where it has one; above, XGBoost pages it from "
        "disk, with the same result (default: a share of what is free, within the container's limit)",
    )
    parser.add_argument(
        "--worker-rows",
        type=whole(1),
        metavar="N",
        help="rows that a worker on Ray may learn XGBoost's trees from; of more a random sample is taken, and the results say so. "
        "All rows are scored in any case (default: all)",
    )
    json_argument(parser, "print the results as one JSON document")


def reproduce(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "items",
        metavar="ITEM",
        nargs="+",
        help="table1 … table4, figure1 … figure6, ablation-criterion and its like, or a group: ablations, explaining, stress, all",
    )
    parser.add_argument(
        "--size",
        choices=("mini", "small", "paper"),
        default="mini",
        help="mini: about ten minutes each on two CPU cores; small: up to two and a half hours each, wide models that fit "
        "their training data; paper: the full setting, for GPUs (default: mini)",
    )
    parser.add_argument(
        "--plan-only",
        action="store_true",
        help="run nothing: print what each item adds, in hours of two cores or a GPU",
    )
    said = "folder of all results (default: runs/reproduce-SIZE)"
    parser.add_argument("--output", metavar="DIR", type=folder_name, help=said)
    force_argument(parser)
    parser.add_argument("--store", metavar="DIR|s3://…", help="store of finished units (default: OUTPUT/store)")
    address_argument(parser, "Ray cluster to use (default: as for `run`)")
    set_argument(parser, "override a value in every recipe")
    json_argument(parser, "print one JSON document on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def unlearn(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="CKPT",
        type=local_path,
        required=True,
        help="weights: .safetensors, or a state_dict saved by torch",
    )
    parser.add_argument("--recipe", metavar="RECIPE", required=True, help="names dataset, scenario, model and method")
    set_argument(parser, "override a recipe value; may be repeated")
    parser.add_argument("--method", metavar="NAME", help="which of the recipe's methods (default: the first)")
    parser.add_argument(
        "--moments",
        metavar="FILE",
        type=local_path,
        help="second moments of the training data, saved when training ended",
    )
    parser.add_argument(
        "--output", metavar="CKPT", type=local_path, required=True, help="where the unlearned weights go (.safetensors)"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace files at --output that this command did not write"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--anyway", action="store_true", help="go on although the model is no better than chance")
    code_argument(parser)
    json_argument(parser)


def doctor(parser: argparse.ArgumentParser) -> None:
    address_argument(parser, f"Ray cluster to look at {JOINED}")
    parser.add_argument("--store", metavar="DIR|s3://…", help="store that driver and workers must all be able to use")
    parser.add_argument(
        "--tracking",
        metavar="URI",
        default="",
        help="MLflow tracking URI to try (default: MLFLOW_TRACKING_URI where set)",
    )
    json_argument(parser)


def store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("verify", "gc"),
        help="verify: set damaged objects aside; gc: remove objects that no --keep folder uses",
    )
    parser.add_argument("store", metavar="DIR|s3://…", help="the store")
    parser.add_argument(
        "--keep", metavar="DIR", type=local_path, nargs="+", default=[], help="output folders whose objects stay (gc)"
    )
    parser.add_argument("--yes", action="store_true", help="really remove (gc); without it, only say what would go")
    json_argument(parser)
