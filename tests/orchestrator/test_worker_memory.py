"""How much memory a worker takes: what the container leaves, not what the host has; on a GPU what that has free."""

from __future__ import annotations

from pathlib import Path

import pytest

import orchestrator.engine.attacker.memory
from attack.attacks.spool import Spool
from orchestrator.engine.attacker.memory import SHARE, for_binned_data, free_memory

MIB = 2**20
HOST = 64_000 * MIB


def planted(root: Path, cgroup: str, files: dict[str, str]) -> float:
    """Returns what is free on a host with 64,000 MiB free under these files."""
    for name, content in {"proc/self/cgroup": cgroup, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return free_memory(HOST, root) / MIB


def of(folder: str, limit: object, usage: object, stat: str = "", *, version: int = 2) -> dict[str, str]:
    """The files of one cgroup, in MiB."""
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    base = f"sys/fs/cgroup/{'' if version == 2 else 'memory/'}{folder}".rstrip("/")
    values = (f"{value * MIB if isinstance(value, int) else value}\n" for value in (limit, usage))
    return {**{f"{base}/{name}": value for name, value in zip(names, values, strict=True)}, f"{base}/memory.stat": stat}


CASES: dict[str, tuple[str, dict[str, str], float]] = {
    "no cgroup files": ("0::/\n", {}, 64_000),
    "version 2, limited": ("0::/\n", of("", 8_000, 3_000), 5_000),
    "version 2, unlimited": ("0::/\n", of("", "max", 3_000), 64_000),
    "version 2, page cache is given back": (
        "0::/\n",
        of("", 8_000, 7_900, f"anon {900 * MIB}\ninactive_file {6_000 * MIB}\nactive_file {1_000 * MIB}\nfile 1\n"),
        7_100,
    ),
    "version 2, limited further up": ("0::/pod/worker\n", of("pod/worker", "max", 10) | of("pod", 4_000, 1_000), 3_000),
    "version 2, the smallest of several": ("0::/a/b\n", of("a/b", 900, 200) | of("a", 4_000, 1_000), 700),
    "version 2, its path is that outside": ("0::/docker/0123\n", of("", 2_000, 500), 1_500),
    "version 2, over its limit": ("0::/\n", of("", 1_000, 1_100), 0),
    "version 1, limited": (
        "5:cpu,cpuacct:/x\n3:memory:/job/7\n",
        of("job/7", 6_000, 5_500, f"inactive_file 1\ntotal_inactive_file {3_000 * MIB}\n", version=1),
        3_500,
    ),
    "version 1, unlimited": ("3:memory:/\n", of("", "9223372036854771712", 5_500, version=1), 64_000),
    "both, limited by version 1": ("4:memory:/\n0::/\n", of("", 6_000, 1_000, version=1), 5_000),
    "more than the host has": ("0::/\n", of("", 100_000, 10), 64_000),
    "not readable as numbers": ("0::/\n", of("", "much", "little"), 64_000),
}


@pytest.mark.parametrize("case", CASES)
def test_a_containers_limit_counts_and_not_the_hosts_memory_alone(case: str, tmp_path: Path) -> None:
    cgroup, files, free = CASES[case]
    assert planted(tmp_path, cgroup, files) == free


def test_without_proc_the_host_is_asked(tmp_path: Path) -> None:
    assert free_memory(HOST, tmp_path) == HOST
    assert free_memory() > 0


def test_workers_share_a_node_and_one_with_a_gpu_has_its_memory_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orchestrator.engine.attacker.memory, "free_memory", lambda: 8_000.0)
    monkeypatch.setattr(orchestrator.engine.attacker.memory, "gpu_memory_free", lambda: 1_000)
    assert for_binned_data(2, False) == SHARE * 4_000
    assert for_binned_data(2, True) == SHARE * 1_000
    monkeypatch.setattr(orchestrator.engine.attacker.memory, "gpu_memory_free", lambda: None)
    assert for_binned_data(2, True) == SHARE * 4_000, "where the driver does not say, the host's"


def test_without_a_driver_a_gpu_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import attack.attacks.device

    monkeypatch.setattr(attack.attacks.device, "gpu_count", lambda: 0)
    assert attack.attacks.device.gpu_memory_free() is None


def test_a_worker_pages_by_what_its_container_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spool that fits on the host but not into the container."""
    spool = Spool(tmp_path, 10, 10, "one_hot")
    spool.rows["train"] = 10_000_000  # 880 MB binned
    free = planted(tmp_path, "0::/\n", of("", 2_000, 1_000)) * MIB
    monkeypatch.setattr(orchestrator.engine.attacker.memory, "free_memory", lambda: free)
    assert SHARE * HOST > spool.bytes_in_memory() > for_binned_data(1, False)
