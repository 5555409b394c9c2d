"""Executes one unit. The same code runs in this process, in a Ray Tune trial and in a Ray Data
actor.

`execute` makes sure of the unit's needs first, so a missing or damaged parent is made again in
place, alone.
"""

from __future__ import annotations

import time
import traceback

from ..base.errors import EnvironmentFault, disk_is_full, one_line, signals_seen
from ..plan.units import Outcome, Unit
from ..store import CorruptObject
from .commit import commit_unit
from .context import Context
from .kinds import KINDS
from .log import recorded

HEAL_LIMIT = 5
POLL_SECONDS = 0.5  # how often a unit that another worker is making is looked for


class Held(Exception):
    """Another worker, of this experiment or of one that shares the store, is making the unit
    now."""


@recorded
def execute(unit: Unit, context: Context, *, wait: bool = True) -> Outcome:
    """Makes sure that `unit` is in the store. Never raises for a fault of the unit's own: the
    outcome carries it.

    **Raises:** `EnvironmentFault` where the store itself cannot be used, since then no unit could
    succeed. `Held` where another worker is making the unit and `wait` is off.
    """
    if context.store.has(unit.key):
        return Outcome(unit.key, unit.name, unit.kind, "reused", where=context.where)
    started = time.perf_counter()
    try:
        status = "done" if _ensure(unit, context, wait) else "reused"
    except (EnvironmentFault, Held):
        raise
    except Exception as error:
        # no fault of the unit's: the interruption, taken for something else on its way up
        if signals_seen:
            raise KeyboardInterrupt from error
        if disk_is_full(error):
            # Not the unit's fault, and every other unit would meet it too.
            raise EnvironmentFault(
                f"{unit.name}: no space left to write its results (store {context.store.uri}); free some, and the same command goes on"
            ) from error
        line = one_line(error)
        return Outcome(
            unit.key,
            unit.name,
            unit.kind,
            "failed",
            time.perf_counter() - started,
            line,
            traceback.format_exc(),
            context.where,
        )
    return Outcome(unit.key, unit.name, unit.kind, status, time.perf_counter() - started, where=context.where)


def _ensure(unit: Unit, context: Context, wait: bool = True) -> bool:
    """Makes `unit` where it is missing; returns whether this call made it. Claims it first, so that
    nobody else does."""
    heals = 0
    while not context.store.has(unit.key):
        claim = context.store.claim(unit.key)
        if claim is None:
            if not wait:
                raise Held(unit.name)
            time.sleep(POLL_SECONDS)
            continue
        with claim:
            if context.store.has(unit.key):  # committed between the look and the claim
                return False
            try:
                for need in unit.needs:
                    _ensure(need, context)
                with context.store.attempt(unit.key) as attempt:
                    started = time.perf_counter()
                    facts = KINDS[unit.kind](unit, context, attempt)
                    commit_unit(unit, attempt, facts, time.perf_counter() - started, context.where)
                return True
            except CorruptObject:
                # A parent was damaged and has been set aside: make it again, then this unit.
                heals += 1
                if heals == HEAL_LIMIT:
                    raise
    return False
