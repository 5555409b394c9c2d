"""`orchestrator submit` and a job server that stands for Ray's; `test_jobs` has a real one in the slow tier."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from orchestrator.commands import job_start, submit
from orchestrator.commands.cli import main

from .test_tracking import free_port

HEAD = "http://head:8265"
Submit = Callable[..., tuple[int, str, str]]


class Server:
    """Keeps what was submitted; a job's log says that it has begun."""

    def __init__(self) -> None:
        self.jobs: dict[str, SimpleNamespace] = {}

    def submit_job(self, *, submission_id: str, metadata: dict[str, str], runtime_env: Any, **given: Any) -> None:
        if submission_id in self.jobs:
            raise RuntimeError(f"job {submission_id} already exists")
        sent = sorted(path.name for path in Path(runtime_env["working_dir"]).iterdir())
        self.jobs[submission_id] = SimpleNamespace(
            submission_id=submission_id,
            metadata=metadata,
            status=SimpleNamespace(value="RUNNING"),
            driver_exit_code=0,
            sent=sent,
            environment=runtime_env,
            **given,
        )

    def list_jobs(self) -> list[SimpleNamespace]:
        return list(self.jobs.values())

    def get_job_info(self, identity: str) -> SimpleNamespace:
        return self.jobs[identity]

    def get_job_logs(self, identity: str) -> str:
        return "joining Ray at auto\n"

    async def tail_job_logs(self, identity: str) -> AsyncIterator[str]:
        yield "joining Ray at auto\n"
        yield "shadow models: 12 to do\n"
        self.jobs[identity].status.value = "SUCCEEDED"

    def stop_job(self, identity: str) -> None:
        self.jobs[identity].status.value = "STOPPED"


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()
    monkeypatch.setattr(submit, "connect", lambda address: found)
    monkeypatch.setattr(job_start, "BETWEEN_SECONDS", 0.001)
    return found


@pytest.fixture
def given(tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Submit:
    """Submits the tiny recipe."""
    recipe = tmp_path / "tiny.yaml"

    def call(*more: str, address: str = HEAD) -> tuple[int, str, str]:
        recipe.write_text(yaml.safe_dump(tiny))
        code = main(["submit", str(recipe), "--address", address, "--output", "/shared/out", *more])
        return code, *capsys.readouterr()

    return call


def test_submitting_twice_is_once_and_following_sees_it_through(jobs: Server, given: Submit) -> None:
    code, out, _ = given("--json")
    assert code == 0
    one = json.loads(out)
    assert (one["action"], one["status"]) == ("submitted", "RUNNING")
    job = f"orchestrator jobs {one['submission_id']} --address {HEAD}"
    assert one["next"] == {
        "follow": f"{job} --follow",
        "status": job,
        "stop": f"{job} --stop",
        "fetch": "read /shared/out on a machine that shares it",
    }
    code, out, err = given("--follow")
    assert code == 0
    assert f"{one['submission_id']}: attached" in out
    assert "shadow models: 12 to do" in out
    assert "succeeded" in err
    assert json.loads(given("--json")[1]) == {**one, "action": "attached", "status": "SUCCEEDED"}
    (sent,) = jobs.jobs.values()
    assert sent.sent == ["recipe.yaml"], "only the recipe travels"
    assert sent.entrypoint.startswith("python -m orchestrator run recipe.yaml")
    assert sent.entrypoint_num_gpus == 0
    assert "py_modules" not in sent.environment


def test_a_search_is_another_job_than_a_run_of_the_same_recipe(
    jobs: Server, given: Submit, tiny: dict[str, Any]
) -> None:
    code, _, err = given("--task", "search")
    assert code == 2
    assert "search" in err
    assert jobs.jobs == {}, "a recipe without a search section is refused here, not on the cluster"
    tiny["search"] = {"method": {"name": "cf_k", "k": {"grid": [1, 2]}}, "samples": 2}
    tiny["shadows"] = {"originals": 6, "retrained": 6, "split": [2, 2, 2]}
    run = json.loads(given("--json")[1])
    found = json.loads(given("--json", "--task", "search")[1])
    assert found["action"] == "submitted"
    assert found["submission_id"] != run["submission_id"]
    assert jobs.jobs[found["submission_id"]].entrypoint.startswith("python -m orchestrator search recipe.yaml")
    assert json.loads(given("--json", "--task", "search")[1])["action"] == "attached"
    fetch = json.loads(given("--json", "--task", "search", "--store", "s3://b/s")[1])["next"]["fetch"]
    assert fetch.startswith("orchestrator search ")
    assert given("--task", "league")[0] == 2, "it has no league section"


def test_what_was_stopped_is_submitted_again_under_another_name(jobs: Server, given: Submit) -> None:
    identity = json.loads(given("--json")[1])["submission_id"]
    stopped = {"submission_id": identity, "action": "stopped", "status": "STOPPED"}
    assert json.loads(given("--stop", "--json")[1]) == stopped
    code, _, err = given("--stop")
    assert code == 2
    assert "no such job is running" in err
    assert json.loads(given("--json")[1])["submission_id"] == f"{identity}-2"


def test_without_a_head_it_is_exit_3_and_without_a_dashboard_exit_2(given: Submit) -> None:
    code, _, err = given(address=f"http://127.0.0.1:{free_port()}")
    assert code == 3
    assert "Traceback" not in err
    assert given(address="127.0.0.1:6379")[0] == 2


def test_data_that_a_job_cannot_find_are_refused_before_anything_is_sent(
    jobs: Server, given: Submit, tiny: dict[str, Any]
) -> None:
    tiny["dataset"] = {"source": "parquet", "train": "photos.parquet", "test": "s3://bucket/test.parquet"}
    code, _, err = given()
    assert code == 2
    assert "dataset.train: 'photos.parquet': a job cannot find relative paths" in err
    assert jobs.jobs == {}
