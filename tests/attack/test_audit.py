"""The audit of a user's own outputs: what it says is wrong, what it measures, and from which files it reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from attack import ATTACKS, ULiRA, XGBoostAttack, outputs_table, read_logits, read_outputs
from attack.audit.audit import Audit, audit, check, run_attacks
from attack.audit.check import Examination
from attack.outputs.sources import ParquetFiles, Tables
from attack.outputs.table import logits_matrix, rows_where

from .build import area, pool, shuffled

ALL = list(ATTACKS)


def changed(table: pa.Table, name: str, values: object) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def with_logit(table: pa.Table, row: int, value: float) -> pa.Table:
    logits = logits_matrix(table).copy()
    logits[row, 0] = value
    return changed(table, "logits", pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), logits.shape[1]))


def without(table: pa.Table, **columns: str) -> pa.Table:
    mask = None
    for name, value in columns.items():
        found = pc.equal(table[name], value)
        mask = found if mask is None else pc.and_(mask, found)
    return table.filter(pc.invert(mask))


def duplicated(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(3, 1)])


BROKEN: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "no role column": (lambda t: t.drop_columns(["role"]), "role: the column is missing"),
    "labels as text": (
        lambda t: changed(t, "label", t["label"].cast(pa.string())),
        "label: type string is not allowed; give int64",
    ),
    "an unknown role": (
        lambda t: changed(t, "role", pc.replace_substring(t["role"], "original", "orginal")),
        "role: 'orginal' is not allowed; allowed are original, retrained, unlearned",
    ),
    "an unknown fold": (
        lambda t: changed(t, "fold", pc.replace_substring(t["fold"], "train", "trian")),
        "fold: 'trian' is not allowed",
    ),
    "no validation originals": (
        lambda t: without(t, role="original", fold="validation"),
        "role: 0 original models in fold validation; xgboost, loss_threshold, entropy_threshold need at least 1",
    ),
    "no retrained test models": (
        lambda t: without(t, role="retrained", fold="test"),
        "0 retrained models in fold test; the audit",
    ),
    "too few for U-LiRA": (
        lambda t: without(t, role="unlearned", fold="train"),
        "1 unlearned models of pgu {} in folds train and validation; u_lira needs at least 2",
    ),
    "NaN logits": (
        lambda t: with_logit(t, 11, np.nan),
        "logits: 1 rows hold NaN or infinity, the first sample_id 8 of model 'original-001'",
    ),
    "infinite logits": (lambda t: with_logit(t, 0, -np.inf), "logits: 1 rows hold NaN or infinity"),
    "duplicated ids": (duplicated, "sample_id: 1 rows are duplicates, the first sample_id 14 of model 'original-000'"),
    "a model that lacks samples": (lambda t: t.slice(1), "sample_id: 1 models lack samples that others have"),
    "a label outside": (
        lambda t: changed(t, "label", pc.if_else(pc.equal(t["sample_id"], 5), 9, t["label"])),
        "label: 9 (sample_id 5 of model 'original-000') lies outside 0 … 3",
    ),
    "labels that disagree": (
        lambda t: changed(t, "label", pa.array(np.where(np.arange(len(t)) == 4, 2, t["label"].to_numpy()))),
        "label: sample_id 17 is 2 in original model 'original-000', and",
    ),
    "split by row": (
        lambda t: changed(t, "fold", pa.array(np.resize(["train", "train", "validation", "test"], len(t)))),
        "split by model, never by row",
    ),
    "nulls": (lambda t: changed(t, "method", pa.nulls(len(t), pa.string())), "method: 50 rows are null"),
    "nothing": (lambda t: t.slice(0, 0), "outputs: no rows"),
}


@pytest.fixture(scope="module")
def small() -> pa.Table:
    return pool(models=4, samples=10, unlearned={"pgu": 0.5})


@pytest.mark.parametrize("case", BROKEN)
def test_broken_inputs_are_named_exactly_before_anything_starts(small: pa.Table, case: str) -> None:
    broken, words = BROKEN[case]
    problems = check(broken(small), ALL)
    assert any(words in str(problem) for problem in problems), [str(p) for p in problems]
    assert all("\n" not in str(problem) for problem in problems)
    with pytest.raises(ValueError, match=problems[0].where):
        audit(broken(small), ALL)


def test_good_inputs_have_no_problems_and_disorder_is_told_but_mended(small: pa.Table) -> None:
    assert check(small, ALL) == []
    assert check([small.slice(0, 40), small.slice(40)], ALL) == []
    dictionary = changed(small, "role", small["role"].dictionary_encode())
    assert check(dictionary, ALL) == []
    [problem] = check(shuffled(small), ALL)
    assert not problem.fatal
    assert "not ascending" in str(problem)
    assert "'u_lria' is not known" in str(check(small, ["u_lria"])[0])


def test_class_removal_needs_to_be_told_and_keeps_to_attacks_that_can() -> None:
    def model(role: str, fold: str, number: int, classes: list[int] | None) -> pa.Table:
        logits = np.random.default_rng(number).normal(size=(6, 3))
        return outputs_table(
            f"{role}{number}", role, "", "{}", fold, np.arange(6), np.full(6, 4), logits, classes=classes
        )

    folds = ["train", "train", "validation", "test", "test"]
    roles = ("original", "retrained")
    told, untold = (
        pa.concat_tables([model(r, f, i, classes) for r in roles for i, f in enumerate(folds)])
        for classes in ([0, 1, 2], None)
    )
    assert "lies outside 0 … 2" in str(check(untold, ["xgboost"])[0])
    assert check(untold, ["xgboost", "entropy_threshold"], num_classes=5) == []
    assert "read the label's own logit" in str(check(untold, ["lira"], num_classes=5)[0])
    assert check(told, ["xgboost", "entropy_threshold"]) == []
    assert "class 4 was dropped; use xgboost or entropy_threshold" in str(check(told, ["rmia"])[0])
    row = run_attacks(told, ["entropy_threshold"])[0]
    assert row["metrics"]["klom/p95"] is None
    assert any("klom: not measured" in note for note in row["notes"])
    assert "differ in which class each column is" in str(check([told, untold], ["xgboost"], num_classes=5)[0])


def metrics_of(found: Audit) -> list[dict[str, Any]]:
    return [row.to_json()["metrics"] for row in found.rows]


def test_files_are_audited_as_tables_are_also_where_classes_were_dropped(tmp_path: Path) -> None:
    """Piece by piece from small row groups, with lists of no stated length, or with the columns' classes in the metadata."""
    table = pool(models=8, samples=10, unlearned={"pgu": 0.5})
    quick = {"xgboost": {"rounds": 3, "max_depth": 2, "eta": 0.3, "min_child_weight": 1.0}}
    loose = changed(table, "logits", table["logits"].cast(pa.list_(pa.float64())))
    dropped = changed(table, "label", pa.array(np.full(len(table), 7))).replace_schema_metadata(
        {b"attack.classes": b"[0, 1, 2, 3]"}
    )
    for number, (given, stored, names) in enumerate(
        ((table, table, ALL), (table, loose, ALL), (dropped, dropped, ["xgboost", "entropy_threshold"]))
    ):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(stored, path, row_group_size=37)
        mine, theirs = (
            audit(source, names, settings=quick, bootstrap=20) for source in (given, ParquetFiles((str(path),)))
        )
        assert json.dumps(metrics_of(mine)) == json.dumps(metrics_of(theirs))
        assert mine.notes == theirs.notes
    ragged = changed(table, "logits", pa.array([[0.0] * (3 + row % 2) for row in range(len(table))]))
    pq.write_table(ragged, tmp_path / "ragged.parquet")
    [problem] = check(ParquetFiles((str(tmp_path / "ragged.parquet"),)), ["lira"])
    assert str(problem) == "logits: rows of different lengths; give every row one number for each class"


