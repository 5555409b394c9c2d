"""A place for experiments that are going to be disturbed: processes with a mark, one recipe, one undisturbed run to compare with."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import yaml

from .watch import AttemptWatch

ROOT = Path(__file__).resolve().parents[2]
MARK = "ORCHESTRATOR_CHAOS"
LIMIT = 400.0  # seconds for one invocation: longer is a hang
STAGES = ("train", "unlearn", "outputs", "attack", "score")

# 59 units of a few tenths of a second, in every stage some, moments and bases among them.
RECIPE: dict[str, Any] = {
    "name": "chaos",
    "seed": 5,
    "dataset": {"source": "digits", "limit": {"train": 400, "test": 200}},
    "scenario": {"kind": "samples", "per_class": 5},
    "model": {"name": "small_vgg", "width": 0.0625},
    "training": {"lr": 0.05, "final_lr": 0.005, "batch_size": 64, "epochs": 12, "augment": None},
    "shadows": {"originals": 8, "retrained": 8, "split": [4, 2, 2]},
    "methods": [
        {"name": "pgu", "gamma": {"grid": [0.9, 0.5]}, "lr": 0.01, "final_lr": 0.005, "epochs": 10, "early_stop": None},
        {"name": "eu_k", "k": 1, "epochs": 8},
    ],
    "tracking": {"uri": "sqlite:///mlflow.db"},
}


@dataclass
class Invocation:
    """One process of the command."""

    process: subprocess.Popen[bytes]
    log: Path
    started: float
    ended: float = 0.0

    @property
    def running(self) -> bool:
        if self.process.poll() is None:
            return True
        self.ended = self.ended or time.monotonic()
        return False

    def wait(self, limit: float = LIMIT) -> int:
        """Returns the exit code; a process that takes longer than `limit` seconds is killed, which reads −9."""
        try:
            code = self.process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.ended = self.ended or time.monotonic()
        return code

    def send(self, number: int) -> None:
        if self.running:
            self.process.send_signal(number)

    def errors(self) -> str:
        """Returns what it wrote to standard error."""
        return self.log.read_text(errors="replace")


class Lab:
    """Holds everything below one short folder, starts processes that carry a mark, and finds those that are left."""

    def __init__(
        self, seed: int, say: Callable[[str], None] = lambda text: None, address: str = "local", **recipe: Any
    ):
        """**Arguments:** `address`: where runs execute, unless a place says otherwise; `recipe`: changes to `RECIPE`."""
        self.seed, self.address = seed, address
        self.recipe = {**RECIPE, **recipe}
        self.say = say
        # Short: Ray puts Unix sockets below it, and their names may not exceed 107 bytes.
        self.root = Path(tempfile.mkdtemp(prefix="ch-", dir="/tmp"))
        self.mark = uuid.uuid4().hex
        self.places = 0
        for name in ("r", "tmp"):
            (self.root / name).mkdir()

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        return kept | {
            MARK: self.mark,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.root / "tmp"),
            "RAY_TMPDIR": str(self.root / "r"),
            "OMP_NUM_THREADS": "1",
            # Workers at Ray's nice 15 starve beside whatever else a shared machine does, and times would say that.
            "RAY_worker_niceness": "0",
            "GIT_OPTIONAL_LOCKS": "0",
        }

    def marked(self) -> list[psutil.Process]:
        """Returns living processes that this lab started, or that what it started did."""
        wanted = f"{MARK}={self.mark}".encode()
        found = []
        for process in psutil.process_iter():
            try:
                content = Path(f"/proc/{process.pid}/environ").read_bytes()
                if wanted in content and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (OSError, psutil.Error):
                continue
        return found

    def place(self, name: str, recipe: Mapping[str, Any] | None = None, **options: Any) -> Place:
        """Returns a new place for one experiment."""
        self.places += 1
        return Place(self, self.root / f"{self.places:02d}-{name}", recipe or self.recipe, **options)

    @cached_property
    def clean(self) -> Clean:
        """The undisturbed run; made when first asked for."""
        self.say("the undisturbed run")
        place = self.place("clean")
        code = place.run()
        if code != 0:
            raise RuntimeError(f"the undisturbed run failed ({code}): {place.invocations[-1].errors()[-2000:]}")
        first = place.invocations[0]
        place.run()
        again = place.invocations[1]
        return Clean(place, first.ended - first.started, again.ended - again.started)

    def close(self) -> None:
        """Ends what is left, by id, and removes the folder."""
        for process in self.marked():
            if process.pid != os.getpid():
                try:
                    process.kill()
                except psutil.Error:
                    continue
        shutil.rmtree(self.root, ignore_errors=True)


class Place:
    """One experiment: its recipe, folder, store, MLflow database, and the processes that worked on it."""

    def __init__(
        self,
        lab: Lab,
        root: Path,
        recipe: Mapping[str, Any],
        *,
        address: str = "",
        folder: Path | None = None,
        store: Path | None = None,
        database: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        self.lab, self.root, self.address = lab, root, address or lab.address
        self.recipe = copy.deepcopy(dict(recipe))
        self.folder = folder or root / "out"
        self.store = store or self.folder / "store"
        self.database = database or root / "mlflow.db"
        self.environment = dict(environment or {})
        self.uri = str(self.store)
        self.invocations: list[Invocation] = []
        self.kills: list[float] = []  # when drivers were killed
        root.mkdir(parents=True)
        (root / "recipe.yaml").write_text(yaml.safe_dump(self.recipe))

    @cached_property
    def watch(self) -> AttemptWatch:
        return AttemptWatch(self.store)

    def start(self, **environment: str) -> Invocation:
        """Starts the command in the background; always the same one."""
        _ = self.watch  # counting begins before the first process
        command = [sys.executable, "-m", "orchestrator", "run", "recipe.yaml", "--output", str(self.folder)]
        command += ["--store", self.uri, "--address", self.address]
        log = self.root / f"log-{len(self.invocations)}.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env=self.lab.environment() | self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
            )
        self.invocations.append(Invocation(process, log, time.monotonic()))
        return self.invocations[-1]

    def run(self, limit: float = LIMIT, **environment: str) -> int:
        """Runs the command to its end and returns the exit code."""
        return self.start(**environment).wait(limit)

    def kill_driver(self, number: int = signal.SIGKILL) -> int:
        """Ends the running driver by a signal and returns its exit code."""
        self.kills.append(time.monotonic())
        self.invocations[-1].send(number)
        return self.invocations[-1].wait(60)

    def events(self) -> list[dict[str, Any]]:
        found = []
        try:
            text = (self.folder / "events.jsonl").read_text(errors="replace")
        except OSError:
            return []
        for line in text.splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def units_done(self) -> int:
        return sum(event.get("event") == "unit" and event.get("status") == "done" for event in self.events())

    def begun(self) -> set[str]:
        """Returns the stages in which this invocation has begun a unit, and `report` after all of them. They overlap."""
        found: set[str] = set()
        for event in self.events():
            if event.get("event") == "start":
                found = set()
            elif event.get("event") == "stage_start" and event["units"]:
                found.add(event["stage"])
            elif event.get("event") == "stage_end" and event["stage"] == "score":
                found.add("report")
        return found

    def phase(self) -> str:
        """Returns the last stage that has begun, or `start-up`, or `report`."""
        stage, ended = "start-up", False
        for event in self.events():
            if event.get("event") == "start":
                stage = "start-up"
            elif event.get("event") == "stage_start":
                stage = event["stage"]
            elif event.get("event") == "stage_end":
                ended = event["stage"] == "score"
                stage = "report" if ended else stage
        return stage

    def until(self, condition: Callable[[], bool], limit: float = LIMIT) -> bool:
        """Waits until `condition` holds; False where the command ends before, or after `limit` seconds."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            if condition():
                return True
            if not self.invocations[-1].running:
                return condition()
            time.sleep(0.02)
        return False

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / "results.json").read_text())
        return document

    def workers(self) -> list[psutil.Process]:
        """Returns the living worker processes of Ray that execute this lab's work."""
        found = []
        for process in self.lab.marked():
            try:
                title = " ".join(process.cmdline())
                # Agents are part of a node: their death is the node's, which is another scenario.
                if title.startswith("ray::") and "Agent" not in title:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def marks(self) -> dict[str, dict[str, Any]]:
        """Returns the commit marks of the store, as they lie there, by key."""
        found = {}
        for path in sorted(self.store.glob("objects/??/*/commit.json")):
            found[path.parent.name] = json.loads(path.read_text())
        return found


