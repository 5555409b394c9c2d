"""Logits, labels and sample ids from CSV files: columns by their names, integers kept as integers,
nothing guessed."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

COLUMN_KEYS = ("label", "sample_id", "logits", "ignore")
_CLASS = re.compile(r"(?P<word>[A-Za-z][A-Za-z ]*)?[ _.\-]?(?P<number>\d+)")
_INTEGER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Columns:
    """Which columns of a CSV are what, where their names do not say so.

    **Arguments:** `label`, `sample_id`: their names. `logits`: the names of the class columns, in
    the order of the classes. `ignore`: columns to leave out.
    """

    label: str = "label"
    sample_id: str = "sample_id"
    logits: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    header: bool | None = None

    @classmethod
    def of(cls, mapping: Mapping[str, Any]) -> Columns:
        """Returns what the keys `columns` and `header` of a mapping say; raises `ValueError` naming
        the key."""
        given = mapping.get("columns") or {}
        if not isinstance(given, Mapping):
            raise ValueError(f"columns: {given!r} is not allowed; give a mapping with {', '.join(COLUMN_KEYS)}")
        for key, value in given.items():
            if key not in COLUMN_KEYS:
                raise ValueError(f"columns.{key}: unknown key; allowed are {', '.join(COLUMN_KEYS)}")
            if key in ("logits", "ignore") and (isinstance(value, str) or not isinstance(value, Sequence)):
                raise ValueError(f"columns.{key}: {value!r} is not allowed; give a list of column names")
            if key in ("label", "sample_id") and isinstance(value, Mapping | list):
                raise ValueError(f"columns.{key}: {value!r} is not allowed; give one column name")
        header = mapping.get("header")
        if header is not None and not isinstance(header, bool):
            raise ValueError(f"header: {header!r} is not allowed; give true or false")
        logits, ignore = (tuple(str(name) for name in given.get(key, ())) for key in ("logits", "ignore"))
        return cls(str(given.get("label", "label")), str(given.get("sample_id", "sample_id")), logits, ignore, header)


@dataclass(frozen=True)
class CsvLogits:
    """What a CSV of logits holds.

    **Arguments:** `logits`: float64 `(n, C)`. `named`: `label` and `sample_id`, int64 `(n,)`, where
    the file has them. `classes`: the numbers in the names of the class columns, None where they
    have no such names.
    """

    logits: np.ndarray
    named: dict[str, np.ndarray] = field(default_factory=dict)
    classes: tuple[int, ...] | None = None


def read_csv_logits(path: Path, columns: Columns, classes: Sequence[int] | None = None) -> CsvLogits:
    """Returns the logits in a CSV file, class columns in the order of their numbers (of `classes`
    where given).

    **Raises:** `ValueError` naming the column or the line, and the mapping that would take the
    file.
    """
    names, table = _table(path, columns.header)
    if names is None:
        if columns.logits or columns.ignore:
            raise ValueError("line 1 is no header, so `columns` names nothing in it; set header: true if it is one")
        return CsvLogits(_floats(table, table.column_names, 1))
    roles = _roles(names, columns)
    order, numbers = _class_columns(roles.classes, columns, classes)
    named = {own: _integers(table, name, 2) for own, name in roles.named.items()}
    return CsvLogits(_floats(table, order, 2), named, numbers)


def read_csv_integers(path: Path, own: str, columns: Columns) -> np.ndarray:
    """Returns one column of integers, int64 `(n,)`: the only one of the file, or the one named as
    `own` (`label`, `sample_id`).

    **Raises:** `ValueError` naming the column or the line.
    """
    names, table = _table(path, columns.header)
    wanted = getattr(columns, own)
    if names is None:
        if len(table.column_names) != 1:
            raise ValueError(f"{len(table.column_names)} columns and no header; one column is needed")
        return _integers(table, table.column_names[0], 1)
    left = [name for name in names if name not in columns.ignore]
    chosen = left if len(left) == 1 else [name for name in left if _alike(name, wanted)]
    if len(chosen) != 1 or len(left) > 1:
        raise ValueError(
            f"columns {_listed(left)}; one is needed: leave out the others, or set columns: {{ignore: [{left[0] or repr('')}]}}"
        )
    return _integers(table, chosen[0], 2)


@dataclass(frozen=True)
class _Roles:
    named: dict[str, str]  # label, sample_id → the column's name
    classes: list[str]


def _roles(names: list[str], columns: Columns) -> _Roles:
    """Tells apart the columns of a header; raises `ValueError` naming one that is none of them."""
    given = {"columns.label": columns.label, "columns.sample_id": columns.sample_id}
    for key, wanted in [*given.items(), *(("columns.logits", name) for name in columns.logits)]:
        default = wanted in ("label", "sample_id") and not key.endswith("logits")
        if not default and wanted not in names:
            raise ValueError(f"{key}: {wanted!r} is no column; the header has {_listed(names)}")
    named: dict[str, str] = {}
    classes = []
    for place, name in enumerate(names, start=1):
        own = next((own for own in ("label", "sample_id") if _alike(name, getattr(columns, own))), None)
        if name in columns.ignore:
            continue
        if own is not None:
            if own in named:
                raise ValueError(
                    f"columns {named[own]!r} and {name!r} are both {own}; leave one out with columns: {{ignore: [{name}]}}"
                )
            named[own] = name
        elif name in columns.logits or (not columns.logits and _CLASS.fullmatch(name)):
            classes.append(name)
        else:
            raise ValueError(f"column {place} {name!r} is {_what_to_do(name)}")
    return _Roles(named, classes)


def _what_to_do(name: str) -> str:
    if not name:
        return (
            "without a name, as pandas writes its index; save with index=False, or add to the mapping "
            "columns: {ignore: ['']} or columns: {sample_id: ''}"
        )
    return (
        f"not known; add to the mapping columns: {{sample_id: {name}}}, {{label: {name}}}, {{ignore: [{name}]}} "
        "or {logits: [the class columns in order]}"
    )


def _class_columns(
    found: list[str], columns: Columns, classes: Sequence[int] | None
) -> tuple[list[str], tuple[int, ...] | None]:
    """Returns the class columns in the order of their classes, and those numbers."""
    if columns.logits:
        return list(columns.logits), None
    if not found:
        raise ValueError("no class columns; name them 0, 1, … or c0, c1, …, or set columns: {logits: […]}")
    matches = {name: _CLASS.fullmatch(name) for name in found}
    words = {str(match["word"] or "").strip() for match in matches.values() if match}
    by_number = {int(match["number"]): name for name, match in matches.items() if match}
    if len(words) > 1 or len(by_number) < len(found):
        raise ValueError(
            f"columns {_listed(found)} are not one series of classes; name them in order with columns: {{logits: […]}}"
        )
    numbers = tuple(sorted(by_number))
    wanted = tuple(range(len(found))) if classes is None else tuple(classes)
    if set(wanted) != set(numbers):
        if classes is not None:
            raise ValueError(f"class columns {_listed(found)} are not the classes {list(wanted)} that `classes` names")
        hint = (
            "start at 1; name them in order with columns: {logits: […]}"
            if numbers[0] == 1
            else (f"are not 0 to {len(found) - 1}; where classes were dropped, set classes: {list(numbers)}")
        )
        raise ValueError(f"class columns {_listed([by_number[number] for number in numbers])} {hint}")
    return [by_number[number] for number in wanted], wanted


def _table(path: Path, header: bool | None) -> tuple[list[str] | None, pa.Table]:
    """Returns the names in the header, None where there is none, and all cells as text."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            first = [cell.strip() for cell in next(reader, [])]
            second = [cell.strip() for cell in next(reader, [])]
    except UnicodeDecodeError:
        raise ValueError("not UTF-8; save it as UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"not readable as CSV: {error}") from None
    if not first:
        raise ValueError("line 1 is empty; a header or a row of numbers is needed")
    if len(first) == 1 and re.search(r"[;\t|]", first[0]):
        raise ValueError(f"line 1 is {first[0][:40]!r}: no commas; separate columns by commas")
    if header is None:
        header = _is_header(first, second)
    if header and len(set(first)) < len(first):
        twice = next(name for name in first if first.count(name) > 1)
        raise ValueError(f"column {twice!r} is there twice; rename one, or leave one out")
    names = first if header else [str(place) for place in range(len(first))]
    try:
        table = arrow_csv.read_csv(
            path,
            arrow_csv.ReadOptions(column_names=names, skip_rows=int(header)),
            arrow_csv.ParseOptions(newlines_in_values=True),
            arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        text = str(error).splitlines()[0]
        if "Empty CSV" in text:
            raise ValueError("no rows below the header") from None
        raise ValueError(f"not readable as CSV: {text}") from None
    return first if header else None, table


def _is_header(first: list[str], second: list[str]) -> bool:
    """Whether the first line is a header. Whole numbers above rows with fractions are one:
    `0,1,…,9`, as pandas writes it.

    **Raises:** `ValueError` where it may be either.
    """
    if not all(_is_number(cell) for cell in first):
        return True
    whole = all(_INTEGER.fullmatch(cell) for cell in first)
    if len(first) == 1 or not whole:
        return False
    numbers = [int(cell) for cell in first]
    if any(not _INTEGER.fullmatch(cell) for cell in second):
        # Logits of one row that are all whole, in a file where they are not, may happen: but not
        # counting up by one.
        if _counts(numbers):
            return True
        if len(set(numbers)) == len(numbers) and len(numbers) > 2:
            raise ValueError(_EITHER.format(",".join(first)))
        return False
    if second and _counts(numbers):
        raise ValueError(_EITHER.format(",".join(first)))
    return False


_EITHER = "line 1 {0!r} may be a header or a row; add header: true or header: false to the mapping"


def _counts(numbers: list[int]) -> bool:
    """Whether the numbers are 0 to C−1 or 1 to C, in any order."""
    return sorted(numbers) in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python reads 1_000 as a number


def _floats(table: pa.Table, names: Sequence[str], first_line: int) -> np.ndarray:
    columns = [_cast(table, name, pa.float64(), first_line, "a number") for name in names]
    return np.column_stack(columns) if len(table) else np.zeros((0, len(names)))


def _integers(table: pa.Table, name: str, first_line: int) -> np.ndarray:
    """Returns a column as int64; `3.0`, as pandas writes a column that had gaps, counts as 3."""
    text = pc.replace_substring_regex(pc.utf8_trim_whitespace(table[name]), r"^([+-]?\d+)\.0*$", r"\1")
    shown = table.set_column(table.schema.get_field_index(name), name, text)
    return _cast(shown, name, pa.int64(), first_line, "a whole number below 2^63")


def _cast(table: pa.Table, name: str, kind: pa.DataType, first_line: int, wanted: str) -> np.ndarray:
    text = pc.utf8_trim_whitespace(table[name])
    try:
        return np.asarray(text.cast(kind).to_numpy())
    except pa.ArrowInvalid:
        for row, cell in enumerate(text.to_pylist()):
            try:
                pa.scalar(cell).cast(kind)
            except pa.ArrowInvalid:
                where = f"column {name!r}" if first_line == 2 else f"column {int(name) + 1}"
                raise ValueError(f"line {row + first_line}, {where}: {cell!r} is not {wanted}") from None
        raise


def _alike(name: str, wanted: str) -> bool:
    return name == wanted or name.strip().lower() == wanted.lower()


def _listed(names: Sequence[str]) -> str:
    shown = [name or "''" for name in names]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "…", shown[-1]])
