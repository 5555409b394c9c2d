"""A league's table, from rows alone: places, spreads, the page; how many models a gap needs."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from attack.metrics.measure import Measure, mean_measure
from attack.metrics.planning import Spreads, models_for_gap
from attack.metrics.ranks import Call
from attack.metrics.row import Row
from orchestrator.base.documents import LeagueDocument, LeagueTrial, Tuned
from orchestrator.commands.cli import main
from orchestrator.experiments.league.detect import spreads_of
from orchestrator.experiments.league.gaps import average_gap, tug_of_war
from orchestrator.experiments.league.table import build
from orchestrator.plan.league import check_league
from orchestrator.recipe.recipe import check_recipe
from orchestrator.report import league_tables
from orchestrator.report.league_page import write_league

from .test_league import playing


def row(method: str, auc: list[float], test: float = 10.0, spread: float = 0.2) -> Row:
    kind = "retrain" if method == "retrain" else "original"
    names = [f"{kind}-{i:03d}" for i in range(len(auc))]
    errors = [test + spread * (-1) ** i for i in range(len(auc))]
    metrics = {"auc": mean_measure(dict(zip(names, auc, strict=True)))}
    for name in ("error_forget", "error_retain", "error_test"):
        metrics[name] = mean_measure(dict(zip(names, errors, strict=True)))
    return Row(method, metrics=metrics, models=len(auc), sources=tuple(names), access="retain")


def tuned(method: str, winner: bool = True) -> Tuned:
    return {
        "method": method,
        "title": method,
        "trials": [],
        "spent": {"settings": 3, "models": 4, "seconds": 1.5},
        "winner": {"name": method} if winner else None,
        "within_bound": winner,
        "why": "" if winner else "it burst",
    }


NOISE = [0.004, -0.003, 0.002, -0.003, 0.001, -0.001]


def around(auc: float, turn: int = 0) -> list[float]:
    return [auc + NOISE[(i + turn) % 6] for i in range(6)]


def table(tiny: dict[str, Any], rows: list[Row], *, earlier: tuple[Call, ...] = (), **fields: Any) -> LeagueDocument:
    document = playing(tiny, **fields)
    names = [each.method for each in rows if each.method not in ("no_unlearn", "retrain")]
    document["methods"] = [{"name": name} | ({"k": 2} if name == "eu_k" else {}) for name in dict.fromkeys(names)]
    plan = check_league(check_recipe(document))
    return build(plan, rows, [tuned(name) for name in dict.fromkeys(names)], earlier, 1)


def places(document: LeagueDocument) -> dict[str, tuple[int | None, int | None]]:
    return {row["method"]: (row["rank"], row["rank_high"]) for row in document["rows"]}


REFERENCES = [row("no_unlearn", around(0.8)), row("retrain", around(0.5, 2))]


def test_methods_end_where_they_belong(tiny: dict[str, Any]) -> None:
    rows = [
        *REFERENCES,
        row("finetune", around(0.8, 1)),
        row("scrub", around(0.5, 4)),
        row("salun", around(0.2, 3)),
        row("eu_k", around(0.5, 1), test=80.0),
    ]
    found = table(tiny, rows, bound={"error_test_increase": 5.0})
    by_name = {each["method"]: each for each in found["rows"]}
    assert places(found) == {
        "no_unlearn": (None, None), "retrain": (None, None), "scrub": (1, 1), "finetune": (2, 4), "salun": (2, 4),
        "eu_k": (None, None),
    }  # fmt: skip
    assert found["winners"] == {"retain": "scrub"}
    assert by_name["scrub"]["beats_nothing"]
    assert not by_name["finetune"]["beats_nothing"], "it does nothing"
    assert not by_name["salun"]["beats_nothing"], "0.2 is as far from 0.5 as 0.8: over-unlearning is no forgetting"
    assert by_name["eu_k"]["why"] == "its test error rises beyond the bound"
    assert by_name["eu_k"]["within_bound"] is False
    assert by_name["scrub"]["cells"]["auc"]["outside"] is False
    assert by_name["finetune"]["cells"]["auc"]["outside"] is True
    assert by_name["eu_k"]["cells"]["error_test"]["outside"] is True
    assert [each["method"] for each in found["rows"]][-1] == "eu_k"


def test_methods_that_see_retain_data_do_not_compete_with_those_that_do_not(tiny: dict[str, Any]) -> None:
    rows = [*REFERENCES, row("grad_ascent", around(0.7)), row("scrub", around(0.5, 4))]
    found = table(tiny, rows)
    assert {each["method"]: each["group"] for each in found["rows"]} == {
        "no_unlearn": "reference", "retrain": "reference", "grad_ascent": "forget", "scrub": "retain",
    }  # fmt: skip
    assert places(found)["grad_ascent"] == (1, 1), "best of its group: only doing nothing is worse"
    assert found["compared"] == 2


def test_seeds_are_one_row_with_two_kinds_of_spread(tiny: dict[str, Any]) -> None:
    several = [row("scrub", around(auc, turn)) for turn, auc in enumerate((0.48, 0.5, 0.52))]
    found = table(tiny, [*REFERENCES, *several], seeds=3)
    [scrub] = [each for each in found["rows"] if each["method"] == "scrub"]
    assert scrub["seeds"] == 3
    assert scrub["cells"]["auc"]["value"] == pytest.approx(0.5)
    assert scrub["spread"]["seeds"] == pytest.approx(0.02, rel=0.2)
    assert scrub["spread"]["models"] == pytest.approx(0.0, abs=0.002)
    assert scrub["spread"]["worst_model"] in {f"original-{i:03d}" for i in range(6)}


def test_calls_of_the_first_look_stand(tiny: dict[str, Any]) -> None:
    rows = [*REFERENCES, row("scrub", around(0.5, 4)), row("salun", around(0.5, 1))]
    found = table(tiny, rows, earlier=(Call("salun", "scrub", 0.01, 1),))
    assert places(found)["salun"] == (1, 1)
    assert {"better": "salun", "worse": "scrub", "adjusted": 0.01, "look": 1} in found["pairs"]


def test_a_method_that_could_not_be_measured_says_why(tiny: dict[str, Any]) -> None:
    document = playing(tiny)
    document["methods"] = [{"name": "scrub"}, {"name": "salun"}]
    plan = check_league(check_recipe(document))
    rows = [*REFERENCES, row("scrub", around(0.5, 4))]
    found = build(plan, rows, [tuned("scrub"), tuned("salun", winner=False)], (), 1)
    last = found["rows"][-1]
    assert (last["method"], last["rank"], last["why"]) == ("salun", None, "it burst")


def test_the_average_gap_and_the_tug_of_war() -> None:
    mine = {"original-000": 12.0, "original-001": 8.0}
    theirs = {"retrain-000": 10.0, "retrain-001": 10.0, "retrain-002": 13.0}
    metrics = {name: mean_measure(mine) for name in ("error_forget", "error_retain", "error_test")}
    other = {name: mean_measure(theirs) for name in metrics}
    method = Row(
        "scrub", metrics={**metrics, "auc": Measure.of(0.6, by_model={"original-000": 0.7, "original-001": 0.5})}
    )
    retrain = Row("retrain", metrics={**other, "auc": Measure.of(0.5, by_model=dict.fromkeys(theirs, 0.5))})
    # |12 − 11| = 1 and |8 − 11| = 3 for the errors; 20 and 0 points of AUC
    assert average_gap(method, retrain).value == pytest.approx(((3 * 1 + 20) / 4 + (3 * 3 + 0) / 4) / 2)
    assert tug_of_war(method, retrain).value == pytest.approx((0.99**3 + 0.97**3) / 2)
    # each of Retrain's own against the mean of the others: 1.5, 1.5 and 3 points
    assert average_gap(retrain, retrain).value == pytest.approx((1.5 + 1.5 + 3) * 3 / 4 / 3)
    assert not average_gap(Row("salun"), retrain).known


def test_the_tables_say_the_same(tiny: dict[str, Any]) -> None:
    rows = [*REFERENCES, row("finetune", around(0.8, 1)), row("scrub", around(0.5, 4))]
    found = table(tiny, rows)
    lines = list(csv.DictReader(io.StringIO(league_tables.to_csv(found))))
    assert [line["method"] for line in lines] == [each["method"] for each in found["rows"]]
    scrub = next(line for line in lines if line["method"] == "scrub")
    assert (scrub["rank"], scrub["auc_outside"], scrub["tuned_models"]) == ("1", "false", "4")
    assert float(scrub["auc_band_low"]) < 0.5 < float(scrub["auc_band_high"])
    latex, markdown = league_tables.to_latex(found), league_tables.to_markdown(found)
    assert latex.count(r"\\") == len(latex.split(r"\\")) - 1
    assert "0.800*" in markdown.replace("\\", "")
    assert "2 (2 to 3)" in markdown
    assert "see retain data" in latex


def test_the_page_shows_the_table_and_what_it_does_not_say(tiny: dict[str, Any], tmp_path: Path) -> None:
    rows = [*REFERENCES, row("finetune", around(0.8, 1)), row("scrub", around(0.5, 4)), row("grad_ascent", around(0.7))]
    found = table(tiny, rows)
    for each in found["rows"]:
        each["title"] = each["title"].replace("finetune", "<b>fine</b>")
    found["tuned"][0]["trials"] = [trial(1, 0.2, winner=True), trial(2, 0.7)]
    (tmp_path / "league.json").write_text(json.dumps(found))
    written = write_league(tmp_path)
    assert {path.name for path in written} == {
        "league.csv", "league.md", "league.tex", "league.html",
        "league-plane.svg", "league-plane.png", "league-tuning.svg", "league-tuning.png",
    }  # fmt: skip
    page = (tmp_path / "league.html").read_text()
    assert "<b>fine</b>" not in page
    assert "&lt;b&gt;fine&lt;/b&gt;" in page
    assert "scrub among methods that see retain data" in page
    assert all(html.escape(text, quote=True) in page.replace("&#34;", "&quot;") for text in found["cautions"])
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:|report\.html)""", page), "nothing is loaded from elsewhere"
    assert page.count("<tbody data-group=") == 3
    assert "band of chance" in (tmp_path / "figures" / "league-plane.svg").read_text()
    before = {path: path.read_bytes() for path in written}
    assert {path: path.read_bytes() for path in write_league(tmp_path)} == before
    (tmp_path / "league.json").write_text("{")
    assert write_league(tmp_path) == []


