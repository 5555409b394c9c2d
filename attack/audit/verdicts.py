"""What AUCs and their intervals say about forgetting. Decided here and nowhere else: results, page, terminal and tables ask this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..attacks.registry import ATTACKS, directed, reads_label
from ..metrics.verdict import Reading, Verdict, judge

PRIMARY = "xgboost"  # the attack whose metrics bear no prefix


def judge_rows(rows: Sequence[Mapping[str, Any]]) -> list[Verdict | None]:
    """Returns the verdict on each row of `results.json`, None where no attack measured anything."""
    start = next((row for row in rows if row.get("method") == "no_unlearn" and row.get("status") == "done"), {})
    before = {reading.attack: reading for reading in readings(start)}
    return [judge(readings(row), before, yardstick=row.get("method") == "retrain") for row in rows]


def readings(row: Mapping[str, Any]) -> list[Reading]:
    """Returns what each attack measured of a row of `results.json`: the primary attack's first, then by name."""
    metrics, intervals = row.get("metrics") or {}, row.get("ci") or {}
    sides = [row[name] for name in ("models", "retrained_models") if row.get(name) is not None]
    found = []
    for metric in sorted((m for m in metrics if m == "auc" or m.endswith("/auc")), key=lambda m: (m != "auc", m)):
        if metrics[metric] is not None:
            bounds = intervals.get(metric)
            known = bounds if bounds and len(bounds) == 2 and None not in bounds else None
            attack = PRIMARY if metric == "auc" else metric.removesuffix("/auc")
            found.append(reading_of(attack, metrics[metric], known, min(sides, default=None)))
    return found


def reading_of(attack: str, auc: float, interval: Sequence[float] | None, models: int | None) -> Reading:
    """Returns a reading with the attack's own nature; of one that is not known here, as of most attacks."""
    return Reading(attack, auc, None if interval is None else (interval[0], interval[1]), models, *_nature(attack))


@lru_cache(maxsize=256)
def _nature(attack: str) -> tuple[bool, bool, bool]:
    """Returns whether an attack's score has a direction, whether it is fitted for each method, and whether it reads the label's logit."""
    if attack not in ATTACKS:  # of results from where another attack is installed
        return True, False, True
    return directed(attack), bool(ATTACKS[attack].per_method), reads_label(attack)
