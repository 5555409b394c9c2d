"""A random part of the rows: how many, the same however they are divided, and of no model or sample more than of another."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attack import XGBoostAttack
from attack.outputs.fragments import fragments
from attack.outputs.sampling import drawn
from orchestrator.engine.attacker.fit import _share, fit_distributed, shards_of
from orchestrator.engine.attacker.trainer import Part, Trained, assemble
from orchestrator.engine.attacker.worker import ROLES, Prepare

from .build import pool, shuffled

MODELS, SAMPLES, SHARE = 100, 400, 0.3


def rows() -> pa.Table:
    model, sample = np.divmod(np.arange(2 * MODELS * SAMPLES), SAMPLES)
    role = np.where(model < MODELS, "original", "retrained")
    return pa.table(
        {
            "role": role.tolist(),
            "model_id": [f"m-{m % MODELS:03d}" for m in model],
            "sample_id": sample.astype(np.int64),
        }
    )


def test_the_share_is_kept_over_all_rows_each_model_and_each_sample() -> None:
    chosen = drawn(rows(), SHARE, 0).reshape(2 * MODELS, SAMPLES)
    assert abs(chosen.mean() - SHARE) < 5 * np.sqrt(SHARE * (1 - SHARE) / chosen.size)
    for axis, count in ((1, SAMPLES), (0, 2 * MODELS)):
        apart = (chosen.mean(axis=axis) - SHARE) / np.sqrt(SHARE * (1 - SHARE) / count)
        assert np.abs(apart).max() < 5
        assert 0.8 < apart.std() < 1.2  # as independent draws are: neither all alike nor drawn in blocks
    # Samples of one model say nothing of another's, nor of the same number in the other role.
    assert abs(np.corrcoef(chosen[0], chosen[1])[0, 1]) < 0.25
    assert abs(np.corrcoef(chosen[0], chosen[MODELS])[0, 1]) < 0.25


def test_a_row_is_drawn_by_its_model_sample_and_seed_alone() -> None:
    table = rows()
    chosen = drawn(table, SHARE, 0)
    order = np.random.default_rng(0).permutation(len(table))
    assert np.array_equal(drawn(table.take(pa.array(order)), SHARE, 0), chosen[order])
    assert np.array_equal(drawn(table.slice(777, 1000), SHARE, 0), chosen[777:1777])
    assert (drawn(table, SHARE, 1) != chosen).mean() > 0.3
    assert not (chosen & ~drawn(table, 2 * SHARE, 0)).any()  # a larger share holds the smaller
    assert drawn(table, 1.0, 0).all()


def test_workers_learn_from_the_same_rows_however_the_table_is_divided(tmp_path: Path) -> None:
    table = shuffled(pool(models=8, samples=60, unlearned={"pgu": 0.5}))
    found = []
    for size in (50, 400):
        path = tmp_path / f"{size}.parquet"
        pq.write_table(table, path, row_group_size=size)
        prepare = Prepare((), None, 0.4, 3)
        parts = fragments([str(path)], roles=ROLES)
        read = pa.concat_tables([t for part in parts for t in prepare(pa.Table.from_pylist([vars(part)]))])
        found.append(np.sort(read["softmax"].combine_chunks().flatten().to_numpy()))
    everything = [t for part in parts for t in Prepare((), None)(pa.Table.from_pylist([vars(part)]))]
    assert np.array_equal(found[0], found[1])
    assert 0.3 < len(found[0]) / (4 * sum(map(len, everything))) < 0.5


def test_no_worker_is_to_hold_more_than_it_may(tmp_path: Path) -> None:
    table = pool(models=8, samples=60)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=60)
    shards = shards_of([str(tmp_path / "a.parquet")], 2)
    most = max(sum(part.stop - part.start for part in shard) for shard in shards)
    assert _share(shards, None) == _share(shards, most) == _share(shards, 10 * most) == 1.0
    assert _share(shards, most // 4) == pytest.approx(0.25, abs=0.01)
    with pytest.raises(ValueError, match="rows_per_worker: 0 is not allowed; give 1 or more"):
        _share(shards, 0)


def test_results_say_that_a_part_was_fitted_on() -> None:
    attack = XGBoostAttack(max_depth=2, rounds=3)
    fitted = attack.fit(pool(models=6, samples=20))
    one = np.ones(4)
    part = Part(
        labels=np.asarray([True, False]),
        scores=np.asarray([0.9, 0.1], dtype=np.float32),
        lowest=0 * one,
        highest=one,
        external=False,
        share=1.0,
    )
    trained = Trained(0, bytes(fitted.booster.save_raw("ubj")), (part,))
    assert assemble(attack, 4, trained).notes == []
    [note] = assemble(attack, 4, dataclasses.replace(trained, parts=(dataclasses.replace(part, share=0.125),))).notes
    assert note == "fitted on a random 12.50% of the rows, as many as the workers were to hold"
    [note] = assemble(attack, 4, dataclasses.replace(trained, parts=(dataclasses.replace(part, cuts_share=0.5),))).notes
    assert note == "bins were found on a random 50.00% of the rows that were fitted on"


@pytest.mark.long
@pytest.mark.ray
def test_a_part_of_the_rows_gives_nearly_the_same_attacker(tmp_path: Path, ray_session: None) -> None:
    table = pool(models=12, samples=400)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=400)
    attack = dataclasses.replace(XGBoostAttack(max_depth=3, rounds=20), seed=1)
    found = fit_distributed(
        [tmp_path / "a.parquet"], attack, num_workers=2, resources_per_worker={"CPU": 0.5}, rows_per_worker=2000
    )
    assert any("fitted on a random" in note for note in found.notes)
    assert abs(found.validation_f1 - attack.fit(table).validation_f1) < 0.05


@pytest.mark.long
@pytest.mark.ray
def test_cuts_of_a_sample_give_nearly_the_same_attacker_and_twice_the_same(tmp_path: Path, ray_session: None) -> None:
    """All workers take the sample's cuts, or none: else one would wait for another for ever."""
    table = pool(models=12, samples=400)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=400)
    attack = dataclasses.replace(XGBoostAttack(max_depth=3, rounds=20), seed=1)
    given: dict[str, Any] = {"num_workers": 2, "resources_per_worker": {"CPU": 0.5}}
    whole = fit_distributed([tmp_path / "a.parquet"], attack, **given)
    found, again = (fit_distributed([tmp_path / "a.parquet"], attack, **given, cut_rows=2000) for _ in range(2))
    assert found.booster.save_raw() == again.booster.save_raw()
    assert found.booster.save_raw() != whole.booster.save_raw()
    assert [note for note in found.notes if note.startswith("bins were found on")]
    assert abs(found.validation_f1 - whole.validation_f1) < 0.02
