"""Properties of the attacks and metrics, each against a slow statement of its definition or a known answer.

The ordinary tests call them on the code as it is; `test_planted_defects` calls them on code with a defect planted in it, where
they must fail.
"""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from scipy import stats

from attack import (
    RMIA,
    EntropyThreshold,
    ForgettingQuality,
    Gap,
    KLoM,
    LiRA,
    LossThreshold,
    OneShadow,
    ULiRA,
    XGBoostAttack,
    auc,
    outputs_table,
)
from attack.attacks.features import shadow_features
from attack.audit.audit import run_attacks
from attack.metrics.roc import best_f1
from attack.outputs.table import logits_matrix, rows_where

from .build import area, pool, rows_of, shuffled, slow_phi


def slow_gaussian(values: list[float], pooled: list[list[float]] | None) -> tuple[float, float]:
    """Mean and standard deviation of one sample's φ; the deviation pooled within samples where `pooled` has them all."""
    mean = sum(values) / len(values)
    if pooled is None:
        return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    squares = sum(sum((v - sum(g) / len(g)) ** 2 for v in g) for g in pooled)
    return mean, math.sqrt(squares / sum(len(g) - 1 for g in pooled))


def slow_likelihood_ratio(
    table: pa.Table, row: dict, inside: str, *, fixed: bool, offline: bool = False, unlearned: str = ""
) -> float:
    """The score of one row from the definition: Gaussians of the train and validation folds, the target left out."""

    def group(role: str) -> dict[int, list[float]]:
        found: dict[int, list[float]] = {}
        wanted = rows_of(
            table,
            lambda r: (
                r["role"] == role
                and r["fold"] != "test"
                and (role != "unlearned" or r["method"] == unlearned)
                and not (r["model_id"] == row["model_id"] and role == row["role"])
            ),
        )
        for r in wanted:
            found.setdefault(r["sample_id"], []).append(r["phi"])
        return found

    value = slow_phi(row["logits"], row["label"])
    out = group("retrained")
    mean, deviation = slow_gaussian(out[row["sample_id"]], list(out.values()) if fixed else None)
    if offline:
        return -math.log(1.0 - NormalDist(mean, deviation).cdf(value))
    into = group(inside)
    mean_in, deviation_in = slow_gaussian(into[row["sample_id"]], list(into.values()) if fixed else None)
    return math.log(NormalDist(mean_in, deviation_in).pdf(value)) - math.log(NormalDist(mean, deviation).pdf(value))


def lira_is_its_definition(mode: str = "online", variance: str = "per_sample") -> None:
    table = shuffled(pool(models=8, samples=6, unlearned={"pgu": 0.3}))
    scores = LiRA(mode=mode, variance=variance).fit(table).score(table)
    for index in range(0, len(table), 7):
        row = table.slice(index, 1).to_pylist()[0]
        expected = slow_likelihood_ratio(table, row, "original", fixed=variance == "fixed", offline=mode == "offline")
        assert scores[index] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def u_lira_is_its_definition(variance: str = "per_sample") -> None:
    table = pool(models=8, samples=6, unlearned={"pgu": 0.5})
    scores = ULiRA(variance=variance).fit(table).score(table)
    for index in range(0, len(table), 7):
        row = table.slice(index, 1).to_pylist()[0]
        expected = slow_likelihood_ratio(table, row, "unlearned", fixed=variance == "fixed", unlearned="pgu")
        assert scores[index] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def guessing_on_its_own_models(attack: LiRA | ULiRA) -> None:
    """Nothing to find: with the target held out, the AUC on the folds that were fitted is ½."""
    table = pool(models=12, samples=200, shift=0.0, unlearned={"pgu": 0.0})
    method = "original" if isinstance(attack, LiRA) else "pgu"
    assert area(table, attack.fit(table).score(table), method, "train") == pytest.approx(0.5, abs=0.06)


