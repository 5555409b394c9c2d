"""The training rows that a deletion request names: by id, column, share or likeness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..core.errors import did_you_mean
from ..core.paths import local_path

Ids = str | tuple[int | str, ...]
Column = Callable[[str], np.ndarray]
_SHOWN = 5  # wrong ids that a message names
SCORES = ("memorization", "loss", "confidence", "margin")
ORDERS = ("highest", "lowest")
LEAST_MODELS = 4  # that memorization is measured on
_TESTS = ("in", "equals", "from", "to")


def read_ids(given: Ids, field: str, known: np.ndarray | None = None) -> list[str]:
    """Returns the ids that a list or a file names, as text, each once, in their order.

    A file is CSV or Parquet with a column `id`, or the only column it has, or text with one id a
    line. Where ids are row numbers and `id` is empty, as in a `forget.csv`, `sample_id` is meant.

    **Arguments:** `known`: `(n,)`, the ids of the data; None: ids are row numbers.

    Raises `ValueError` where the file cannot be read or names none, or begins with an id instead of
    the name of its column.
    """
    if not isinstance(given, str):
        found = [str(value) for value in given]
    elif Path(given).suffix.lower() in (".csv", ".parquet"):
        table = _read_table(given, field)
        if known is None and "sample_id" in table and not any(table.get("id", ())):
            name = "sample_id"
        elif "id" in table:
            name = "id"
        elif len(table) == 1:
            name = next(iter(table))
            if name.isdecimal() or (known is not None and name in _texts(known)):
                raise ValueError(
                    f"{field}: {given!r} begins with {name!r}, which looks like an id; its first line must name the "
                    "column: id"
                )
        else:
            raise ValueError(f"{field}: {given!r} has no column 'id'; it has {', '.join(table)}")
        found = _whole(table, name, given, field)
    else:
        found = [line.strip() for line in _read_text(given, field).splitlines() if line.strip()]
    if not found:
        raise ValueError(f"{field}: {given!r} names no ids; give at least one")
    return list(dict.fromkeys(found))


def rows_of_ids(ids: Sequence[str], known: np.ndarray | None, count: int, field: str) -> np.ndarray:
    """Returns the rows, int64 and sorted, of training samples with these ids.

    **Arguments:** `known`: `(count,)`, the id of each row; None: ids are row numbers from 0. Raises
    `ValueError` with the first few ids that are not there, or that several rows have.
    """
    if known is None:
        where = {str(row): row for row in range(count)}
        allowed = f"without dataset.id_column ids are row numbers, 0 to {count - 1}"
    else:
        texts = _texts(known)
        where = dict(zip(texts, range(count), strict=True))
        if len(where) < count:
            values, times = np.unique(texts, return_counts=True)
            twice = [str(value) for value in values[times > 1][:_SHOWN]]
            raise ValueError(
                f"dataset.id_column: several rows have the id {', '.join(twice)}; name a column in which each value "
                "stands once, or use scenario.where"
            )
        allowed = f"ids look like {texts[0]}"
    missing = [value for value in ids if value not in where]
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (" …" if len(missing) > _SHOWN else "")
        raise ValueError(f"{field}: {len(missing)} of {len(ids)} ids are not in the training data: {shown}; {allowed}")
    return np.array(sorted(where[value] for value in ids), dtype=np.int64)


def check_where(where: Mapping[str, object]) -> None:
    """Raises `ValueError` unless `where` is `{column, in | equals | from and to}`."""
    wrong = [key for key in where if key != "column" and key not in _TESTS]
    if wrong:
        hint = did_you_mean(wrong[0], ("column", *_TESTS))
        raise ValueError(f"scenario.where: {wrong[0]!r} is not allowed; give column and in, equals, from or to{hint}")
    if not isinstance(where.get("column"), str):
        raise ValueError("scenario.where: column is missing; give the name of a column of the data")
    tests = [key for key in _TESTS if key in where]
    if not tests or (len(tests) > 1 and set(tests) != {"from", "to"}):
        raise ValueError("scenario.where: give one test: in: [a, b], equals: a, or a range by from and to")
    values = where["in"] if "in" in where else [where[key] for key in tests]
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"scenario.where: in: {values!r} is not allowed; give a list of values")
    for value in values:
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise ValueError(f"scenario.where: {value!r} is not allowed; give numbers or texts")


def rows_where(where: Mapping[str, object], column: Column) -> np.ndarray:
    """Returns the rows, int64 and sorted, whose value in a column passes the test of `where`.

    Raises `ValueError` where a value does not occur, or where a range needs numbers.
    """
    name = str(where["column"])
    values = column(name)
    if "from" in where or "to" in where:
        if values.dtype.kind not in "iuf":
            raise ValueError(f"scenario.where: column {name!r} holds texts; a range needs numbers, so use in: […]")
        low, high = (where.get(key) for key in ("from", "to"))
        if isinstance(low, str) or isinstance(high, str):
            raise ValueError(f"scenario.where: column {name!r} holds numbers; give numbers as from and to")
        kept = np.ones(len(values), dtype=bool)
        if low is not None:
            kept &= values >= low
        if high is not None:
            kept &= values <= high
        if not kept.any():
            raise ValueError(f"scenario.where: no row of column {name!r} lies from {low} to {high}")
        return np.flatnonzero(kept)
    given = where["in"] if "in" in where else (where["equals"],)
    assert isinstance(given, list | tuple)
    wanted = [str(value) for value in given]
    texts = _texts(values)
    known = sorted(set(texts))
    missing = [value for value in wanted if value not in set(known)]
    if missing:
        hint = did_you_mean(missing[0], known) or f"; values look like {known[0]}"
        shown = ", ".join(missing[:_SHOWN]) + (" …" if len(missing) > _SHOWN else "")
        raise ValueError(f"scenario.where: column {name!r} of the training data has no {shown}{hint}")
    return np.flatnonzero(np.isin(texts, wanted))


def share_of(fraction: float, order: Sequence[np.ndarray]) -> np.ndarray:
    """Returns `fraction` of all rows, rounded, taken from each class alike.

    **Arguments:** `order`: the rows of each class in the order in which they are taken. What does
    not divide evenly goes to the classes with the largest remainder, the first ones among equals.
    """
    sizes = np.array([len(rows) for rows in order])
    exact = sizes * fraction
    counts = np.floor(exact).astype(np.int64)
    left = round(float(sizes.sum()) * fraction) - int(counts.sum())
    largest = np.argsort(-(exact - counts), kind="stable")[:left]
    counts[largest] += 1
    if not counts.any():
        raise ValueError(
            f"scenario.fraction: {fraction} of {sizes.sum()} training images is none; give {1 / sizes.sum():.2g} or more"
        )
    return np.concatenate([rows[:count] for rows, count in zip(order, counts, strict=True)])


def check_per_class(field: str, value: int, needed: int, order: Sequence[np.ndarray], each: int = 1) -> None:
    """Raises `ValueError` where a class has fewer than `needed` rows.

    **Arguments:** `value`: of `field`, which takes `each` rows for each 1 of it.
    """
    smallest = min(range(len(order)), key=lambda label: len(order[label]))
    if needed > len(order[smallest]):
        raise ValueError(
            f"scenario.{field}: {value} takes {needed} samples of each class, but class {smallest} has only "
            f"{len(order[smallest])}; {up_to(len(order[smallest]) // each)}"
        )


def up_to(most: int) -> str:
    """Returns what to give where a class holds too few images; with none to give, more images are
    needed."""
    return (
        f"allowed are 1 to {most}" if most else "that is too few images; raise dataset.limit.train, or give more data"
    )


def check_select(select: str | Mapping[str, object]) -> None:
    """Raises `ValueError` unless `select` is `first`, `random` or `{by, order, models}`."""
    if not isinstance(select, Mapping):
        if select not in ("first", "random"):
            raise ValueError(
                f"scenario.select: {select!r} is not allowed; allowed are first, random and "
                "{by: memorization, order: highest}"
            )
        return
    for key in select:
        if key not in ("by", "order", "models"):
            hint = did_you_mean(key, ("by", "order", "models"))
            raise ValueError(f"scenario.select: {key!r} has no meaning; give by, order and models{hint}")
    for key, allowed, value in (("by", SCORES, select.get("by")), ("order", ORDERS, select.get("order", ORDERS[0]))):
        if value not in allowed:
            hint = did_you_mean(value, allowed)
            raise ValueError(f"scenario.select: {key} must be one of {', '.join(allowed)}, not {value!r}{hint}")
    models = select.get("models")
    if models is None:
        return
    if select["by"] != "memorization":
        raise ValueError(f"scenario.select: models: {models!r} has no meaning with {select['by']}; leave it out")
    if isinstance(models, bool) or not isinstance(models, int) or models < LEAST_MODELS:
        raise ValueError(f"scenario.select: models must be an integer of {LEAST_MODELS} or more, not {models!r}")


def ranked(rows: np.ndarray, scores: np.ndarray, order: str) -> np.ndarray:
    """Returns `rows`, int64, by their scores: the `highest` or the `lowest` first.

    **Arguments:** `scores`: float64 `(n,)` or `(n, k)`, of all training rows. Of rows whose first
    score is equal the second decides, and so on. Of equal rows the first in the data comes first.
    """
    columns = scores.reshape(len(scores), -1)[rows]
    sign = -1.0 if order == "highest" else 1.0
    return rows[np.lexsort((rows, *(sign * columns[:, ::-1].T)))]


def read_requests(path: str, known: np.ndarray | None, count: int) -> list[np.ndarray]:
    """Returns the rows of each deletion request of a file with columns `id` and `order`.

    Requests follow one another by `order`, an integer. Raises `ValueError` where a column is
    missing, an order is no integer, or an id is asked for twice or not there.
    """
    table = _read_table(path, "scenario.requests")
    for name in ("id", "order"):
        if name not in table:
            raise ValueError(f"scenario.requests: {path!r} has no column {name!r}; it has {', '.join(table)}")
    ids, orders = (_whole(table, name, path, "scenario.requests") for name in ("id", "order"))
    numbers: list[int] = []
    for value in orders:
        try:
            numbers.append(int(value))
        except ValueError:
            raise ValueError(f"scenario.requests: order {value!r} in {path!r} is no integer") from None
    twice = [value for value in dict.fromkeys(ids) if ids.count(value) > 1] if len(set(ids)) < len(ids) else []
    if twice:
        raise ValueError(f"scenario.requests: {path!r} asks for {', '.join(twice[:_SHOWN])} more than once")
    if len(set(numbers)) < 2:
        raise ValueError(f"scenario.requests: {path!r} holds fewer than two requests; use kind samples with ids")
    parts = {
        number: [i for i, order in zip(ids, numbers, strict=True) if order == number] for number in sorted(set(numbers))
    }
    return [rows_of_ids(part, known, count, "scenario.requests") for part in parts.values()]


def near_duplicates(images: np.ndarray, rows: np.ndarray, bits: int) -> np.ndarray:
    """Returns the rows that are not in `rows` and look nearly like one that is, int64 and sorted.

    Two images are near-identical where their 64-bit perceptual hashes (`imagehash.phash`) differ in
    at most `bits` bits, also where one of them is mirrored.

    **Arguments:** `images`: uint8, `(n, h, w, c)`.
    """
    import imagehash
    from PIL import Image

    def hash_of(pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return np.asarray(imagehash.phash(image).hash).ravel()

    hashes = np.stack([hash_of(pixels) for pixels in images])
    near = np.zeros(len(images), dtype=bool)
    for row in rows:
        for looked in (hashes[row], hash_of(images[row][:, ::-1])):
            near |= (hashes != looked).sum(axis=1) <= bits
    near[rows] = False
    return np.flatnonzero(near)


def _texts(values: np.ndarray) -> list[str]:
    return [str(value) for value in values.tolist()]


def _read_text(path: str, field: str) -> str:
    try:
        return local_path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{field}: {path!r} cannot be read ({error}); give a list of ids or a file of them") from None


def _read_table(path: str, field: str) -> dict[str, list[str]]:
    """Returns the columns of a CSV or Parquet file as texts, empty ones for missing values."""
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    where = local_path(path)
    try:
        if where.suffix.lower() == ".parquet":
            table = pq.read_table(where)
        else:
            with open(where, "rb") as file:
                names = csv.open_csv(file).schema.names
            texts = csv.ConvertOptions(column_types={name: pa.string() for name in names}, null_values=[""])
            table = csv.read_csv(where, convert_options=texts)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{field}: {path!r} cannot be read ({str(error).splitlines()[0]})") from None
    found: dict[str, list[str]] = {}
    for name in table.column_names:
        found[name] = ["" if value is None else str(value) for value in table.column(name).to_pylist()]
    return found


def _whole(table: Mapping[str, list[str]], name: str, path: str, field: str) -> list[str]:
    """Returns a column; raises `ValueError` where it has empty values."""
    if "" in table[name]:
        raise ValueError(f"{field}: column {name!r} of {path!r} has empty values")
    return table[name]
