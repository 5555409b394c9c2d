"""Which settings of a method are tried: published ones, then draws of Optuna's sampler.

Draws depend on the recipe's seed and on what earlier settings came to, never on who was faster.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

from unlearn.methods.base import Choice, Range

from ...base.values import Json, plain
from ...plan.league import Entry
from ...recipe.choices import Point
from ...recipe.options import settings_of

DRAWN = "drawn"
MOST_REDRAWN = 20  # draws for each setting that is wanted, where options cannot stand together

optuna.logging.set_verbosity(optuna.logging.WARNING)


def generations(settings: int) -> list[int]:
    """Returns how many settings are tried before the next look at what they came to."""
    first = math.ceil(settings / 2)
    second = math.ceil((settings - first) / 2)
    return [count for count in (first, second, settings - first - second) if count]


class Sampler:
    """Asks for the settings of one method, no two alike.

    **Arguments:** `point_of`: returns the checked setting; None where options cannot stand
    together.
    """

    def __init__(self, entry: Entry, settings: int, seed: int, point_of: Callable[[Mapping[str, Json]], Point | None]):
        self._entry = entry
        self._point_of = point_of
        self._starts = list(entry.starts)
        self._space = {name: _distribution(values) for name, values in entry.space.items()}
        with warnings.catch_warnings():  # multivariate sampling is called experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            tpe = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=generations(settings)[0], multivariate=True, group=True
            )
        self._study = optuna.create_study(sampler=tpe)
        self._asked: list[tuple[Point, Mapping[str, Json], optuna.trial.Trial | None]] = []

    def ask(self, count: int) -> list[tuple[str, Point]]:
        """Returns up to `count` settings and where each comes from; fewer where there are no
        more."""
        found: list[tuple[str, Point]] = []
        while self._starts and len(found) < count:
            source, options = self._starts.pop(0)
            point = self._settled(options)
            if point is not None and self._is_new(point):
                self._asked.append((point, options, None))
                found.append((source, point))
        for _ in range(MOST_REDRAWN * count if self._space else 0):
            if len(found) == count:
                break
            trial = self._study.ask(self._space)
            options = {name: _short(value) for name, value in trial.params.items()}
            point = self._settled({**options, **self._entry.held})
            if point is None or not self._is_new(point):
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            self._asked.append((point, options, trial))
            found.append((DRAWN, point))
        return found

    def tell(self, values: Sequence[float]) -> None:
        """Takes what the settings of the last `ask` came to, in its order; lower is better."""
        for (point, options, trial), value in zip(self._asked[-len(values) :] if values else (), values, strict=True):
            if trial is not None:
                self._study.tell(trial, value)
                continue
            settings = {**settings_of(point.method), **options}  # with what has no effect in it
            params = {name: settings.get(name) for name in self._space}
            if all(_contains(kind, params[name]) for name, kind in self._space.items()):
                self._study.add_trial(create_trial(params=params, distributions=self._space, value=value))

    def _settled(self, options: Mapping[str, Json]) -> Point | None:
        """Returns the setting without drawn options that have no effect in it: two that differ in
        nothing else are one."""
        point = self._point_of(options)
        if point is None:
            return None
        idle = (point.method.idle() & options.keys()) - self._entry.held.keys()
        return self._point_of({name: options[name] for name in options if name not in idle}) if idle else point

    def _is_new(self, point: Point) -> bool:
        return all(point != known for known, *_ in self._asked)


def _distribution(values: Range | Choice) -> BaseDistribution:
    if isinstance(values, Range):
        return FloatDistribution(values.low, values.high, log=values.log)
    return CategoricalDistribution(values.values)


def _contains(kind: BaseDistribution, value: object) -> bool:
    if isinstance(kind, FloatDistribution):
        return isinstance(value, int | float) and kind.low <= value <= kind.high
    return isinstance(kind, CategoricalDistribution) and value in kind.choices


def _short(value: object) -> Json:
    """Returns a drawn value with six significant digits: what is printed is what ran."""
    return float(f"{value:.6g}") if isinstance(value, float) else plain(value)
