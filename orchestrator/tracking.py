"""MLflow runs, derived from the store.

The store is the truth and the spool: a run is logged once for each committed unit, tagged with the unit's key and looked
up before it is created. A server that is away, slow or locked delays that and fails nothing; the next invocation logs
what is missing. Time stamps come from the store, so logging a half-logged unit again changes nothing.

One writer thread in the driver; MLflow is imported there, not on the way to the first unit.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .data import ExperimentData
from .plan import Plan, experiment_id
from .recipe import Recipe, to_yaml
from .results import git_state, versions
from .store import Store
from .store.local import write_synced
from .units import Unit, canonical, digest

BATCH = 1000
FLUSH_SECONDS = 120.0
RETRY_SECONDS = 15.0
LOGGED_KINDS = ("train", "unlearn", "attack")
TAG = "orchestrator"
MARKER = "mlflow.json"


class Tracker:
    """Logs an experiment to MLflow: a parent run, one child run for each model and attacker, one for each result row."""

    def __init__(self, recipe: Recipe, plan: Plan, data: ExperimentData, store: Store, folder: Path):
        self.notes: list[str] = []
        self._recipe, self._plan, self._data, self._store, self._folder = recipe, plan, data, store, folder
        self._queue: queue.Queue[tuple[str, Any] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._client: Any = None
        self._parent = ""
        self._children: dict[str, tuple[str, str]] = {}
        self._experiment = ""
        self._waiting: list[tuple[str, Any]] = []
        self._last_failure = 0.0
        self._problem = ""

    def start(self) -> None:
        """Starts the writer, unless tracking is off."""
        if self._recipe.tracking.uri:
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
            self._thread = threading.Thread(target=self._write, daemon=True, name="mlflow")
            self._thread.start()

    def is_complete(self) -> bool:
        """Whether an earlier invocation logged all of this plan to this place: then MLflow need not even be imported."""
        uri = tracking_uri(self._recipe)
        if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
            return False
        try:
            return bool(json.loads((self._folder / MARKER).read_text()) == self._identity())
        except (OSError, ValueError):
            return False

    def _identity(self) -> dict[str, str]:
        keys = sorted(unit.key for unit in self._plan.units())
        return {"uri": tracking_uri(self._recipe), "experiment": self._experiment_name(), "units": digest(keys)}

    def unit_done(self, unit: Unit) -> None:
        """Queues a committed unit."""
        if self._thread is not None and unit.kind in LOGGED_KINDS:
            self._queue.put(("unit", unit))

    def finish(self, document: Mapping[str, Any], failed: int) -> None:
        """Logs the result rows and artifacts, ends the parent run and waits, with a limit, until all is written."""
        if self._thread is None:
            return
        self._queue.put(("finish", document))
        self.close("FAILED" if failed else "FINISHED")

    def close(self, status: str) -> None:
        """Ends the parent run with `status` and stops the writer."""
        if self._thread is None:
            return
        self._queue.put(("end", status))
        self._queue.put(None)
        self._thread.join(timeout=FLUSH_SECONDS if status in ("FINISHED", "FAILED") else 5.0)
        if self._thread.is_alive() or self._waiting:
            left = len(self._waiting) + self._queue.qsize()
            why = f" ({self._problem})" if self._problem else ""
            self.notes.append(
                f"MLflow at {self._recipe.tracking.uri} did not take everything{why}: {left} items wait; the same command again logs them"
            )
        elif status == "FINISHED":
            write_synced(self._folder / MARKER, json.dumps(self._identity()).encode())
            self.notes.append(f"MLflow: experiment {self._experiment_name()!r} at {tracking_uri(self._recipe)}")
        self._thread = None

    def _experiment_name(self) -> str:
        return self._recipe.tracking.experiment or self._recipe.name

    # Everything below runs in the writer thread.

    def _write(self) -> None:
        while True:
            item = self._queue.get()
            if item is None:
                self._drain(last=True)
                return
            self._waiting.append(item)
            self._drain()

    def _drain(self, last: bool = False) -> None:
        """Writes what waits, in order; keeps it where the server does not answer."""
        if self._last_failure and not last and time.monotonic() - self._last_failure < RETRY_SECONDS:
            return
        while self._waiting:
            try:
                if self._client is None:
                    self._connect()
                self._log(*self._waiting[0])
            except Exception as error:  # tracking never fails an experiment
                lines = str(error).strip().splitlines()
                self._problem = (lines[0] if lines else type(error).__name__)[:200]
                self._last_failure = time.monotonic()
                return
            self._waiting.pop(0)
            self._last_failure = 0.0

    def _connect(self) -> None:
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        uri = tracking_uri(self._recipe)
        with _creation_lock(uri):
            client = MlflowClient(tracking_uri=uri)
            name = self._experiment_name()
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                location = str(Path.cwd() / "mlartifacts" / name) if uri.startswith("sqlite:") else None
                self._experiment = client.create_experiment(name, artifact_location=location)
            else:
                self._experiment = experiment.experiment_id
        self._close_orphans(client)
        self._parent = self._find_parent(client)
        self._children = {
            run.data.tags[f"{TAG}.unit"]: (run.info.run_id, run.info.status)
            for run in _search(client, self._experiment, f"tags.`mlflow.parentRunId` = '{self._parent}'")
            if f"{TAG}.unit" in run.data.tags
        }
        self._client = client

    def _close_orphans(self, client: Any) -> None:
        """Ends, as KILLED, runs whose driver on this machine is no more."""
        for run in _search(
            client, self._experiment, f"attributes.status = 'RUNNING' and tags.`{TAG}.host` = '{socket.gethostname()}'"
        ):
            pid = int(run.data.tags.get(f"{TAG}.pid", "0"))
            if pid != os.getpid() and not _alive(pid):
                client.set_terminated(run.info.run_id, status="KILLED")

    def _find_parent(self, client: Any) -> str:
        identity = experiment_id(self._recipe)
        owner = {f"{TAG}.host": socket.gethostname(), f"{TAG}.pid": str(os.getpid())}
        for run in _search(
            client, self._experiment, f"tags.`{TAG}.experiment` = '{identity}' and tags.`{TAG}.kind` = 'experiment'"
        ):
            client.update_run(run.info.run_id, status="RUNNING")
            for name, value in owner.items():
                client.set_tag(run.info.run_id, name, value)
            return str(run.info.run_id)
        tags = {
            f"{TAG}.experiment": identity,
            f"{TAG}.kind": "experiment",
            "mlflow.note.content": self._recipe.description,
            "dataset": self._data.dataset.name,
            "model": str(self._recipe.model.get("name")),
            **owner,
            **_code_tags(),
        }
        run = client.create_run(self._experiment, run_name=self._recipe.name, tags=tags)
        run_id = str(run.info.run_id)
        recipe = self._recipe.model_dump(mode="json")
        flat = {
            **_flat(recipe["training"], "training"),
            **_flat(recipe["scenario"], "scenario"),
            **_flat(recipe["model"], "model"),
        }
        flat |= {"seed": recipe["seed"], **_flat(recipe["shadows"], "shadows")}
        _log_params(client, run_id, flat)
        self._log_dataset(client, run_id)
        client.log_text(run_id, to_yaml(self._recipe), "recipe.yaml")
        return run_id

    def _log_dataset(self, client: Any, run_id: str) -> None:
        from mlflow.entities import Dataset, DatasetInput

        facts = self._data.summary()
        entry = Dataset(
            name=self._data.dataset.name,
            digest=self._data.digest[:36],
            source_type="orchestrator",
            source=canonical({k: str(v) for k, v in self._recipe.dataset.items()}),
            profile=canonical(facts["dataset"] | {"split": facts["split"]}),
        )
        client.log_inputs(run_id, [DatasetInput(entry)])

    def _log(self, what: str, item: Any) -> None:
        if what == "unit":
            self._log_unit(item)
        elif what == "finish":
            self._log_results(item)
        else:
            self._client.set_terminated(self._parent, status=item)

    def _log_unit(self, unit: Unit) -> None:
        known = self._children.get(unit.key)
        if known and known[1] == "FINISHED":
            return
        meta = self._store.meta(unit.key)
        finished = int(meta["finished"] * 1000)
        tags = {
            f"{TAG}.kind": unit.kind,
            "stage": unit.kind,
            "method": str(unit.label.get("method", unit.label.get("attack", unit.label.get("role", "")))),
        }
        run_id = self._child(unit.key, unit.name, tags, finished - int(meta["seconds"] * 1000))
        params = unit.spec.get("params", unit.spec.get("training", {}))
        _log_params(self._client, run_id, {**_flat(params, ""), "seed": unit.spec.get("seed", "")})
        metrics = list(_history_metrics(meta.get("history", []), finished))
        metrics += [
            (name, float(meta[name]), finished, 0) for name in ("seconds", "validation_f1", "threshold") if name in meta
        ]
        self._log_metrics(run_id, metrics)
        if self._recipe.tracking.log_models and unit.kind in ("train", "unlearn"):
            self._client.log_artifact(run_id, str(self._store.fetch(unit.key, "model.safetensors")))
        self._terminate(unit.key, run_id, finished)

    def _log_results(self, document: Mapping[str, Any]) -> None:
        """One run for each row: the runs that a user compares."""
        now = int(time.time() * 1000)
        for row in document["rows"]:
            key = "row:" + digest([row["method"], row["params"], [score.key for score in self._row_scores(row)]])
            known = self._children.get(key)
            if known and known[1] == "FINISHED":
                continue
            shown = " ".join(f"{k}={v}" for k, v in row["params"].items())
            tags = {
                f"{TAG}.kind": "result",
                "stage": "result",
                "method": row["method"],
                "status": row["status"],
                "verdict": row["verdict"][:4000],
            }
            run_id = self._child(key, f"{row['method']} {shown}".strip(), tags, now)
            _log_params(self._client, run_id, {"method": row["method"], **_flat(row["params"], "")})
            # Few columns: intervals of the main number only; results.json has them all.
            low, high = row["ci"].get("auc", (None, None))
            values = {**row["metrics"], "auc_low": low, "auc_high": high}
            self._log_metrics(run_id, [(_metric_name(n), float(v), now, 0) for n, v in values.items() if v is not None])
            if row["status"] == "done":
                self._terminate(key, run_id, now)
            else:
                self._client.set_terminated(run_id, status="FAILED")
        for name in ("results.json", "report.html"):
            if (self._folder / name).is_file():
                self._client.log_artifact(self._parent, str(self._folder / name))
        for name in ("figures", "tables"):
            if (self._folder / name).is_dir():
                self._client.log_artifacts(self._parent, str(self._folder / name), name)
        best = {f"rows_{status}": sum(r["status"] == status for r in document["rows"]) for status in ("done", "failed")}
        self._log_metrics(self._parent, [(n, float(v), now, 0) for n, v in best.items()])

    def _row_scores(self, row: Mapping[str, Any]) -> tuple[Unit, ...]:
        for planned in self._plan.rows:
            if planned.method == row["method"] and canonical(dict(planned.params)) == canonical(row["params"]):
                return planned.scores
        return ()

    def _child(self, key: str, name: str, tags: dict[str, str], start: int) -> str:
        if key in self._children:
            return self._children[key][0]
        tags = {
            **tags,
            "mlflow.parentRunId": self._parent,
            f"{TAG}.unit": key,
            f"{TAG}.host": socket.gethostname(),
            f"{TAG}.pid": str(os.getpid()),
        }
        run = self._client.create_run(self._experiment, start_time=start, run_name=name, tags=tags)
        self._children[key] = (run.info.run_id, "RUNNING")
        return str(run.info.run_id)

    def _log_metrics(self, run_id: str, values: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        finite = [
            Metric(name, value, stamp, step)
            for name, value, stamp, step in values
            if value == value and abs(value) != float("inf")
        ]
        for start in range(0, len(finite), BATCH):
            self._client.log_batch(run_id, metrics=finite[start : start + BATCH])

    def _terminate(self, key: str, run_id: str, finished: int) -> None:
        self._client.set_terminated(run_id, status="FINISHED", end_time=finished)
        self._children[key] = (run_id, "FINISHED")


def tracking_uri(recipe: Recipe) -> str:
    """Returns the tracking URI with a relative sqlite path made absolute from the current folder."""
    uri = recipe.tracking.uri or ""
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{Path.cwd() / uri.removeprefix('sqlite:///')}"
    return uri


@contextlib.contextmanager
def _creation_lock(uri: str) -> Iterator[None]:
    """Lets one process at a time create a new sqlite store: several at once corrupt it for good."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    path = Path(uri.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _search(client: Any, experiment: str, condition: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs([experiment], filter_string=condition, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0


