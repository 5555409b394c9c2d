"""Chunks hold every unit once, large ones first, and end in single units."""

from __future__ import annotations

from orchestrator.engine.chunks import make_chunks
from orchestrator.units import Unit


def units(count: int, **spec: str) -> list[Unit]:
    return [Unit("train", {"i": i, **spec}, f"u{i:05d}", cost=float(i % 7 + 1)) for i in range(count)]


def test_every_unit_once_and_largest_first() -> None:
    work = units(100)
    chunks = make_chunks(work, slots=4)
    flat = [unit.key for chunk in chunks for unit in chunk]
    assert sorted(flat) == sorted(unit.key for unit in work)
    costs = [unit.cost for chunk in chunks for unit in chunk]
    assert costs == sorted(costs, reverse=True)
    assert len(chunks[-1]) == 1


def test_few_units_are_one_a_trial() -> None:
    assert [len(chunk) for chunk in make_chunks(units(6), slots=8)] == [1] * 6


def test_many_units_take_few_trials() -> None:
    assert len(make_chunks(units(5000), slots=2)) < 80


def test_a_fixed_length_is_kept() -> None:
    assert [len(chunk) for chunk in make_chunks(units(10), slots=2, per_trial=4)] == [4, 4, 2]


def test_units_of_one_basis_stay_together_where_all_slots_stay_busy() -> None:
    work = [Unit("unlearn", {"basis": f"b{i % 4}", "gamma": i}, f"u{i}") for i in range(16)]
    for chunk in make_chunks(work, slots=2, per_trial=1):
        assert len({unit.spec["basis"] for unit in chunk}) == 1
        assert len(chunk) == 4
    assert len(make_chunks(work, slots=8, per_trial=1)) == 16


def test_no_units_no_chunks() -> None:
    assert make_chunks([], slots=3) == []
