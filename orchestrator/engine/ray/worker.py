"""What every worker process of ours needs before it can make units."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass

import ray
import torch

from ...plan.data import ExperimentData
from ...store import open_store
from ...work.context import Context


@dataclass(frozen=True)
class WorkerSetup:
    """What the driver tells its workers.

    **Arguments:**

    - `store_uri`: the store of finished units.
    - `shared`: the pickled reference of the data's arrays in the object store. As bytes, since Ray
      warns of references among the arguments of an actor that it may start again. The driver keeps
      them alive.
    - `threads`, `gpus`: of one unit.
    - `folder`: the driver's working folder. A worker looks for the user's own code there, last of
      all.
    """

    store_uri: str
    shared: bytes
    threads: int
    gpus: float = 0.0
    allow_factory: bool = False
    folder: str = ""

    def context(self) -> Context:
        """Returns this worker's context: read-only views of the data, one device, a fixed number of
        threads.
        """
        if self.folder and self.folder not in sys.path:
            # Ray puts it first, where a folder named like one of our packages would hide that
            # package.
            sys.path.append(self.folder)
        torch.set_num_threads(self.threads)
        return Context(
            open_store(self.store_uri),
            ExperimentData.from_arrays(ray.get(ray.cloudpickle.loads(self.shared))),
            device="cuda" if self.gpus and torch.cuda.is_available() else "cpu",
            threads=self.threads,
            allow_factory=self.allow_factory,
            where=f"{socket.gethostname()} {ray.util.get_node_ip_address()}",
        )


def working_folder() -> str:
    """Returns this process's working folder; empty where it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""
