"""Rows per second and peak memory of each stage of the attack, by the size of the table, beside the plain way.

    python benchmarks/attack/bench.py [--rows 1e5,1e6] [--classes 10] [--stages plain,in_process,…] [--repeats 3] [--memory BYTES]

Each stage runs in a process of its own on Parquet files written beforehand, so its peak memory is its own:

- `read`: the bytes of the files, as fast as the machine gives them; `decode`: Parquet's label and logits into Arrow, a piece at a
  time. No attack can be faster than these.
- `plain`: all into NumPy, softmax beside one-hot, `XGBClassifier.fit`. Its `train_seconds` are XGBoost's own: the other limit.
- `in_process`: XGBoostAttack on a table in memory. `score`: every row, piece by piece.
- `distributed`: Ray Data streams into XGBoost on Ray Train, two workers. `distributed_scores`: every row. Ray's start is not in their
  seconds; it stands beside them as `ray_start_seconds`.
- `confidences`: the check of the input with φ and the entropy of every row, in one pass. `per_sample`: after that pass, LiRA, U-LiRA,
  RMIA, KLoM and forgetting quality ε, fitted and scored; seconds of each are given.
- `audit`: `orchestrator audit --attacks all`, all that a user waits for: check, every attack, intervals, report; Ray's start, too.

`--memory` is what the binned data of a worker may take before XGBoost pages it from disk; `--worker-rows` how many rows
one learns from, a random sample of more. Memory is private memory (resident without
shared), in MiB, sampled 20 times a second, of Ray's workers 5 times. Quality stands beside time: the AUC of the fitted attack on its test fold. XGBoost is
imported before any clock starts. The last line is JSON; `--output FILE` keeps it, with results of earlier calls that were written there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from attack import RMIA, ForgettingQuality, KLoM, LiRA, ULiRA, XGBoostAttack, auc, outputs_table
from attack.audit.check import Examination
from attack.outputs.sources import ParquetFiles
from attack.outputs.table import logits_matrix, rows_where

MODELS = 100
STAGES = (
    "read",
    "decode",
    "plain",
    "in_process",
    "score",
    "distributed",
    "distributed_scores",
    "confidences",
    "per_sample",
    "audit",
)
ATTACK = XGBoostAttack(max_depth=6, eta=0.2, rounds=20, early_stopping=20)
MIB = 2**20


def fold_of(model: int) -> str:
    return "train" if model < 40 else "validation" if model < 45 else "test"


def identities() -> list[tuple[str, ...]]:
    """What `write` calls its models."""
    roles = ("original", "retrained")
    return [(role, "", "{}", f"{role}-{m:03d}", fold_of(m)) for role in roles for m in range(MODELS // 2)]


def write(folder: Path, rows: int, classes: int) -> None:
    """Writes half originals and half retrained models, 40/5/5 of each, one row group a model; one model in memory.

    Samples differ by how hard they are, so that attacks for each sample have something to take out.
    """
    samples = rows // MODELS
    labels = np.arange(samples) % classes
    hardness = np.random.default_rng(0).normal(size=samples).astype(np.float32)
    for role, extra in (("original", 0.7), ("retrained", 0.0)):
        writer = None
        for model in range(MODELS // 2):
            generator = np.random.default_rng([model, role == "original"])
            logits = generator.normal(size=(samples, classes)).astype(np.float32)
            logits[np.arange(samples), labels] += 2.0 + extra + hardness
            table = outputs_table(
                f"{role}-{model:03d}", role, "", "{}", fold_of(model), np.arange(samples), labels, logits
            )
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
        for turn in itertools.count():
            if self._stop.wait(0.05):
                return
            self._note("driver", me)
            # Looking through all processes takes 10 ms: more often, it would slow down what is measured on two cores.
            for child in me.children(recursive=True) if turn % 4 == 0 else []:
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


def plain(folder: Path, classes: int, found: dict[str, Any]) -> Callable[[pa.Table], np.ndarray]:
    """All of the table in NumPy, one-hot and softmax, and scikit-learn's interface."""
    import xgboost

    def features(table: pa.Table) -> np.ndarray:
        logits = logits_matrix(table)
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        one_hot = np.eye(classes, dtype=np.float32)[table["label"].to_numpy()]  # float64 would double the whole matrix
        return np.hstack([exponents / exponents.sum(axis=1, keepdims=True), one_hot])

    table = rows_where(read(folder), fold="train")
    model = xgboost.XGBClassifier(
        n_estimators=ATTACK.rounds, max_depth=6, learning_rate=0.2, subsample=0.8, reg_lambda=10, min_child_weight=0.1,
        n_jobs=int(os.environ["OMP_NUM_THREADS"]), tree_method="hist",
    )  # fmt: skip
    data, truth = features(table), np.asarray(table["role"].to_pylist()) == "original"
    started = time.perf_counter()
    model.fit(data, truth)
    found["train_seconds"] = round(time.perf_counter() - started, 2)
    return lambda test: model.predict_proba(features(test))[:, 1]


