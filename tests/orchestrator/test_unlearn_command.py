"""`orchestrator unlearn` on a checkpoint of the user's own: weights in, unlearned weights out, nothing executed from files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from orchestrator.commands.cli import main
from orchestrator.plan.data import load_data
from orchestrator.recipe.recipe import check_recipe
from orchestrator.work.context import Context
from unlearn import second_moments, train


@pytest.fixture
def files(tiny: dict[str, Any], tmp_path: Path) -> dict[str, Path]:
    """A trained checkpoint as safetensors and as a state_dict, the recipe, and the second moments."""
    recipe = check_recipe(tiny)
    context = Context(None, load_data(recipe, None))
    model = context.new_model(recipe.model, seed=0)
    training = recipe.training
    train(model, context.loader("train", batch_size=32, shuffle=True), training, seed=0)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    paths = {name: tmp_path / name for name in ("model.safetensors", "model.pt", "recipe.yaml", "moments.safetensors")}
    save_file(state, paths["model.safetensors"])
    torch.save({"state_dict": state}, paths["model.pt"])
    paths["recipe.yaml"].write_text(yaml.safe_dump(tiny))
    second_moments(model.eval(), context.loader("train")).save(paths["moments.safetensors"])
    return paths


def call(files: dict[str, Path], model: str, out: Path, *more: str) -> int:
    return main(
        ["unlearn", "--model", str(files[model]), "--recipe", str(files["recipe.yaml"]), "--output", str(out), *more]
    )


def test_weights_in_weights_out(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    assert call(files, "model.safetensors", first) == 0
    assert call(files, "model.pt", second, "--moments", str(files["moments.safetensors"])) == 0
    before, after, again = load_file(files["model.safetensors"]), load_file(first), load_file(second)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved
    assert all(name.endswith("weight") for name in moved), "biases and normalisation stay"
    for name in after:
        assert torch.allclose(after[name], again[name], atol=1e-6), "moments saved before are the moments computed now"
    document = json.loads(first.with_suffix(".json").read_text())
    assert document["method"]["name"] == "pgu"
    assert [row["epoch"] for row in document["history"]] == [0, 1, 2, 3]
    capsys.readouterr()
    assert call(files, "model.safetensors", third, "--method", "eu_k", "--json") == 0
    assert json.loads(capsys.readouterr().out)["method"] == {"name": "eu_k", "params": {"k": 1}}


class Evil:
    """Runs code where a file is unpickled carelessly."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("pwned").touch, ())


@pytest.mark.medium
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("missing", "no such file"),
        ("torn", "cut short"),
        ("evil", "holds more than weights"),
        ("text", "no checkpoint; give .safetensors, or what torch.save wrote"),
        ("folder", "is a folder"),
        ("other", "does not fit"),
    ],
)
def test_a_bad_checkpoint_is_one_line(
    files: dict[str, Path],
    tmp_path: Path,
    content: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / ("bad.pt" if content in ("evil", "text", "folder") else "bad.safetensors")
    if content == "torn":
        bad.write_bytes(files["model.safetensors"].read_bytes()[:1000])
    elif content == "evil":
        bad.write_bytes(pickle.dumps(Evil()))
    elif content == "text":
        bad.write_text("name: demo")
    elif content == "folder":
        bad.mkdir()
    elif content == "other":
        save_file({"x": torch.zeros(2)}, bad)
    assert call({**files, "bad": bad}, "bad", tmp_path / "out.safetensors") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("--model")
    assert words in error
    assert not (tmp_path / "pwned").exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_an_output_without_a_name_is_one_line(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(files, "model.safetensors", Path()) == 2
    assert "--output: '.': weights are written as safetensors" in capsys.readouterr().err


def test_moments_of_another_model_are_refused(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = load_file(files["model.safetensors"])
    name = next(name for name in state if name.endswith("weight"))
    state[name] += 0.1
    save_file(state, files["model.safetensors"])
    code = call(
        files, "model.safetensors", tmp_path / "out.safetensors", "--moments", str(files["moments.safetensors"])
    )
    assert code == 2
    assert "moments" in capsys.readouterr().err


def test_other_mistakes(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(files, "model.safetensors", tmp_path / "out.pt") == 2
    assert ".safetensors" in capsys.readouterr().err
    assert call(files, "model.safetensors", tmp_path / "out.safetensors", "--method", "cf_k") == 2
    assert "pgu, eu_k" in capsys.readouterr().err
    assert call(files, "model.safetensors", tmp_path / "out.safetensors", "--set", "methods=[]") == 2
    assert "methods: []: the recipe has no method; allowed: at least one, as --set" in capsys.readouterr().err
    for wrong, told in (("model.safetensors", "holds other tensors"), ("recipe.yaml", "not readable")):
        more = ("--moments", str(files[wrong]))
        assert call(files, "model.safetensors", tmp_path / "out.safetensors", *more) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"--moments: {files[wrong]}: {told}")
    chosen = "methods=[{name: pgu_incremental, epochs: 1}]"
    assert call(files, "model.safetensors", tmp_path / "out.safetensors", "--set", chosen) == 2
    assert "scenario.kind" in capsys.readouterr().err
    steps = (
        "--set",
        "scenario={kind: incremental, step: 2, steps: 3}",
        "--set",
        "methods=[{name: pgu_incremental, epochs: 1}]",
    )
    assert call(files, "model.safetensors", tmp_path / "out.safetensors", *steps) == 2
    assert "forgets in steps, and `unlearn` at once" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_code_of_the_users_that_fails_is_one_line(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_factory.py").write_text("def factory(**options):\n    raise RuntimeError('my own mistake')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = ("--allow-code", "--set", "model={name: 'failing_factory:factory'}")
    assert call(files, "model.safetensors", tmp_path / "out.safetensors", *own) == 2
    assert "my own mistake" in capsys.readouterr().err
    twice = ("--set", "model={name: resnet34, num_classes: 4}")
    assert call(files, "model.safetensors", tmp_path / "out.safetensors", *twice) == 2
    told = capsys.readouterr().err
    assert "model.num_classes: 4: follows from the data" in told
    assert "Traceback" not in told
