"""Writes the logits of an experiment as `outputs/*.parquet`, in the schema that `audit` reads."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..base.files import temporary_name, write_synced
from ..base.values import canonical, digest, plain
from ..plan.data import ExperimentData
from ..plan.rows import Plan
from ..plan.units import Unit
from ..records.checksums import Checksums
from ..store import Store
from ..work.outputs import model_table

LAYOUT = 2  # of the files: raised where their columns change, so that older ones are written again
BESIDE = {"unseen": "unseen.parquet", "retained": "retained.parquet"}  # the forget set's outputs


def write_outputs(plan: Plan, store: Store, folder: Path) -> list[Path]:
    """Writes `outputs/*.parquet`, one file for the originals, the retrained and each method; one
    model in memory at a time.

    Models whose outputs are missing (their unit failed) are left out, and so are those of no fold,
    which an attacker must not learn from. A file whose content is
    already there, whole, is not written again. Files of an earlier run are removed where they were
    recorded as ours; others stay.

    **Raises:** `CorruptObject` where a fragment in the store is damaged; it has been set aside.
    """
    checksums = Checksums(folder.parent)
    groups: dict[str, list[Unit]] = {}
    names: dict[tuple[str, str, str, int], str] = {}  # thousands of models share a file
    for unit in plan.stages["outputs"]:
        if unit.label.fold and store.has(unit.key):
            of = (unit.kind, unit.label.role, unit.label.method, id(unit.label.params))
            if of not in names:
                names[of] = _file_name(unit)
            groups.setdefault(names[of], []).append(unit)
    folder.mkdir(parents=True, exist_ok=True)
    parents = {unit.label.source: unit.name for unit in plan.stages["train"] if unit.label.role == "original"}
    written = []
    for name, units in groups.items():
        path = folder / name
        content = digest([LAYOUT, *([u.key, plain(vars(u.label))] for u in units)])
        if not _is_current(path, content) or not checksums.intact([path]):
            _write_group(path, store, units, content, parents)
            checksums.record([path])
        written.append(path)
    for stale in set(checksums.recorded()) - set(written):
        if stale.parent == folder:
            stale.unlink(missing_ok=True)
    return written


def write_forget_set(data: ExperimentData, path: Path) -> None:
    """Writes which samples are forgotten: CSV with `sample_id`, `id`, `label`, `class` and `step`.

    `sample_id` is the row in the training data, as in the outputs table; `id` is the source's own,
    empty where it has none. Where models chose them, `score` is what they were chosen by.
    """
    names, labels = data.dataset.class_names, data.split.labels
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    scored = data.scores is not None
    writer.writerow(["sample_id", "id", "label", "class", "step", *(["score"] if scored else [])])
    for step, rows in enumerate(data.split.steps, 1):
        for row in rows.tolist():
            own = "" if data.ids is None else data.ids[row]
            score = [repr(float(data.scores[row, 0]))] if data.scores is not None else []
            writer.writerow([row, own, labels[row], names[labels[row]], step, *score])
    write_synced(path, buffer.getvalue().encode())


def _write_group(path: Path, store: Store, units: list[Unit], content: str, parents: Mapping[int | None, str]) -> None:
    temporary = temporary_name(path)
    try:
        writer: pq.ParquetWriter | None = None
        for unit in units:
            label = unit.label
            table = model_table(
                store,
                unit.key,
                role=label.role,
                fold=label.fold,
                model_id=label.model_id,
                method=label.method,
                params=canonical(label.params),
            )
            if unit.kind not in BESIDE and label.role == "unlearned" and label.method != "retrain":
                parent = pa.repeat(pa.scalar(parents.get(label.source), pa.string()), len(table))
                table = table.append_column("parent", parent)
            if writer is None:
                # Beside what the table says of its columns: without it a class-removal audit reads
                # another class's logit.
                schema = table.schema.with_metadata({**(table.schema.metadata or {}), "orchestrator.content": content})
                writer = pq.ParquetWriter(temporary, schema, compression="zstd")
            writer.write_table(table.replace_schema_metadata(writer.schema.metadata))
        if writer is not None:
            writer.close()
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_current(path: Path, content: str) -> bool:
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return False
    return bool(metadata.get(b"orchestrator.content") == content.encode())


def _file_name(unit: Unit) -> str:
    label = unit.label
    if unit.kind in BESIDE:
        return BESIDE[unit.kind]
    if label.role != "unlearned":
        return f"{label.role}.parquet"
    params = json.loads(canonical(label.params))
    shown = "".join(f"-{k}={v}" for k, v in params.items())
    shown = re.sub(r"[^A-Za-z0-9=.,_-]+", "_", shown)[:60]
    suffix = f"-{digest(params)[:8]}" if params else ""
    method = re.sub(r"[^A-Za-z0-9_.-]+", "-", label.method)  # package.module:Class
    return f"unlearned-{method}{shown}{suffix}.parquet"
