"""Float32 stays float32: the process-wide switches while models are trained and evaluated. Needs no GPU, since a model
can look at the switches while it runs."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unlearn import Training, predict, train
from unlearn.core.numerics import full_float32
from unlearn.methods.features import compute
from unlearn.training.predict import accuracy

DEVICE = torch.device("cpu")


def switches() -> tuple[Any, ...]:
    backends = torch.backends
    newer = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul)  # type: ignore[attr-defined]
    return (
        *(each.fp32_precision for each in newer),
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
    )


def older() -> tuple[Any, ...]:
    return (
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.get_float32_matmul_precision(),
    )


class Looking(nn.Module):
    """A linear model that notes the switches each time it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.seen: list[tuple[Any, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append((*older(), *switches()))
        return self.linear(images)


@contextlib.contextmanager
def rough() -> Iterator[None]:
    """Everything that a user may have allowed."""
    before = older()
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before[:2]
        torch.set_float32_matmul_precision(before[2])


def batches() -> list[tuple[Tensor, Tensor]]:
    return [(torch.ones(4, 4), torch.tensor([0, 1, 0, 1]))]


Run = Callable[[nn.Module, str], Any]
RUNS: dict[str, Run] = {
    "train": lambda model, precision: train(
        model, batches(), Training(epochs=1, precision=precision, augment=None), seed=0
    ),
    "predict": lambda model, precision: predict(model, batches(), precision=precision),
    "accuracy": lambda model, precision: accuracy(model, batches(), precision=precision),
    "features": lambda model, precision: compute(model, batches(), DEVICE, precision),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_float32_is_not_rounded_to_tensorfloat32(run: Run) -> None:
    model = Looking()
    with rough():
        before = (*older(), *switches())
        run(model, "float32")
        assert (*older(), *switches()) == before
    assert model.seen
    for seen in model.seen:
        assert seen[:3] == (False, False, "highest")
        assert seen[3:7] == ("ieee",) * 4


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_with_bfloat16_the_users_choice_stands(run: Run) -> None:
    model = Looking()
    with rough():
        run(model, "bfloat16")
        assert {seen[:3] for seen in model.seen} == {(True, True, "high")}


def test_training_takes_deterministic_kernels() -> None:
    model = Looking()
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        RUNS["train"](model, "float32")
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = before
    assert {seen[-2:] for seen in model.seen} == {(False, True)}


def test_switches_set_one_by_one_are_put_back() -> None:
    """torch's older switches cannot be read then."""
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        with pytest.raises(RuntimeError, match="allow_tf32"):
            older()
        state = switches()
        with full_float32():
            assert switches()[:4] == ("ieee",) * 4
        assert switches() == state
    finally:
        convolutions.fp32_precision = before
    older()


def test_the_last_to_leave_puts_them_back() -> None:
    """Threads come and go in any order."""
    with rough():
        before = (*older(), *switches())
        first, second = full_float32(), full_float32()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert older() == (False, False, "highest")
        second.__exit__(None, None, None)
        assert (*older(), *switches()) == before
