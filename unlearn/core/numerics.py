"""The process-wide switches that choose how float32 products are rounded and which kernels compute
them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch


def _backends() -> tuple[Any, ...]:
    return (
        torch.backends.cuda.matmul,
        torch.backends.cudnn.conv,  # type: ignore[attr-defined]
        torch.backends.cudnn.rnn,
        torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
        torch.backends.mkldnn.conv,  # type: ignore[attr-defined]
    )


def _readable(read: Callable[[], Any]) -> Any:
    """torch's older switches refuse to be read where the newer ones were set by themselves: None
    then.

    They are left alone in that case, since what they held could not be put back.
    """
    try:
        return read()
    except RuntimeError:
        return None


class _Switches:
    """What torch's switches held, and setting them to plain float32."""

    def __init__(self) -> None:
        self.newer = [backend.fp32_precision for backend in _backends()]
        self.convolutions = _readable(lambda: torch.backends.cudnn.allow_tf32)
        self.products = _readable(torch.get_float32_matmul_precision)

    def set_float32(self) -> None:
        if self.convolutions is not None:
            torch.backends.cudnn.allow_tf32 = False
        if self.products is not None:
            torch.set_float32_matmul_precision("highest")
        for backend in _backends():
            backend.fp32_precision = "ieee"

    def put_back(self) -> None:
        if self.convolutions is not None:
            torch.backends.cudnn.allow_tf32 = self.convolutions
        if self.products is not None:
            torch.set_float32_matmul_precision(self.products)
        for backend, precision in zip(_backends(), self.newer, strict=True):
            backend.fp32_precision = precision


_lock = threading.Lock()
_inside: list[_Switches] = []  # what the outermost of those inside found, once for each of them


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Inside, float32 products are float32 ones on every device: TensorFloat-32 and bfloat16 would
    round at 1e-3.

    By default cuDNN's convolutions are allowed TensorFloat-32. Both generations of torch's switches
    are set, so that what reads either inside is told the same. They belong to the process: the last
    thread to leave puts them back.
    """
    with _lock:
        _inside.append(_inside[0] if _inside else _Switches())
        _inside[0].set_float32()
    try:
        yield
    finally:
        with _lock:
            found = _inside.pop()
            if not _inside:
                found.put_back()


def switches() -> tuple[Any, ...]:
    """What the switches of the process hold, as far as they choose kernels on a GPU; hashable."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return (
        *(backend.fp32_precision for backend in _backends()),
        _readable(lambda: cudnn.allow_tf32),
        _readable(lambda: matmul.allow_tf32),
        _readable(torch.get_float32_matmul_precision),
        matmul.allow_fp16_reduced_precision_reduction,
        matmul.allow_bf16_reduced_precision_reduction,
        (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def arithmetic(precision: str) -> contextlib.AbstractContextManager[None]:
    """`full_float32` for `float32`; for `bfloat16` the process's own choice, for what autocast
    leaves in float32.
    """
    return full_float32() if precision == "float32" else contextlib.nullcontext()


@contextlib.contextmanager
def deterministic_convolutions() -> Iterator[None]:
    """Inside, cuDNN takes kernels that give the same bits every time, and does not choose them by
    timing.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.enabled, cudnn.benchmark, cudnn.deterministic
    try:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = True, False, True
        yield
    finally:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = before