def each_side_has_its_own_variance() -> None:
    """IN is narrow and OUT is wide, around one centre: the right score is highest at the centre, one with equal widths is flat."""
    narrow = rows_where(pool(models=80, samples=30, shift=0.0, references=False), role="original")
    wide = rows_where(pool(models=80, samples=30, shift=0.0, spread=4.0, references=False), role="retrained")
    mixed = pa.concat_tables([narrow, wide])
    assert area(mixed, LiRA(variance="per_sample").fit(mixed).score(mixed), "original") > 0.75


def slow_rmia(table: pa.Table, population: pa.Table | None, row: dict, gamma: float, mode: str, a: float) -> float:
    """Pr_z of the pairwise ratio being at least γ, from the definition."""

    def p(r: dict) -> float:
        return 1.0 / (1.0 + math.exp(-slow_phi(r["logits"], r["label"])))

    def prior(source: list[dict], r: dict) -> float:
        def mean(role: str) -> float:
            values = [
                p(o)
                for o in source
                if o["role"] == role
                and o["fold"] != "test"
                and o["sample_id"] == r["sample_id"]
                and not (o["model_id"] == r["model_id"] and o["role"] == r["role"])
            ]
            return sum(values) / len(values)

        out = mean("retrained")
        return 0.5 * ((1 + a) * out + 1 - a) if mode == "offline" else 0.5 * (out + mean("original"))

    rows = table.to_pylist()
    x = p(row) / prior(rows, row)
    if population is None:
        z = [p(o) / prior(rows, o) for o in rows if o["role"] == "retrained" and o["fold"] != "test"]
    else:
        others = population.to_pylist()
        mine = [o for o in others if o["model_id"] == row["model_id"] and o["role"] == row["role"]]
        z = [p(o) / prior(others, o) for o in mine]
    return sum(x / value >= gamma for value in z) / len(z)


def rmia_is_its_definition(mode: str = "online", gamma: float = 1.0, with_population: bool = False) -> None:
    table = pool(models=6, samples=5, seed=1)
    population = pool(models=6, samples=7, shift=0.0, seed=2) if with_population else None
    attack = RMIA(mode=mode, gamma=gamma)
    fitted = attack.fit(table, population)
    scores = fitted.score(table, population) if with_population else fitted.score(table)
    assert bool(fitted.notes) is not with_population
    for index in range(0, len(table), 5):
        row = table.slice(index, 1).to_pylist()[0]
        assert scores[index] == pytest.approx(slow_rmia(table, population, row, gamma, mode, attack.a), abs=1e-9)


def slow_klom(unlearned: list[float], retrained: list[float], bins: int, clip: float, floor: float) -> float:
    """KL(unlearned ‖ retrained) between histograms with common bins, by the definition."""
    a, b = ([max(-clip, min(clip, v)) for v in side] for side in (unlearned, retrained))
    low, high = min(a + b), max(a + b)
    total = 0.0
    for k in range(bins):
        left, right = low + (high - low) * k / bins, low + (high - low) * (k + 1) / bins

        def share(side: list[float], left: float = left, right: float = right, last: bool = k == bins - 1) -> float:
            return sum(left <= v < right or (last and v == high) for v in side) / len(side)

        if share(a):
            total += share(a) * math.log(share(a) / max(share(b), floor))
    return total


def klom_is_its_definition() -> None:
    table = pool(models=30, samples=6, unlearned={"pgu": 1.0})
    unlearned, retrained = rows_where(table, method="pgu"), rows_where(table, role="retrained")
    found = KLoM(bins=7, clip=2.5).measure(unlearned, retrained)
    for sample, value in zip(found.samples, found.values, strict=True):
        sides = [
            [slow_phi(r["logits"], r["label"]) for r in side.to_pylist() if r["sample_id"] == sample]
            for side in (unlearned, retrained)
        ]
        assert value == pytest.approx(slow_klom(*sides, bins=7, clip=2.5, floor=1e-5), abs=1e-6)
    assert found.summary["p95"] == pytest.approx(np.quantile(found.values, 0.95))
    assert found.worst(2)[0][1] == found.values.max()


