"""What other systems lack: macOS has no `/proc` and no CPU affinity; Windows is told what to use instead."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

# Libraries choose their files by the platform when they are imported, so they come first.
MACOS = """
import sys
import matplotlib.font_manager, numpy, psutil, pyarrow.parquet, sklearn.datasets, torch
import unlearn.data  # before torchvision: it mends its import beside a CPU-only torch
import torchvision
import os
import pytest

def missing(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith("/proc"):
        raise FileNotFoundError(2, "there is no /proc on macOS", str(arguments[0]))

def readlink(path, **more):
    missing("open", (path,))
    return real_readlink(path, **more)

real_readlink, os.readlink = os.readlink, readlink
sys.addaudithook(missing)
for name in ("sched_getaffinity", "sched_setaffinity"):
    delattr(os, name)
sys.platform = "darwin"

from orchestrator.commands.cli import main
from tests.few_figures import lessen
lessen(pytest.MonkeyPatch())
recipe, out = sys.argv[1:]
code = main(["run", recipe, "--output", out, "--address", "inline", "--json"])
sys.exit(code or main(["status", out]))
"""

WINDOWS = """
import sys
import psutil
import os
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
from orchestrator.commands import cli
for name in ("fork", "getuid", "killpg", "sched_getaffinity", "set_blocking"):
    delattr(os, name)

class Nt:
    "The module os as it names itself there. Changed for all, pathlib would make Windows paths."

    name = "nt"

    def __getattr__(self, name):
        return getattr(os, name)

cli.os = Nt()
sys.exit(cli.main(sys.argv[1:]))
"""

RECIPE = {
    "name": "tiny",
    "dataset": {"source": "digits", "limit": {"train": 60, "test": 40}},
    "scenario": {"kind": "samples", "per_class": 1},
    "model": {"name": "small_vgg", "width": 0.0625},
    "training": {"epochs": 1, "batch_size": 30, "augment": None},
    "shadows": {"originals": 3, "retrained": 3, "split": [1, 1, 1]},
    "methods": [{"name": "pgu", "epochs": 1, "early_stop": None}],
    "attacks": [{"name": "gap"}],
    "tracking": {"uri": None},
}


def ran(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300)


@pytest.mark.medium
def test_a_run_needs_nothing_that_macos_lacks(tmp_path: Path) -> None:
    recipe, out = tmp_path / "tiny.yaml", tmp_path / "out"
    recipe.write_text(yaml.safe_dump(RECIPE))
    done = ran(MACOS, str(recipe), str(out))
    assert done.returncode == 0, done.stderr
    document, end = json.JSONDecoder().raw_decode(done.stdout)
    assert {row["status"] for row in document["rows"]} == {"done"}
    assert document["environment"]["work"]["units_executed"] > 6
    finished = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()][-1]
    assert finished["event"] == "finished"
    assert finished["driver_peak_mib"] < 1024, "macOS counts in bytes, here it was said to: KiB became MiB"
    assert "finished" in done.stdout[end:], "what `status` prints"


def test_windows_is_told_in_one_line_what_to_use() -> None:
    done = ran(WINDOWS, "run", "demo")
    assert done.returncode == 2
    assert done.stderr.strip() == "orchestrator: Windows is not supported; use WSL 2, where Linux runs"
    assert done.stdout == ""
