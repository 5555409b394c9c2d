"""The distributed attacker: the same answer as in one process, on a real Ray with two workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from attack import XGBoostAttack, auc, outputs_table
from orchestrator.streaming_attack import choose_path, fit_distributed, label_classes_of

pytestmark = pytest.mark.ray


def synthetic(models: int, samples: int, shift: float) -> pa.Table:
    """Outputs whose originals put `shift` more logit on the label: a membership signal of known direction."""
    generator = np.random.default_rng(0)
    tables = []
    labels = np.arange(samples) % 10
    for role, extra in (("original", shift), ("retrained", 0.0)):
        for model in range(models):
            fold = "train" if model < 0.6 * models else "validation" if model < 0.8 * models else "test"
            logits = generator.normal(size=(samples, 10))
            logits[np.arange(samples), labels] += 2.0 + extra
            tables.append(outputs_table(f"{role}-{model}", role, "", "{}", fold, np.arange(samples), labels, logits))
    return pa.concat_tables(tables)


def test_the_path_follows_the_threshold() -> None:
    assert choose_path(99, 100) == "in_process"
    assert choose_path(100, 100) == "distributed"


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    from orchestrator.engine.session import RaySession

    session = RaySession("local")
    yield
    session.close()


def test_distributed_and_in_process_agree(tmp_path: Path, ray_session: None) -> None:
    table = synthetic(models=20, samples=400, shift=1.0)
    paths = []
    for role in ("original", "retrained"):
        path = tmp_path / f"{role}.parquet"
        pq.write_table(table.filter(pc.equal(table["role"], role)), path, row_group_size=1000)
        paths.append(path)
    assert label_classes_of(paths) == 10
    attack = XGBoostAttack(max_depth=4, eta=0.1, rounds=60)
    distributed = fit_distributed(paths, attack, num_workers=2, resources_per_worker={"CPU": 0.5})
    alone = attack.fit(table)
    test = table.filter(pc.equal(table["fold"], "test"))
    truth = np.asarray(test["role"].to_pylist()) == "original"
    areas = [auc(truth, fitted.score(test)) for fitted in (distributed, alone)]
    assert areas[1] > 0.65
    assert abs(areas[0] - areas[1]) < 0.005
    assert abs(distributed.validation_f1 - alone.validation_f1) < 0.02
