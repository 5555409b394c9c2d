"""What the tracker writes: MLflow runs of one experiment, found again before they are made, ended
when their driver is gone.

A run carries the key of what it logs as a tag. Whoever connects looks all of them up. So a request
whose answer was lost (a slow server, a killed driver) is found instead of repeated. Should two runs
carry one key, one stays.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..base.documents import Results, Tuned
from ..base.processes import is_running, process_start
from ..base.text import file_name
from ..base.values import Record, canonical, digest
from ..plan.data import ExperimentData
from ..plan.rows import Plan, Row
from ..plan.units import Unit, experiment_id
from ..recipe.places import sqlite_path
from ..recipe.recipe import to_yaml
from ..recipe.sections import Recipe
from ..store import Store
from .mlflow_owner import TAG, age, code_tags, is_silent, owner_tags
from .mlflow_server import creation_lock, experiment_name, load_mlflow, mlflow_client, tracking_uri
from .mlflow_values import flattened, history_metrics, metric_name
from .mlflow_view import VIEW_TAG, best_row, results_view

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MOST_METRICS = 900  # of one request, which may hold 1,000 metrics, 100 parameters and 100 tags
MOST_PARAMS = 100
TRIAL_METRICS: tuple[Literal["distance", "auc", "error", "error_rise", "objective", "models", "seconds"], ...] = (
    "distance",
    "auc",
    "error",
    "error_rise",
    "objective",
    "models",
    "seconds",
)
ENDED = ("FINISHED", "FAILED", "KILLED")


class MlflowRuns:
    """The runs of one experiment on a server. Any call may raise what MLflow raises; connect anew
    after that.
    """

    def __init__(self, recipe: Recipe, plan: Plan, data: ExperimentData, store: Store, folder: Path):
        self._recipe, self._plan, self._data, self._store, self._folder = recipe, plan, data, store, folder
        self._identity = experiment_id(recipe)
        self._client: MlflowClient
        self._experiment = ""
        self._parent = ""
        self._children: dict[str, tuple[str, str]] = {}

    def connect(self) -> None:
        """Finds or makes the experiment and its parent run, looks its runs up, ends those of dead
        drivers.
        """
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        uri = tracking_uri(self._recipe)
        with creation_lock(uri):
            client = mlflow_client(uri)
            name = experiment_name(self._recipe)
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                location = str(Path.cwd() / "mlartifacts" / file_name(name)) if sqlite_path(uri) else None
                self._experiment = client.create_experiment(name, artifact_location=location)
            else:
                self._experiment = experiment.experiment_id
                if experiment.lifecycle_stage == "deleted":  # its name stays taken
                    client.restore_experiment(experiment.experiment_id)
            client.set_experiment_tag(self._experiment, VIEW_TAG, results_view())
        self._client = client
        parents = self._find_parents()
        self._parent = self._adopt(parents[0]) if parents else self._make_parent()
        self._describe_parent(parents[0].data.tags if parents else {})
        self._look_up_children(parents)
        for spare in parents[1:]:
            self._drop(spare)
        self._close_orphans()

    @property
    def experiment(self) -> str:
        """The id of the experiment on the server."""
        return self._experiment

    def beat(self) -> None:
        """Says that this driver lives."""
        self._client.set_tag(self._parent, f"{TAG}.heartbeat", str(int(time.time())))

    def log_unit(self, unit: Unit) -> None:
        """Logs a committed unit, unless its run is finished already. Logging it again changes
        nothing.
        """
        if self._is_finished(unit.key):
            return
        meta = self._store.meta(unit.key)
        finished = int(meta["finished"] * 1000)
        tags = {
            f"{TAG}.kind": unit.kind,
            "stage": unit.kind,
            "method": unit.label.subject,
            "host": str(meta.get("host", "")),
        }
        run_id = self._child(unit.key, unit.name, tags, finished - int(meta["seconds"] * 1000))
        if run_id is None:
            return
        spec = unit.spec.identity()
        params = spec.get("params", spec.get("training", {}))
        metrics = list(history_metrics(meta.get("history", []), finished))
        metrics += [
            (name, float(meta[name]), finished, 0) for name in ("seconds", "validation_f1", "threshold") if name in meta
        ]
        self._log(run_id, {**flattened(params, ""), "seed": spec.get("seed", "")}, metrics)
        if self._recipe.tracking.log_models and unit.kind in ("train", "unlearn"):
            self._client.log_artifact(run_id, str(self._store.fetch(unit.key, "model.safetensors")))
        self._end_child(unit.key, run_id, "FINISHED", finished)

    def log_results(self, document: Results) -> None:
        """Logs one run for each row, the runs that a user compares, and the results as artifacts of
        the parent run.
        """
        latest = 0
        for row in document["rows"]:
            scores = self._row_scores(row)
            key = "row:" + digest([row["method"], row["params"], [score.key for score in scores]])
            # The store's clock, not the wall's: what is logged again is then the same and stays
            # single.
            stamp = int(
                1000 * max((self._store.meta(s.key)["finished"] for s in scores if self._store.has(s.key)), default=0)
            )
            latest = max(latest, stamp)
            shown = " ".join(f"{k}={v}" for k, v in row["params"].items())
            tags = {
                f"{TAG}.kind": "result",
                "stage": "result",
                "method": row["method"],
                "status": row["status"],
                "verdict": row["verdict"][:4000],
                "verdict_word": str(row["metrics"].get("verdict_word") or ""),
            }
            run_id = self._child(key, f"{row['method']} {shown}".strip(), tags, stamp)
            if run_id is None:
                continue
            # Few columns: intervals of the main number only; results.json has them all.
            low, high = row["ci"].get("auc", (None, None))
            values = {**row["metrics"], "auc_low": low, "auc_high": high}
            metrics = [(metric_name(n), float(v), stamp, 0) for n, v in values.items() if isinstance(v, int | float)]
            self._log(run_id, {"method": row["method"], **flattened(row["params"], "")}, metrics, tags)
            self._log_dataset(run_id)
            self._end_child(key, run_id, "FINISHED" if row["status"] == "done" else "FAILED", stamp or None)
        if self._recipe.tracking.register_best:
            self._register(best_row(document["rows"]), self._recipe.tracking.register_best)
        for name in ("results.json", "report.html"):
            if (self._folder / name).is_file():
                self._client.log_artifact(self._parent, str(self._folder / name))
        for name in ("figures", "tables"):
            if (self._folder / name).is_dir():
                self._client.log_artifacts(self._parent, str(self._folder / name), name)
        counts = {s: sum(r["status"] == s for r in document["rows"]) for s in ("done", "failed")}
        self._log(self._parent, {}, [(f"rows_{s}", float(n), latest, 0) for s, n in counts.items()])

    def _register(self, row: Record | None, name: str) -> None:
        """Registers the first model of a row, once for each of its weights."""
        planned = next((p for p in self._plan.rows if row is not None and _same_row(p, row)), None)
        stored = [unit for unit in planned.producers if self._store.has(unit.key)] if planned else []
        if row is None or not stored:
            return
        unit, client = stored[0], self._client
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        if any(v.tags.get(f"{TAG}.unit") == unit.key for v in client.search_model_versions(f"name = '{name}'")):
            return
        scores = "row:" + digest([row["method"], row["params"], [score.key for score in self._row_scores(row)]])
        run_id = self._children[scores][0]
        client.log_artifact(run_id, str(self._store.fetch(unit.key, "model.safetensors")), "model")
        source = f"{client.get_run(run_id).info.artifact_uri}/model"
        tags = {f"{TAG}.unit": unit.key, "verdict_word": "forgot", "method": str(row["method"])}
        client.create_model_version(name, source, run_id, tags=tags)

    def log_trials(self, tuned: Sequence[Tuned]) -> None:
        """Logs one run for each setting that a league tried."""
        kept = [self._store.meta(unit.key) for unit in self._plan.rows[0].measures if self._store.has(unit.key)]
        stamp = int(1000 * max((meta["finished"] for meta in kept), default=0))
        for each in tuned:
            for trial in each["trials"]:
                method = each["method"]
                key = "trial:" + digest([method, trial["number"], trial["params"]])
                tags = {
                    f"{TAG}.kind": "trial",
                    "stage": "trial",
                    "method": method,
                    "status": trial["status"],
                    "source": trial["source"],
                    "winner": str(trial["winner"]).lower(),
                }
                run_id = self._child(key, f"{method} trial {trial['number']}", tags, stamp)
                if run_id is None:
                    continue
                values = {name: trial[name] for name in TRIAL_METRICS}
                metrics = [(str(name), float(value), stamp, 0) for name, value in values.items() if value is not None]
                self._log(run_id, {"method": method, **flattened(trial["params"], "")}, metrics, tags)
                self._end_child(key, run_id, "FAILED" if trial["status"] == "failed" else "FINISHED", stamp or None)

    def end(self, status: str) -> None:
        """Ends the parent run with `status`, and as KILLED every run of it that nobody finished."""
        self._look_up_children([])
        for key, (run_id, state) in list(self._children.items()):
            if state not in ENDED:
                self._end_child(key, run_id, "KILLED", None)
        self._client.set_terminated(self._parent, status=status)

    def _find_parents(self) -> list[Run]:
        """Returns the experiment's parent runs, oldest first: one, unless an answer was lost."""
        condition = f"tags.`{TAG}.experiment` = '{self._identity}' and tags.`{TAG}.kind` = 'experiment'"
        return sorted(self._search(condition), key=age)

    def _adopt(self, run: Run) -> str:
        self._client.update_run(run.info.run_id, status="RUNNING")
        return str(run.info.run_id)

    def _make_parent(self) -> str:
        tags = {f"{TAG}.experiment": self._identity, f"{TAG}.kind": "experiment", **owner_tags()}
        return str(self._client.create_run(self._experiment, run_name=self._recipe.name, tags=tags).info.run_id)

    def _describe_parent(self, before: Mapping[str, str]) -> None:
        """Logs what the experiment is. Marked when it is done, since a driver may die between
        making the run and this.
        """
        tags = owner_tags()
        if f"{TAG}.described" in before:
            self._log(self._parent, {}, [], tags)
            return
        flat: dict[str, object] = {"seed": self._recipe.seed}
        for section in ("training", "scenario", "model", "shadows"):
            flat |= flattened(self._recipe.section(section), section)
        tags |= {
            "mlflow.note.content": self._recipe.description,
            "dataset": self._data.dataset.name,
            "model": self._recipe.model.name,
            **code_tags(),
        }
        self._log(self._parent, flat, [], tags)
        self._log_dataset(self._parent)
        self._client.log_text(self._parent, to_yaml(self._recipe), "recipe.yaml")
        self._client.set_tag(self._parent, f"{TAG}.described", "yes")

    def _log_dataset(self, run_id: str) -> None:
        entities = load_mlflow().entities
        facts = self._data.summary()
        entry = entities.Dataset(
            name=self._data.dataset.name,
            digest=self._data.digest[:36],
            source_type="orchestrator",
            source=canonical({k: str(v) for k, v in self._recipe.section("dataset").items()}),
            profile=canonical(facts["dataset"] | {"split": facts["split"]}),
        )
        self._client.log_inputs(run_id, [entities.DatasetInput(entry)])

    def _look_up_children(self, parents: Iterable[Run]) -> None:
        """Reads which runs there are, keeps one for each key, and hangs them all below the one
        parent.
        """
        found = {run.info.run_id: run for run in self._search(f"tags.`mlflow.parentRunId` = '{self._parent}'")}
        for parent in parents:
            condition = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
            found.update({run.info.run_id: run for run in self._search(condition)})
        kept: dict[str, Run] = {}
        for run in sorted(found.values(), key=lambda run: (run.info.status != "FINISHED", *age(run))):
            key = run.data.tags.get(f"{TAG}.unit")
            if key is None:
                continue
            if key in kept:
                self._drop(run)
                continue
            kept[key] = run
            if run.data.tags.get("mlflow.parentRunId") != self._parent:
                self._client.set_tag(run.info.run_id, "mlflow.parentRunId", self._parent)
        self._children = {key: (run.info.run_id, run.info.status) for key, run in kept.items()}

    def _drop(self, run: Run) -> None:
        """Deletes a run that another one with the same key makes superfluous."""
        if run.info.status not in ENDED:
            self._client.set_terminated(run.info.run_id, status="KILLED")
        self._client.delete_run(run.info.run_id)

    def _close_orphans(self) -> None:
        """Ends, as KILLED, runs of other experiments here whose driver is no more: on this machine,
        or silent elsewhere.
        """
        ours = {run_id for run_id, _ in self._children.values()} | {self._parent}
        parents: dict[str, Run] = {}
        for run in list(self._search("attributes.status = 'RUNNING'")):
            tags = run.data.tags
            if run.info.run_id in ours or f"{TAG}.host" not in tags:
                continue
            if tags[f"{TAG}.host"] == socket.gethostname():
                pid = tags.get(f"{TAG}.pid", "0")
                dead = not is_running(pid, tags.get(f"{TAG}.started") or process_start(pid))
            else:
                leader = tags.get("mlflow.parentRunId", "")
                if leader and leader not in parents:
                    parents[leader] = self._client.get_run(leader)
                head = parents.get(leader, run)
                dead = head.info.status != "RUNNING" or is_silent(head)
            if dead:
                self._client.set_terminated(run.info.run_id, status="KILLED")

    def _row_scores(self, row: Record) -> tuple[Unit, ...]:
        return next((planned.measures for planned in self._plan.rows if _same_row(planned, row)), ())

    def _is_finished(self, key: str) -> bool:
        return key in self._children and self._children[key][1] == "FINISHED"

    def _child(self, key: str, name: str, tags: dict[str, str], start: int) -> str | None:
        """Returns the run that logs `key`, made where there is none; None where one has logged it
        to the end.
        """
        if key not in self._children:
            # Another driver of the same experiment, with another output folder, may have logged it
            # meanwhile.
            condition = f"tags.`mlflow.parentRunId` = '{self._parent}' and tags.`{TAG}.unit` = '{key}'"
            run, status = min(self._search(condition), key=age, default=None), "RUNNING"
            if run is not None:
                status = run.info.status
            else:
                tags = {**tags, "mlflow.parentRunId": self._parent, f"{TAG}.unit": key, **owner_tags()}
                run = self._client.create_run(self._experiment, start_time=start, run_name=name, tags=tags)
            self._children[key] = (str(run.info.run_id), status)
        return None if self._is_finished(key) else self._children[key][0]

    def _end_child(self, key: str, run_id: str, status: str, finished: int | None) -> None:
        self._client.set_terminated(run_id, status=status, end_time=finished)
        self._children[key] = (run_id, status)

    def _log(
        self,
        run_id: str,
        params: Mapping[str, object],
        metrics: list[tuple[str, float, int, int]],
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Writes in as few requests as their limits allow."""
        entities = load_mlflow().entities
        left = [entities.Param(metric_name(name), str(value)[:6000]) for name, value in params.items()]
        marks = [entities.RunTag(name, value) for name, value in (tags or {}).items()]
        finite = [
            entities.Metric(name, value, stamp, step)
            for name, value, stamp, step in metrics
            if value == value and abs(value) != float("inf")
        ]
        while left or finite or marks:
            self._client.log_batch(run_id, metrics=finite[:MOST_METRICS], params=left[:MOST_PARAMS], tags=marks)
            finite, left, marks = finite[MOST_METRICS:], left[MOST_PARAMS:], []

    def _search(self, condition: str) -> Iterator[Run]:
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment], filter_string=condition, max_results=1000, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return


def _same_row(planned: Row, row: Record) -> bool:
    return planned.method == row["method"] and canonical(dict(planned.params)) == canonical(row["params"])
