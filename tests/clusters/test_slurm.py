"""The Slurm script is accepted by its readers, does what it says under a Slurm of shell scripts, and runs an experiment."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from .mutation import noticed
from .slurm import FAKES, SCRIPT, SHIMS, check_sbatch, environment, install

TEXT = SCRIPT.read_text(encoding="utf-8")


def test_script_is_accepted() -> None:
    assert check_sbatch(TEXT) == []


@pytest.mark.medium
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("#SBATCH --nodes=2", "#SBATCH --node=2"),
        ("#SBATCH --nodes=2", "#SBATCH --nodes=two"),
        ("#SBATCH --time=04:00:00", "#SBATCH --time=4h"),
        ("#SBATCH --signal=B:USR1@120", "#SBATCH --signal=USR1"),
        ("#SBATCH --signal=B:USR1@120", "#SBATCH --signal=B:USR2@120"),
        ("#SBATCH --requeue", "#SBATCH --reqeue"),
        ("#SBATCH --mem=32G", "# SBATCH --mem=32G"),
        ("#SBATCH --open-mode=append\n", ""),
        ("set -o errexit -o nounset -o pipefail\n", "true\n#SBATCH --exclusive\n"),
        ("ray start --block", "ray start --blok"),
        ("ray start --block", "ray strat --block"),
        ("--head --port=", "--head --prot="),
        ("--dashboard-port=", "--dashbord-port="),
        ("ray-worker --address=", "ray-worker --adress="),
        ("ray health-check --address", "ray health-check --adress"),
        ('orchestrator run "$recipe"', 'orchestrator rum "$recipe"'),
        ("--store ", "--sotre "),
        ("srun --overlap --nodes=1", "srun --overlap --node=1"),
        ("srun --overlap --nodes=1", "srun --nodes=1"),
        ("scontrol requeue", "scontrol reque"),
        ("scontrol show hostnames", "scontrol show hostname"),
        ('rm -rf "$private"', "rm -rf $private"),
        ("workers=$(", "worker=$("),
        ("  done\n", "  doen\n"),
        ("#   sbatch clusters/slurm/orchestrator.sbatch", "#   sbatch clusters/slurm/run.sbatch"),
        ("#   sbatch --nodes=4", "#   sbatch --node=4"),
    ],
)
def test_planted_fault_is_noticed(old: str, new: str) -> None:
    assert noticed(check_sbatch, TEXT, old, new)


Job = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    install(tmp_path / "bin", SHIMS | FAKES)

    def start(*arguments: str, **extra: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(SCRIPT), *arguments],
            env=environment(tmp_path, 4711, **extra),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def ended(process: subprocess.Popen[str], seconds: float = 30) -> tuple[int, str]:
    output, errors = process.communicate(timeout=seconds)
    return process.returncode, output + (errors or "")


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def wait_for(path: Path, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_ends_as_the_run_ends_and_leaves_nothing(job: Job, tmp_path: Path, code: int) -> None:
    found, output = ended(job("demo", "--set", "seed=7", SHIM_CODE=str(code)))
    assert found == code, output
    log = tmp_path / "log"
    assert lines(log / "orchestrator") == [
        f"run demo --address 127.0.0.2:30220 --store {tmp_path}/store --output {tmp_path}/runs/4711 --set seed=7"
    ]
    head, worker = lines(log / "ray")
    assert head.startswith("node1 start --block --node-ip-address=127.0.0.2")
    assert "--head --port=30220" in head
    assert worker.startswith("node2 start --block")
    assert "--address=127.0.0.2:30220" in worker
    assert sorted(lines(log / "ended")) == ["node1", "node2"]
    # The token was there, long, and readable by its owner alone; now it is gone.
    assert (lines(log / "token-mode"), lines(log / "token-bytes")) == (["600"], ["64"])
    assert not (tmp_path / ".ray-4711").exists()
    assert not lines(log / "requeued")


@pytest.mark.parametrize(
    ("number", "restarts", "requeued"),
    [(signal.SIGUSR1, "0", True), (signal.SIGUSR1, "20", False), (signal.SIGTERM, "0", False)],
)
def test_a_signal_stops_the_driver_and_a_warning_queues_the_job_again(
    job: Job, tmp_path: Path, number: int, restarts: str, requeued: bool
) -> None:
    process = job("demo", SHIM_RUNS="1", SLURM_RESTART_COUNT=restarts)
    wait_for(tmp_path / "log" / "running")
    os.kill(process.pid, number)
    code, output = ended(process)
    assert code == 130, output
    assert lines(tmp_path / "log" / "requeued") == (["4711"] if requeued else [])
    assert sorted(lines(tmp_path / "log" / "ended")) == ["node1", "node2"]
    assert not (tmp_path / ".ray-4711").exists()


@pytest.mark.parametrize("extra", [{"SHIM_HEAD_FAILS": "1"}, {"SHIM_WAIT_FAILS": "1"}])
def test_a_cluster_that_does_not_come_up_is_the_environments_fault(
    job: Job, tmp_path: Path, extra: dict[str, str]
) -> None:
    code, output = ended(job("demo", **extra))
    assert code == 3, output
    assert not lines(tmp_path / "log" / "orchestrator")
    assert not (tmp_path / ".ray-4711").exists()


def test_neighbouring_jobs_have_ports_of_their_own(tmp_path: Path) -> None:
    install(tmp_path / "bin", SHIMS | FAKES)
    for number in (1, 2):
        done = subprocess.run(
            ["bash", str(SCRIPT), "demo"],
            env=environment(tmp_path, number),
            cwd=tmp_path,
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (tmp_path / "log" / "up").unlink()
        (tmp_path / "log" / "ray").rename(tmp_path / "log" / f"ray-{number}")
    used = [
        word
        for number in (1, 2)
        for line in lines(tmp_path / "log" / f"ray-{number}")
        if "--head" in line
        for word in line.split()
        if "port=" in word and not word.endswith("=0")
    ]
    assert len(used) == 6
    assert len({word.partition("=")[2] for word in used}) == 6


def test_usage_without_a_recipe(job: Job) -> None:
    code, output = ended(job())
    assert code == 2
    assert "usage" in output


SMALL = """
name: small
dataset: {source: digits, limit: {train: 100}}
scenario: {kind: samples, per_class: 1}
model: {name: small_vgg, width: 0.125}
training: {epochs: 1, batch_size: 32, augment: null}
shadows: {originals: 3, retrained: 3, split: [1, 1, 1]}
methods: [{name: cf_k, k: 1, epochs: 1}]
attacks: [{name: loss_threshold}]
tracking: {uri: null}
"""


@pytest.mark.long
@pytest.mark.ray
def test_runs_an_experiment_on_a_real_ray(tmp_path: Path) -> None:
    install(tmp_path / "bin", SHIMS)
    (tmp_path / "small.yaml").write_text(SMALL, encoding="utf-8")
    number = 900_000 + os.getpid() % 100_000
    process = subprocess.Popen(
        ["bash", str(SCRIPT), "small.yaml"],
        env=environment(tmp_path, number, OMP_NUM_THREADS="1"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        code, output = ended(process, 240)
    finally:
        process.kill()
    assert code == 0, output
    assert "2 nodes" in output
    assert (tmp_path / "runs" / str(number) / "report.html").is_file()
    left = [
        found.info
        for found in psutil.process_iter(["pid", "cmdline"])
        if f"/tmp/ray-{number}" in " ".join(found.info["cmdline"] or [])
    ]
    assert left == []
    assert not Path(f"/tmp/ray-{number}").exists()
    assert not (tmp_path / f".ray-{number}").exists()