@pytest.fixture(scope="module")
def measured() -> tuple[pa.Table, list[dict]]:
    more: dict[str, Any] = {"models": 32, "samples": 60, "difficulty": 0.5, "folds": (0.5, 0.75)}
    table = pool(shift=2.0, unlearned={"keeps": 2.0, "forgets": 0.0, "overdoes": -1.5}, **more)
    unseen = pool(shift=0.0, unlearned={"keeps": 0.0, "forgets": 0.0, "overdoes": 0.0}, seed=9, **more)
    # Labels alone give away so little here that they cannot say whether a quarter of it is left.
    names = [name for name in ALL if name != "gap"]
    return table, run_attacks(
        table, names, seed=3, bootstrap=500, unseen=(None, Tables((unseen,))), examined=Examination.of(Tables((table,)))
    )


@pytest.mark.medium
def test_rows_say_who_forgot(measured: tuple[pa.Table, list[dict]]) -> None:
    rows = {row["method"]: row for row in measured[1]}
    assert list(rows) == ["no_unlearn", "retrain", "forgets", "keeps", "overdoes"]
    assert rows["no_unlearn"]["metrics"]["auc"] > 0.8
    assert rows["keeps"]["verdict"].startswith("Did not forget")
    assert rows["forgets"]["verdict"].startswith("Forgot")
    assert "Streisand" in rows["overdoes"]["verdict"]
    assert [rows[name]["metrics"]["verdict_word"] for name in ("keeps", "forgets", "overdoes")] == [
        "remembers",
        "forgot",
        "over_unlearned",
    ]
    assert rows["overdoes"]["metrics"]["streisand"] is True
    assert rows["forgets"]["metrics"]["streisand"] is False
    low, high = rows["retrain"]["ci"]["auc"]
    assert low < 0.5 < high
    for name in ("lira", "u_lira", "rmia", "loss_threshold"):
        assert rows["keeps"]["metrics"][f"{name}/auc"] > 0.6, name
    assert rows["keeps"]["ci"]["auc_minus_retrain"][0] > 0
    low, high = rows["forgets"]["ci"]["lira/auc_minus_retrain"]
    assert low < 0 < high
    assert rows["overdoes"]["metrics"]["ks_log_entropy"] > rows["forgets"]["metrics"]["ks_log_entropy"]
    assert rows["keeps"]["metrics"]["klom/p95"] > 0
    # U-LiRA of a method that does nothing is LiRA: what it would be fitted on are the originals.
    assert rows["no_unlearn"]["metrics"]["u_lira/auc"] == pytest.approx(rows["no_unlearn"]["metrics"]["lira/auc"])


