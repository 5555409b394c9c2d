"""Defects that attacks of this kind are known to have had, planted in the real code: each must make its check fail.

Every check passes on the code as it is; so a defect that goes unnoticed here is one that the tests would let through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import scipy.special

import attack.divergence
import attack.evaluation
import attack.features
import attack.forgetting_quality
import attack.gaussians
import attack.intervals
import attack.klom
import attack.lira
import attack.metrics
import attack.outputs
import attack.references
import attack.rmia
import attack.scoring
import attack.survey
import attack.thresholds
import attack.u_lira
import attack.xgboost_attack
from attack import LiRA, ULiRA

from . import checks

Plant = Callable[[pytest.MonkeyPatch], None]


def replaced(module: Any, name: str, make: Callable[[Any], Any]) -> Plant:
    """Plants `make(the real thing)` in place of `module.name`."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, name, make(getattr(module, name)))

    return plant


# --- what is planted ---


def swapped_roles(real: Any) -> Any:
    return lambda outputs, name, roles, *rest, **more: real(outputs, name, roles[::-1], *rest, **more)


def variance_of_the_other_side(real: Any) -> Any:
    def fit(*args: Any, **more: Any) -> Any:
        fitted = real(*args, **more)
        flawed = dataclasses.replace(fitted.outside, squares=fitted.inside.squares, count=fitted.inside.count)
        return dataclasses.replace(fitted, outside=flawed)

    return fit


def target_left_in(real: Any) -> Any:
    def places(*args: Any) -> Any:
        columns, targets = real(*args)
        return columns, [np.full_like(target, -1) for target in targets]

    return places


def all_folds(_: Any) -> Any:
    return ("train", "validation", "test")


def originals_as_in(real: Any) -> Any:
    return lambda outputs, name, roles, *rest, **more: real(outputs, name, ("original", "retrained"), *rest, **more)


def pooled_over_samples(_: Any) -> Any:
    """A "fixed" variance of all φ together, which counts the samples' difficulty as noise."""

    def fit(cls: Any, models: np.ndarray, values: np.ndarray, variance: str) -> Any:
        found = real_fit(models, values, variance)
        spread = (values - np.nanmean(values)) ** 2
        return dataclasses.replace(found, squares=spread.sum(axis=0)) if found.fixed else found

    real_fit = attack.gaussians.Gaussians.fit
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


def other_way_round(real: Any) -> Any:
    return lambda first, second, *rest, **more: real(second, first, *rest, **more)


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
        return attack.metrics.Roc(rates[0], rates[1], np.append(np.inf, ordered), int((truth == 0).sum()))

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
    return lambda outputs, name: -np.logaddexp(0.0, -real(outputs, name))


fit = "fit_likelihood_ratio"
refs, xgb, metrics, evaluation = attack.references, attack.xgboost_attack, attack.metrics, attack.evaluation
fixed = partial(checks.lira_is_its_definition, "online", "fixed")
offline = partial(checks.lira_is_its_definition, "offline")
rmia_offline = partial(checks.rmia_is_its_definition, "offline", 1.2)
with_population = partial(checks.rmia_is_its_definition, "online", 1.0, True)

