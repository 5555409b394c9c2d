"""User-facing errors and the exit codes that scripts rely on."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from dataclasses import dataclass

EXIT_OK = 0
EXIT_UNITS_FAILED = 1
EXIT_USAGE = 2
EXIT_ENVIRONMENT = 3
EXIT_INTERRUPTED = 130


# The value of a fault whose text names it already, or that nobody gave: a default.
UNSAID = object()


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a recipe: where, what was given, what is allowed and the likely fix."""

    field: str
    value: object
    problem: str
    allowed: str = ""
    suggestion: str = ""

    def __str__(self) -> str:
        shown = repr(self.value)
        if len(shown) > 80:
            shown = shown[:77] + "..."
        text = f"{self.field}: {self.problem}" if self.value is UNSAID else f"{self.field}: {shown}: {self.problem}"
        if self.allowed:
            text += f"; allowed: {self.allowed}"
        if self.suggestion:
            text += f"; did you mean {self.suggestion!r}?"
        return text


# Signals that asked this process to end. Code of others' may turn the KeyboardInterrupt that they
# raise into an error of its own.
signals_seen: list[int] = []

# What to end with where this process must be ended by force: its exit code and last line. A lost
# cluster writes here.
forced_end: list[tuple[int, str]] = []


def first_line(error: object) -> str:
    """Returns what an error says in its first line; its type's name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """Returns `ValueError: first line`, the type alone where the error says nothing."""
    name, said = type(error).__name__, first_line(error)
    return name if said == name else f"{name}: {said}"


class UserError(Exception):
    """Something the user can mend; printed as its text alone, one line for each fault."""

    exit_code = EXIT_USAGE


class RecipeError(UserError):
    """A recipe that cannot be run. Nothing has been started."""

    def __init__(self, faults: Iterable[Fault], recipe: str = "recipe"):
        self.faults = list(faults)
        self.recipe = recipe
        super().__init__("\n".join(f"{recipe}: {fault}" for fault in self.faults))


class EnvironmentFault(UserError):
    """Storage, cluster, disk or tracking is not usable."""

    exit_code = EXIT_ENVIRONMENT


def nearest(word: str, choices: Iterable[str]) -> str:
    """Returns the choice spelt most like `word`, or an empty string where none is near."""
    return next(iter(closest(word, choices, most=1)), "")


def closest(word: str, choices: Iterable[str], most: int) -> list[str]:
    """Returns the choices spelt most like `word`, the nearest first, `most` of them at the most."""
    return difflib.get_close_matches(str(word), [str(choice) for choice in choices], n=most, cutoff=0.5)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?`, or an empty string where no choice is near."""
    near = nearest(word, choices)
    return f"; did you mean {near!r}?" if near else ""


# What writers say that do not raise OSError: safetensors, XGBoost, and engines that pass an error
# on as text.
_NO_SPACE = ("no space left on device", "disk quota exceeded", "filestream.write incomplete")


def disk_is_full(error: BaseException) -> bool:
    """Whether an exception, or one that it was raised from, says that a disk has no space left."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, OSError) and current.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(current).lower() for words in _NO_SPACE):
            return True
        current = current.__cause__ or current.__context__
    return False