def _history_metrics(history: list[dict[str, Any]], finished: int) -> Iterator[tuple[str, float, int, int]]:
    for row in history:
        step = int(row.get("epoch", 0))
        for name, value in row.items():
            if name == "epoch":
                continue
            if isinstance(value, Mapping):
                for part, number in value.items():
                    if isinstance(number, int | float):
                        yield _metric_name(f"{name}/{part}"), float(number), finished, step
            elif isinstance(value, int | float):
                yield _metric_name(name), float(value), finished, step


def _metric_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_-. /:" else "_" for c in name)


def _flat(value: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in value.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(item, Mapping) and item:
            found.update(_flat(item, path))
        else:
            found[path] = item if isinstance(item, str | int | float | bool) or item is None else json.dumps(item)
    return found


def _log_params(client: Any, run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    entries = [Param(_metric_name(name), str(value)[:6000]) for name, value in params.items()]
    for start in range(0, len(entries), 100):
        client.log_batch(run_id, params=entries[start : start + 100])


def _code_tags() -> dict[str, str]:
    git = git_state()
    tags = {f"version.{name}": text for name, text in versions().items()}
    if git:
        tags["mlflow.source.git.commit"] = git["commit"]
        tags["git.dirty"] = str(git["dirty"]).lower()
    return tags
