"""For tests of methods of your own.

from unlearn.testing import check_method

def test_mine_conforms():
    check_method(Mine)
"""

from __future__ import annotations

from typing import Any

from .methods.base import Method
from .methods.conformance import CHECKS, Finding, examine

__all__ = ["CHECKS", "Finding", "check_method", "examine"]


def check_method(cls: type[Method], **options: Any) -> None:
    """Raises `AssertionError` with one line for each property of `CHECKS` that `cls` does not have.

    It tries the method on a tiny model, which takes seconds. `examine` returns the findings
    instead.

    **Arguments:** `options`: settings of the method, beside those that it names in `examples`.
    """
    __tracebackhide__ = True  # pytest then points at the line that called
    wrong = [f"{found.check} ({CHECKS[found.check]}): {found.why}" for found in examine(cls, **options) if found.holds is False]  # fmt: skip
    if wrong:
        raise AssertionError("\n".join([f"{cls.__name__} does not conform:", *wrong]))