def klom_counts_the_largest_margin() -> None:
    same = np.random.default_rng(0).normal(size=(50, 4))
    assert KLoM().of_margins(same, same) == pytest.approx(0.0, abs=1e-12)
    constant = np.ones((5, 3))
    assert KLoM().of_margins(constant, constant) == pytest.approx(0.0)
    # All unlearned models at the very top of the range: what a histogram that drops its last edge calls zero.
    apart = KLoM().of_margins(np.full((10, 1), 3.0), np.linspace(0.0, 1.0, 10)[:, None])
    assert apart == pytest.approx(math.log(1.0 / 1e-5))


def slow_epsilon(unlearned: list[float], retrained: list[float], delta: float) -> float:
    """ε by every single and double threshold on φ, each with its opposite. One rule at a time, one model at a time."""
    points = sorted({*unlearned, *retrained})
    cuts = [-math.inf, *[(a + b) / 2 for a, b in itertools.pairwise(points)], math.inf]
    best = 0.0
    for low, high in itertools.combinations(cuts, 2):
        for opposite in (False, True):
            fpr = sum((low < v < high) != opposite for v in retrained) / len(retrained)
            fnr = sum((low < v < high) == opposite for v in unlearned) / len(unlearned)
            if fpr == 0 and fnr == 0:
                return math.inf
            if fpr == 0 or fnr == 0:
                continue
            for x, y in ((fpr, fnr), (fnr, fpr)):
                if 1 - delta - x > 0:
                    best = max(best, math.log(1 - delta - x) - math.log(y))
    return best


def epsilon_is_its_definition(delta: float = 0.0) -> None:
    generator = np.random.default_rng(0)
    for shift, spread in ((0.0, 1.5), (1.0, 1.5), (3.0, 1.5), (12.0, 1.5), (0.0, 6.0), (0.0, 0.1)):
        unlearned, retrained = generator.normal(shift, spread, (9, 12)), generator.normal(0, 1, (11, 12))
        retrained[:3, :4] = unlearned[:3, :4]  # ties, which no threshold may cut
        found = ForgettingQuality(delta=delta).of_margins(unlearned, retrained)
        expected = [slow_epsilon(list(u), list(r), delta) for u, r in zip(unlearned.T, retrained.T, strict=True)]
        assert found == pytest.approx(expected, abs=1e-9)


def thresholds_are_their_definitions() -> None:
    """Scores are log p_y and minus the entropy; the threshold has the best F1 of all on the validation fold, and no other."""
    table = pool(models=8, samples=20, shift=1.5, difficulty=0.5)
    validation = rows_where(table, fold="validation", role=("original", "retrained"))
    truth = np.asarray(validation["role"].to_pylist()) == "original"
    for attack in (LossThreshold(), EntropyThreshold()):
        fitted = attack.fit(table)
        scores = fitted.score(table)
        for index in range(0, len(table), 17):
            logits = np.asarray(table["logits"][index].as_py())
            p = np.exp(logits - logits.max())
            p /= p.sum()
            entropy = -(p * np.log(p)).sum()
            expected = math.log(p[table["label"][index].as_py()]) if isinstance(attack, LossThreshold) else -entropy
            assert scores[index] == pytest.approx(expected, abs=1e-5)
        own = fitted.score(validation)

        def f1(cut: float, own: np.ndarray = own) -> float:
            predicted = own >= cut
            return float(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))

        assert fitted.validation_f1 == pytest.approx(max(f1(cut) for cut in own))
        assert f1(fitted.threshold) == pytest.approx(fitted.validation_f1)
    assert area(table, LossThreshold().fit(table).score(table), "original") > 0.6


def loss_threshold_reaches_the_closed_form(d: float = 1.0, difficulty: float = 2.0) -> None:
    """One threshold for all samples, so how hard they are counts as noise.

    log p_y = −log(1 + e^−φ) rises with φ, so its AUC is that of φ itself. With φ ~ Normal(c_s + d, 1) for members and
    Normal(c_s, 1) for others it is, over pairs of a member's sample s and another's t, the mean of Φ((d + c_s − c_t)/√2); and
    where the centres c are Normal(0, δ²) themselves the difference is Normal(d, 2(1 + δ²)), hence Φ(d/√(2(1 + δ²))).
    """
    samples = 1500
    table = pool(models=20, samples=samples, shift=d, difficulty=difficulty, references=False, seed=3)
    centres = difficulty * np.random.default_rng(3).normal(size=samples)  # as `pool` draws them
    pairs = stats.norm.cdf((d + centres[:, None] - centres[None, :]) / math.sqrt(2)).mean()
    form = NormalDist().cdf(d / math.sqrt(2 * (1 + difficulty**2)))
    found = area(table, LossThreshold().fit(table).score(table), "original")
    assert found == pytest.approx(float(pairs), abs=0.01)
    assert found == pytest.approx(form, abs=0.015)


