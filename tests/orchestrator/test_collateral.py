"""Who else was hurt, from a recipe to the page, held against the outputs that the run itself writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from attack import KLoM, outputs_table
from orchestrator.commands.cli import main
from orchestrator.plan.data import load_data
from orchestrator.plan.plan import make_plan
from orchestrator.recipe.recipe import check_recipe

from .test_forget_sets import asked, photos  # noqa: F401 - fixtures


def slow_outputs(folder: Path, file: str, only: str) -> dict[tuple[str, str], dict[int, tuple[int, np.ndarray]]]:
    """(method or role, model id) → sample id → label and logits."""
    found: dict[tuple[str, str], dict[int, tuple[int, np.ndarray]]] = {}
    for row in pq.read_table(folder / "outputs" / file).to_pylist():
        if row["set"] == only:
            key = (row["method"] or row["role"], row["model_id"])
            found.setdefault(key, {})[row["sample_id"]] = row["label"], np.asarray(row["logits"], dtype=float)
    return found


def slow_phi(label: int, logits: np.ndarray) -> float:
    p = np.exp(logits - logits.max())
    p /= p.sum()
    return float(np.log(p[label]) - np.log(np.delete(p, label).sum()))


@pytest.mark.medium
def test_a_run_says_who_else_was_hurt(
    asked: dict[str, Any],  # noqa: F811
    photos: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked["attacks"] = [{"name": "loss_threshold"}]
    asked["outputs"] = {"retain": 40, "test": 30, "group": "user_id"}
    recipe, out = tmp_path / "people.yaml", tmp_path / "out"
    recipe.write_text(json.dumps(asked))
    assert main(["run", str(recipe), "--output", str(out), "--address", "inline", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    retained = slow_outputs(out, "retained.parquet", "retain")
    unseen = slow_outputs(out, "unseen.parquet", "test")
    users = pq.read_table(photos / "train.parquet")["user_id"].to_pylist()
    names = {"no_unlearn": "original"}
    pool = [key for key in retained if key[0] == "retrained"]
    assert len(pool) == 5
    ids = sorted(retained[pool[0]])
    assert len(ids) == 40
    assert not {users[i] for i in ids} & {"u2", "u5", "u7"}, "forgotten people are not among the retained"

    def aucs(keys: list[tuple[str, str]]) -> list[float]:
        found = []
        for key in keys:
            mine, others = ([slow_phi(*row) for row in side[key].values()] for side in (retained, unseen))
            found.append(np.mean([(a > b) + 0.5 * (a == b) for a in mine for b in others]))
        return [float(value) for value in found]

    def errors(keys: list[tuple[str, str]], user: str) -> float:
        rows = [retained[key][i] for key in keys for i in ids if users[i] == user]
        return 100.0 * float(np.mean([logits.argmax() != label for label, logits in rows]))

    for row in document["rows"]:
        mine = sorted(key for key in retained if key[0] == names.get(row["method"], row["method"]))
        assert len(mine) == 2
        harm, metrics = row["collateral"], row["metrics"]
        assert metrics["retained_auc"] == pytest.approx(np.mean(aucs(mine)))
        apart = np.mean(aucs(mine)) - np.mean(aucs(pool))
        assert metrics["retained_auc_minus_retrain"] == pytest.approx(apart)
        assert (harm["retained"], harm["unseen"], metrics["easier_to_find"]) == (40, 15, harm["easier"])
        assert harm["easier"] == 0, "two models are too few to name anybody"
        listed = {each["what"]: each for each in harm["errors"]["user_id"]}
        assert set(listed) == {users[i] for i in ids}
        for user, each in listed.items():
            assert each["value"] == pytest.approx(errors(mine, user))
            assert each["difference"] == pytest.approx(errors(mine, user) - errors(pool, user))
        assert {each["what"] for each in harm["errors_unseen"]["class"]} <= {str(label) for label in range(10)}
    tables = []
    for role, keys in (("unlearned", [k for k in retained if k[0] == "eu_k"]), ("retrained", sorted(pool)[:2])):
        for method, model in keys:
            rows = [retained[method, model][i] for i in ids]
            labels, logits = np.asarray([r[0] for r in rows]), np.asarray([r[1] for r in rows])
            tables.append(outputs_table(model, role, "", "{}", "test", np.asarray(ids), labels, logits))
    half = len(tables) // 2
    import pyarrow as pa

    wanted = KLoM().measure(pa.concat_tables(tables[:half]), pa.concat_tables(tables[half:])).summary
    measured = next(row["metrics"] for row in document["rows"] if row["method"] == "eu_k")
    assert measured["klom/retain_mean"] == pytest.approx(wanted["mean"])
    header = (out / "tables" / "results.csv").read_text().splitlines()[0].split(",")
    assert {"retained_auc", "retained_auc_low", "easier_to_find", "klom/test_p95"} <= set(header)
    page = (out / "report.html").read_text()
    assert "Who else was hurt" in page
    assert "user_id" in page
    # An audit of the outputs that were written is not misled by the retained ones.
    files = [str(path) for path in (out / "outputs").glob("*.parquet")]
    command = ["audit", *files, "--attacks", "loss_threshold", "--output", str(tmp_path / "audit"), "--json"]
    assert main(command) == 0
    again = json.loads(capsys.readouterr().out)
    for mine, theirs in zip(document["rows"], again["rows"], strict=True):
        assert theirs["metrics"]["loss_threshold/auc"] == pytest.approx(mine["metrics"]["loss_threshold/auc"])


def test_older_units_keep_their_keys(asked: dict[str, Any]) -> None:  # noqa: F811
    plans = []
    for kept in ({}, {"retain": 40}):
        recipe = check_recipe({**asked, "outputs": kept})
        plans.append({unit.key: unit.kind for unit in make_plan(recipe, load_data(recipe, None)).units()})
    assert set(plans[0]) <= set(plans[1])
    more = {plans[1][key] for key in set(plans[1]) - set(plans[0])}
    assert more == {"retained", "unseen", "collateral"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"outputs": {"group": "user_id"}}, "outputs.group: 'user_id': has no meaning without outputs.retain"),
        ({"outputs": {"retain": 10, "test": 0}}, "outputs.test: 0: retained images are compared with unseen ones"),
        ({"outputs": {"retain": 10, "group": "age"}}, "outputs.group: 'age'"),
        (
            {"outputs": {"retain": 10}, "scenario": {"kind": "classes", "classes": [0]}},
            "is not measured where whole classes are removed",
        ),
        (
            {"outputs": {"retain": 10}, "shadows": {"originals": 1, "retrained": 0, "split": [0, 0, 1]}, "attacks": []},
            "outputs.retain compares models of both kinds",
        ),
    ],
)
def test_what_cannot_be_audited_is_refused(
    asked: dict[str, Any],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, Any],
    message: str,
) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(json.dumps({**asked, **changed}))
    assert main(["plan", str(recipe)]) == 2
    assert message in capsys.readouterr().err