def per_sample(measured: Any, started: float) -> dict[str, Any]:
    """Fits and scores what works on φ. Originals stand in for unlearned models where a method's own are asked for."""
    found: dict[str, Any] = {"pass_seconds": round(time.perf_counter() - started, 2)}
    unlearned = replace(
        measured, models=[("unlearned", "as_original", *m[2:]) if m[0] == "original" else m for m in measured.models]
    )
    for attack, outputs in ((LiRA(), measured), (ULiRA(), unlearned), (RMIA(), measured)):
        begun = time.perf_counter()
        fitted = attack.fit(outputs)
        scores = [fitted.score(outputs.only(np.asarray([model]))) for model in range(len(outputs.models))]
        found[f"{attack.name}_seconds"] = round(time.perf_counter() - begun, 2)
        test = [m for m, model in enumerate(outputs.models) if model[4] == "test"]
        truth = np.repeat([outputs.models[m][0] != "retrained" for m in test], len(outputs.samples))
        found[f"{attack.name}_auc"] = round(auc(truth, np.concatenate([scores[m] for m in test])), 5)
    sides = [unlearned.only(unlearned.where(role=role)) for role in ("unlearned", "retrained")]
    for divergence in (KLoM(), ForgettingQuality()):
        begun = time.perf_counter()
        found[divergence.name] = divergence.measure(*sides).summary[divergence.headline]
        found[f"{divergence.name}_seconds"] = round(time.perf_counter() - begun, 2)
    return found


def audit(folder: Path) -> dict[str, Any]:
    """The whole command with every attack that these outputs allow."""
    from orchestrator.commands.cli import main as command

    with tempfile.TemporaryDirectory(dir=folder.parent) as output:
        arguments = [*map(str, files(folder)), "--attacks", "all", "--output", output, "--scratch", str(folder.parent)]
        # The trees of the other stages: its own default, many more of them, would time XGBoost alone. Three candidates
        # are left, which differ in `min_child_weight`.
        for name in ("max_depth", "eta", "rounds", "early_stopping"):
            arguments += ["--set", f"xgboost.{name}={getattr(ATTACK, name)}"]
        with contextlib.redirect_stdout(io.StringIO()):
            code = command(["audit", *arguments])
        rows = json.loads((Path(output) / "results.json").read_text())["rows"]
    assert code == 0
    return {"rows_of_results": len(rows), "auc": rows[0]["metrics"]["auc"]}


def stage(
    name: str, folder: Path, classes: int, memory: float | None, worker_rows: int | None = None
) -> dict[str, Any]:
    """Runs one stage in this process and returns seconds, peak memory and the quality of the result."""
    import xgboost  # noqa: F401 - some stages import it themselves: none is to pay for that

    threads = int(os.environ["OMP_NUM_THREADS"])
    session, found = None, dict[str, Any]()
    if name.startswith("distributed"):
        from orchestrator.engine.ray.session import RaySession

        started = time.perf_counter()
        session = RaySession("local")
        found["ray_start_seconds"] = round(time.perf_counter() - started, 2)
    fitted = None
    if name in ("score", "distributed_scores"):  # the attacker is fitted on six models, before the clock starts
        few = [f"{role}-{number:03d}" for role in ("original", "retrained") for number in (0, 1, 40)]
        fitted = ATTACK.fit(
            pa.concat_tables([pq.read_table(path, filters=[("model_id", "in", few)]) for path in files(folder)])
        )
    source = ParquetFiles(tuple(map(str, files(folder))))
    watch = Memory()
    started = time.perf_counter()
    score: Callable[[pa.Table], np.ndarray] | None = None
    if name == "read":
        for path in files(folder):
            with path.open("rb", buffering=0) as file:
                while file.read(2**22):
                    pass
    elif name == "decode":
        for path in files(folder):
            for _ in pq.ParquetFile(path).iter_batches(200_000, columns=["label", "logits"]):
                pass
    elif name == "plain":
        score = plain(folder, classes, found)
    elif name == "in_process":
        score = ATTACK.fit(read(folder), threads=threads).score
    elif name == "score":
        assert fitted is not None
        for piece in source.pieces():
            fitted.score(piece)
    elif name in ("confidences", "per_sample"):
        examined = Examination.of(source)
        assert examined.survey is not None
        assert not examined.problems(["lira"])
        if name == "per_sample":
            found.update(per_sample(examined.measured(), started))
    elif name == "distributed":
        from orchestrator.engine.attacker.fit import fit_distributed

        attacker = fit_distributed(
            files(folder),
            ATTACK,
            num_workers=2,
            resources_per_worker={"CPU": 0.5},
            memory_per_worker=memory,
            rows_per_worker=worker_rows,
            scratch_dir=folder.parent,
        )
        score = attacker.score
        found["notes"] = attacker.notes
    elif name == "audit":
        found |= audit(folder)
    else:
        from orchestrator.engine.attacker.scores import score_distributed

        assert fitted is not None
        for _ in score_distributed(files(folder), fitted, identities()):
            pass
    found["seconds"] = max(1e-4, round(time.perf_counter() - started, 4))  # reading 6 MiB takes less than a hundredth
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
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="of what runs in one process (default: 2)")
    parser.add_argument(
        "--memory", type=float, help="bytes of binned data in a distributed worker before it pages from disk"
    )
    parser.add_argument("--worker-rows", type=int, help="rows that a distributed worker learns from: a sample of more")
    parser.add_argument("--folder", type=Path, help="where the tables are written (default: a temporary folder)")
    parser.add_argument("--output", type=Path, help="JSON file that the results are added to")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(stage(args.stage, args.folder, args.classes, args.memory, args.worker_rows)))
        return 0
    base = Path(tempfile.mkdtemp(prefix="bench-attack-", dir=args.folder))
    results = []
    try:
        for size in (int(float(text)) for text in args.rows.split(",")):
            folder = base / str(size)
            folder.mkdir()
            write(folder, size, args.classes)
            disk = sum(path.stat().st_size for path in files(folder)) / MIB
            print(f"{size:,} rows × {args.classes} classes, {disk:,.0f} MiB of Parquet", flush=True)
            facts = {"rows": size, "classes": args.classes, "parquet_mib": round(disk, 1)}
            for name in args.stages.split(","):
                results.append(measure(name, folder, args) | facts)
                print(f"  {name} {results[-1].get('seconds')} s", file=sys.stderr, flush=True)
            compare(results, size)
            if args.output:
                before = json.loads(args.output.read_text()) if args.output.is_file() else []
                added = [found for found in results if found["rows"] == size]
                args.output.write_text(json.dumps([*before, *added], indent=1) + "\n")
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(json.dumps({"benchmark": "attack", "threads": args.threads, "results": results}))
    return 0


