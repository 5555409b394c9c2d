"""The word on a row: each rule of it, and what real audits with a planted truth are called."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from attack.audit.audit import run_attacks
from attack.audit.judged import CURVE_POINTS, _drawn
from attack.audit.verdicts import RowFacts, judge_rows
from attack.metrics.areas import Areas
from attack.metrics.evidence import LEAST_MODELS, AttackEvidence, Confidence, Evidence, GapLeft, Rule, UnseenEvidence
from attack.metrics.traces import Traces
from attack.metrics.verdict import MOST_MODELS, Verdict, judge

from .build import pool
from .test_leak import sides

QUIET = Traces(share=0.01, below=0.01, chance=0.01, p_value=0.5, found=(3,))


def attack(left: float, name: str = "xgboost", *, directed: bool = True, **more: float) -> AttackEvidence:
    return AttackEvidence(name, sides(left, **more), directed)  # type: ignore[arg-type]


def confidence(forget: float, unseen: float, seed: int = 0) -> Confidence:
    generator = np.random.default_rng(seed)
    return Confidence(forget + generator.normal(0.0, 0.1, 12), unseen + generator.normal(0.0, 0.1, 12))


def unseen(forget: float, images: float) -> UnseenEvidence:
    """φ of the models under test; Retrain has 1 on both, and models never unlearned 3 on forget samples."""
    return UnseenEvidence(confidence(forget, images, 1), confidence(1.0, 1.0, 2), confidence(3.0, 1.0, 3))


def evidence(*attacks: AttackEvidence, **more: object) -> Evidence:
    return Evidence(attacks, **{"traces": QUIET, **more})  # type: ignore[arg-type]


def test_forgot_is_shown() -> None:
    found = judge(evidence(attack(0.0), attack(0.02, "lira", seed=1)))
    assert found.word == "forgot"
    assert all(-0.25 < leak.low < leak.high < 0.25 for leak in found.leaks if leak.low and leak.high)
    assert found.needed is None


@pytest.mark.parametrize("left", [0.0, 0.1])
def test_a_wide_interval_shows_nothing(left: float) -> None:
    found = judge(evidence(attack(left, spread=0.15, seed=4)))
    assert found.word == "undecided"
    assert found.leaks[0].high is not None
    assert found.leaks[0].high > 0.25
    assert found.needed is None or found.needed > 12
    assert "of the leak may be left, up to" in found.reason


def test_every_attack_that_sees_must_pass() -> None:
    assert judge(evidence(attack(0.0), attack(0.1, "lira", spread=0.1, seed=5))).word == "undecided"
    assert judge(evidence(attack(0.0), attack(0.6, "lira"))).word == "remembers"


@pytest.mark.parametrize("left", [0.3, 1.0])
def test_remembers(left: float) -> None:
    found = judge(evidence(attack(left)))
    assert (found.word, found.strongest) == ("remembers", "xgboost")


def test_more_attacks_need_clearer_evidence() -> None:
    """Holm: one of twenty attacks that lies above 0 by little may do so by luck."""
    weak = next(a for seed in range(200) if 0.006 < (a := attack(0.05, "weak", seed=seed)).ratio.p_above(0.0) < 0.02)
    assert judge(evidence(weak, traces=None, reference=True)).word == "remembers"
    others = [attack(0.0, f"other {i}", seed=100 + i) for i in range(19)]
    crowd = [a for a in others if a.ratio.p_above(0.0) > 0.2]
    assert judge(evidence(weak, *crowd, traces=None, reference=True)).word != "remembers"


def test_a_blind_attack_decides_nothing() -> None:
    every = (attack(0.0, "blind", before=0.502, spread=0.05, seed=seed) for seed in range(20))
    blind = next(found for found in every if not found.sees)
    assert judge(evidence(blind)).word == "undecided"
    assert "No attack" in judge(evidence(blind)).reason
    beside = judge(evidence(attack(0.0), blind))
    assert beside.word == "forgot"
    assert [leak.value for leak in beside.leaks if leak.attack == "blind"] == [None]


def test_models_that_do_nothing_are_never_forgotten() -> None:
    same = sides(0.0)
    before = AttackEvidence("xgboost", replace(same, method=same.before, parents=np.arange(12)))
    assert judge(evidence(before)).word == "remembers"


@pytest.mark.parametrize("models", [1, 2, LEAST_MODELS - 1])
@pytest.mark.parametrize("left", [0.0, 1.0])
def test_few_models_decide_nothing(models: int, left: float) -> None:
    found = judge(evidence(attack(left, models=models)))
    assert found.word == "undecided"
    assert "give each side 5 or more" in found.reason
    assert (found.few, found.needed) == (models, None)
    assert Verdict.from_json(found.to_json()) == found
    assert judge(evidence(attack(1.0, models=LEAST_MODELS))).word == "remembers"


def test_single_samples_break_the_claim() -> None:
    few = replace(QUIET, share=0.05, p_value=0.2)
    assert judge(evidence(attack(0.0), traces=few)).word == "undecided"
    found = judge(evidence(attack(0.0), traces=replace(few, p_value=0.001)))
    assert found.word == "remembers"
    assert "5.0 % of the forget samples stand out" in found.reason
    assert judge(evidence(attack(0.0), traces=replace(QUIET, share=0.02))).word == "forgot", "as much again is allowed"
    assert judge(evidence(attack(0.0), traces=None)).word == "undecided"


def test_a_divergence_stops_forgot_where_it_shows_more_than_the_tolerance() -> None:
    def gap(value: float, reach: float) -> tuple[GapLeft, ...]:
        return (GapLeft("klom", value, value - reach, value + reach),)

    found = judge(evidence(attack(0.0), gaps=gap(0.6, 0.3)))
    assert (found.word, found.needed) == ("undecided", None)
    assert "klom finds 60 % of its gap left" in found.reason
    assert "More models alone may not decide this." in found.sentence()
    assert judge(evidence(attack(0.0), gaps=gap(0.6, 0.4))).word == "forgot", "its interval reaches the tolerance"
    assert judge(evidence(attack(0.5), gaps=gap(0.0, 0.1))).word == "remembers", "it speaks for no one"
    assert Verdict.from_json(found.to_json()) == found


@pytest.mark.parametrize("left", [0.0, 0.1, 0.2, -0.1])
def test_undecided_says_how_many_models_would_decide(left: float) -> None:
    found = judge(evidence(attack(left, spread=0.12, seed=4)))
    if found.word == "undecided":
        assert found.needed is not None
        assert found.needed > 12
        assert "models a side would" in found.sentence()


def test_one_model_that_fails_is_named() -> None:
    given = sides(0.0)
    method = given.method.copy()
    method[4] += 0.3
    found = judge(evidence(AttackEvidence("xgboost", replace(given, method=method))))
    assert (found.word, found.failing) == ("remembers", (4,))
    assert found.reason == "1 of the models under test still remember" or "attack" in found.reason


def test_below_retrain_is_damage_or_over_unlearning_or_open() -> None:
    low = attack(-0.6)
    assert judge(evidence(low)).word == "undecided", "without unseen images neither can be told"
    assert judge(evidence(low, unseen=unseen(-1.0, 1.0))).word == "over_unlearned"
    assert judge(evidence(low, unseen=unseen(-1.0, -1.0))).word == "damaged"
    assert judge(evidence(low, unseen=unseen(-3.0, -1.0))).word == "over_unlearned", "both, and forget samples more"


def test_damage_is_not_memory() -> None:
    """An attack that misreads damaged outputs as memory is overruled by what holds under the same models."""
    assert judge(evidence(attack(0.5), unseen=unseen(-1.0, -1.0))).word == "damaged"
    assert judge(evidence(attack(0.5), unseen=unseen(1.0, -1.0))).word == "remembers"
    assert judge(evidence(attack(0.5), unseen=unseen(3.0, 3.0))).word == "undecided", "all grew more confident"
    assert judge(evidence(attack(0.0), unseen=unseen(1.0, 1.0))).word == "forgot"


def test_constant_outputs_are_damage() -> None:
    found = judge(evidence(attack(0.0), constant=True))
    assert (found.word, found.reason) == ("damaged", "The outputs are the same for all images")


def test_an_attack_without_direction_does_not_say_which_way() -> None:
    undirected = attack(0.9, "u_lira", directed=False)
    low = attack(-0.6, "lira")
    assert judge(evidence(low, undirected, unseen=unseen(-1.0, 1.0))).word == "over_unlearned"
    assert judge(evidence(attack(0.0), undirected)).word == "remembers"
    assert judge(evidence(low, undirected, unseen=unseen(-1.0, 1.0))).strongest == "u_lira", "the strongest is named"


def test_a_crooked_yardstick_withholds_forgot() -> None:
    found = judge(evidence(attack(0.0), bent=("xgboost",)))
    assert found.word == "undecided"
    assert "yardstick" in found.reason
    assert judge(evidence(attack(0.6), bent=("xgboost",))).word == "remembers"


def test_the_tolerance_is_the_users() -> None:
    one = evidence(attack(0.0, spread=0.05, seed=3))
    assert judge(one, Rule(tolerance=0.9)).word == "forgot"
    assert judge(one, Rule(tolerance=0.01)).word == "undecided"


def test_what_is_said() -> None:
    found = judge(evidence(attack(0.6), attack(0.9, "u_lira", directed=False)))
    text = found.told()
    assert text.startswith("Did not forget: ")
    assert "The strongest attack, u_lira, has AUC 0.7" in text
    assert "Left of the leak: xgboost 56 % [52 %, 61 %] and u_lira" in text
    assert found.sentence({"u_lira": "U-LiRA", "xgboost": "XGBoost"}.__getitem__).count("U-LiRA") == 2
    far = replace(found, needed=MOST_MODELS + 1)
    assert "More than 1,000 models a side" in far.sentence()


def test_json_holds_all_of_it() -> None:
    found = judge(evidence(attack(0.1, spread=0.1), unseen=unseen(1.0, 1.0)))
    assert Verdict.from_json(found.to_json()) == found
    with pytest.raises(ValueError, match="word: 'told apart' is not allowed"):
        Verdict.from_json({"word": "told apart"})


def facts(method: str, matrix: np.ndarray, **more: object) -> RowFacts:
    names = np.asarray([f"retrained-{i}" for i in range(matrix.shape[1])])
    found = Areas(matrix, np.ones_like(matrix), names)
    return RowFacts(method, tuple(f"m{i}" for i in range(len(matrix))), areas={"rmia": found}, traces=QUIET, **more)  # type: ignore[arg-type]


def test_rows_are_judged_beside_both_references() -> None:
    given = sides(0.5)
    rows = [facts("no_unlearn", given.before), facts("retrain", given.retrain), facts("pgu", given.method)]
    assert [verdict.word for verdict in judge_rows(rows)] == ["remembers", "forgot", "remembers"]
    silent = judge_rows(rows, silent=["rmia"])
    assert {verdict.word for verdict in silent} == {"undecided"}
    assert "No attack could be measured" in silent[0].reason
    assert judge_rows([rows[2]])[0].word == "undecided", "without a reading before, there is no leak to compare with"


def test_a_missing_parent_is_told_and_a_failing_model_is_named() -> None:
    given = sides(0.0)
    method = given.method.copy()
    method[4] += 0.3
    rows = [facts("no_unlearn", given.before), facts("retrain", given.retrain), facts("pgu", method)]
    notes = judge_rows(rows)[2].notes
    assert any("m4" in note for note in notes)
    assert any("column parent is missing" in note for note in notes)
    known = replace(rows[2], parents=tuple(f"m{i}" for i in range(12)))
    assert not any("parent" in note for note in judge_rows([*rows[:2], known])[2].notes)


def test_retrain_that_is_told_apart_is_no_yardstick() -> None:
    given = sides(0.0)
    rows = [facts("no_unlearn", given.before), facts("retrain", given.retrain + 0.1), facts("pgu", given.method + 0.1)]
    found = judge_rows(rows)
    assert [verdict.word for verdict in found[1:]] == ["undecided", "undecided"]
    assert all("yardstick is in doubt" in verdict.reason for verdict in found[1:])


ATTACKS = ("loss_threshold", "lira", "rmia", "u_lira")


@pytest.fixture(scope="module")
def audited() -> dict[str, dict]:
    """Outputs with planted truths, and unseen images of the same models."""
    more = {"models": 40, "samples": 200, "spread": 1.0, "difficulty": 1.5, "folds": (0.5, 0.6)}
    forget = pool(shift=2.5, unlearned={"exact": 0.0, "half": 1.2, "low": -1.5, "lowered": -2.5}, **more)  # type: ignore[arg-type]
    others = {"exact": 0.0, "half": 0.0, "low": 0.0, "lowered": -2.5}
    images = pool(shift=0.0, unlearned=others, seed=3, **more)  # type: ignore[arg-type]
    both = [t.append_column("set", pa.array([n] * len(t))) for t, n in ((forget, "forget"), (images, "test"))]
    return {row["method"]: row for row in run_attacks(pa.concat_tables(both), ATTACKS, bootstrap=50)}


@pytest.mark.medium
def test_planted_truths_get_their_words(audited: dict[str, dict]) -> None:
    words = {method: row["metrics"]["verdict_word"] for method, row in audited.items()}
    assert words == {
        "no_unlearn": "remembers",
        "retrain": "forgot",
        "exact": "forgot",
        "half": "remembers",
        "low": "over_unlearned",
        "lowered": "damaged",
    }


@pytest.mark.medium
def test_results_hold_the_word_and_the_leak_of_every_attack(audited: dict[str, dict]) -> None:
    row = audited["half"]
    for name in ATTACKS:
        value, (low, high) = row["metrics"][f"{name}/leak_left"], row["ci"][f"{name}/leak_left"]
        assert low < value < high
        assert low > 0.0
    assert row["verdict"].startswith("Did not forget: ")
    assert row["metrics"]["streisand"] is False
    assert audited["low"]["metrics"]["streisand"] is True
    assert audited["no_unlearn"]["metrics"]["u_lira/leak_left"] == pytest.approx(1.0)


def test_u_lira_reads_what_doing_nothing_gives(audited: dict[str, dict]) -> None:
    """U-LiRA of a method that does nothing is LiRA: the originals are what it would be fitted on."""
    metrics = audited["no_unlearn"]["metrics"]
    assert metrics["u_lira/auc"] == pytest.approx(metrics["lira/auc"])


def test_without_unseen_images_rmia_decides_nothing() -> None:
    table = pool(models=40, samples=40, shift=2.5, unlearned={"low": -1.5}, folds=(0.5, 0.6))
    row = next(r for r in run_attacks(table, ("lira", "rmia"), bootstrap=50) if r["method"] == "low")
    assert row["metrics"]["verdict_word"] == "undecided"
    assert "without outputs on unseen images" in row["verdict"].lower()
    assert [leak["attack"] for leak in row["judgement"]["leaks"]] == ["lira"]


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "attack" / "verdicts.py"
    spec = importlib.util.spec_from_file_location("simulation_of_verdicts", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # dataclasses look their module up
    spec.loader.exec_module(found)
    return found


@pytest.mark.parametrize("world", ["plain", "no-unseen"])
def test_the_simulation_never_calls_a_leak_forgotten(simulation: ModuleType, world: str) -> None:
    for seed in range(3):
        words, missed = simulation.repetition(simulation.WORLDS[world], 8, 40, seed)
        assert set(words) == set(simulation.TRUTHS)
        assert words["nothing done"] == "remembers"
        assert words["constant"] == "damaged"
        assert "forgot" not in {words[name] for name in ("40 % left", "half and half", "lowered", "forget lowered")}
        assert set(missed) == {"exact", "fresh originals"}


def test_a_drawn_curve_keeps_its_low_end() -> None:
    """Over half a million rows: neighbours on the log axis are never further apart than a tenth of a decade."""
    fpr = np.linspace(0.0, 1.0, 500_001)
    kept = fpr[_drawn(fpr)]
    assert (kept[0], kept[-1]) == (0.0, 1.0)
    assert len(kept) <= CURVE_POINTS + 110
    assert np.log10(kept[2:] / kept[1:-1])[kept[1:-1] > 1e-5].max() < 0.1
    assert np.diff(kept).max() < 0.01, "nor on a linear one"
    assert len(_drawn(np.linspace(0.0, 1.0, 101))) == 101, "a short curve is kept whole"
