"""Defects for `test_planted_defects`: each takes the real thing and returns one with the defect in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

import attack.metrics.gaussians
import attack.metrics.roc
from attack.outputs.measured import Measured

Plant = Callable[[pytest.MonkeyPatch], None]
# What is planted, and the check that must notice it.
Defect = tuple[Plant, Callable[[], None]]


def must_be_found(defect: Defect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plants the defect and runs its check, which has to fail."""
    plant, check = defect
    with monkeypatch.context() as planted:
        plant(planted)
        with pytest.raises(AssertionError):
            check()


def checks_of(defects: Mapping[str, Defect]) -> dict[str, Callable[[], None]]:
    """The checks that these defects have, by name: each once."""
    return {
        f"{getattr(check, 'func', check).__name__}{getattr(check, 'args', ())}": check for _, check in defects.values()
    }


def replaced(module: Any, name: str, make: Callable[[Any], Any]) -> Plant:
    """Plants `make(the real thing)` in place of `module.name`."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, name, make(getattr(module, name)))

    return plant


def swapped_roles(real: Any) -> Any:
    return lambda outputs, name, roles, *rest, **more: real(outputs, name, roles[::-1], *rest, **more)


def variance_of_the_other_side(real: Any) -> Any:
    def fit(*args: Any, **more: Any) -> Any:
        fitted = real(*args, **more)
        flawed = dataclasses.replace(fitted.outside, squares=fitted.inside.squares, count=fitted.inside.count)
        return dataclasses.replace(fitted, outside=flawed)

    return fit


def target_left_in(real: Any) -> Any:
    return lambda *args: np.full_like(real(*args), -1)


def all_folds(*modules: Any) -> Plant:
    """Plants models of the test fold among those that are fitted on, in every module that names the folds."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        for module in modules:
            monkeypatch.setattr(module, "FITTED_FOLDS", ("train", "validation", "test"))

    return plant


def originals_as_in(real: Any) -> Any:
    return lambda outputs, name, roles, *rest, **more: real(outputs, name, ("original", "retrained"), *rest, **more)


def pooled_over_samples(_: Any) -> Any:
    """A "fixed" variance of all φ together, which counts the samples' difficulty as noise."""

    def fit(cls: Any, models: np.ndarray, values: np.ndarray, fixed: bool) -> Any:
        found = real_fit(models, values, fixed)
        spread = (values - np.nanmean(values)) ** 2
        return dataclasses.replace(found, squares=spread.sum(axis=0)) if found.fixed else found

    real_fit = attack.metrics.gaussians.Gaussians.fit
    return classmethod(fit)


def scores_negated(real: Any) -> Any:
    return lambda self, outputs: -real(self, outputs)


def on_the_test_fold(real: Any) -> Any:
    return lambda outputs, fold: real(outputs, "test" if fold == "validation" else fold)


def rows_of_the_test_fold(real: Any) -> Any:
    def rows(outputs: Any, fold: str) -> Any:
        if fold != "train":
            return real(outputs, fold)
        index = outputs.schema.get_field_index("fold")
        moved = pc.replace_substring(outputs["fold"], "test", "train")
        return real(outputs.set_column(index, "fold", moved), fold)

    return rows


def validated_on_the_train_fold(real: Any) -> Any:
    return lambda outputs, fold: real(outputs, "train")


def softmax_before_dropping(real: Any) -> Any:
    def flawed(table: Any, forget_classes: Any = ()) -> np.ndarray:
        everything = real(table)
        return everything[:, [c for c in range(everything.shape[1]) if c not in set(forget_classes)]]

    return flawed


def labels_forgotten(real: Any) -> Any:
    return lambda softmax, labels, *rest: real(softmax, np.zeros_like(labels), *rest)


def last_edge_dropped(real: Any) -> Any:
    def histogram(self: Any, values: np.ndarray, low: np.ndarray, scale: np.ndarray) -> np.ndarray:
        found = real(self, values, low, scale)
        top = ((values - low) * scale >= self.bins).mean(axis=0)
        found[:, -1] -= top
        return found

    return histogram