def measure(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Runs a stage as often as asked, each time in a new process; seconds are the median, with the least and the most."""
    # Ray's two workers have one thread each: the same number of cores as what runs in one process.
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, __file__, "--stage", name, "--folder", str(folder), "--classes", str(args.classes)]
    command += ["--memory", str(args.memory)] if args.memory and name == "distributed" else []
    command += ["--worker-rows", str(args.worker_rows)] if args.worker_rows and name == "distributed" else []
    runs: list[dict[str, Any]] = []
    for _ in range(args.repeats):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            print(f"  {name:19s} failed: {(done.stderr.strip().splitlines() or ['killed'])[-1]}", flush=True)
            return {"stage": name, "failed": done.returncode}
        runs.append(json.loads(done.stdout.strip().splitlines()[-1]))
    runs.sort(key=lambda run: run["seconds"])
    found = dict(runs[len(runs) // 2])
    found["memory_mib"] = {kind: max(run["memory_mib"][kind] for run in runs) for kind in found["memory_mib"]}
    found |= {
        "stage": name,
        "repeats": len(runs),
        "seconds_least": runs[0]["seconds"],
        "seconds_most": runs[-1]["seconds"],
    }
    if args.memory and name == "distributed":
        found["memory_limit_mib"] = round(args.memory / MIB, 1)
    if args.worker_rows and name == "distributed":
        found["worker_rows"] = args.worker_rows
    return found


def compare(results: list[dict[str, Any]], size: int) -> None:
    """Prints the stages of one size, with what each takes beside the plain way and beside the limits."""
    mine = {found["stage"]: found for found in results if found["rows"] == size and "failed" not in found}
    plain_seconds = mine.get("plain", {}).get("seconds")
    for name, found in mine.items():
        seconds = found["seconds"]
        spread = f" [{found['seconds_least']:.1f}, {found['seconds_most']:.1f}]" if found["repeats"] > 1 else ""
        memory = ", ".join(f"{kind} {value:,.0f}" for kind, value in found["memory_mib"].items())
        beside = ""
        if plain_seconds and name in ("in_process", "distributed"):
            found["times_plain"] = round(seconds / plain_seconds, 3)
            found["times_train_alone"] = round(seconds / mine["plain"]["train_seconds"], 3)
            beside = f"  ×{found['times_plain']:.2f} of plain, ×{found['times_train_alone']:.2f} of XGBoost's own fit"
        elif "decode" in mine and name in ("score", "distributed_scores", "confidences", "per_sample"):
            found["times_decode"] = round(seconds / mine["decode"]["seconds"], 2)
            beside = f"  ×{found['times_decode']:.1f} of decoding alone"
        parts = ", ".join(f"{k.removesuffix('_seconds')} {v:.1f} s" for k, v in found.items() if k.endswith("_seconds"))
        quality = f"  AUC {found['auc']:.4f}" if "auc" in found else ""
        notes = f"  ({'; '.join(found['notes'])})" if found.get("notes") else ""
        print(
            f"  {name:19s} {seconds:7.1f} s{spread}  {size / seconds:11,.0f} rows/s  MiB: {memory}{quality}{beside}"
            f"{f'  ({parts})' if parts else ''}{notes}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
