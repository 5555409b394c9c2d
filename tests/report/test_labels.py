"""Names beside a plot stand apart, in order, and as near to their points as that allows."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from orchestrator.report.figures.labels import Name, name_points, spread

WANTED = st.lists(st.floats(-0.2, 1.2), min_size=1, max_size=30).map(sorted)


@given(WANTED, st.floats(0.001, 0.03))
def test_places_stand_apart_and_inside(wanted, gap):
    places = spread(wanted, gap)
    assert np.all(np.diff(places) >= gap - 1e-9)
    assert places[0] >= -1e-9
    assert places[-1] <= 1 + 1e-9


def test_where_there_is_room_names_stay_at_their_points():
    assert spread([0.1, 0.5, 0.9], 0.03) == pytest.approx([0.1, 0.5, 0.9])


@pytest.mark.medium
def test_places_are_the_nearest_of_all_on_a_grid():
    wanted, gap = [0.40, 0.42, 0.43, 0.98], 0.1
    grid = np.arange(0, 1.0001, 0.02)
    fits = (p for p in itertools.combinations(grid, 4) if np.all(np.diff(p) >= gap - 1e-9))
    best = min(fits, key=lambda p: np.square(np.subtract(p, wanted)).sum())
    assert spread(wanted, gap) == pytest.approx(best, abs=0.02)


def test_more_names_than_there_is_room_for_share_it_evenly():
    assert spread([0.5] * 5, 0.9) == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_each_point_is_named_once_in_the_order_of_height():
    ax = Figure().add_subplot()
    ax.set_ylim(0, 1)
    name_points(ax, [Name("low", 1, 0.1), Name("high", 2, 0.9), Name("middle", 3, 0.11)], 3.0)
    texts = sorted((text.xyann[1], text.get_text()) for text in ax.texts)
    assert [text for _, text in texts] == ["low", "middle", "high"]
    assert {text.xy for text in ax.texts} == {(1, 0.1), (2, 0.9), (3, 0.11)}
