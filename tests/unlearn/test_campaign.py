"""The GPU campaign, end to end at a tiny size on the CPU."""

import importlib
import io
import json
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from unlearn import SecondMoments, load_dataset
from unlearn.training.train import TrainingDiverged

FOLDER = Path(__file__).parents[2] / "benchmarks" / "training"
METHODS = [
    {"name": "pgu", "gamma": 0.9, "epochs": 2, "early_stop": None},
    {"name": "eu_k", "k": 2, "epochs": 1},
    {"name": "eu_k", "k": 9},  # the model has five layers: it fails, alone
]


@pytest.fixture(scope="module")
def campaign():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)  # as for a script, whose own folder comes first
        yield importlib.import_module("campaign")


@pytest.fixture
def arguments(tmp_path):
    digits = load_dataset("digits", limit={"train": 300, "test": 100})
    paths = []
    for part in ("train", "test"):
        images = getattr(digits, part)
        encoded = []
        for image in images.images:
            buffer = io.BytesIO()
            Image.fromarray(image[..., 0]).save(buffer, "PNG")
            encoded.append({"bytes": buffer.getvalue(), "path": ""})
        paths.append(tmp_path / f"{part}.parquet")
        pq.write_table(pa.table({"img": encoded, "label": images.labels}), paths[-1])
    sizes = [
        "--width",
        "0.125",
        "--originals",
        "3",
        "--retrained",
        "3",
        "--split",
        "1,1,1",
        "--per-class",
        "5",
        "--epochs",
        "2",
        "--batch-size",
        "64",
    ]
    where = ["--train", str(paths[0]), "--test", str(paths[1]), "--output", str(tmp_path / "out")]
    return [*where, *sizes, "--device", "cpu", "--methods", json.dumps(METHODS)]


def tables(folder):
    return {path.stem: pq.read_table(path) for path in sorted((folder / "outputs").glob("*.parquet"))}


def test_a_campaign_writes_what_an_audit_reads_and_goes_on_where_it_stopped(campaign, arguments, tmp_path):
    out = tmp_path / "out"
    stopped = campaign.main([*arguments, "--minutes", "0.000001"])  # no time for anything
    assert stopped["models"] == {}
    summary = campaign.main(arguments)
    assert summary["failed"] == 1
    found = tables(out)
    roles = {(t["role"][0].as_py(), t["method"][0].as_py()): t for t in found.values()}
    assert set(roles) == {
        ("original", ""),
        ("retrained", ""),
        ("unlearned", "retrain"),
        ("unlearned", "pgu"),
        ("unlearned", "eu_k"),
    }
    assert len(roles["original", ""]) == 3 * 50
    assert set(roles["original", ""]["fold"].to_pylist()) == {"train", "validation", "test"}
    assert set(roles["unlearned", "pgu"]["model_id"].to_pylist()) == {"original-002"}
    assert roles["unlearned", "pgu"].schema.field("logits").type == pa.list_(pa.float32(), 10)
    errors = json.loads((out / "errors.json").read_text())
    assert 0 <= errors["original-002"]["error_test"] <= 100
    assert "the model has 5 layers" in next(about["error"] for about in errors.values() if "error" in about)
    before = {path: path.stat().st_mtime_ns for path in (out / "models").iterdir()}
    again = campaign.main(arguments)
    assert again["models"] == summary["models"]
    assert {path: path.stat().st_mtime_ns for path in (out / "models").iterdir()} == before
    # A model lost and trained again, alone, is the same model to the bit.
    old = pq.read_table(out / "parts" / "retrained-001.parquet")
    for path in (out / "models" / "retrained-001.pt", out / "parts" / "retrained-001.json"):
        path.unlink()
    campaign.main(arguments)
    new = pq.read_table(out / "parts" / "retrained-001.parquet")
    assert np.array_equal(*(t["logits"].combine_chunks().flatten().to_numpy() for t in (old, new)))
    # What failed is tried again, since its reason may be gone: a method that ran out of memory, say.
    failed = next(path for path in sorted((out / "parts").glob("unlearned-pgu-*.json")))
    failed.write_text(json.dumps({"error": "out of memory"}))
    assert campaign.main(arguments)["failed"] == 1
    assert "error" not in json.loads(failed.read_text())
    with pytest.raises(SystemExit, match="holds other settings"):
        campaign.main([*arguments, "--seed", "1"])