@pytest.mark.medium
def test_over_unlearning_far_outside_what_the_trees_saw_is_found_by_another_attack() -> None:
    """Trees don't extrapolate: on φ far below that of every shadow model they guess. One attack that finds it decides."""
    more: dict[str, Any] = {"models": 24, "samples": 60, "difficulty": 0.5, "folds": (0.5, 0.75)}
    table = pool(shift=2.0, unlearned={"overdoes": -3.0}, **more)
    unseen = pool(shift=0.0, unlearned={"overdoes": 0.0}, seed=9, **more)
    both = [t.append_column("set", pa.array([s] * len(t))) for t, s in ((table, "forget"), (unseen, "test"))]
    row = run_attacks(pa.concat_tables(both), ["xgboost", "lira"], bootstrap=200)[-1]
    assert row["metrics"]["lira/auc"] < 0.1
    assert row["metrics"]["auc"] > 0.3
    assert row["verdict"].startswith("Over-unlearned")
    assert "The strongest attack, lira," in row["verdict"]


@pytest.mark.medium
def test_rows_are_json_and_every_measure_has_its_interval(measured: tuple[pa.Table, list[dict]]) -> None:
    for row in measured[1]:
        json.dumps(row, allow_nan=False)
        assert row["status"] == "done"
        assert row["models"] == 8
        assert row["metrics"]["tpr_at_fpr_0.0001"] is None
        for name, (low, high) in row["ci"].items():
            assert low <= row["metrics"][name] + 1e-9, name
            assert row["metrics"][name] <= high + 1e-9, name
        assert len(row["worst_samples"]["lira"]) == 10