DEFECTS: dict[str, tuple[Plant, Callable[[], None]]] = {
    # LiRA
    "lira: sides swapped": (replaced(attack.lira, fit, swapped_roles), checks.lira_is_its_definition),
    "lira offline: sides swapped": (replaced(attack.lira, fit, swapped_roles), offline),
    "lira: OUT variance taken from IN": (
        replaced(attack.lira, fit, variance_of_the_other_side),
        checks.each_side_has_its_own_variance,
    ),
    "lira: target left in the fit": (
        replaced(refs, "row_places", target_left_in),
        partial(checks.guessing_on_its_own_models, LiRA()),
    ),
    "lira: test models in the fit": (replaced(refs, "FITTED_FOLDS", all_folds), checks.lira_is_its_definition),
    "lira: fixed variance over all samples": (replaced(attack.gaussians.Gaussians, "fit", pooled_over_samples), fixed),
    "lira: log p in place of φ": (replaced(refs, "margins_of", log_p_for_phi), checks.lira_is_its_definition),
    "lira offline: the other tail": (replaced(scipy.special, "log_ndtr", lambda real: lambda x: real(-x)), offline),
    # U-LiRA
    "u_lira: sides swapped": (replaced(attack.u_lira, fit, swapped_roles), checks.u_lira_is_its_definition),
    "u_lira: OUT variance taken from IN": (
        replaced(attack.u_lira, fit, variance_of_the_other_side),
        checks.u_lira_is_its_definition,
    ),
    "u_lira: target left in the fit": (
        replaced(refs, "row_places", target_left_in),
        partial(checks.guessing_on_its_own_models, ULiRA()),
    ),
    "u_lira: test models in the fit": (replaced(refs, "FITTED_FOLDS", all_folds), checks.u_lira_is_its_definition),
    "u_lira: originals for unlearned models": (
        replaced(attack.u_lira, fit, originals_as_in),
        checks.u_lira_is_its_definition,
    ),
    # RMIA
    "rmia: sides swapped": (replaced(attack.rmia, "sides", swapped_roles), checks.rmia_is_its_definition),
    "rmia offline: reference models that were trained on x": (
        replaced(attack.rmia, "sides", lambda real: lambda o, n, roles, v: real(o, n, ("original",), v)),
        rmia_offline,
    ),
    "rmia: target left in p(x)": (replaced(attack.rmia, "row_places", target_left_in), checks.rmia_is_its_definition),
    "rmia: target left in p(x), with a population": (
        replaced(attack.rmia, "row_places", target_left_in),
        with_population,
    ),
    "rmia: test models among the references": (
        replaced(refs, "FITTED_FOLDS", all_folds),
        checks.rmia_is_its_definition,
    ),
    "rmia: γ on the wrong side": (
        replaced(attack.rmia, "_share_beaten", lambda real: lambda x, z, gamma: real(x, z, 1.0 / gamma)),
        rmia_offline,
    ),
    # KLoM
    "klom: sides swapped": (
        replaced(attack.klom.KLoM, "_block", lambda real: lambda self, u, r: real(self, r, u)),
        checks.klom_is_its_definition,
    ),
    "klom: last edge of the histogram dropped": (
        replaced(attack.klom.KLoM, "_histogram", last_edge_dropped),
        checks.klom_counts_the_largest_margin,
    ),
    "klom: bins of one group only": (
        replaced(attack.klom.KLoM, "_block", bins_of_one_group),
        checks.klom_is_its_definition,
    ),
    "klom: another sample's margins": (
        replaced(attack.klom, "margins", lambda real: lambda *a: (real(*a)[0], real(*a)[1], real(*a)[2][:, ::-1])),
        checks.klom_is_its_definition,
    ),
    # forgetting quality ε
    "ε: one direction only": (
        replaced(attack.forgetting_quality.ForgettingQuality, "_best", one_direction),
        checks.epsilon_is_its_definition,
    ),
    "ε: a rate of 0 taken for certainty": (
        replaced(attack.forgetting_quality.ForgettingQuality, "_epsilon", no_rate_is_perfect),
        checks.epsilon_is_its_definition,
    ),
    "ε: the likelihood ratio forgotten": (
        replaced(attack.forgetting_quality, "_log_ratio", lambda real: lambda values, u, r: values),
        checks.epsilon_is_its_definition,
    ),
    "ε: OUT variance taken from IN": (
        replaced(
            attack.forgetting_quality, "_log_ratio", lambda real: lambda v, u, r: real(v, u, r.mean(0) + u - u.mean(0))
        ),
        checks.epsilon_is_its_definition,
    ),
    # thresholds
    "loss threshold: sides swapped": (
        replaced(attack.thresholds.LossThreshold, "values", scores_negated),
        checks.thresholds_are_their_definitions,
    ),
    "entropy threshold: sides swapped": (
        replaced(attack.thresholds.EntropyThreshold, "values", scores_negated),
        checks.thresholds_are_their_definitions,
    ),
    "thresholds: tuned on the test fold": (
        replaced(attack.thresholds, "shadow_rows", on_the_test_fold),
        checks.thresholds_are_their_definitions,
    ),
    "thresholds: tuned with swapped labels": (
        replaced(attack.thresholds, "membership", lambda real: lambda table: 1 - real(table)),
        checks.thresholds_are_their_definitions,
    ),
    # XGBoost
    "xgboost: sides swapped": (
        replaced(xgb, "membership", lambda real: lambda table: 1 - real(table)),
        checks.xgboost_finds_members_and_nothing_where_there_is_none,
    ),
    "xgboost: test rows in the fit": (
        replaced(xgb, "shadow_rows", rows_of_the_test_fold),
        checks.xgboost_never_looks_at_the_test_fold,
    ),
    "xgboost: tuned on the test fold": (
        replaced(xgb, "shadow_rows", on_the_test_fold),
        checks.tuning_looks_at_validation_models,
    ),
    "xgboost: tuned on the train fold": (
        replaced(xgb, "shadow_rows", validated_on_the_train_fold),
        checks.tuning_looks_at_validation_models,
    ),
    "xgboost: split by row": (
        replaced(xgb, "refuse_split_by_row", lambda real: lambda outputs: None),
        checks.xgboost_refuses_a_split_by_row,
    ),
    "xgboost: forgotten classes dropped after the softmax": (
        replaced(attack.features, "probabilities", softmax_before_dropping),
        checks.features_are_softmax_beside_one_hot,
    ),
    "xgboost: another label than the row's": (
        replaced(attack.features, "with_labels", labels_forgotten),
        checks.features_are_softmax_beside_one_hot,
    ),
    # metrics
    "auc: ties count in full": (replaced(metrics, "pair_auc", ties_in_full), checks.areas_are_pairwise),
    "roc: a step for each row of a tie": (replaced(checks, "roc", ties_split), checks.areas_are_pairwise),
    "tpr: measured under 1/N": (
        replaced(metrics.Roc, "tpr_at", measured_anyway),
        checks.rates_below_one_in_n_are_not_measurable,
    ),
    "tpr: at a higher rate than asked": (
        replaced(metrics.Roc, "tpr_at", at_the_next_rate),
        checks.rates_below_one_in_n_are_not_measurable,
    ),
    "ks: of one side against itself": (
        replaced(checks, "ks_distance", lambda real: lambda a, b: real(a, a)),
        checks.ks_is_the_statistic,
    ),
    "interval: bootstrapped over rows": (
        replaced(evaluation.Scores, "by_model", rows_for_models),
        partial(checks.intervals_cover, 100),
    ),
    "interval: a narrower percentile": (
        replaced(evaluation, "expanded_interval", percentile_interval),
        partial(checks.intervals_cover, 100),
    ),
    "difference: negatives drawn apart": (
        replaced(evaluation, "weighted_means", unpaired),
        checks.differences_share_their_negatives,
    ),
    "worst samples: the wrong way round": (
        replaced(checks, "worst_samples", smallest_first),
        checks.worst_samples_stand_out,
    ),
    "verdict: below chance taken for forgotten": (
        replaced(evaluation, "verdict", lambda real: lambda area, ci, directional=True: real(area, [0.4, 0.6])),
        checks.over_unlearning_is_called_by_its_name,
    ),
    # the audit's one pass
    "audit: rows trusted to be in order": (
        replaced(attack.survey.Survey, "measured", by_row_number),
        checks.an_audit_measures_what_each_attack_does_alone,
    ),
    "audit: the scores of another model": (
        replaced(attack.scoring, "gathered", of_another_model),
        checks.an_audit_measures_what_each_attack_does_alone,
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, check = DEFECTS[name]
    with monkeypatch.context() as planted:
        plant(planted)
        with pytest.raises(AssertionError):
            check()


SOUND = {
    f"{getattr(check, 'func', check).__name__}{getattr(check, 'args', ())}": check for _, check in DEFECTS.values()
}


@pytest.mark.parametrize("name", SOUND)
def test_the_checks_pass_on_the_code_as_it_is(name: str) -> None:
    SOUND[name]()


def test_every_attack_and_distance_has_defects_of_its_own() -> None:
    from attack import ATTACKS, DIVERGENCES

    families = {name.split(":")[0].split(" ")[0] for name in DEFECTS}
    assert {*ATTACKS} - families <= {"loss_threshold", "entropy_threshold"}
    assert {"loss", "entropy", "klom", "ε"} <= families
    assert all(DIVERGENCES[name] for name in ("klom", "forgetting_quality"))
