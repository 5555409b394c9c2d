"""A real MLflow server that is killed while a run logs to it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from .checks import check_all
from .cluster import free_port
from .kills import finish
from .lab import Lab
from .scenario import Report


class TrackingServer:
    """`mlflow server` with one worker over a sqlite database, on loopback."""

    def __init__(self, lab: Lab, folder: Path):
        self.lab, self.folder, self.port = lab, folder, free_port()
        folder.mkdir(parents=True)
        self.database = folder / "server.db"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.database}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        self.process = subprocess.Popen(
            command,
            env=self.lab.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1).close()
                return
            except OSError:
                time.sleep(0.25)
        raise RuntimeError("the MLflow server did not start")

    def kill(self) -> None:
        """SIGKILL of the server and its workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def tracking_server(lab: Lab, generator: random.Random, report: Report) -> None:
    """Runs log to a server. It is killed, then the driver; with a new server and driver every run is there once."""
    server = TrackingServer(lab, lab.root / "server")
    try:
        recipe = {**lab.recipe, "tracking": {"uri": f"http://127.0.0.1:{server.port}"}}
        place = lab.place("server", recipe, database=server.database)
        units, delay = lab.clean.moment(generator.uniform(0.4, 0.6))
        place.start()
        place.until(lambda: place.units_done() >= units)
        time.sleep(delay)
        server.kill()
        report.faults += 1
        units, delay = lab.clean.moment(generator.uniform(0.65, 0.9))
        place.until(lambda: place.units_done() >= units)
        time.sleep(delay)
        place.kill_driver()
        report.faults += 1
        server.start()
        finish(place, report)
        # The server answers as long as it lives: it ends first, so that all it was told is in its database.
        server.kill()
        report.add(check_all(place, restarts=1))
        report.measure(place)
    finally:
        if server.process.poll() is None:
            server.kill()