def test_one_pass_gives_what_each_attack_gives_alone(measured: tuple[pa.Table, list[dict]]) -> None:
    table, rows = measured
    keeps = next(row for row in rows if row["method"] == "keeps")
    only = without(without(table, method="forgets"), method="overdoes")
    assert keeps["metrics"]["u_lira/auc"] == pytest.approx(area(only, ULiRA().fit(only).score(only), "keeps"))
    best = XGBoostAttack(**keeps["attacks"]["xgboost"]["params"])
    assert keeps["metrics"]["auc"] == pytest.approx(area(table, best.fit(table).score(table), "keeps"))
    assert best.seed == 3


def test_an_attack_fitted_on_a_method_is_put_to_retrain_too(measured: tuple[pa.Table, list[dict]]) -> None:
    """U-LiRA's difference to Retrain: both by the attacker of that method. Retrained models have 0.5 there but for luck."""
    table, rows = measured
    found = {row["method"]: row for row in rows}
    assert "u_lira/auc_minus_retrain" not in found["retrain"]["metrics"]
    assert found["no_unlearn"]["ci"]["u_lira/auc_minus_retrain"][0] > 0
    for method in ("keeps", "forgets", "overdoes"):
        others = {"keeps", "forgets", "overdoes"} - {method}
        only = without(without(table, method=others.pop()), method=others.pop())
        scores = ULiRA().fit(only).score(only)
        expected = area(only, scores, method) - area(only, scores, "retrain")
        assert found[method]["metrics"]["u_lira/auc_minus_retrain"] == pytest.approx(expected)
        assert 0.3 < area(only, scores, "retrain") < 0.7
    assert found["keeps"]["ci"]["u_lira/auc_minus_retrain"][0] > 0
    low, high = found["forgets"]["ci"]["u_lira/auc_minus_retrain"]
    assert low < 0 < high


def test_order_of_rows_and_of_tables_does_not_matter(small: pa.Table) -> None:
    names = ["lira", "u_lira", "rmia", "entropy_threshold"]

    def plain(rows: list[dict]) -> str:
        return json.dumps([{k: row[k] for k in ("method", "metrics", "ci", "verdict")} for row in rows])

    expected = plain(run_attacks(small, names, bootstrap=50))
    assert plain(run_attacks(shuffled(small), names, bootstrap=50)) == expected
    assert plain(run_attacks([small.slice(70), small.slice(0, 70)], names, bootstrap=50)) == expected


def test_curves_are_those_of_the_report(small: pa.Table) -> None:
    found = audit(small, ["lira"], bootstrap=50)
    assert {curve["row"] for curve in found.curves["roc"]} == {0, 1, 2}
    for curve, histogram in zip(found.curves["roc"], found.curves["confidence"], strict=True):
        assert (curve["fpr"][0], curve["tpr"][0], curve["fpr"][-1], curve["tpr"][-1]) == (0.0, 0.0, 1.0, 1.0)
        assert sum(histogram["unlearned"]) == 10
        assert len(histogram["edges"]) == len(histogram["retrained"]) + 1


def test_without_fresh_retrained_models_retrain_is_said_to_be_unmeasured() -> None:
    table = pool(models=4, samples=10, unlearned={"pgu": 0.5}, references=False)
    rows = run_attacks(table, ["lira"], bootstrap=50)
    assert rows[1]["method"] == "retrain"
    assert rows[1]["models"] == 0
    assert "method retrain" in rows[1]["verdict"]
    assert "lira/auc_minus_retrain" not in rows[2]["metrics"]