def gap_is_its_definition() -> None:
    """1 where the model is right; so its AUC is ½ + (accuracy on members − accuracy on others) / 2."""
    table = shuffled(pool(models=8, samples=40, shift=1.5, references=False))
    scores = Gap().fit(table).score(table)
    right = [float(max(r["logits"]) == r["logits"][r["label"]]) for r in table.to_pylist()]
    assert scores.tolist() == right
    roles, folds = (np.asarray(table[name].to_pylist()) for name in ("role", "fold"))
    inside, outside = (scores[(roles == role) & (folds == "test")].mean() for role in ("original", "retrained"))
    assert area(table, scores, "original") == pytest.approx(0.5 + (inside - outside) / 2)
    assert inside > outside


def one_shadow_is_its_definition() -> None:
    """log p_y less that of one model that was not trained on the sample: the train fold's first by id."""
    table = shuffled(pool(models=8, samples=12, shift=1.0, unlearned={"pgu": 0.4}))
    rows = table.to_pylist()
    log_p = [-math.log1p(math.exp(-slow_phi(np.asarray(r["logits"]), r["label"]))) for r in rows]
    shadow = {
        r["sample_id"]: value
        for r, value in zip(rows, log_p, strict=True)
        if (r["role"], r["model_id"]) == ("retrained", "retrained-000")
    }
    wanted = [value - shadow[r["sample_id"]] for r, value in zip(rows, log_p, strict=True)]
    assert OneShadow().fit(table).score(table) == pytest.approx(wanted, abs=1e-6)


def rmia_ranks_by_the_calibrated_ratio() -> None:
    """What RMIA promises whatever the distribution: its score never falls where p(x|θ)/p(x) rises, so at γ = 1 it has the
    ratio's AUC but for ties; and it never rises with γ. How hard a sample is is taken out by p(x), which p(x|θ) alone is not.
    """
    table = pool(models=24, samples=60, shift=1.5, difficulty=2.0, references=False)
    p = 1.0 / (1.0 + np.exp(-np.asarray([slow_phi(r["logits"], r["label"]) for r in table.to_pylist()])))
    roles, folds = (np.asarray(table[name].to_pylist()) for name in ("role", "fold"))
    samples, column = np.unique(table["sample_id"].to_numpy(), return_inverse=True)
    means = [
        np.bincount(column[rows], p[rows], len(samples)) / np.bincount(column[rows], minlength=len(samples))
        for rows in ((roles == role) & (folds != "test") for role in ("original", "retrained"))
    ]
    test = folds == "test"
    ratio = (p / (0.5 * (means[0] + means[1]))[column])[test]
    scores = {gamma: RMIA(gamma=gamma).fit(table).score(table) for gamma in (1.0, 1.1, 1.5, 3.0)}
    for score in scores.values():
        assert (np.diff(score[test][np.argsort(ratio, kind="stable")]) >= 0).all()
    for low, high in itertools.pairwise(scores):
        assert (scores[low] >= scores[high]).all()
        assert (scores[low] > scores[high]).any()
    members = roles[test] == "original"
    assert auc(members, scores[1.0][test]) == pytest.approx(auc(members, ratio), abs=0.005)
    assert auc(members, ratio) > auc(members, p[test]) + 0.05


QUICK = XGBoostAttack(max_depth=3, eta=0.3, rounds=15)


