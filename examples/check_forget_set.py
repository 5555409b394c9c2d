"""Checks which samples a run forgot against the source itself, without any code of the project.

    python examples/check_forget_set.py TRAIN.parquet RUN id_column column value [value …]

Says how many rows of the source have one of the values in the column. Ends with 1 where the run
forgot others, or where its outputs are of other samples.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pyarrow.parquet as pq


def main(source: str, run: str, ids: str, column: str, *values: str) -> int:
    rows = pq.read_table(source, columns=[ids, column]).to_pylist()
    wanted = {str(row[ids]): number for number, row in enumerate(rows) if str(row[column]) in values}
    with (Path(run) / "outputs" / "forget.csv").open() as file:
        listed = {row["id"]: int(row["sample_id"]) for row in csv.DictReader(file)}
    attacked = set(pq.read_table(Path(run) / "outputs" / "original.parquet")["sample_id"].to_pylist())
    right = listed == wanted and attacked == set(wanted.values())
    print(f"{len(wanted)} samples of {len(values)} in {column}: {'as forgotten' if right else 'NOT those forgotten'}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