def bins_of_one_group(real: Any) -> Any:
    def block(self: Any, unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
        return real(self, unlearned, np.clip(retrained, unlearned.min(axis=0), unlearned.max(axis=0)))

    return block


def one_direction(real: Any) -> Any:
    def best(self: Any, unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
        flawed = dataclasses.replace(self)
        object.__setattr__(flawed, "_epsilon", lambda fpr, fnr: np.log(np.maximum(1 - fpr, 1e-9) / (fnr + 1e-9)))
        return real(flawed, unlearned, retrained)

    return best


def single_thresholds(_: Any) -> Any:
    def best(self: Any, unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
        table = self._table(len(unlearned), len(retrained))
        found = np.zeros(unlearned.shape[1])
        for cut in np.concatenate([unlearned, retrained]):
            found = np.maximum(found, table[(unlearned <= cut).sum(axis=0), (retrained <= cut).sum(axis=0)])
        return found

    return best


def ties_cut(real: Any) -> Any:
    def best(self: Any, unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
        places = np.arange(len(unlearned) + len(retrained))[:, None]  # no two values are the same
        apart = 1e-9 * places
        found: np.ndarray = real(self, unlearned + apart[: len(unlearned)], retrained + apart[len(unlearned) :])
        return found

    return best


def no_rate_is_perfect(_: Any) -> Any:
    """A rate of 0 in a few models taken for certainty: ε is infinite for any outlier."""

    def epsilon(self: Any, fpr: np.ndarray, fnr: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.fmax(np.log(1 - self.delta - fpr) - np.log(fnr), np.log(1 - self.delta - fnr) - np.log(fpr))
        return np.nan_to_num(found, nan=0.0, posinf=np.inf, neginf=0.0)

    return epsilon


def ties_in_full(_: Any) -> Any:
    def area(positive: np.ndarray, negative: np.ndarray) -> float:
        return float(np.searchsorted(np.sort(negative), positive, side="right").sum() / (len(positive) * len(negative)))

    return area


def ties_split(_: Any) -> Any:
    """A point of the curve for each row: within a tie, members first."""

    def curve(labels: np.ndarray, scores: np.ndarray) -> Any:
        truth = np.asarray(labels)[np.lexsort((-np.asarray(labels), -np.asarray(scores)))]
        ordered = np.sort(scores)[::-1]
        rates = [np.append(0.0, np.cumsum(truth == side) / (truth == side).sum()) for side in (0, 1)]
        return attack.metrics.roc.Roc(rates[0], rates[1], np.append(np.inf, ordered), int((truth == 0).sum()))

    return curve


def measured_anyway(_: Any) -> Any:
    return lambda self, fpr: float(self.tpr[self.fpr <= fpr + 1e-12].max())


def at_the_next_rate(_: Any) -> Any:
    """The first point at or beyond the rate in place of the last one within it."""

    def tpr(self: Any, fpr: float) -> float | None:
        return None if fpr < 1.0 / self.negatives else float(self.tpr[np.searchsorted(self.fpr, fpr + 0.05)])

    return tpr


def rows_for_models(real: Any) -> Any:
    def by_row(self: Any) -> Any:
        return np.arange(len(self.scores)), list(self.scores[:, None])

    return by_row


def percentile_interval(_: Any) -> Any:
    def interval(values: np.ndarray, models: int) -> list[float]:
        return [float(edge) for edge in np.quantile(values, [0.2, 0.8])]

    return interval


def unpaired(real: Any) -> Any:
    calls = iter(range(10_000_000))

    def means(matrix: np.ndarray, sizes: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return real(matrix, sizes, rows, np.roll(columns, 7 * next(calls), axis=0))

    return means


def smallest_first(real: Any) -> Any:
    return lambda positive, negative, count=10: real(negative, positive, count)


def by_signed_area(real: Any) -> Any:
    return lambda positive, negative, count=10: sorted(real(positive, negative, 1000), key=lambda w: -w["auc"])[:count]


def never_below(real: Any) -> Any:
    return lambda self, tau: 1.0 if tau <= 0.0 else real(self, tau)


def by_row_number(real: Any) -> Any:
    """φ and entropies put on the grid in the order of the file, whatever the ids say."""

    def measured(self: Any) -> Any:
        found = real(self)
        shape = found.phi.shape
        return dataclasses.replace(found, phi=self.phi.reshape(shape), entropy=self.entropy.reshape(shape))

    return measured


def of_another_model(real: Any) -> Any:
    def gathered(scored: Any, measured: Any, models: np.ndarray) -> dict[int, np.ndarray]:
        found = real(scored, measured, models)
        return dict(zip(found, [*list(found.values())[1:], next(iter(found.values()))], strict=True))

    return gathered


def log_p_for_phi(real: Any) -> Any:
    return lambda self, name: -np.logaddexp(0.0, -real(self, name))


def changed_column(name: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A defect of `prepared`: one of its columns is changed."""

    def make(real: Any) -> Any:
        def flawed(*args: Any) -> Any:
            table = real(*args)
            return table.set_column(table.schema.get_field_index(name), name, change(table[name]))

        return flawed

    return make


def first_fragment_again(real: Any) -> Any:
    return lambda parts, workers: real([*parts, parts[0]], workers)


def one_worker_reads_it_all(real: Any) -> Any:
    return lambda parts, workers: [list(parts), *real(parts, workers)[1:]]


def first_fragment_left_out(real: Any) -> Any:
    return lambda parts, workers: real(parts[1:], workers)


def fragments_from_the_end(real: Any) -> Any:
    return lambda parts, workers: [shard[::-1] for shard in real(parts, workers)]


def rows_from_the_end(real: Any) -> Any:
    def pieces(*args: Any, **more: Any) -> Any:
        for table in real(*args, **more):
            yield table.take(np.arange(len(table))[::-1])

    return pieces


def range_forgotten(real: Any) -> Any:
    """The whole row group for each of the ranges that it was divided into."""
    return lambda part, *rest, **more: real(dataclasses.replace(part, start=0, stop=10**9), *rest, **more)


def keys_of_the_next_model(real: Any) -> Any:
    def identified(table: Any) -> Any:
        keys, places = real(table)
        return [*keys[1:], keys[0]], places

    return identified


def uncalibrated(_: Any) -> Any:
    """p(x) of the reference models forgotten: the score ranks by p(x|θ) alone."""
    return lambda self, means: np.ones_like(means[0])


def centred(real: Any) -> Any:
    """The mean over models taken out of each sample, which an attack with one threshold for all samples cannot know."""

    def values(self: Any, outputs: Any) -> np.ndarray:
        found = real(self, outputs)
        measured = Measured.of(outputs)
        places = measured.in_rows(np.tile(np.arange(len(measured.samples)), (len(measured.models), 1)))
        return found - (np.bincount(places, found) / np.bincount(places))[places]

    return values
