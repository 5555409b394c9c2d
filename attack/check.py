"""What is wrong with a user's outputs, said before any attack starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .outputs import FOLDS, OUTPUTS_SCHEMA, ROLES, coded_column, joined, logit_classes, logits_matrix
from .registry import ATTACKS

TEXTS = ("model_id", "role", "method", "params", "fold")
LABEL_FREE = ("xgboost", "entropy_threshold")  # attacks that do not read the label's own logit
SHADOW = ("xgboost", "loss_threshold", "entropy_threshold")  # they need a validation fold of both roles


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the input: where, what, and what would be right. `fatal` ones make an audit impossible."""

    where: str
    text: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def check(
    tables: pa.Table | Iterable[pa.Table], attacks: Sequence[str] = ("xgboost",), num_classes: int | None = None
) -> list[Problem]:
    """Returns what is wrong with outputs, nothing where an audit with `attacks` can start.

    **Arguments:**

    - `tables`: one table, or several that make up the outputs. `attacks`: names in `ATTACKS`.
    - `num_classes`: how many classes labels may be of; None: what the logits' columns say.

    Problems that are not `fatal` (rows out of order) are mended by the audit itself, and told so that they can be mended at the source.
    """
    listed = [tables] if isinstance(tables, pa.Table) else list(tables)
    unknown = [name for name in attacks if name not in ATTACKS]
    found = [Problem("attacks", f"{name!r} is not known; known are {', '.join(ATTACKS)}") for name in unknown]
    if not listed:
        return [*found, Problem("outputs", "no table was given")]
    columns = _columns(listed)
    if columns:
        return [*found, *columns]
    table = joined(listed)
    if len(table) == 0:
        return [*found, Problem("outputs", "no rows")]
    nulls = [Problem(n, f"{table[n].null_count} rows are null") for n in table.column_names if table[n].null_count]
    if nulls:
        return [*found, *nulls]
    names = [name for name in attacks if name not in unknown]
    return [*found, *_values(table, num_classes, names), *_models(table, names), *_order(table)]


def _columns(tables: Sequence[pa.Table]) -> list[Problem]:
    """Checks names and types; nothing else can be looked at before they are right."""
    found = []
    for number, table in enumerate(tables):
        at = f" (table {number + 1})" if len(tables) > 1 else ""
        for name in OUTPUTS_SCHEMA(1).names:
            if name not in table.column_names:
                found.append(
                    Problem(name, f"the column is missing{at}; there are {', '.join(table.column_names) or 'none'}")
                )
                continue
            kind = table.schema.field(name).type
            if name in TEXTS:
                right = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
                wanted = "text"
            elif name == "logits":
                right = pa.types.is_fixed_size_list(kind) and pa.types.is_float32(kind.value_type)
                wanted = "fixed-size list of float32"
            else:
                right, wanted = pa.types.is_int64(kind), "int64"
            if not right:
                found.append(Problem(name, f"type {kind} is not allowed{at}; give {wanted}"))
    widths = (
        {t.schema.field("logits").type.list_size for t in tables if "logits" in t.column_names} if not found else set()
    )
    if len(widths) > 1:
        found.append(
            Problem(
                "logits",
                f"widths {sorted(widths)} in one audit; in class removal drop the forgotten classes from every model",
            )
        )
    elif widths and min(widths) < 2:
        found.append(Problem("logits", f"{min(widths)} classes; at least 2 are needed"))
    return found


