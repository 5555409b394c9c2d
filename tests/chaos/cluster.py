"""A cluster of several raylets on this machine, of which nodes and the head are killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from .checks import PATIENCE, check_executions, check_results, check_tracking
from .kills import finish, last_line
from .lab import LIMIT, Lab, Place
from .scenario import Report


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """A head without CPUs and nodes with one each, every one a `ray start --block` with its own loopback address."""

    def __init__(self, lab: Lab):
        self.lab = lab
        self.folder = lab.root / "c"
        self.folder.mkdir(exist_ok=True)
        self.token = self.folder / "token"
        self.token.touch(mode=0o600)
        self.token.write_text(os.urandom(32).hex())
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONUNBUFFERED": "1",  # a node's log is read as it starts
        }
        self.port = free_port()
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.logs: list[Path] = []
        self.started = 0

    @property
    def address(self) -> str:
        return f"127.0.0.2:{self.port}"

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        self.started += 1
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--min-worker-port", "0"]
        command += ["--max-worker-port", "0", "--dashboard-agent-listen-port", str(free_port()), *arguments]
        log = self.folder / f"node{self.started}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                env=self.lab.environment() | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.logs.append(log)
        return process

    def start(self, nodes: int = 2) -> None:
        """Starts a head at the cluster's address, without CPUs, and nodes; waits until all of them are up."""
        arguments = ["--head", "--port", str(self.port), "--node-ip-address", "127.0.0.2", "--num-cpus", "0"]
        arguments += ["--include-dashboard", "false", "--ray-client-server-port", str(free_port())]
        self.head = self._start(*arguments, "--temp-dir", str(self.folder / f"h{self.started}"))
        self.wait()
        for _ in range(nodes):
            self.add_node()
            self.wait()  # two that start at once on one machine would choose the same socket

    def wait(self) -> None:
        """Waits until every node that was started has said so."""
        deadline = time.monotonic() + 90
        while not all(b"Ray runtime started" in log.read_bytes() for log in self.logs):
            if time.monotonic() > deadline:
                raise RuntimeError("a node of the cluster did not start")
            time.sleep(0.2)

    def add_node(self) -> subprocess.Popen[bytes]:
        """Starts a node with one CPU."""
        address = f"127.0.0.{3 + len(self.nodes)}"
        node = self._start("--address", self.address, "--node-ip-address", address, "--num-cpus", "1")
        self.nodes.append(node)
        return node

    def kill(self, node: subprocess.Popen[bytes], name: str = "raylet") -> None:
        """SIGKILL of one system process of a node: `raylet` or `gcs_server`."""
        for process in psutil.Process(node.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if Path(process.exe()).name == name:
                    process.kill()
                    return
        raise RuntimeError(f"{name} was not found")

    def kill_all(self) -> None:
        """SIGKILL of every process of the cluster: as when the machines are switched off."""
        for node in (self.head, *self.nodes):
            with contextlib.suppress(psutil.Error):
                for process in [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        process.kill()
            node.wait()
        self.nodes = []

    def close(self) -> None:
        for node in (*self.nodes, self.head):
            if node.poll() is None:
                node.send_signal(signal.SIGTERM)
        for node in (*self.nodes, self.head):
            try:
                node.wait(timeout=20)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()


def kill_raylet(lab: Lab, generator: random.Random, report: Report) -> None:
    """SIGKILL of one node's raylet while it works; another node joins later. One invocation sees it through."""
    with contextlib.closing(Cluster(lab)) as cluster:
        cluster.start()
        victim = cluster.nodes[0]
        place = lab.place("raylet", address=cluster.address, environment=cluster.environment)
        units, delay = lab.clean.at_work(generator.uniform(0.4, 0.6))
        place.start()
        place.until(lambda: place.units_done() >= max(1, units))
        time.sleep(delay)
        report.facts["killed in"] = place.phase()
        cluster.kill(victim)
        report.faults += 1
        time.sleep(2)
        cluster.add_node()
        code = place.invocations[-1].wait(LIMIT)
        if code == 3 and "raylet" in last_line(place):
            report.notes.append(f"it was the driver's own raylet: {last_line(place)}")
        elif code != 0:
            report.add([f"the command ended with {code}: {last_line(place)}"])
        if code != 0:
            finish(place, report)
        check_joined(place, report, restarts=1)


def kill_head(lab: Lab, generator: random.Random, report: Report) -> None:
    """SIGKILL of the head's server, then of the whole cluster; a new head and nodes, the same command."""
    for name in ("gcs_server", "everything"):
        cluster = Cluster(lab)
        with contextlib.closing(cluster):
            cluster.start()
            place = lab.place(f"head-{name[:3]}", address=cluster.address, environment=cluster.environment)
            units, delay = lab.clean.at_work(generator.uniform(0.4, 0.7))
            place.start()
            place.until(lambda: place.units_done() >= max(1, units))  # noqa: B023
            time.sleep(delay)
            report.facts[f"{name} killed in"] = place.phase()
            began = time.monotonic()
            if name == "gcs_server":
                cluster.kill(cluster.head, name)
            else:
                cluster.kill_all()
            report.faults += 1
            code = place.invocations[-1].wait(120)
            idle = time.monotonic() - began
            report.facts[f"{name}: the driver ended after (s)"] = round(idle, 1)
            text = place.invocations[-1].errors()
            if code != 3:
                report.add([f"{name} killed: exit code {code} instead of 3: {last_line(place)}"])
            if "Traceback" in text:
                report.add([f"{name} killed: a traceback was printed"])
            if name == "gcs_server":
                cluster.kill_all()
            cluster.start()
            finish(place, report)
            check_joined(place, report, restarts=1, idle=idle)


def check_joined(place: Place, report: Report, restarts: int, idle: float = 0.0) -> None:
    """Checks a place whose driver has joined a cluster: the cluster's own processes stay, workers of the run must not."""
    report.add(check_results(place))
    report.add(check_executions(place, restarts=restarts))
    report.add(check_tracking(place))
    report.measure(place, idle=idle)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        left = [w for w in map(title, place.workers()) if "Trainable" in w or "Outputs" in w]
        if not left:
            return
        time.sleep(0.5)
    report.add([f"workers are left on the cluster: {left[:3]}"])


def title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
