"""Surroundings as people have them: dead addresses, variables, a Ray of their own, folders named like our packages."""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from attack import ATTACKS
from orchestrator.base.errors import EnvironmentFault, UserError
from orchestrator.base.files import exclusive
from orchestrator.commands.cli import build_parser, main
from orchestrator.commands.shared_arguments import address_argument
from orchestrator.engine.ray import address, session
from orchestrator.engine.ray.address import head_of
from orchestrator.experiments import preflight
from orchestrator.experiments.preflight import try_packages, try_store
from orchestrator.experiments.run import run
from orchestrator.experiments.stages import RunOptions
from orchestrator.recipe.recipe import check_recipe
from orchestrator.store import LocalStore, existing_store

from .test_tracking import free_port

HIDING = ("attack", "unlearn")


def test_the_probe_is_within_fifteen_seconds() -> None:
    assert address.PROBE_SECONDS + address.PAUSE_SECONDS <= 15


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "PROBE_SECONDS", 0.6)
    monkeypatch.setattr(address, "PAUSE_SECONDS", 0.1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize("variable", [True, False])
def test_a_dead_address_is_refused_in_seconds(impatient: None, monkeypatch: pytest.MonkeyPatch, variable: bool) -> None:
    """Ray itself would wait for 14 minutes."""
    dead = f"127.0.0.1:{free_port()}"
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", dead)
    started = time.monotonic()
    name = "RAY_ADDRESS" if variable else "--address"
    with pytest.raises(EnvironmentFault, match=f"^{name}: '{dead}': no Ray cluster answers there .*refused.*doctor"):
        head_of(dead)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("read", ["DISABLED", "TOKEN"])
def test_ray_reads_its_authentication_again_where_it_was_imported_before(
    read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray reads the variable when it is imported; `test_ray` does that in a process of its own."""
    inside, called = SimpleNamespace(**vars(session.ray._raylet)), []
    inside.get_authentication_mode = lambda: getattr(inside.AuthenticationMode, read)
    inside.Config = SimpleNamespace(initialize=called.append)
    monkeypatch.setattr(session.ray, "_raylet", inside)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    session.obey_authentication()
    assert called == []
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    session.obey_authentication()
    assert called == ([""] if read == "DISABLED" else [])


@pytest.mark.parametrize(
    ("given", "address"), [([], "h:1"), (["--address", ""], "h:1"), (["--address", "local"], "local")]
)
def test_an_empty_address_is_none(monkeypatch: pytest.MonkeyPatch, given: list[str], address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "h:1")
    parser = argparse.ArgumentParser()
    address_argument(parser, "")
    assert parser.parse_args(given).address == address


def test_what_is_no_address_is_said_so(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("nonsense", "host:port", "127.0.0.1:99999"):
        with pytest.raises(EnvironmentFault, match=f"--address: '{given}': .*HOST:PORT"):
            head_of(given)
    with pytest.raises(EnvironmentFault, match="Ray Client is not used"):
        head_of("ray://127.0.0.1:10001")
    monkeypatch.setattr(address.services, "canonicalize_bootstrap_address", lambda given: given)
    with pytest.raises(EnvironmentFault, match="no Ray cluster runs on this machine"):
        head_of("auto")


@pytest.mark.medium
def test_run_and_doctor_name_the_variable_that_holds_a_dead_address(
    impatient: None,
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny))
    assert main(["run", str(recipe), "--output", str(tmp_path / "out")]) == 3
    assert "RAY_ADDRESS: '127.0.0.1:" in capsys.readouterr().err
    assert main(["doctor"]) == 3
    assert "RAY_ADDRESS: '127.0.0.1:" in capsys.readouterr().out


def test_a_recipe_without_a_server_takes_mlflows_own_variable(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////somewhere/mine.db")
    del tiny["tracking"]
    assert check_recipe(tiny).tracking.uri == "sqlite:////somewhere/mine.db"
    tiny["tracking"] = {"experiment": "mine"}
    assert check_recipe(tiny).tracking.uri == "sqlite:////somewhere/mine.db"
    for named in (None, "sqlite:///other.db"):
        tiny["tracking"] = {"uri": named}
        assert check_recipe(tiny).tracking.uri == named
    # One with credentials is looked up when it is used, and never stored.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host")
    del tiny["tracking"]
    assert check_recipe(tiny).tracking.uri == "${MLFLOW_TRACKING_URI}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert check_recipe(tiny).tracking.uri == "sqlite:///mlflow.db"


def test_a_lock_file_is_gone_afterwards_and_still_lets_one_in_at_a_time(tmp_path: Path) -> None:
    lock, log = tmp_path / ".lock", tmp_path / "log"
    code = (
        "import sys, time; from pathlib import Path; from orchestrator.base.files import exclusive\n"
        "for _ in range(20):\n"
        "    with exclusive(Path(sys.argv[1])), open(sys.argv[2], 'a', buffering=1) as log:\n"
        "        log.write('in\\n'); time.sleep(0.005); log.write('out\\n')"
    )
    others = [subprocess.Popen([sys.executable, "-c", code, str(lock), str(log)]) for _ in range(3)]
    assert [other.wait(timeout=120) for other in others] == [0, 0, 0]
    assert log.read_text() == "in\nout\n" * 60
    assert not lock.exists()


def test_a_lock_that_its_holder_removed_is_taken_anew(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with exclusive(lock):
        held = os.open(lock, os.O_RDWR)
        with pytest.raises(OSError, match="temporarily unavailable"):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(held)
    assert not lock.exists()


@pytest.fixture
def hiding(tmp_path: Path) -> Path:
    """A working folder with packages that are named like ours."""
    for name in HIDING:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('the package of the working folder')")
    return tmp_path


@pytest.mark.medium
def test_a_folder_named_like_a_package_does_not_hide_it(hiding: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "show", "demo"], cwd=hiding, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def run_in(folder: Path, tiny: dict[str, Any], code: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code with `folder` as the working folder, which holds a recipe with a model of the user's own."""
    (folder / "mine.py").write_text("from unlearn import small_vgg as factory\n")
    tiny |= {"model": {"name": "mine:factory", "width": 0.0625}, "methods": [{"name": "eu_k", "k": 1}]}
    tiny["training"]["epochs"] = 1
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    start = (
        "import shutil, sys; from orchestrator.__main__ import _working_folder_last; _working_folder_last()\n"
        "def go(*more):\n"
        "    from orchestrator.commands.cli import main\n"
        "    return main(['run', 'tiny.yaml', '--allow-factory', '--output', 'out', *more])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, "-c", start + code], cwd=folder, env=environment, capture_output=True, text=True, timeout=380
    )


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(400)
def test_workers_find_our_packages_first_and_the_users_modules_too(hiding: Path, tiny: dict[str, Any]) -> None:
    done = run_in(hiding, tiny, "sys.exit(go('--address', 'local'))")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(400)
def test_a_ray_of_the_users_own_is_used_and_left_and_workers_that_cannot_start_end_the_run(
    hiding: Path, tiny: dict[str, Any]
) -> None:
    """That Ray puts the working folder first. The first actor then cannot start, which ends the run at once."""
    code = (
        "import ray; ray.init('local', include_dashboard=False, num_cpus=2)\n"
        "failed = go()\n"
        "shutil.rmtree('attack'); shutil.rmtree('unlearn')\n"
        "print(failed, go(), ray.get(ray.put('alive'))); ray.shutdown()"
    )
    done = run_in(hiding, tiny, code)
    assert done.stdout.splitlines()[-1:] == ["3 0 alive"], done.stderr
    assert "the package of the working folder" in done.stderr


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise RuntimeError('no weights here')", r"model.name: 'tried_\d+:factory': RuntimeError: no weights here"),
        ("return torch.nn.Flatten()", r"^model: 2 images come out as \(2, 64\); logits \(2, 10\) are needed"),
        (
            "return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 10))",
            r"^model: cannot run on images of 1x8x8 float32 \(RuntimeError: ",
        ),
    ],
)
def test_the_users_model_is_tried_before_anything_is_trained(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    name = f"tried_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(f"import torch\ndef factory(*given, **more):\n    {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    tiny["model"] = {"name": f"{name}:factory"}
    options = RunOptions(tmp_path / "out", address="inline", quiet=True, allow_factory=True)
    with pytest.raises(UserError, match=words):
        run(check_recipe(tiny), options)
    store = LocalStore(tmp_path / "out" / "store")
    stored = list(store.keys())
    assert "train" not in {store.meta(key)["kind"] for key in stored}


def test_a_store_that_gives_back_something_else_is_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    try_store(store)
    assert list(store.keys()) == []
    monkeypatch.setattr(LocalStore, "fetch", lambda self, key, name: Path(os.devnull))
    with pytest.raises(EnvironmentFault, match="comes back changed"):
        try_store(store)
    assert list(store.keys()) == []

    def lost(self: LocalStore, key: str, name: str) -> Path:
        raise OSError("gone")

    monkeypatch.setattr(LocalStore, "fetch", lost)
    with pytest.raises(EnvironmentFault, match=r"cannot be read back \(gone\)"):
        try_store(store)
    assert list(store.keys()) == []


def test_a_missing_package_is_found_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    for attack in ATTACKS:
        try_packages(attack)
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="'xgboost' needs the package 'xgboost', which is not installed; pip"):
        try_packages("xgboost")
    try_packages("u_lira")


@pytest.mark.parametrize(
    ("said", "where", "starts"),
    [
        ("The current node timed out during startup. This", "local", 2),
        ("no such file", "local", 1),
        ("The current node timed out during startup. This", "127.0.0.1:1", 1),
    ],
)
def test_a_ray_of_our_own_that_starts_slowly_is_started_once_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: str, where: str, starts: int
) -> None:
    """Ray gives a node 30 s, which no setting changes."""
    from orchestrator.engine.ray import session

    seen: list[str] = []

    def init(_temp_dir: str = "", **options: Any) -> None:
        seen.append(_temp_dir)
        raise RuntimeError(said)

    monkeypatch.setattr(session.ray, "init", init)
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session, "head_of", lambda address: address)
    before = dict(os.environ)
    with pytest.raises(EnvironmentFault, match="cannot be used"):
        session.RaySession(where)
    assert len(seen) == starts
    assert ("starting it again" in capsys.readouterr().err) == (starts == 2)
    assert not any(folder and Path(folder).parent.exists() for folder in seen)
    assert dict(os.environ) == before


def test_paths_are_taken_as_people_write_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bash leaves `~` after `=`; a name of nobody is a folder's name; planning leaves no store."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    LocalStore(tmp_path / "store")
    for uri in ("~/store", f"file://{tmp_path}/store", str(tmp_path / "store")):
        found = existing_store(uri)
        assert found is not None
        assert found.uri == str(tmp_path / "store")
    (tmp_path / "other").mkdir()
    assert existing_store("~/other") is None
    assert list((tmp_path / "other").iterdir()) == []
    arguments = build_parser().parse_args(["unlearn", "--recipe=demo", "--model=~/a.pt", "--output=~/b.safetensors"])
    assert (arguments.model, arguments.output) == (tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert main(["status", "~no-such-user/x"]) != 0
    assert "no experiment" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["audit", "none.parquet", "--seed", "-1"])
    assert "--seed" in capsys.readouterr().err
