"""What comes from outside — recipes, checkpoints, stores, outputs — executes nothing, writes nowhere else and learns no secret."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from orchestrator.base.errors import RecipeError
from orchestrator.base.text import printable
from orchestrator.base.values import digest
from orchestrator.commands.cli import main
from orchestrator.experiments.run import RunOptions, run
from orchestrator.plan.data import load_data
from orchestrator.recipe.recipe import check_recipe, load_recipe
from orchestrator.store import LocalStore
from orchestrator.store.base import commit_document, meta_digest

SECRETS = ("s3cr3t-password", "s3cr3t-token", "s3cr3t-key")


class Boom:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def faults_of(document: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as refused:
        check_recipe(copy.deepcopy(document))
    return str(refused.value)


# Recipes


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/b", ".hidden", "", "x\n", "a\\b", "x" * 101])
def test_a_recipes_name_is_one_plain_name(tiny: dict[str, Any], name: str) -> None:
    tiny["name"] = name
    assert faults_of(tiny).startswith("recipe: name:")


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch {mark}']",
        "name: !!python/object/apply:pathlib.Path.touch ['{mark}']",
        "{{name: x, model: !!python/name:os.system }}",
    ],
)
def test_yaml_tags_that_build_objects_are_refused(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "executed"
    recipe = tmp_path / "evil.yaml"
    recipe.write_text(text.format(mark=mark))
    assert main(["show", str(recipe)]) == 2
    assert "not readable as YAML" in capsys.readouterr().err
    assert not mark.exists()


def test_a_value_given_with_set_builds_no_object(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    assert main(["show", "demo", "--set", f"name=!!python/object/apply:os.system ['touch {mark}']"]) == 2
    assert not mark.exists()


@pytest.mark.medium
def test_aliases_of_aliases_and_deep_nesting_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text("\n".join(lines))
    with pytest.raises(RecipeError, match="more than 100,000 values"):
        load_recipe(bomb)
    bomb.write_text("[" * 5000 + "]" * 5000)
    with pytest.raises(RecipeError, match=r"nested too deep|not readable"):
        load_recipe(bomb)


def test_a_factory_needs_the_users_word(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing the module would already execute it: it is not imported by checking, planning or running."""
    mark = tmp_path / "executed"
    (tmp_path / "evil_factory.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tiny["model"] = {"name": "evil_factory:build"}
    recipe = tmp_path / "evil.yaml"
    recipe.write_text(yaml.safe_dump(tiny))
    for command in ("show", "plan"):
        main([command, str(recipe)])
        assert not mark.exists(), command
    assert main(["run", str(recipe), "--address", "inline", "--output", str(tmp_path / "out")]) == 2
    assert not mark.exists()
    np.savez(tmp_path / "w.npz", a=np.zeros(1))
    arguments = ["unlearn", "--model", str(tmp_path / "w.npz"), "--recipe", str(recipe), "--output", "o.safetensors"]
    assert main(arguments) == 2
    assert not mark.exists()


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD", "API_KEY"])
@pytest.mark.parametrize("place", ["dataset.root", "tracking.uri"])
def test_a_recipe_cannot_ask_for_a_secret(
    tiny: dict[str, Any], variable: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, SECRETS[0])
    section, name = place.split(".")
    tiny[section] = {**tiny[section], name: f"http://elsewhere/${{{variable}}}"}
    told = faults_of(tiny)
    assert f"the environment variable {variable} may hold a secret" in told
    assert SECRETS[0] not in told


@pytest.mark.parametrize(
    "document",
    [
        {"tracking": {"uri": f"http://me:{SECRETS[0]}@host:5000"}},
        {"tracking": {"uri": f"postgresql://me:{SECRETS[0]}@db/mlflow"}},
        {"dataset": {"source": "parquet", "train": f"s3://key:{SECRETS[0]}@bucket/a", "test": "b"}},
        {"dataset": {"source": "parquet", "train": f"https://h/a?X-Amz-Signature={SECRETS[0]}", "test": "b"}},
    ],
)
def test_credentials_in_a_recipe_are_refused_and_not_repeated(tiny: dict[str, Any], document: dict[str, Any]) -> None:
    told = faults_of({**tiny, **document})
    assert "holds credentials" in told
    assert SECRETS[0] not in told


def test_credentials_in_a_stores_address_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["run", "demo", "--store", f"s3://key:{SECRETS[0]}@bucket/x", "--output", str(tmp_path / "o")]) == 2
    assert SECRETS[0] not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("sqlite:///../../x.db", "leads out of its folder"),
        ("sqlite:////{folder}/../x.db", "leads out of its folder"),
        ("sqlite:///.bashrc", "not the name of a database"),
        ("sqlite:////{folder}/notes.db", "is no sqlite database"),
    ],
)
def test_a_tracking_file_stays_a_database(
    tiny: dict[str, Any], uri: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.db").write_text("something that must not be overwritten")
    tiny["tracking"] = {"uri": uri.replace("{folder}", str(tmp_path).lstrip("/"))}
    assert words in faults_of(tiny)
    assert (tmp_path / "notes.db").read_text() == "something that must not be overwritten"


@pytest.mark.medium
def test_names_from_a_recipe_write_nowhere_else(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An experiment name full of dots and slashes, and a link in the output folder that leads out."""
    work = tmp_path / "deep" / "work"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep.parquet").write_text("mine")
    before = sorted(p for p in tmp_path.rglob("*") if not p.is_relative_to(work))
    tiny["tracking"] = {"uri": "sqlite:///mlflow.db", "experiment": "../../../escaped"}
    tiny["methods"] = [{"name": "eu_k", "k": 1}]
    result = run(check_recipe(tiny), RunOptions(work / "out", address="inline", quiet=True))
    assert result.failed == 0
    assert sorted(p for p in tmp_path.rglob("*") if not p.is_relative_to(work)) == before
    assert [p.name for p in (work / "mlartifacts").iterdir()] == ["_.._.._escaped"]


@pytest.mark.medium
def test_html_and_terminal_sequences_from_a_recipe_stay_text(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["description"] = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    tiny["methods"] = []
    run(check_recipe(tiny), RunOptions(tmp_path / "out", address="inline", quiet=True))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert printable("a\x1b]0;title\x07b\x9b2J") == "a�]0;title�b�2J"


# Checkpoints and data


def test_a_pickled_checkpoint_executes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    mark = tmp_path / "executed"
    for name, content in (
        ("torch.pt", None),
        ("plain.pkl", pickle.dumps(Boom(mark))),
        ("a.safetensors", pickle.dumps(Boom(mark))),
    ):
        path = tmp_path / name
        if content is None:
            torch.save({"state_dict": Boom(mark)}, path)
        else:
            path.write_bytes(content)
        arguments = ["unlearn", "--model", str(path), "--recipe", "demo", "--output", str(tmp_path / "o.safetensors")]
        assert main(arguments) == 2, name
        assert "--model" in capsys.readouterr().err
        assert not mark.exists(), name
    moments = tmp_path / "moments.safetensors"
    moments.write_bytes(pickle.dumps(Boom(mark)))
    from unlearn import SecondMoments

    with pytest.raises(Exception, match=r".*"):
        SecondMoments.load(moments)
    assert not mark.exists()


def test_outputs_of_others_execute_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    for name in ("a.npz", "a.npy", "a.parquet", "a.csv"):
        path = tmp_path / name
        if name.startswith("a.np"):
            with path.open("wb") as file:
                np.save(file, np.array([Boom(mark)], dtype=object), allow_pickle=True)
        else:
            path.write_bytes(pickle.dumps(Boom(mark)))
        assert main(["audit", str(path), "--output", str(tmp_path / "audit")]) != 0
        assert not mark.exists(), name


# Stores


def plant(
    store: LocalStore, key: str, files: dict[str, bytes], meta: dict[str, Any], rename: dict[str, str] | None = None
) -> None:
    """Commits an object by hand, with names of its files replaced in a mark that is valid otherwise."""
    folder = store.root / "objects" / key[:2] / key
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    mark = commit_document(key, folder, meta)
    mark["files"] = {(rename or {}).get(name, name): entry for name, entry in mark["files"].items()}
    mark["check"] = meta_digest(key, mark["files"], meta)
    (folder / "commit.json").write_text(json.dumps(mark))


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "..", "a/b", "a\\b", "", "commit.json", "a\0b"])
def test_a_stores_files_have_plain_names(tmp_path: Path, name: str) -> None:
    store = LocalStore(tmp_path / "store")
    key = digest(name)
    plant(store, key, {"data.bin": b"x"}, {"kind": "train"}, {"data.bin": name})
    assert not store.has(key)
    assert not store.verify(key)
    plant(store, digest("good"), {"data.bin": b"x"}, {"kind": "train"})
    assert store.has(digest("good"))


def test_a_stored_model_of_somebody_else_runs_no_code(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its metadata may name a factory, its files may be pickles: neither is executed, and a dataset with objects is refused."""
    from orchestrator.work.context import Context

    mark = tmp_path / "executed"
    (tmp_path / "evil_stored.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    store = LocalStore(tmp_path / "store")
    data = load_data(check_recipe(tiny), None)
    factory = {"kind": "train", "model": {"name": "evil_stored:build"}, "dropped_classes": [], "history": []}
    plant(store, digest("factory"), {"model.safetensors": b"x"}, factory)
    pickled = {"kind": "train", "model": tiny["model"], "dropped_classes": [], "history": []}
    plant(store, digest("pickle"), {"model.safetensors": pickle.dumps(Boom(mark))}, pickled)
    for name in ("factory", "pickle"):
        with pytest.raises(Exception, match=r"factory|allow|[Hh]eader"):
            Context(store, data).load_model(digest(name))
        assert not mark.exists(), name
    with (tmp_path / "d.npz").open("wb") as file:
        np.savez(file, images=np.array([Boom(mark)], dtype=object))
    with np.load(tmp_path / "d.npz", allow_pickle=False) as arrays, pytest.raises(ValueError, match="pickle"):
        arrays["images"]
    assert not mark.exists()


@pytest.mark.medium
def test_nothing_here_unpickles_or_evaluates_what_it_reads() -> None:
    import ast

    root = Path(__file__).parents[2]
    banned = {"eval", "exec", "compile", "__import__"}
    found = []
    for path in (p for package in ("orchestrator", "unlearn", "attack") for p in (root / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            text = ast.unparse(node.func)
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if text in banned or text in ("pickle.load", "pickle.loads", "yaml.load", "joblib.load", "os.system"):
                found.append((path.name, text))
            if text == "torch.load" and options.get("weights_only") != "True":
                found.append((path.name, text))
            if text == "np.load" and options.get("allow_pickle") != "False":
                found.append((path.name, text))
            if text.startswith("subprocess.") and options.get("shell", "False") != "False":
                found.append((path.name, text))
    assert found == []


@pytest.mark.long
@pytest.mark.ray
def test_a_local_ray_listens_on_loopback_or_asks_for_its_token(tmp_path: Path) -> None:
    """What listens beyond loopback is Ray's own gRPC: a client without the token is turned away."""
    code = """
import json, os, psutil
from orchestrator.engine.ray.session import RaySession
session = RaySession(None)
own = psutil.Process()
ports = []
for process in [own, *own.children(recursive=True)]:
    for entry in process.net_connections("tcp"):
        if entry.status == "LISTEN":
            ports.append([entry.laddr.ip, entry.laddr.port, process.name()])
token = os.environ["RAY_AUTH_TOKEN_PATH"]
print(json.dumps({"ports": ports, "mode": os.environ["RAY_AUTH_MODE"], "token": oct(os.stat(token).st_mode & 0o777),
                  "folder": oct(os.stat(os.path.dirname(token)).st_mode & 0o777),
                  "gcs": session.ray.get_runtime_context().gcs_address,
                  "commands": [" ".join(p.cmdline()) for p in own.children(recursive=True)], "text": open(token).read()}), flush=True)
input()
session.close()
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        assert process.stdout is not None
        seen = json.loads(next(line for line in process.stdout if line.startswith("{")))
        assert (seen["mode"], seen["token"], seen["folder"]) == ("token", "0o600", "0o700")
        assert not any(seen["text"] in command for command in seen["commands"]), "the token is on no command line"
        assert not any(name.startswith("dashboard") for _, _, name in seen["ports"])
        assert seen["gcs"].startswith("127.")
        intruder = (
            "import ray, sys\n"
            "try:\n    ray.init(address=sys.argv[1], log_to_driver=False)\n"
            "except BaseException as error:\n    print('refused', type(error).__name__); sys.exit(0)\n"
            "print('let in', ray.get(ray.remote(lambda: 1).remote()))\n"
        )
        for more in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
            tried = subprocess.run(
                [sys.executable, "-c", intruder, seen["gcs"]],
                env={**environment, **more},
                capture_output=True,
                text=True,
                timeout=120,
                cwd=tmp_path,
            )
            assert "let in" not in tried.stdout
    finally:
        process.communicate("\n", timeout=60)