def trial(number: int, objective: float, winner: bool = False) -> LeagueTrial:
    return {
        "number": number, "source": "drawn", "params": {"lr": 0.1}, "models": 2, "distance": objective, "auc": 0.5 + objective,
        "error": 10.0, "error_rise": 0.0, "objective": objective, "within_bound": True, "seconds": 1.0, "status": "finished",
        "why": "", "winner": winner,
    }  # fmt: skip


def test_distances_are_ranked_by_their_intervals(tiny: dict[str, Any]) -> None:
    def with_klom(each: Row, value: float) -> Row:
        return Row(
            each.method,
            metrics={**each.metrics, "klom/p95": Measure.of(value, [value - 0.3, value + 0.3], models=6)},
            models=6,
        )

    rows = [with_klom(each, value) for each, value in zip(
        [*REFERENCES, row("finetune", around(0.8, 1)), row("scrub", around(0.5, 4))], (5.0, 1.0, 4.9, 1.1), strict=True
    )]  # fmt: skip
    found = table(tiny, rows, objective="klom")
    assert places(found) == {"no_unlearn": (None, None), "retrain": (None, None), "scrub": (1, 1), "finetune": (2, 3)}


# ------------------------------ how many models


def test_spreads_are_those_of_the_values() -> None:
    first, second = {"a": 0.5, "b": 0.6, "c": 0.7}, {"a": 0.52, "b": 0.55, "c": 0.61}
    found = spreads_of([first, second, {"a": 0.4}], {"r": 0.5, "s": 0.54})
    assert found is not None
    variances = [np.var(list(table.values()), ddof=1) for table in (first, second)]
    assert found.spreads.method == pytest.approx(math.sqrt(np.mean(variances)))
    assert found.spreads.retrain == pytest.approx(0.04 / math.sqrt(2))
    expected = np.corrcoef(list(first.values()), list(second.values()))[0, 1]
    assert found.spreads.correlation == pytest.approx(min(0.99, expected))
    assert found.models == 2
    assert spreads_of([{"a": 0.5}], {"r": 0.5, "s": 0.6}) is None


