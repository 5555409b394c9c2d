"""Sweeps: `grid`, `zip`, `uniform` and `loguniform` in place of a method's hyperparameter, expanded
before anything runs.

Random draws depend on the recipe's seed and the method's place in the list only. So a plan is the
same every time it is made.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import numpy as np

from ..base.errors import Fault

RANDOM = ("uniform", "loguniform")
KINDS = ("grid", "zip", *RANDOM)
DEFAULT_SAMPLES = 8


def is_sweep(value: object) -> TypeGuard[Mapping[str, object]]:
    """Whether `value` stands for several values: a mapping whose one key is a kind of sweep."""
    return isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in KINDS


def _is_random(value: object) -> bool:
    return is_sweep(value) and next(iter(value)) in RANDOM


def faults(settings: Mapping[str, object], field: str) -> list[Fault]:
    """Returns what is wrong with the form of the sweeps in one method's settings."""
    found: list[Fault] = []
    zipped: dict[str, int] = {}
    for name, value in settings.items():
        if not is_sweep(value):
            continue
        kind, body = next(iter(value.items()))
        where = f"{field}.{name}.{kind}"
        if not isinstance(body, list) or not body:
            found.append(Fault(where, body, "a sweep needs a list", "a list with at least one value"))
        elif kind in RANDOM:
            numeric = len(body) == 2 and all(
                isinstance(b, int | float) and not isinstance(b, bool) and math.isfinite(b) for b in body
            )
            if not numeric or not body[0] < body[1]:
                found.append(Fault(where, body, "a range needs two numbers", "[low, high] with low < high"))
            elif kind == "loguniform" and body[0] <= 0:
                found.append(
                    Fault(where, body, "a logarithmic range starts above 0", "[low, high] with 0 < low < high")
                )
        elif kind == "zip":
            zipped[name] = len(body)
    if len(set(zipped.values())) > 1:
        found.append(Fault(field, zipped, "lists that are zipped differ in length", "equal lengths"))
    samples = settings.get("samples", DEFAULT_SAMPLES)
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        found.append(Fault(f"{field}.samples", samples, "not a number of draws", "an integer of at least 1"))
    elif "samples" in settings and not any(_is_random(value) for value in settings.values()):
        why = "counts the draws of uniform and loguniform, and there are none"
        found.append(Fault(f"{field}.samples", samples, why, "leave it out, or draw an option"))
    return found


def expand(settings: Mapping[str, object], seed: int, index: int) -> list[dict[str, object]]:
    """Returns one settings mapping for every point of the sweep, `samples` removed.

    **Arguments:**

    - `settings`: one method's settings, well formed (see `faults`).
    - `seed`, `index`: the recipe's seed and the method's place in its list; they alone decide the
        random draws.

    `zip` fields advance together; `grid` fields and the zipped group multiply; random fields are
    drawn `samples` times for each of those combinations.
    """
    fixed = {k: v for k, v in settings.items() if k != "samples" and not is_sweep(v)}
    sweeps = {k: _parts(v) for k, v in settings.items() if is_sweep(v)}
    grids = [[(name, v) for v in body] for name, (kind, body) in sweeps.items() if kind == "grid"]
    zips = [[(name, v) for v in body] for name, (kind, body) in sweeps.items() if kind == "zip"]
    axes: list[list[tuple[tuple[str, object], ...]]] = [[(pair,) for pair in axis] for axis in grids]
    if zips:
        axes.append(list(zip(*zips, strict=True)))
    points = [dict(itertools.chain.from_iterable(combination)) for combination in itertools.product(*axes)]
    random = {name: (kind, body) for name, (kind, body) in sweeps.items() if kind in RANDOM}
    if random:
        generator = np.random.default_rng([seed, index])
        draws = int(str(settings.get("samples", DEFAULT_SAMPLES)))
        points = [{**point, **_draw(random, generator)} for point in points for _ in range(draws)]
    order = [name for name in settings if name != "samples"]
    return [{name: {**fixed, **point}[name] for name in order} for point in points]


def each(value: object, convert: Callable[[object], object]) -> object:
    """Returns `value` with `convert` applied: to itself, or to every value that a `grid` or `zip`
    lists."""
    if not is_sweep(value):
        return convert(value)
    kind, body = _parts(value)
    return {kind: [convert(v) for v in body]} if kind in ("grid", "zip") else {kind: [float(v) for v in body]}


def _parts(sweep: Mapping[str, object]) -> tuple[str, list[Any]]:
    """Returns the kind of a sweep that is well formed, and its list."""
    [(kind, body)] = sweep.items()
    if not isinstance(body, list):
        raise TypeError(f"{kind}: {body!r} is not a list")
    return kind, body


def _draw(random: Mapping[str, tuple[str, list[float]]], generator: np.random.Generator) -> dict[str, float]:
    drawn = {}
    for name, (kind, (low, high)) in random.items():
        if kind == "uniform":
            value = float(generator.uniform(low, high))
        else:
            value = math.exp(generator.uniform(math.log(low), math.log(high)))
        # Six significant digits: the value that is printed is the value that ran.
        drawn[name] = float(f"{value:.6g}")
    return drawn