def test_parquet_of_common_spellings_is_read(small: pa.Table, tmp_path: Path) -> None:
    loose = changed(small, "label", small["label"].cast(pa.int32()))
    loose = changed(loose, "logits", small["logits"].cast(pa.list_(pa.float64())))
    pq.write_table(loose, tmp_path / "a.parquet")
    for source in (tmp_path, tmp_path / "a.parquet", str(tmp_path / "*.parquet")):
        [table] = read_outputs(source)
        assert check(table, ALL) == []
        assert np.array_equal(logits_matrix(table), logits_matrix(small))
    with pytest.raises(ValueError, match="no such file"):
        read_outputs(tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_text("no")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        read_outputs(tmp_path / "c.parquet")


def test_logits_in_numpy_and_csv_become_the_same_table(small: pa.Table, tmp_path: Path) -> None:
    models = []
    ids = np.arange(10) * 3 + 5
    np.save(tmp_path / "labels.npy", np.arange(10) % 4)
    np.savez(tmp_path / "ids.npz", ids=ids, other=ids)
    for number, name in enumerate(pc.unique(small["model_id"]).to_pylist()):
        mine = rows_where(small, model_id=name)
        first = mine.slice(0, 1).to_pylist()[0]
        logits = logits_matrix(mine)
        if number % 3 == 0:
            file = f"{name}.npy"
            np.save(tmp_path / file, logits)
        elif number % 3 == 1:
            file = f"{name}.csv"
            np.savetxt(tmp_path / file, logits, delimiter=",", fmt="%.9g")
        else:
            file = f"{name}.csv"
            columns = np.column_stack([ids, logits, np.arange(10) % 4])
            np.savetxt(
                tmp_path / file, columns, delimiter=",", fmt="%.9g", header="sample_id,c0,c1,c2,c3,label", comments=""
            )
        models.append({k: first[k] for k in ("model_id", "role", "fold", "method")} | {"params": {}, "logits": file})
    mapping = {"models": models, "labels": "labels.npy", "sample_ids": "ids.npz:ids"}
    assert read_logits(mapping, tmp_path).equals(small.combine_chunks())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models": []}, "models: a list of models is needed"),
        ({"lables": "x.npy"}, "mapping.lables: unknown key; allowed are models, labels"),
        ({"models": [{"model_id": "a", "role": "original", "fold": "test"}]}, "models.0.logits: missing"),
        (
            {"models": [{"model_id": "a", "role": "original", "fold": "test", "logits": "no.npy"}]},
            "no.npy does not exist",
        ),
        (
            {"models": [{"model_id": "a", "role": "originl", "fold": "test", "logits": "l.npy"}]},
            "models.0.role: 'originl' is not allowed",
        ),
        (
            {"models": [{"model_id": "a", "role": "original", "fold": "test", "logits": "l.txt"}]},
            "give a .npy, .npz or .csv file",
        ),
        ({"labels": "half.npy"}, "models.0.labels: whole numbers are needed"),
        ({"labels": None}, "models.0.labels: missing"),
    ],
)
def test_mappings_that_do_not_fit_are_told_in_one_line(tmp_path: Path, change: dict, words: str) -> None:
    np.save(tmp_path / "l.npy", np.zeros((3, 2)))
    (tmp_path / "l.txt").write_text("0")
    np.save(tmp_path / "y.npy", np.zeros(3))
    np.save(tmp_path / "half.npy", np.full(3, 0.5))
    model = {"model_id": "a", "role": "original", "fold": "test", "logits": "l.npy"}
    mapping = {"models": [model], "labels": "y.npy", **change}
    with pytest.raises(ValueError, match=words.replace("(", r"\(")) as caught:
        read_logits(mapping, tmp_path)
    assert "\n" not in str(caught.value)