def xgboost_finds_members_and_nothing_where_there_is_none() -> None:
    table = pool(models=10, samples=60, shift=2.0, difficulty=0.5, references=False)
    assert area(table, QUICK.fit(table).score(table), "original") > 0.75
    nothing = pool(models=10, samples=60, shift=0.0, difficulty=0.5, references=False)
    assert area(nothing, QUICK.fit(nothing).score(nothing), "original") == pytest.approx(0.5, abs=0.1)


def xgboost_never_looks_at_the_test_fold() -> None:
    table = pool(models=10, samples=30, shift=1.0, references=False)
    without = rows_where(table, fold=("train", "validation"))
    assert np.array_equal(QUICK.fit(table).score(table), QUICK.fit(without).score(table))


def xgboost_refuses_a_split_by_row() -> None:
    table = pool(models=6, samples=20, references=False)
    folds = np.asarray(table["fold"].to_pylist(), dtype=object)
    fitting = np.flatnonzero(folds != "test")
    folds[fitting] = np.where(np.random.default_rng(0).random(len(fitting)) < 0.7, "train", "validation")
    by_row = table.set_column(4, "fold", pa.array(folds.tolist(), pa.string()))
    try:
        QUICK.fit(by_row)
    except ValueError as error:
        assert "rows in 2 folds" in str(error)  # noqa: PT017 - a check is called where no test framework waits
    else:
        raise AssertionError("a split by row was taken")


def features_are_softmax_beside_one_hot() -> None:
    """Forgotten classes are dropped before the softmax, and the label stands beside it, one-hot."""
    logits = np.asarray([[1.0, 2.0, 3.0, 9.0], [30.0, 0.0, -30.0, 5.0]])
    table = outputs_table("m", "original", "", "{}", "train", np.arange(2), np.asarray([3, 0]), logits)
    features = shadow_features(table, 4, forget_classes=(3,))
    kept = np.exp([1.0, 2.0, 3.0]) / np.exp([1.0, 2.0, 3.0]).sum()
    assert features[0] == pytest.approx([*kept, 0, 0, 0, 1], abs=1e-6)
    assert features[1] == pytest.approx([1, 0, 0, 1, 0, 0, 0], abs=1e-6)


def tuning_looks_at_validation_models() -> None:
    """The F1 of validation models alone, which a fit on the train fold cannot have seen."""
    table = pool(models=10, samples=60, shift=1.0, difficulty=0.5, references=False)
    fitted = QUICK.fit(table)
    validation = rows_where(table, fold="validation")
    truth = (np.asarray(validation["role"].to_pylist()) == "original").astype(float)
    assert fitted.validation_f1 == pytest.approx(best_f1(truth, fitted.score(validation))[1])


def an_audit_measures_what_each_attack_does_alone() -> None:
    """On shuffled rows, from one pass: φ and entropies must reach the right model and sample, and fits the right folds."""
    table = pool(models=8, samples=12, shift=1.5, unlearned={"pgu": 0.8, "eu_k": 0.2}, difficulty=1.0, references=False)
    only = table.filter(pc.not_equal(table["method"], "eu_k"))
    names = ["xgboost", "lira", "u_lira", "rmia", "one_shadow", "gap", "loss_threshold", "entropy_threshold"]
    settings = {"xgboost": {"max_depth": 2, "eta": 0.3, "min_child_weight": 1.0, "rounds": 5}}
    rows = run_attacks(shuffled(table), names, settings=settings, bootstrap=20)
    row = next(row for row in rows if row["method"] == "pgu")
    attacks = [
        XGBoostAttack(**settings["xgboost"]),
        LiRA(),
        ULiRA(),
        RMIA(),
        OneShadow(),
        Gap(),
        LossThreshold(),
        EntropyThreshold(),
    ]
    for attack in attacks:
        name = "auc" if attack.name == "xgboost" else f"{attack.name}/auc"
        assert row["metrics"][name] == pytest.approx(area(only, attack.fit(only).score(only), "pgu")), name
    sides = rows_where(table, method="pgu"), rows_where(table, role="retrained")
    assert row["metrics"]["klom/mean"] == pytest.approx(KLoM().measure(*sides).summary["mean"])
    assert logits_matrix(table).shape[1] == 4
