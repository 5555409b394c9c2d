"""One drawn input, one command, and what must hold whatever the input is."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import random
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from attack.outputs.table import outputs_table
from orchestrator.commands.cli import main

LIMIT = 20  # seconds that one input may take
CODES = (0, 1, 2, 3)
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    1e308,
    float("nan"),
    2**63,
    "",
    "yes",
    "1e-2",
    "é\u202e",
    [],
    {},
    [1, [2]],
)


def recipe_of() -> dict[str, Any]:
    return {
        "name": "fuzz",
        "seed": 0,
        "dataset": {"source": "digits", "limit": {"train": 60, "test": 40}},
        "scenario": {"kind": "samples", "per_class": 2},
        "model": {"name": "small_vgg", "width": 0.05},
        "training": {"lr": 0.05, "batch_size": 16, "epochs": 1, "augment": None},
        "shadows": {"originals": 3, "retrained": 3, "split": [1, 1, 1]},
        "methods": [{"name": "eu_k", "k": 1}, {"name": "pgu", "gamma": {"grid": [0.9, 0.5]}}],
        "tracking": {"uri": None},
    }


def bent(value: Any, draw: random.Random) -> Any:
    """Returns a document with one place changed."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        return {**value, key: bent(value[key], draw)} if draw.random() < 0.9 else {**value, f"{key}x": 1}
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        return [*value[:place], bent(value[place], draw), *value[place + 1 :]]
    return draw.choice(ODD)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Returns bytes that are cut short, flipped in a few places, or as they were."""
    way = draw.randrange(3)
    if way == 0:
        return content[: draw.randrange(len(content) + 1)]
    found = bytearray(content)
    for _ in range(way * 3):
        found[draw.randrange(len(found))] = draw.randrange(256)
    return bytes(found)


def recipes(folder: Path, draw: random.Random) -> list[str]:
    (folder / "r.yaml").write_bytes(damaged(yaml.safe_dump(bent(recipe_of(), draw)).encode(), draw))
    return [draw.choice(["show", "plan"]), "r.yaml"]


def logits(draw: random.Random) -> np.ndarray:
    return np.random.default_rng(draw.randrange(2**31)).normal(size=(6, 3)).astype(np.float32)


AUDIT = ("--attacks", "loss_threshold", "--output", "out")


def mappings(folder: Path, draw: random.Random) -> list[str]:
    """NumPy and CSV logits, whose header, cells or mapping are changed."""
    models = []
    for number in range(6):
        names = ["sample_id", "label", "0", "1", "2"]
        if draw.random() < 0.3:
            names[draw.randrange(5)] = draw.choice(["", "id", "Label", "7", "0", "c1", "loss"])
        cells = [[i, i % 3, *row] for i, row in enumerate(logits(draw).tolist())]
        if draw.random() < 0.3:
            cells[draw.randrange(6)][draw.randrange(5)] = draw.choice(ODD)
        text = "\n".join(",".join(map(str, row)) for row in ([names, *cells] if draw.random() < 0.9 else cells))
        (folder / f"{number}.csv").write_bytes(damaged(text.encode(), draw) if draw.random() < 0.3 else text.encode())
        role, fold = ("original", "retrained")[number % 2], ("train", "validation", "test")[number // 2]
        models.append({"model_id": f"m{number}", "role": role, "fold": fold, "logits": f"{number}.csv"})
    mapping: Any = {"models": models}
    (folder / "m.yaml").write_text(yaml.safe_dump(bent(mapping, draw) if draw.random() < 0.5 else mapping))
    return ["audit", "--mapping", "m.yaml", *AUDIT]


def outputs(folder: Path, draw: random.Random) -> list[str]:
    """Parquet outputs with a column changed, or bytes damaged."""
    tables = []
    for number in range(6):
        role, fold = ("original", "retrained")[number % 2], ("train", "validation", "test")[number // 2]
        tables.append(outputs_table(f"m{number}", role, "", "{}", fold, np.arange(6), np.arange(6) % 3, logits(draw)))
    table = pa.concat_tables(tables)
    if draw.random() < 0.7:
        name = draw.choice(table.column_names)
        odd = draw.choice([pa.nulls(36), pa.array(["x"] * 36), pa.array([2**62] * 36), pa.array([float("nan")] * 36)])
        table = table.set_column(table.schema.get_field_index(name), name, odd)
    if draw.random() < 0.2:
        table = table.slice(0, draw.randrange(37))
    pq.write_table(table, folder / "o.parquet")
    if draw.random() < 0.3:
        (folder / "o.parquet").write_bytes(damaged((folder / "o.parquet").read_bytes(), draw))
    return ["audit", "o.parquet", *AUDIT]


def checkpoints(folder: Path, draw: random.Random) -> list[str]:
    """Weights under odd names and shapes, which do not fit, or damaged files."""
    odd: tuple[Any, ...] = (
        torch.zeros(2),
        {"net": {"a": torch.zeros(1)}},
        {"module.x": torch.full((2,), float("nan"))},
        [],
        3,
    )
    buffer = io.BytesIO()
    torch.save(draw.choice(odd), buffer)
    name = draw.choice(["m.pt", "m.safetensors"])
    (folder / name).write_bytes(damaged(buffer.getvalue(), draw))
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe_of()))
    return ["unlearn", "--model", name, "--recipe", "r.yaml", "--output", "u.safetensors"]


def images(folder: Path, draw: random.Random) -> list[str]:
    """A folder of images of odd modes and sizes, or damaged."""
    from PIL import Image

    for part in ("train", "test"):
        for number in range(6):
            place = folder / part / draw.choice(["a", "b"])
            place.mkdir(parents=True, exist_ok=True)
            pixels = Image.fromarray((np.random.default_rng(number).random((8, 8)) * 255).astype(np.uint8))
            image = pixels.convert(draw.choice(["L", "RGB", "I", "P", "LA", "1", "RGBA"]))
            buffer = io.BytesIO()
            form = "TIFF" if image.mode == "I" else "PNG"
            image.save(buffer, form)
            content = buffer.getvalue()
            (place / f"{number}.{form.lower()}").write_bytes(damaged(content, draw) if draw.random() < 0.1 else content)
    document = recipe_of() | {"dataset": {"source": "image_folder", "train": "train", "test": "test"}}
    (folder / "r.yaml").write_text(yaml.safe_dump(document))
    return ["plan", "r.yaml"]


KINDS: dict[str, Callable[[Path, random.Random], list[str]]] = {
    "recipes": recipes,
    "mappings": mappings,
    "outputs": outputs,
    "checkpoints": checkpoints,
    "images": images,
}


class Hang(BaseException):
    """An input took longer than it may."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises `Hang` inside after so many seconds."""

    def ring(number: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def contents(folder: Path) -> dict[str, str]:
    """Returns relative path → digest of the files that are there."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def warm_up() -> None:
    """Imports what the first audit would: its time is that of a cold start, not of an input."""
    for name in ("matplotlib.pyplot", "orchestrator.report.page", "orchestrator.report.terminal", "attack.audit.audit"):
        importlib.import_module(name)
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        table = [
            outputs_table(
                f"m{n}",
                ("original", "retrained")[n % 2],
                "",
                "{}",
                ("train", "validation", "test")[n // 2],
                np.arange(6),
                np.arange(6) % 3,
                logits(random.Random(n)),
            )
            for n in range(6)
        ]
        pq.write_table(pa.concat_tables(table), f"{folder}/o.parquet")
        main(["audit", f"{folder}/o.parquet", "--attacks", "loss_threshold", "--output", f"{folder}/out"])


def problem_of(kind: str, seed: int, folder: Path, seconds: float = LIMIT) -> str:
    """Runs one drawn input in the current folder `folder`; returns what is wrong with how it ended, empty where nothing is."""
    arguments = KINDS[kind](folder, random.Random(f"{kind} {seed}"))
    (folder / "out").mkdir(exist_ok=True)
    before = contents(folder)
    told, errors = io.StringIO(), io.StringIO()
    try:
        with limited(seconds), contextlib.redirect_stdout(told), contextlib.redirect_stderr(errors):
            code = main(arguments)
    except Hang:
        return f"it took more than {seconds:g} s"
    except SystemExit as end:
        code = int(end.code or 0) if not isinstance(end.code, str) else 1
    except BaseException as error:
        return f"it raised {type(error).__name__}: {error}"
    text = errors.getvalue()
    if code not in CODES:
        return f"it ended with {code}"
    if "Traceback" in text or "(traceback: " in text:
        return f"an error that nobody foresaw: {text.strip().splitlines()[-1]}"
    if code in (2, 3) and not text.strip():
        return f"it ended with {code} without a word"
    after = contents(folder)
    lost = [name for name, digest in before.items() if after.get(name) != digest]
    return f"it changed {', '.join(lost)}" if lost else ""
