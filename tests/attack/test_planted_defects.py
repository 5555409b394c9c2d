"""Defects that attacks of this kind are known to have had, planted in the real code: each must make its check fail.

Every check passes on the code as it is; so a defect that goes unnoticed here is one that the tests would let through.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import scipy.special

import attack.attacks.features
import attack.attacks.gap
import attack.attacks.lira
import attack.attacks.one_shadow
import attack.attacks.references
import attack.attacks.rmia
import attack.attacks.thresholds
import attack.attacks.u_lira
import attack.attacks.xgboost
import attack.audit.runner
import attack.distances.base
import attack.distances.forgetting_quality
import attack.distances.klom
import attack.metrics.areas
import attack.metrics.bootstrap
import attack.metrics.evaluation
import attack.metrics.gaussians
import attack.metrics.leak
import attack.metrics.roc
import attack.outputs.measured
import attack.outputs.survey
import attack.outputs.table
from attack import LiRA, ULiRA

from . import checks
from . import checks_of_measures as measures
from .defects import (
    Defect,
    all_folds,
    at_the_next_rate,
    bins_of_one_group,
    by_signed_area,
    centred,
    checks_of,
    labels_forgotten,
    last_edge_dropped,
    log_p_for_phi,
    measured_anyway,
    must_be_found,
    never_below,
    no_rate_is_perfect,
    on_the_test_fold,
    one_direction,
    originals_as_in,
    percentile_interval,
    pooled_over_samples,
    replaced,
    rows_for_models,
    rows_of_the_test_fold,
    scores_negated,
    single_thresholds,
    smallest_first,
    softmax_before_dropping,
    swapped_roles,
    target_left_in,
    ties_cut,
    ties_in_full,
    ties_split,
    uncalibrated,
    unpaired,
    validated_on_the_train_fold,
    variance_of_the_other_side,
)

fit = "fit_likelihood_ratio"
refs, xgb, metrics, evaluation = (
    attack.attacks.references,
    attack.attacks.xgboost,
    attack.metrics.roc,
    attack.metrics.evaluation,
)
fixed = partial(checks.lira_is_its_definition, "online", "fixed")
offline = partial(checks.lira_is_its_definition, "offline")
rmia_offline = partial(checks.rmia_is_its_definition, "offline", 1.2)
with_population = partial(checks.rmia_is_its_definition, "online", 1.0, True)


def _flat(fitted: attack.attacks.one_shadow.FittedOneShadow) -> attack.attacks.one_shadow.FittedOneShadow:
    """A shadow model that finds every sample equally hard."""
    return dataclasses.replace(fitted, values=np.zeros_like(fitted.values))


DEFECTS: dict[str, Defect] = {
    # LiRA
    "lira: sides swapped": (replaced(attack.attacks.lira, fit, swapped_roles), checks.lira_is_its_definition),
    "lira offline: sides swapped": (replaced(attack.attacks.lira, fit, swapped_roles), offline),
    "lira: OUT variance taken from IN": (
        replaced(attack.attacks.lira, fit, variance_of_the_other_side),
        checks.each_side_has_its_own_variance,
    ),
    "lira: target left in the fit": (
        replaced(refs, "own_places", target_left_in),
        partial(checks.guessing_on_its_own_models, LiRA()),
    ),
    "lira: test models in the fit": (all_folds(refs, attack.attacks.lira), checks.lira_is_its_definition),
    "lira: fixed variance over all samples": (
        replaced(attack.metrics.gaussians.Gaussians, "fit", pooled_over_samples),
        fixed,
    ),
    "lira: log p in place of φ": (
        replaced(attack.outputs.measured.Measured, "margins", log_p_for_phi),
        checks.lira_is_its_definition,
    ),
    "lira offline: the other tail": (replaced(scipy.special, "log_ndtr", lambda real: lambda x: real(-x)), offline),
    # U-LiRA
    "u_lira: sides swapped": (replaced(attack.attacks.u_lira, fit, swapped_roles), checks.u_lira_is_its_definition),
    "u_lira: OUT variance taken from IN": (
        replaced(attack.attacks.u_lira, fit, variance_of_the_other_side),
        checks.u_lira_is_its_definition,
    ),
    "u_lira: target left in the fit": (
        replaced(refs, "own_places", target_left_in),
        partial(checks.guessing_on_its_own_models, ULiRA()),
    ),
    "u_lira: test models in the fit": (all_folds(refs, attack.attacks.u_lira), checks.u_lira_is_its_definition),
    "u_lira: originals for unlearned models": (
        replaced(attack.attacks.u_lira, fit, originals_as_in),
        checks.u_lira_is_its_definition,
    ),
    # RMIA
    "rmia: sides swapped": (replaced(attack.attacks.rmia, "sides", swapped_roles), checks.rmia_is_its_definition),
    "rmia offline: reference models that were trained on x": (
        replaced(attack.attacks.rmia, "sides", lambda real: lambda o, n, roles, v: real(o, n, ("original",), v)),
        rmia_offline,
    ),
    "rmia: target left in p(x)": (
        replaced(attack.attacks.rmia, "own_places", target_left_in),
        checks.rmia_is_its_definition,
    ),
    "rmia: target left in p(x), with a population": (
        replaced(attack.attacks.rmia, "own_places", target_left_in),
        with_population,
    ),
    "rmia: test models among the references": (
        all_folds(refs, attack.attacks.rmia),
        checks.rmia_is_its_definition,
    ),
    "rmia: γ on the wrong side": (
        replaced(attack.attacks.rmia, "_share_beaten", lambda real: lambda x, z, gamma: real(x, z, 1.0 / gamma)),
        rmia_offline,
    ),
    "rmia: p(x) forgotten": (
        replaced(attack.attacks.rmia._References, "_prior", uncalibrated),
        checks.rmia_ranks_by_the_calibrated_ratio,
    ),
    "rmia: γ on the wrong side, in order": (
        replaced(attack.attacks.rmia, "_share_beaten", lambda real: lambda x, z, gamma: real(x, z, 1.0 / gamma)),
        checks.rmia_ranks_by_the_calibrated_ratio,
    ),
    # KLoM
    "klom: sides swapped": (
        replaced(attack.distances.klom.KLoM, "_block", lambda real: lambda self, u, r: real(self, r, u)),
        checks.klom_is_its_definition,
    ),
    "klom: last edge of the histogram dropped": (
        replaced(attack.distances.klom.KLoM, "_histogram", last_edge_dropped),
        checks.klom_counts_the_largest_margin,
    ),
    "klom: bins of one group only": (
        replaced(attack.distances.klom.KLoM, "_block", bins_of_one_group),
        checks.klom_is_its_definition,
    ),
    "klom: another sample's margins": (
        replaced(
            attack.distances.klom, "margins", lambda real: lambda *a: (real(*a)[0], real(*a)[1], real(*a)[2][:, ::-1])
        ),
        checks.klom_is_its_definition,
    ),
    # forgetting quality ε
    "ε: one direction only": (
        replaced(attack.distances.forgetting_quality.ForgettingQuality, "_best", one_direction),
        checks.epsilon_is_its_definition,
    ),
    "ε: a rate of 0 taken for certainty": (
        replaced(attack.distances.forgetting_quality.ForgettingQuality, "_epsilon", no_rate_is_perfect),
        checks.epsilon_is_its_definition,
    ),
    "ε: single thresholds only": (
        replaced(attack.distances.forgetting_quality.ForgettingQuality, "_best", single_thresholds),
        checks.epsilon_is_its_definition,
    ),
    "ε: thresholds within ties": (
        replaced(attack.distances.forgetting_quality.ForgettingQuality, "_best", ties_cut),
        checks.epsilon_is_its_definition,
    ),
    # cheap attacks
    "gap: wrong for right": (
        replaced(attack.attacks.gap.FittedGap, "score", lambda real: lambda self, table: 1.0 - real(self, table)),
        checks.gap_is_its_definition,
    ),
    "gap: another class": (
        replaced(attack.attacks.gap, "label_columns", lambda real: lambda table: (real(table) + 1) % 4),
        checks.gap_is_its_definition,
    ),
    "one_shadow: sides swapped": (
        replaced(attack.attacks.one_shadow.FittedOneShadow, "score", scores_negated),
        checks.one_shadow_is_its_definition,
    ),
    "one_shadow: not calibrated": (
        replaced(attack.attacks.one_shadow.OneShadow, "fit", lambda real: lambda self, table: _flat(real(self, table))),
        checks.one_shadow_is_its_definition,
    ),
    "one_shadow: test models in the fit": (
        replaced(attack.attacks.one_shadow, "FITTED_FOLDS", lambda real: ("test", *real)),
        checks.one_shadow_is_its_definition,
    ),
    # thresholds
    "loss threshold: sides swapped": (
        replaced(attack.attacks.thresholds.LossThreshold, "values", scores_negated),
        checks.thresholds_are_their_definitions,
    ),
    "loss threshold: centred for each sample": (
        replaced(attack.attacks.thresholds.LossThreshold, "values", centred),
        checks.loss_threshold_reaches_the_closed_form,
    ),
    "loss threshold: p of another class": (
        replaced(attack.outputs.measured, "label_columns", lambda real: lambda table: (real(table) + 1) % 4),
        checks.loss_threshold_reaches_the_closed_form,
    ),
    "entropy threshold: sides swapped": (
        replaced(attack.attacks.thresholds.EntropyThreshold, "values", scores_negated),
        checks.thresholds_are_their_definitions,
    ),
    "thresholds: tuned on the test fold": (
        replaced(attack.attacks.thresholds, "VALIDATION", lambda real: "test"),
        checks.thresholds_are_their_definitions,
    ),
    "thresholds: tuned with swapped labels": (
        replaced(attack.attacks.thresholds, "best_f1", lambda real: lambda labels, scores: real(1 - labels, scores)),
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
        replaced(attack.attacks.features, "probabilities", softmax_before_dropping),
        checks.features_are_softmax_beside_one_hot,
    ),
    "xgboost: another label than the row's": (
        replaced(attack.attacks.features, "with_labels", labels_forgotten),
        checks.features_are_softmax_beside_one_hot,
    ),
    # metrics
    "auc: ties count in full": (replaced(metrics, "pair_auc", ties_in_full), measures.areas_are_pairwise),
    "roc: a step for each row of a tie": (replaced(measures, "roc", ties_split), measures.areas_are_pairwise),
    "tpr: measured under 1/N": (
        replaced(metrics.Roc, "tpr_at", measured_anyway),
        measures.rates_below_one_in_n_are_not_measurable,
    ),
    "tpr: at a higher rate than asked": (
        replaced(metrics.Roc, "tpr_at", at_the_next_rate),
        measures.rates_below_one_in_n_are_not_measurable,
    ),
    "ks: of one side against itself": (
        replaced(measures, "ks_distance", lambda real: lambda a, b: real(a, a)),
        measures.ks_is_the_statistic,
    ),
    "interval: bootstrapped over rows": (
        replaced(evaluation.Scores, "by_model", rows_for_models),
        partial(measures.intervals_cover, 100),
    ),
    "interval: a narrower percentile": (
        replaced(evaluation, "expanded_interval", percentile_interval),
        partial(measures.intervals_cover, 100),
    ),
    "difference: negatives drawn apart": (
        replaced(attack.metrics.areas, "weighted_means", unpaired),
        measures.differences_share_their_negatives,
    ),
    "worst samples: the wrong way round": (
        replaced(measures, "worst_samples", smallest_first),
        measures.worst_samples_stand_out,
    ),
    "worst samples: recognised ones only": (
        replaced(measures, "worst_samples", by_signed_area),
        measures.worst_samples_stand_out,
    ),
    "verdict: below chance taken for forgotten": (
        replaced(attack.metrics.leak.Ratio, "p_below", never_below),
        measures.over_unlearning_is_called_by_its_name,
    ),
}


@pytest.mark.medium
@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    must_be_found(DEFECTS[name], monkeypatch)


SOUND = checks_of(DEFECTS)


@pytest.mark.medium
@pytest.mark.parametrize("name", SOUND)
def test_the_checks_pass_on_the_code_as_it_is(name: str) -> None:
    SOUND[name]()


def test_every_attack_and_distance_has_defects_of_its_own() -> None:
    from attack import ATTACKS, DIVERGENCES

    families = {name.split(":")[0].split(" ")[0] for name in DEFECTS}
    assert {*ATTACKS} - families <= {"loss_threshold", "entropy_threshold"}
    assert {"loss", "entropy", "klom", "ε"} <= families
    assert all(DIVERGENCES[name] for name in ("klom", "forgetting_quality"))
