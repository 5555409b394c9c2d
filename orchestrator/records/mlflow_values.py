"""How recipes and measured facts become MLflow's flat parameters and metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from ..base.values import Record


def history_metrics(history: Sequence[Record], finished: int) -> Iterator[tuple[str, float, int, int]]:
    """Yields (name, value, time stamp, step) of each number in a history."""
    for row in history:
        step = int(row.get("epoch", 0))
        for name, value in row.items():
            if name == "epoch":
                continue
            if isinstance(value, Mapping):
                for part, number in value.items():
                    if isinstance(number, int | float):
                        yield metric_name(f"{name}/{part}"), float(number), finished, step
            elif isinstance(value, int | float):
                yield metric_name(name), float(value), finished, step


def metric_name(name: str) -> str:
    """Returns a name with the characters that MLflow allows."""
    return "".join(c if c.isalnum() or c in "_-. /:" else "_" for c in name)


def flattened(value: Mapping[str, object], prefix: str) -> dict[str, object]:
    """Returns nested settings under dotted names."""
    found: dict[str, object] = {}
    for name, item in value.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(item, Mapping) and item:
            found.update(flattened(item, path))
        else:
            found[path] = item if isinstance(item, str | int | float | bool) or item is None else json.dumps(item)
    return found
