"""The process-wide switches that choose how float32 products are rounded and which kernels compute them."""

from __future__ import annotations

import contextlib
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
    """torch's older switches refuse to be read where the newer ones were set by themselves: None then.

    They are left alone in that case, since what they held could not be put back.
    """
    try:
        return read()
    except RuntimeError:
        return None


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Inside, float32 products are float32 ones on every device: TensorFloat-32 and bfloat16 would round at 1e-3.

    By default cuDNN's convolutions are allowed TensorFloat-32. Both generations of torch's switches are set, so that
    what reads either inside is told the same; afterwards all are as they were.
    """
    backends = _backends()
    before = [backend.fp32_precision for backend in backends]
    convolutions = _readable(lambda: torch.backends.cudnn.allow_tf32)
    products = _readable(torch.get_float32_matmul_precision)
    try:
        if convolutions is not None:
            torch.backends.cudnn.allow_tf32 = False
        if products is not None:
            torch.set_float32_matmul_precision("highest")
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        if convolutions is not None:
            torch.backends.cudnn.allow_tf32 = convolutions
        if products is not None:
            torch.set_float32_matmul_precision(products)
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def arithmetic(precision: str) -> contextlib.AbstractContextManager[None]:
    """`full_float32` for `float32`; for `bfloat16` the process's own choice, for what autocast leaves in float32."""
    return full_float32() if precision == "float32" else contextlib.nullcontext()


@contextlib.contextmanager
def deterministic_convolutions() -> Iterator[None]:
    """Inside, cuDNN takes kernels that give the same bits every time, and does not choose them by timing."""
    cudnn = torch.backends.cudnn
    before = cudnn.enabled, cudnn.benchmark, cudnn.deterministic
    try:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = True, False, True
        yield
    finally:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = before
