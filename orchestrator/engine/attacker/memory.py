"""How much memory a worker may fill: what the machine has free, within what its container allows,
or what its GPU has free.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from attack.attacks.device import gpu_memory_free

SHARE = 0.4  # of what is free that the workers of a node may fill with binned data


def for_binned_data(workers: int, on_gpu: bool) -> float:
    """Returns the bytes that one worker may fill.

    **Arguments:** `workers`: of this attack on the node, which share its memory. `on_gpu`: the
    worker has a GPU of its own, in whose memory the data will lie.
    """
    device = gpu_memory_free() if on_gpu else None
    return SHARE * (free_memory() / workers if device is None else device)


def free_memory(available: float | None = None, root: Path = Path("/")) -> float:
    """Returns the bytes that processes here may still take: the least of the machine's and of each
    cgroup's on the way up.

    **Arguments:** `available`: of the machine; None asks it. `root`: where `proc` and `sys` are.
    """
    machine = float(psutil.virtual_memory().available) if available is None else available
    return max(0.0, min([machine, *_cgroups_free(root)]))


def _cgroups_free(root: Path) -> list[float]:
    """Returns what each cgroup that holds this process has left, of those with a limit; both
    versions may be there.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found: list[float] = []
    base = root / "sys/fs/cgroup"
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found += _left(base, path, "memory.max", "memory.current", ("inactive_file", "active_file"))
        elif "memory" in controllers.split(","):
            names = ("total_inactive_file", "total_active_file")
            found += _left(base / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", names)
    return found


def _left(base: Path, path: str, limit: str, usage: str, cache: tuple[str, ...]) -> list[float]:
    """Returns limit less usage of the cgroup at `path` and of those above it.

    A container may see its own cgroup as the root, under a path that is only there outside: what is
    not there is passed over.
    """
    parts = [part for part in path.split("/") if part not in ("", "..")]
    found = []
    for depth in range(len(parts), -1, -1):
        folder = base.joinpath(*parts[:depth])
        # Unlimited is the word `max`, or in version 1 a number beyond any memory. A root has no
        # such files.
        with contextlib.suppress(OSError, ValueError):
            allowed, used = (int((folder / name).read_text()) for name in (limit, usage))
            # The page cache is given back when memory is asked for, as in the machine's own count.
            # Otherwise a spool just written would leave nothing.
            found.append(float(allowed - max(0, used - _cached(folder, cache))))
    return found


def _cached(folder: Path, names: tuple[str, ...]) -> int:
    with contextlib.suppress(OSError, ValueError):
        pairs = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return sum(int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0] in names)
    return 0
