"""torch's optimisers without its compiler.

Making an optimiser and each of its steps import torch's compiler, only to tell it not to compile
them. That takes a process two seconds and 70 MiB, and nothing here is compiled.

The arithmetic is torch's own: `step` is torch's innermost function under `no_grad`. What wraps it
otherwise is left out, so `differentiable` has no effect. For the whole process,
`torch.optim.Optimizer` is told that its methods need no compiler.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)

# What torch asks for before it imports the compiler: the version of a method that is not compiled.
for _method in vars(torch.optim.Optimizer).values():
    _plain = getattr(_method, "__wrapped__", None)
    if _plain is not None:
        vars(_plain).setdefault("__dynamo_disable", _plain)


def _eager(kind: type[Kind]) -> type[Kind]:
    step: Any = inspect.unwrap(kind.step)
    return type(kind.__name__, (kind,), {"step": torch.no_grad()(step), "__doc__": kind.__doc__})


SGD = _eager(torch.optim.SGD)
Adam = _eager(torch.optim.Adam)
AdamW = _eager(torch.optim.AdamW)
