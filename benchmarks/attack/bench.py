"""Rows per second and peak memory of each stage of the attack, by the size of the table; distributed beside the plain way.

    python benchmarks/attack/bench.py [--rows 1e5,1e6] [--classes 10] [--stages plain,in_process,…] [--memory BYTES]

Each stage runs in a process of its own on Parquet files written beforehand, so its peak memory is its own:
`plain` reads all into NumPy and calls XGBClassifier.fit; `in_process` is XGBoostAttack; `score` scores every row; `lira`,
`rmia`, `audit` read, fit and score; `distributed` streams into XGBoost on a local Ray with two workers, `distributed_scores`
scores there. `--memory` is what the binned data of a worker may take before XGBoost pages it from disk.
Memory is private memory (resident without shared), in MiB. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from attack import RMIA, LiRA, XGBoostAttack, auc, outputs_table
from attack.outputs import logits_matrix, rows_where

MODELS = 100
STAGES = ("plain", "in_process", "score", "lira", "rmia", "distributed", "distributed_scores")
ATTACK = XGBoostAttack(max_depth=6, eta=0.2, rounds=20, early_stopping=20)
MIB = 2**20


def write(folder: Path, rows: int, classes: int) -> None:
    """Writes half originals and half retrained models, 40/5/5 of each, one row group a model; one model in memory."""
    samples = rows // MODELS
    labels = np.arange(samples) % classes
    for role, extra in (("original", 0.7), ("retrained", 0.0)):
        writer = None
        for model in range(MODELS // 2):
            generator = np.random.default_rng([model, role == "original"])
            logits = generator.normal(size=(samples, classes)).astype(np.float32)
            logits[np.arange(samples), labels] += 2.0 + extra
            fold = "train" if model < 40 else "validation" if model < 45 else "test"
            table = outputs_table(f"{role}-{model:03d}", role, "", "{}", fold, np.arange(samples), labels, logits)
            writer = writer or pq.ParquetWriter(folder / f"{role}.parquet", table.schema, compression="zstd")
            writer.write_table(table)
        assert writer is not None
        writer.close()


class Memory:
    """Samples the private memory of this process and of the Ray workers it started, by kind."""

    def __init__(self) -> None:
        self.peak: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.05):
            self._note("driver", me)
            for child in me.children(recursive=True):
                try:
                    title = " ".join(child.cmdline()[:1])
                    kind = "trainer" if "TrainWorker" in title else "data_task" if "MapBatches" in title else ""
                except psutil.Error:
                    continue
                if kind:
                    self._note(kind, child)

    def _note(self, kind: str, process: psutil.Process) -> None:
        try:
            memory = process.memory_info()
        except psutil.Error:
            return
        self.peak[kind] = max(self.peak.get(kind, 0.0), (memory.rss - memory.shared) / MIB)

    def close(self) -> dict[str, float]:
        self._stop.set()
        self._thread.join()
        return {kind: round(value, 1) for kind, value in self.peak.items()}


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def read(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in files(folder)])


def test_auc(folder: Path, score: Callable[[pa.Table], np.ndarray]) -> float:
    """AUC of the fitted attacker on the test fold, read apart: the quality that the time bought."""
    test = pa.concat_tables([pq.read_table(path, filters=[("fold", "=", "test")]) for path in files(folder)])
    return auc(np.asarray(test["role"].to_pylist()) == "original", score(test))


def plain(folder: Path, classes: int) -> Callable[[pa.Table], np.ndarray]:
    """All of the table in NumPy, one-hot and softmax, and scikit-learn's interface."""
    import xgboost

    def features(table: pa.Table) -> np.ndarray:
        logits = logits_matrix(table)
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.hstack([exponents / exponents.sum(axis=1, keepdims=True), np.eye(classes)[table["label"].to_numpy()]])

    table = rows_where(read(folder), fold="train")
    model = xgboost.XGBClassifier(
        n_estimators=ATTACK.rounds, max_depth=6, learning_rate=0.2, subsample=0.8, reg_lambda=10, min_child_weight=0.1,
        n_jobs=int(os.environ["OMP_NUM_THREADS"]), tree_method="hist",
    )  # fmt: skip
    model.fit(features(table), np.asarray(table["role"].to_pylist()) == "original")
    return lambda test: model.predict_proba(features(test))[:, 1]


