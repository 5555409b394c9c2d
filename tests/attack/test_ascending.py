"""How many values others reach, beside NumPy's search and a count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from attack.metrics import ascending
from attack.metrics.ascending import Ascending

GENERATOR = np.random.default_rng(0)
SHAPES = {
    "even": GENERATOR.random(5000),
    "near one": 1.0 / (1.0 + np.exp(-GENERATOR.normal(3.0, 2.0, 5000))),
    "over decades": np.exp(GENERATOR.normal(0.0, 60.0, 5000)),
    "tied": GENERATOR.integers(0, 7, 5000) / 7.0,
    "two far apart": np.concatenate([GENERATOR.random(2500), 1e12 + GENERATOR.random(2500)]),
    "all the same": np.full(5000, 0.25),
    "neighbours": np.nextafter(1.0, 2.0) + np.spacing(1.0) * GENERATOR.integers(0, 50, 5000),
    "tiny": 1e-300 * (1.0 + GENERATOR.random(5000)),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("table_from", [1, 1 << 15])
@pytest.mark.parametrize("cells", [3, 1 << 23])
def test_a_table_finds_what_a_search_finds(
    name: str, table_from: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ascending, "TABLE_FROM", table_from)
    monkeypatch.setattr(ascending, "MOST_CELLS", cells)
    values = SHAPES[name]
    found = Ascending.of(values)
    near = np.concatenate([np.nextafter(values, -np.inf), values, np.nextafter(values, np.inf)])
    wanted = GENERATOR.permutation(np.concatenate([near, [0.0, -1.0, 1e300, values.min() / 2, values.max() * 2]]))
    expected = np.searchsorted(np.sort(values), wanted, side="right")
    np.testing.assert_array_equal(found.reached(wanted), expected)
    few = wanted[:40]
    np.testing.assert_array_equal(found.reached(few), [(values <= value).sum() for value in few])


def test_values_that_are_not_known_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ascending, "TABLE_FROM", 1)
    found = Ascending.of(np.array([2.0, np.nan, 1.0, np.nan]))
    assert len(found) == 2
    np.testing.assert_array_equal(found.reached(np.array([np.nan, 1.5, 9.0]))[1:], [1, 2])
