"""`submit` waits for a job's first look, told by a stand-in for the job server; `test_jobs` has a real one."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.base.errors import EnvironmentFault, UserError
from orchestrator.commands import job_start
from orchestrator.commands.job_start import wait_for_begin


class Server:
    """Answers with one state after another; the last one stays."""

    def __init__(self, *states: tuple[str, str]) -> None:
        self._states: Iterator[tuple[str, str]] = iter(states)
        self.asked = 0
        self.code: int | None = 2

    def get_job_info(self, identity: str) -> Any:
        self.asked += 1
        self.status, self.log = next(self._states, (getattr(self, "status", ""), getattr(self, "log", "")))
        if self.status == "away":
            raise RuntimeError("No available agent to submit job")
        return SimpleNamespace(
            status=SimpleNamespace(value=self.status), driver_exit_code=self.code, message="its node is gone"
        )

    def get_job_logs(self, identity: str) -> str:
        return self.log


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_start, "BETWEEN_SECONDS", 0.001)


def test_it_waits_until_workers_are_joined() -> None:
    server = Server(
        ("away", ""), ("PENDING", ""), ("RUNNING", "decoding images\n"), ("RUNNING", "joining Ray at auto\n")
    )
    assert wait_for_begin(server, "job") == "RUNNING"  # type: ignore[arg-type]
    assert server.asked == 4


def test_what_is_stored_already_needs_no_workers() -> None:
    assert wait_for_begin(Server(("RUNNING", ""), ("SUCCEEDED", "report: …\n")), "job") == "SUCCEEDED"  # type: ignore[arg-type]


@pytest.mark.parametrize(("code", "kind"), [(2, UserError), (3, EnvironmentFault), (None, EnvironmentFault)])
def test_what_stops_it_is_one_line(code: int | None, kind: type[UserError]) -> None:
    log = "one note\naway: dataset.train: '/data/photos.parquet': no such file\n\n"
    server = Server(("RUNNING", ""), ("FAILED", log))
    server.code = code
    with pytest.raises(UserError) as caught:
        wait_for_begin(server, "job")  # type: ignore[arg-type]
    assert type(caught.value) is kind
    text = "job: ended before its first unit: away: dataset.train: '/data/photos.parquet': no such file"
    assert str(caught.value) == text
    silent = Server(("FAILED", ""))
    silent.code = None
    with pytest.raises(EnvironmentFault, match="first unit: its node is gone"):
        wait_for_begin(silent, "job")  # type: ignore[arg-type]


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(job_start, "BEGUN_SECONDS", 0.05)
    assert wait_for_begin(Server(("PENDING", "")), "job") == "PENDING"  # type: ignore[arg-type]
    assert capsys.readouterr().err == "job: no unit has begun after 0s; it goes on\n"