@dataclass
class Clean:
    """The undisturbed run: what every disturbed one must come to, and how long it took."""

    place: Place
    seconds: float
    start_up: float  # seconds of the same command where everything is done
    _keys: frozenset[str] = field(default_factory=frozenset)

    @cached_property
    def keys(self) -> frozenset[str]:
        return frozenset(self.place.marks())

    @cached_property
    def timeline(self) -> list[float]:
        """Seconds from the start of the command at which each unit was done."""
        events = self.place.events()
        begin = next(event["time"] for event in events if event["event"] == "start")
        # The first event is written after the command's imports; the last one before it disconnects.
        lead = max(0.0, self.seconds - (next(e["time"] for e in events if e["event"] == "finished") - begin)) * 0.7
        return [e["time"] - begin + lead for e in events if e["event"] == "unit" and e["status"] == "done"]

    @cached_property
    def worker_start(self) -> float:
        """Seconds from Ray's start until the first unit began: what a worker takes to start."""
        events = self.place.events()
        begin = next(e["time"] for e in events if e["event"] == "engine")
        return min(e["time"] - e["seconds"] for e in events if e["event"] == "unit" and e["stage"] == "train") - begin

    def moment(self, share: float) -> tuple[int, float]:
        """Returns the moment at `share` of the run as units done by then and seconds since the last of them."""
        at = share * self.seconds
        done = [stamp for stamp in self.timeline if stamp <= at]
        return len(done), at - (done[-1] if done else 0.0)

    def at_work(self, share: float) -> tuple[int, float]:
        """Returns the moment at `share` of the time from the first unit's end to the last's, like `moment`.

        Later the report is drawn, which needs no cluster.
        """
        first, last = self.timeline[0], self.timeline[-1]
        return self.moment((first + share * (last - first)) / self.seconds)


def draws(generator: random.Random, count: int) -> Iterator[float]:
    """Yields `count` shares in (0, 1) in growing order, one at random from each of `count` equal parts."""
    for part in range(count):
        yield (part + generator.random()) / count


_NUMBERS = re.compile(r"^seconds|_seconds$|^speedup_vs_retrain$|^seconds_per_model$")


def untimed(rows: list[dict[str, Any]]) -> str:
    """Returns rows as text without what a clock decides; equal texts are equal to the bit."""
    clean = copy.deepcopy(rows)
    for row in clean:
        row.pop("seconds")
        for name in [name for name in row["metrics"] if _NUMBERS.match(name)]:
            del row["metrics"][name]
        for about in row["attacks"].values():
            about.pop("seconds", None)
    return json.dumps(clean, sort_keys=True)
