"""Checkpoints of the user's own: every wrapping that is common, and one short line for one that does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from orchestrator.base.errors import UserError
from orchestrator.work.checkpoint import load_weights
from orchestrator.work.tensors import tensors_of


def new() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


STATE = new().state_dict()


def prefixed(prefix: str) -> dict[str, Any]:
    return {f"{prefix}{name}": tensor for name, tensor in STATE.items()}


LOADED = {
    "plain": (STATE, 0),
    "module": (prefixed("module."), 1),
    "compiled": (prefixed("_orig_mod."), 1),
    "both": (prefixed("module._orig_mod."), 1),
    "lightning": ({"state_dict": prefixed("model."), "epoch": 3}, 2),
    "net": ({"net": STATE, "acc": 0.9, "epoch": 3}, 1),
    "model_state_dict": ({"model_state_dict": STATE, "optimizer": {"lr": 0.1}}, 1),
    "deep": ({"model": {"state_dict": prefixed("module.")}}, 3),
}


@pytest.mark.parametrize("case", LOADED)
def test_wrappings_are_taken_off_and_said(case: str, tmp_path: Path) -> None:
    content, told = LOADED[case]
    torch.save(content, tmp_path / "m.pt")
    model = new()
    assert len(load_weights(model, tmp_path / "m.pt")) == told
    assert all(torch.equal(value, STATE[name]) for name, value in model.state_dict().items())


REFUSED = {
    "another": ({"x": torch.zeros(2)}, "it lacks 0.weight, 0.bias, 2.weight and 1 more; the model has no place for x"),
    "one short": ({n: t for n, t in STATE.items() if n != "0.bias"}, "it lacks 0.bias"),
    "shape": ({**STATE, "0.weight": torch.zeros(5, 3)}, "0.weight is (5, 3) instead of (4, 3)"),
    "numbers": ({"acc": 0.9}, "holds no weights by name (acc)"),
    "tensor": (torch.zeros(3), "holds no weights by name (Tensor)"),
    "empty": ({}, "holds no weights by name (nothing)"),
    "half prefixed": (
        {**prefixed("module."), "0.weight": torch.zeros(4, 3)},
        "the model has no place for module.0.weight",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_short_line(case: str, tmp_path: Path) -> None:
    content, words = REFUSED[case]
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(UserError) as caught:
        load_weights(new(), tmp_path / "m.pt")
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_tied_and_shared_weights_can_be_saved(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    model.register_buffer("view", model[0].weight.detach()[1:3])
    save_file(tensors_of(model), tmp_path / "m.safetensors")
    loaded = load_file(tmp_path / "m.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