def _values(table: pa.Table, num_classes: int | None, attacks: Sequence[str]) -> list[Problem]:
    found = []
    for name, allowed in (("role", ROLES), ("fold", FOLDS)):
        others = set(pc.unique(table[name]).to_pylist()) - set(allowed)
        if others:
            found.append(Problem(name, f"{sorted(others)[0]!r} is not allowed; allowed are {', '.join(allowed)}"))
    logits = logits_matrix(table)
    bad = ~np.isfinite(logits).all(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        found.append(
            Problem(
                "logits",
                f"{int(bad.sum())} rows hold NaN or infinity, the first {_row_name(table, row)}; mend that model's outputs",
            )
        )
    labels = table["label"].to_numpy()
    classes = logit_classes(table)
    reading = [name for name in attacks if name not in LABEL_FREE]
    limit = num_classes if num_classes is not None else None if classes is not None else logits.shape[1]
    outside = (labels < 0) | (labels >= limit) if limit is not None else labels < 0
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        found.append(
            Problem(
                "label",
                f"{int(labels[row])} ({_row_name(table, row)}) lies outside 0 … {(limit or logits.shape[1]) - 1}; "
                "in class removal say how many classes there are",
            )
        )
    elif classes is not None and reading and not np.isin(labels, classes).all():
        row = int(np.flatnonzero(~np.isin(labels, classes))[0])
        found.append(
            Problem(
                "attacks",
                f"{', '.join(reading)} read the label's own logit, and class {int(labels[row])} was dropped; "
                f"use {' or '.join(LABEL_FREE)}",
            )
        )
    elif classes is None and num_classes is not None and num_classes > logits.shape[1] and reading:
        found.append(
            Problem(
                "attacks",
                f"{', '.join(reading)} read the label's own logit, and only {logits.shape[1]} of {num_classes} "
                f"classes have a column; use {' or '.join(LABEL_FREE)}, or store the columns' classes with the table",
            )
        )
    samples, sample_of = coded_column(table, "sample_id")
    label_of = np.zeros(len(samples), dtype=np.int64)
    label_of[sample_of] = labels
    disagreeing = np.flatnonzero(label_of[sample_of] != labels)
    if len(disagreeing):
        which = int(samples[sample_of[disagreeing]].min())
        found.append(Problem("label", f"sample_id {which} has different labels in different rows"))
    return found


def _models(table: pa.Table, attacks: Sequence[str]) -> list[Problem]:
    """Checks that there are models of each role, in each fold that the attacks read."""
    found: list[Problem] = []
    counts: dict[tuple[str, str], int] = {}
    identity = ["model_id", "role", "method", "params", "fold"]
    models = table.select(identity).group_by(identity).aggregate([]).to_pylist()
    folds: dict[tuple[str, str, str, str], set[str]] = {}
    for model in models:
        counts[model["role"], model["fold"]] = counts.get((model["role"], model["fold"]), 0) + 1
        key = (model["role"], model["method"], model["params"], model["model_id"])
        folds.setdefault(key, set()).add(model["fold"])
    for who, in_folds in sorted(folds.items()):
        if len(in_folds) > 1:
            found.append(
                Problem(
                    "fold",
                    f"{who[0]} model {who[3]!r} is in folds {', '.join(sorted(in_folds))}; split by model, never by row",
                )
            )
            break

    def need(role: str, fold: str, least: int, why: str) -> None:
        have = counts.get((role, fold), 0)
        if have < least:
            found.append(Problem("role", f"{have} {role} models in fold {fold}; {why} needs at least {least}"))

    # Every attack is measured against retrained models that it has not seen.
    need("retrained", "test", 1, "the audit")
    if not counts.get(("unlearned", "test")) and not counts.get(("original", "test")):
        found.append(Problem("role", "no unlearned and no original models in fold test: there is nothing to audit"))
    shadow = [name for name in attacks if name in SHADOW]
    if shadow:
        for role in ("original", "retrained"):
            for fold in ("train", "validation") if "xgboost" in shadow else ("validation",):
                need(role, fold, 1, ", ".join(shadow))
    for name, roles in (
        ("lira", ("original", "retrained")),
        ("rmia", ("original", "retrained")),
        ("u_lira", ("retrained",)),
    ):
        if name in attacks:
            for role in roles:
                have = counts.get((role, "train"), 0) + counts.get((role, "validation"), 0)
                if have < 2:
                    found.append(
                        Problem("role", f"{have} {role} models in folds train and validation; {name} needs at least 2")
                    )
    if "u_lira" in attacks:
        found += _unlearned_pools(models)
    return found


def _unlearned_pools(models: Sequence[dict[str, str]]) -> list[Problem]:
    pools: dict[tuple[str, str], int] = {}
    for model in models:
        if model["role"] == "unlearned" and model["method"] != "retrain":
            key = (model["method"], model["params"])
            pools[key] = pools.get(key, 0) + (model["fold"] != "test")
    return [
        Problem(
            "role",
            f"{count} unlearned models of {method} {params} in folds train and validation; u_lira needs at least 2: "
            "unlearn the train and validation originals too",
        )
        for (method, params), count in sorted(pools.items())
        if count < 2
    ]


def _order(table: pa.Table) -> list[Problem]:
    """Checks each model's sample ids: each once, ascending, and the same for every model."""
    found = []
    group = np.zeros(len(table), dtype=np.int64)
    for name in ("role", "method", "params", "model_id"):
        values, codes = coded_column(table, name)
        group = _renumbered(group * len(values) + codes)
    ids = table["sample_id"].to_numpy()
    samples, sample_of = coded_column(table, "sample_id")
    times = np.bincount(group * len(samples) + sample_of)
    duplicates = int((times - 1)[times > 1].sum())
    if duplicates:
        place = int(np.flatnonzero(times > 1)[0])
        row = int(np.flatnonzero((group == place // len(samples)) & (sample_of == place % len(samples)))[0])
        found.append(
            Problem(
                "sample_id",
                f"{duplicates} rows are duplicates, the first {_row_name(table, row)}; give each (model, sample) once",
            )
        )
    stable = np.argsort(group, kind="stable")
    falling = (np.diff(group[stable]) == 0) & (np.diff(ids[stable]) < 0)
    if falling.any():
        row = int(stable[1:][falling][0])
        found.append(
            Problem(
                "sample_id",
                f"not ascending within a model, the first {_row_name(table, row)}; the audit sorts by id",
                fatal=False,
            )
        )
    present = np.bincount(group)
    short = np.flatnonzero(present < len(samples))
    if len(short) and not duplicates:
        row = int(np.flatnonzero(group == short[0])[0])
        found.append(
            Problem(
                "sample_id",
                f"{len(short)} models lack samples that others have, the first is model "
                f"{table['model_id'][row].as_py()!r} with {int(present[short[0]])} of {len(samples)}; measure every model on the same forget set",
            )
        )
    return found


def _renumbered(codes: np.ndarray) -> np.ndarray:
    """Returns codes as 0, 1, 2 … without gaps, in the same order."""
    used = np.zeros(int(codes.max()) + 1, dtype=np.int64)
    used[codes] = 1
    return (np.cumsum(used) - 1)[codes]


def _row_name(table: pa.Table, row: int) -> str:
    return f"sample_id {table['sample_id'][row].as_py()} of model {table['model_id'][row].as_py()!r}"
