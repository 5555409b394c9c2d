"""How commands print."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Prints what a command came to; where nobody reads that any more, how it ended is
    unchanged."""
    with contextlib.suppress(BrokenPipeError):
        yield
        sys.stdout.flush()


def console(width: int, *, soft_wrap: bool = False, highlight: bool = True) -> Console:
    """Returns a console of Rich's for standard output, `width` wide where that is no terminal."""

    class Ours(Console):
        # Rich would end the process with 1, which here means that units failed
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Ours(width=None if sys.stdout.isatty() else width, soft_wrap=soft_wrap, highlight=highlight)
