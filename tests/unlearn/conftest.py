"""torchvision can be imported at the top of a test only once its operators are declared; this file is read first."""

import pytest

from unlearn import Graphs, load_dataset

from .recorded_graphs import recorder


@pytest.fixture
def graphs():
    """Steps "captured" on the CPU."""
    return Graphs(record=recorder, device_type="cpu")


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", limit={"train": 300, "test": 100})
