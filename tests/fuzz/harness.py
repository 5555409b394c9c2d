"""One drawn input, one command, and what must hold whatever the input is."""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import importlib
import io
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from attack.outputs.table import outputs_table
from orchestrator.commands.cli import main
from tests.few_figures import lessen

from .inputs import AUDIT, KINDS, OUTPUT, ROLES_AND_FOLDS, Input

LIMIT = 20.0  # seconds that one input may take
CODES = (0, 1, 2, 3)
LONGEST_LINE = 1500
# An output folder may hold files of somebody else's. Nothing may change them.
FOREIGN = {"mine/results.json": b"mine", "mine/outputs/mine.parquet": b"mine"}
_ADDRESS = re.compile(r"\b(?:at |object )0x[0-9a-f]{6,}")


class Hang(BaseException):
    """An input took longer than it may."""


class Faulty(AssertionError):
    """An input that did not end in order."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises `Hang` inside after so many seconds, less those that this thread waited for a core.

    Where Python gets no turn, as in a library's own loop, the process prints its stacks and ends
    after thirty times as many.
    """
    started, waited = time.monotonic(), _waited()

    def ring(number: int, frame: Any) -> None:
        left = seconds - (time.monotonic() - started - (_waited() - waited))
        if left <= 0:
            raise Hang
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.1))

    before = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    with contextlib.suppress(ValueError, OSError):
        faulthandler.dump_traceback_later(30 * seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, left, interval)
        signal.signal(signal.SIGALRM, before)


def _waited() -> float:
    """Returns the seconds that this thread has been ready to run without a core, as on a busy machine."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def contents(folder: Path) -> dict[str, str]:
    """Returns relative path → digest of the files that are there."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def warm_up() -> None:
    """Runs one audit and one plan: their imports are a cold start's time, not an input's."""
    for name in ("matplotlib.pyplot", "orchestrator.report.page", "orchestrator.report.terminal", "attack.audit.audit"):
        importlib.import_module(name)
    parts = [
        outputs_table(
            f"m{n}", role, "", "{}", fold, np.arange(6), np.arange(6) % 3, np.random.default_rng(n).normal(size=(6, 3))
        )
        for n, (role, fold) in enumerate(ROLES_AND_FOLDS)
    ]
    silence = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with silence[0], silence[1], tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        pq.write_table(pa.concat_tables(parts), f"{folder}/o.parquet")
        main(["audit", f"{folder}/o.parquet", *AUDIT[:-1], f"{folder}/out"])
        main(["plan", "demo"])


@contextlib.contextmanager
def few_figures() -> Iterator[None]:
    """Inside, reports have one coarse figure: drawing all takes longer than everything else."""
    with pytest.MonkeyPatch.context() as patch:
        lessen(patch)
        yield


def problem_of(drawn: Input, folder: Path, seconds: float = LIMIT) -> str:
    """Runs one input in `folder`, which is the current one; returns what is wrong with how it
    ended, empty where nothing is."""
    for name, content in {**FOREIGN, **drawn.files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    before = contents(folder)
    told, errors = io.StringIO(), io.StringIO()
    try:
        with limited(seconds), contextlib.redirect_stdout(told), contextlib.redirect_stderr(errors):
            code = main(drawn.arguments)
    except Hang:
        return f"it took more than {seconds:g} s"
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException as error:
        return f"it raised {type(error).__name__}: {error}"
    return _problem(code, errors.getvalue(), told.getvalue()) or _changed(before, contents(folder), drawn)


def _problem(code: int, errors: str, told: str) -> str:
    last = (errors.strip() or told.strip() or "nothing").splitlines()[-1]
    if code not in CODES:
        return f"it ended with {code}"
    if "Traceback" in errors + told or "(traceback: " in errors + told:
        return f"an error that nobody foresaw: {last}"
    if code in (2, 3) and not errors.strip():
        return f"it ended with {code} without a word"
    if found := _ADDRESS.search(errors + told):
        return f"a memory address is told: {found.group()}"
    if code in (2, 3) and max(map(len, errors.splitlines())) > LONGEST_LINE:
        return f"a line of more than {LONGEST_LINE} characters is told"
    return ""


def _changed(before: dict[str, str], after: dict[str, str], drawn: Input) -> str:
    lost = [name for name, digest in before.items() if after.get(name) != digest]
    if lost:
        return f"it changed {', '.join(lost)}"
    strange = [
        name for name in after if name not in before and not name.startswith(f"{OUTPUT}/") and name not in drawn.named
    ]
    return f"it wrote {', '.join(strange)}" if strange else ""


def search(kind: str, inputs: int, first: int, report: Callable[[Input, str], None] | None = None) -> int:
    """Draws `inputs` inputs of a kind from the seed `first`; returns how many were run.

    **Arguments:** `report` is called with each input that does not end in order. Without it the
    first one ends the search.

    **Raises:** `Faulty` with the smallest such input, where there is no `report`.
    """
    home, ran = os.getcwd(), 0
    shrink = [Phase.generate] if report else [Phase.generate, Phase.shrink]

    @seed(first)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=shrink,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(KINDS[kind])
    def run(drawn: Input) -> None:
        nonlocal ran
        ran += 1
        folder = tempfile.mkdtemp(prefix="fuzz-")
        os.chdir(folder)
        try:
            problem = problem_of(drawn, Path(folder))
        finally:
            os.chdir(home)
            shutil.rmtree(folder, ignore_errors=True)
        if problem and report is not None:
            report(drawn, problem)
        elif problem:
            raise Faulty(f"{' '.join(drawn.arguments)}: {problem}")

    run()
    return ran
