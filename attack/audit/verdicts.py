"""What AUCs and their intervals say about forgetting. Decided here and nowhere else: results, page, terminal and tables ask this file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ..attacks.registry import ATTACKS, directed
from ..metrics.row import NO_UNLEARN, RETRAIN, Row
from ..metrics.verdict import Reading, Verdict, judge


def judge_rows(rows: Sequence[Row]) -> list[Verdict | None]:
    """Returns the verdict on each row of the results, None where no attack measured anything."""
    start = next((row for row in rows if row.method == NO_UNLEARN and row.done), Row(NO_UNLEARN))
    before = {reading.attack: reading for reading in readings(start)}
    return [judge(readings(row), before, yardstick=row.method == RETRAIN) for row in rows]


def readings(row: Row) -> list[Reading]:
    """Returns what each attack measured of a row: the primary attack's reading first, then by name."""
    return [
        reading_of(attack, auc.value, auc.interval, auc.models)
        for attack, auc in row.aucs().items()
        if auc.value is not None
    ]


def reading_of(attack: str, auc: float, interval: Sequence[float] | None, models: int | None) -> Reading:
    """Returns a reading with the attack's own nature; of one that is not known here, as of most attacks."""
    return Reading(attack, auc, None if interval is None else (interval[0], interval[1]), models, *_nature(attack))


@lru_cache(maxsize=256)
def _nature(attack: str) -> tuple[bool, bool, bool]:
    """Returns whether an attack's score has a direction, whether it is fitted for each method, and whether it reads the label's logit."""
    if attack not in ATTACKS:  # of results from where another attack is installed
        return True, False, True
    return directed(attack), bool(ATTACKS[attack].per_method), ATTACKS[attack].reads_label