def results_of(rows: list[Row]) -> dict[str, Any]:
    return {"schema": 1, "rows": [each.to_json() for each in rows], "environment": {}, "recipe": {}}


def test_plan_says_how_many_models_a_gap_needs(tiny: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    plan = ["plan", str(tmp_path / "tiny.yaml"), "--output", str(tmp_path / "out"), "--slots", "2", "--detect"]
    assert main([*plan, "0.03"]) == 2
    assert "no spread between models is known yet" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    rows = [*REFERENCES, row("eu_k", around(0.6, 1))]
    (tmp_path / "out" / "results.json").write_text(json.dumps(results_of(rows)))
    assert main([*plan, "0.002", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["detection"]
    spreads = Spreads(np.std(around(0.6, 1), ddof=1), np.std(around(0.5, 2), ddof=1))
    assert found["models"] == models_for_gap(0.002, spreads)
    assert found["rivals"] == 0, "pgu and eu_k see different data"
    assert found["models_ranking"] is None
    assert main([*plan, "0.01"]) == 0
    shown = capsys.readouterr().out
    assert "to tell a gap of 0.01 in auc from none in 80% of cases" in shown
    assert "measured on 6 models only" in shown


@pytest.mark.parametrize("gap", ["0", "-1", "0.6", "much"])
def test_a_gap_that_no_auc_has_is_refused(gap: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "demo", "--detect", gap])
    assert "give a gap of AUC above 0" in capsys.readouterr().err