def stage(name: str, folder: Path, classes: int, memory: float | None) -> dict[str, Any]:
    """Runs one stage in this process and returns seconds, peak memory and the quality of the result."""
    threads = int(os.environ["OMP_NUM_THREADS"])
    session = None
    if name.startswith("distributed"):
        from orchestrator.engine.session import RaySession

        session = RaySession("local")
    fitted = None
    if name in ("score", "distributed_scores"):  # the attacker is fitted on six models, before the clock starts
        few = [f"{role}-{number:03d}" for role in ("original", "retrained") for number in (0, 1, 40)]
        fitted = ATTACK.fit(
            pa.concat_tables([pq.read_table(path, filters=[("model_id", "in", few)]) for path in files(folder)])
        )
    watch = Memory()
    started = time.perf_counter()
    found: dict[str, Any] = {}
    score: Callable[[pa.Table], np.ndarray] | None = None
    if name == "plain":
        score = plain(folder, classes)
    elif name == "in_process":
        score = ATTACK.fit(read(folder), threads=threads).score
    elif name == "score":
        assert fitted is not None
        fitted.score(read(folder))
    elif name in ("lira", "rmia"):
        table = read(folder)
        attacker = (LiRA() if name == "lira" else RMIA()).fit(table)
        found["fit_seconds"] = round(time.perf_counter() - started, 2)
        attacker.score(table)
        score = attacker.score
    elif name == "distributed":
        from orchestrator.streaming_attack import fit_distributed

        attacker = fit_distributed(
            files(folder), ATTACK, num_workers=2, resources_per_worker={"CPU": 0.5}, memory_per_worker=memory
        )
        score = attacker.score
        found["notes"] = attacker.notes
    else:
        from orchestrator.streaming_attack import score_distributed

        assert fitted is not None
        with tempfile.TemporaryDirectory() as output:
            score_distributed(files(folder), fitted, output)
    found["seconds"] = round(time.perf_counter() - started, 2)
    found["memory_mib"] = watch.close()
    if score is not None:
        found["auc"] = round(test_auc(folder, score), 5)
    if session is not None:
        session.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1e5,1e6", help="sizes of the table, with commas")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--memory", type=float, help="bytes of binned data in a distributed worker before it pages from disk"
    )
    parser.add_argument("--folder", type=Path, help="where the tables are written (default: a temporary folder)")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(stage(args.stage, args.folder, args.classes, args.memory)))
        return 0
    base = Path(tempfile.mkdtemp(prefix="bench-attack-", dir=args.folder))
    results = []
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "PYTHONPATH": str(Path(__file__).parents[2])}
    try:
        for size in (int(float(text)) for text in args.rows.split(",")):
            folder = base / str(size)
            folder.mkdir()
            write(folder, size, args.classes)
            disk = sum(path.stat().st_size for path in files(folder)) / MIB
            print(f"{size:,} rows × {args.classes} classes, {disk:,.0f} MiB of Parquet", flush=True)
            for name in args.stages.split(","):
                command = [
                    sys.executable,
                    __file__,
                    "--stage",
                    name,
                    "--folder",
                    str(folder),
                    "--classes",
                    str(args.classes),
                ]
                command += ["--memory", str(args.memory)] if args.memory else []
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                if done.returncode:
                    print(f"  {name:20s} failed: {(done.stderr.strip().splitlines() or ['killed'])[-1]}", flush=True)
                    results.append({"rows": size, "stage": name, "failed": done.returncode})
                    continue
                found = json.loads(done.stdout.strip().splitlines()[-1])
                results.append({"rows": size, "stage": name, **found})
                memory = ", ".join(f"{kind} {value:,.0f}" for kind, value in found["memory_mib"].items())
                quality = f"  AUC {found['auc']:.4f}" if "auc" in found else ""
                notes = f"  ({'; '.join(found['notes'])})" if found.get("notes") else ""
                print(
                    f"  {name:20s} {found['seconds']:8.2f} s  {size / found['seconds']:12,.0f} rows/s  MiB: {memory}{quality}{notes}",
                    flush=True,
                )
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(json.dumps({"benchmark": "attack", "classes": args.classes, "threads": args.threads, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