def test_stopped_in_the_middle_it_goes_on_and_several_in_turn_are_the_same(
    campaign, arguments, tmp_path, capsys, monkeypatch
):
    """One campaign is interrupted while it writes; another trains two at a time. Both end with the same bits."""
    campaign.main(arguments)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert lines[0].startswith("[1/10] original-002: ")
    assert lines[-1].startswith("[10/10] ")
    assert lines[-1].endswith("about 0.0 min left")
    assert all(" left" in line for line in lines)
    whole = tables(tmp_path / "out")

    other = [*arguments[: arguments.index("--output")], "--output", str(tmp_path / "other")]
    other += arguments[arguments.index("--output") + 2 :]
    write, written = campaign.write, []

    def stop(path, save):
        written.append(path)
        if len(written) == 9:
            path.with_name(f"{path.name}.tmp").write_bytes(b"half a file")  # as a crash would leave it
            raise KeyboardInterrupt
        write(path, save)

    monkeypatch.setattr(campaign, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        campaign.main(other)
    monkeypatch.setattr(campaign, "write", write)
    campaign.main([*other, "--together", "2"])
    assert "[10/10] " in capsys.readouterr().out
    for name, table in tables(tmp_path / "other").items():
        rows = [t.sort_by([("model_id", "ascending"), ("sample_id", "ascending")]) for t in (table, whole[name])]
        assert rows[0].equals(rows[1])


def test_what_fails_is_recorded_and_the_others_go_on(campaign, arguments, tmp_path, monkeypatch, capsys):
    """A model that diverges, decompositions that fail, a method for which the device's memory is too small, and what
    such work held until then is let go."""
    held, freed, diverges = [], [], campaign.seed_of(0, "original", 1)
    train = campaign.train

    def failing(model, loader, training, *, seed, **options):
        if seed == diverges:
            raise TrainingDiverged("training.lr: the loss is nan after pass 1\nlower it")
        return train(model, loader, training, seed=seed, **options)

    def out_of_memory(self, model, **given):
        on_the_device = torch.zeros(3)
        held.append(weakref.ref(on_the_device))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def does_not_converge(self):
        raise torch.linalg.LinAlgError("linalg.eigh: did not converge")

    monkeypatch.setattr(campaign, "train", failing)
    monkeypatch.setattr(campaign.METHODS["eu_k"], "unlearn", out_of_memory)
    monkeypatch.setattr(SecondMoments, "decompose", does_not_converge)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append([each() is None for each in held]))
    summary = campaign.main(arguments)
    errors = json.loads((tmp_path / "out" / "errors.json").read_text())
    reasons = {name.rpartition("-")[0][:14]: about["error"] for name, about in errors.items() if "error" in about}
    assert reasons == {
        "original": "training.lr: the loss is nan after pass 1",
        "unlearned-pgu-": "linalg.eigh: did not converge",
        "unlearned-eu_k": "CUDA out of memory. Tried to allocate 2.00 GiB.",
    }
    assert summary["failed"] == 4, "two of EU-k's"
    assert errors["original-001"]["fold"] == "validation"
    assert len(held) == 2
    assert len(freed) == 4
    assert all(all(gone) for gone in freed), "a traceback that is alive keeps the tensors of its frames"
    assert summary["models"] == {"original": 2, "retrained": 3, "retrain": 1}
    assert "[10/10]" in capsys.readouterr().out
    # With the reasons gone the same command makes what is missing.
    monkeypatch.undo()
    again = campaign.main(arguments)
    assert again["failed"] == 1, "the model has five layers"
    assert again["models"]["original"] == 3


def test_of_several_in_turn_only_those_are_missing_that_fail_alone(campaign, arguments, tmp_path, monkeypatch, capsys):
    campaign.main(arguments)
    whole = tables(tmp_path / "out")
    other = [*arguments[: arguments.index("--output")], "--output", str(tmp_path / "other"), "--together", "3"]
    other += arguments[arguments.index("--output") + 2 :]

    def too_large(models, *given, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(campaign, "train_together", too_large)
    assert campaign.main(other)["failed"] == 1, "the method that fails for a reason of its own"
    assert "3 models in turn: failed: CUDA out of memory.; each is trained alone" in capsys.readouterr().out
    for name, table in tables(tmp_path / "other").items():
        assert np.array_equal(*(t["logits"].combine_chunks().flatten().to_numpy() for t in (table, whole[name])))


def test_a_full_disk_ends_it(campaign, arguments, monkeypatch):
    """Everything that comes after would be lost too."""

    def full(content, path):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RuntimeError, match="unexpected pos"):
        campaign.main(arguments)


def test_an_audit_reads_it(campaign, arguments, tmp_path):
    from attack.audit.audit import audit

    campaign.main(arguments)
    found = audit(list(tables(tmp_path / "out").values()), ["loss_threshold"], seed=0)
    rows = {row.method: row.to_json() for row in found.rows}
    assert {"no_unlearn", "retrain", "pgu", "eu_k"} <= set(rows)
    assert all(row["status"] == "done" for row in rows.values())


def test_it_needs_few_packages():
    """Nothing but torch, NumPy, Pillow and pyarrow may be imported for it."""
    heavy = {"ray", "mlflow", "xgboost", "pydantic", "sklearn", "safetensors", "torchvision"}
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n"
        "import campaign as module\n"
        "module.METHODS['pgu'], module.METHODS['eu_k']\n"
        "print(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(result.stdout.split())
