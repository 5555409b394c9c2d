"""Inputs drawn by Hypothesis: files that a user may have, and the command that is given them.

Each kind starts from what is right and bends it in a few places, so that a command gets past the
first check. Nothing here runs a command: `harness` does.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from hypothesis import strategies as st
from PIL import Image

from attack.outputs.table import outputs_table

Draw = Callable[[st.SearchStrategy[Any]], Any]
OUTPUT = "out"
# Values that people give by mistake: other types, odd numbers, odd texts.
ODD = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            -1,
            0,
            1.5,
            1e308,
            float("nan"),
            float("inf"),
            2**63,
            "",
            "yes",
            "1e-2",
            "é\u202e",
            "~",
            "*",
            "a:b",
        ]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 2**64) | st.text(max_size=6),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
        max_leaves=4,
    ),
)


@dataclass(frozen=True)
class Input:
    """Files by their path, and the arguments of the command. `named` are the files it may write
    beside the output folder."""

    files: dict[str, bytes]
    arguments: list[str]
    named: tuple[str, ...] = ()


def recipe_of() -> dict[str, Any]:
    """Returns a recipe that is right, with most sections filled in."""
    return {
        "name": "fuzz",
        "seed": 0,
        "dataset": {"source": "digits", "limit": {"train": 60, "test": 40}},
        "scenario": {"kind": "samples", "per_class": 2},
        "model": {"name": "small_vgg", "width": 0.05},
        "training": {"lr": 0.05, "batch_size": 16, "epochs": 1, "augment": None},
        "shadows": {"originals": 3, "retrained": 3, "split": [1, 1, 1]},
        "methods": [{"name": "eu_k", "k": 1}, {"name": "pgu", "gamma": {"grid": [0.9, 0.5]}}],
        "attacks": [{"name": "xgboost"}, {"name": "rmia"}],
        "tracking": {"uri": None},
        "resources": {"cpus_per_unit": 1, "gpus_per_unit": 0},
    }


def bent(draw: Draw, value: Any) -> Any:
    """Returns a document with one place changed, or a key too many."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(list(value)))
        if not draw(st.integers(0, 9)):
            return {**value, f"{key}{draw(st.text(max_size=2))}": 1}
        return {**value, key: bent(draw, value[key])}
    if isinstance(value, list) and value and draw(st.booleans()):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], bent(draw, value[place]), *value[place + 1 :]]
    return draw(ODD)


def damaged(draw: Draw, content: bytes) -> bytes:
    """Returns bytes that are cut short, or changed in a few places."""
    if draw(st.booleans()):
        return content[: draw(st.integers(0, len(content)))]
    found = bytearray(content)
    for place in draw(st.lists(st.integers(0, max(0, len(found) - 1)), max_size=6)):
        if found:
            found[place] = draw(st.integers(0, 255))
    return bytes(found)


def mostly(draw: Draw, content: bytes) -> bytes:
    """Returns the content, damaged one time in five."""
    return content if draw(st.integers(0, 4)) else damaged(draw, content)


def logits(draw: Draw) -> np.ndarray:
    """Returns logits of six samples and three classes."""
    return np.random.default_rng(draw(st.integers(0, 99))).normal(size=(6, 3)).astype(np.float32)


@st.composite
def recipes(draw: Draw) -> Input:
    """A recipe with places changed, or its text damaged, or a value given by `--set`."""
    document: Any = recipe_of()
    for _ in range(draw(st.integers(0, 2))):
        document = bent(draw, document)
    text = yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "replace")
    arguments = [draw(st.sampled_from(["show", "plan"])), "r.yaml"]
    if draw(st.booleans()):
        path = draw(st.sampled_from(["training.lr", "methods.1.gamma", "methods.9.k", "seed", "dataset", "x.y", ""]))
        arguments += ["--set", f"{path}={draw(st.text(max_size=8))}"]
    return Input({"r.yaml": mostly(draw, text)}, arguments)


AUDIT = ["--attacks", "loss_threshold", "--output", OUTPUT]
ROLES_AND_FOLDS = [(role, fold) for fold in ("train", "validation", "test") for role in ("original", "retrained")]


def numpy_bytes(array: np.ndarray) -> bytes:
    """Returns an array as a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def csv_bytes(draw: Draw, values: np.ndarray) -> bytes:
    """Returns a CSV of logits whose header or cells may be changed."""
    names = draw(st.permutations(["sample_id", "label", "0", "1", "2"])) if not draw(st.integers(0, 3)) else None
    header = list(names or ["sample_id", "label", "0", "1", "2"])
    column = {name: i for i, name in enumerate(["sample_id", "label", "0", "1", "2"])}
    order = [column[name] for name in header]
    rows = [[[i, i % 3, *row][place] for place in order] for i, row in enumerate(values.tolist())]
    if not draw(st.integers(0, 2)):
        header[draw(st.integers(0, 4))] = draw(
            st.sampled_from(["", "id", "Label", "7", "0", "c1", "loss", "ü", '"', "x,y"])
        )
    if not draw(st.integers(0, 2)):
        rows[draw(st.integers(0, 5))][draw(st.integers(0, 4))] = draw(ODD)
    lines = rows if not draw(st.integers(0, 5)) else [header, *rows]
    mark = draw(st.sampled_from(["", "\ufeff"]))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return (mark + end.join(",".join(map(str, row)) for row in lines)).encode("utf-8", "replace")


@st.composite
def mappings(draw: Draw) -> Input:
    """NumPy or CSV logits and the mapping that names them; any of these may be changed."""
    files: dict[str, bytes] = {"labels.npy": numpy_bytes(np.arange(6) % 3)}
    models: list[dict[str, Any]] = []
    csv = draw(st.booleans())
    for number, (role, fold) in enumerate(ROLES_AND_FOLDS):
        name = f"{number}.{'csv' if csv else 'npy'}"
        values = logits(draw)
        files[name] = mostly(draw, csv_bytes(draw, values) if csv else numpy_bytes(_odd_array(draw, values)))
        models.append({"model_id": f"m{number}", "role": role, "fold": fold, "logits": name})
    mapping: Any = {"models": models} if csv else {"models": models, "labels": "labels.npy"}
    for key, value in (("columns", {"label": "label", "ignore": ["loss"]}), ("header", True), ("classes", [0, 1, 2])):
        if not draw(st.integers(0, 4)):
            mapping[key] = value
    if draw(st.booleans()):
        mapping = bent(draw, mapping)
    files["m.yaml"] = yaml.safe_dump(mapping, allow_unicode=True).encode("utf-8", "replace")
    return Input(files, ["audit", "--mapping", "m.yaml", *AUDIT])


def _odd_array(draw: Draw, values: np.ndarray) -> np.ndarray:
    ways: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda a: a.astype(np.float16),
        lambda a: a[:, :1],
        lambda a: a[None],
        lambda a: a[:0],
        lambda a: a > 0,
        lambda a: a * np.inf,
        lambda a: a.astype(str),
        lambda a: np.exp(a) / np.exp(a).sum(1, keepdims=True),
    ]
    return draw(st.sampled_from(ways))(values) if not draw(st.integers(0, 3)) else values


def outputs_of(draw: Draw) -> pa.Table:
    """Returns the outputs of six models on six samples."""
    parts = [
        outputs_table(f"m{n}", role, "", "{}", fold, np.arange(6), np.arange(6) % 3, logits(draw))
        for n, (role, fold) in enumerate(ROLES_AND_FOLDS)
    ]
    return pa.concat_tables(parts)


@st.composite
def outputs(draw: Draw) -> Input:
    """Parquet outputs, in one file or several, with a column changed, rows left out, or bytes damaged."""
    table = outputs_of(draw)
    if draw(st.booleans()):
        name = draw(st.sampled_from(table.column_names))
        odd: list[Any] = [
            pa.nulls(36),
            pa.array(["x"] * 36),
            pa.array([2**62] * 36),
            pa.array([float("nan")] * 36),
            pa.array([[0.5, 0.5]] * 36),
            pa.array([[1.0] * (1 + i % 2) for i in range(36)]),
            pa.array([b"\xff"] * 36),
            pa.array([None, *["original"] * 35]).dictionary_encode(),
        ]
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, draw(st.sampled_from(odd)))
    if not draw(st.integers(0, 5)):
        table = table.drop_columns([draw(st.sampled_from(table.column_names))])
    if not draw(st.integers(0, 3)):
        table = table.slice(draw(st.integers(0, 36)), draw(st.integers(0, 36)))
    if not draw(st.integers(0, 5)):
        table = pa.concat_tables([table, table])
    cut = draw(st.integers(0, len(table)))
    files = {}
    for name, part in (("o/a.parquet", table.slice(0, cut)), ("o/b.parquet", table.slice(cut))):
        buffer = io.BytesIO()
        pq.write_table(part, buffer)
        files[name] = mostly(draw, buffer.getvalue()) if draw(st.booleans()) else buffer.getvalue()
    options = draw(st.sampled_from([[], ["--num-classes", "3"], ["--seed", "-1"], ["--set", "loss_threshold.x=1"]]))
    return Input(files, ["audit", draw(st.sampled_from(["o", "o/*.parquet"])), *AUDIT, *options])


@st.composite
def checkpoints(draw: Draw) -> Input:
    """Weights that fit, under prefixes and in wrappers, of odd names, shapes and values, or damaged."""
    state = {name: tensor.clone() for name, tensor in _weights().items()}
    names = list(state)
    if draw(st.booleans()):
        name = draw(st.sampled_from(names))
        odd = [
            state[name] * float("nan"),
            state[name].double(),
            state[name].to(torch.bfloat16),
            state[name].reshape(-1)[:1],
            torch.zeros(0),
            torch.zeros(2, dtype=torch.int64),
        ]
        state[name] = draw(st.sampled_from(odd))
    if not draw(st.integers(0, 4)):
        del state[draw(st.sampled_from(names))]
    prefix = draw(st.sampled_from(["", "", "module.", "_orig_mod.module.", "x."]))
    state = {prefix + name: tensor for name, tensor in state.items()}
    whole: Any = draw(
        st.sampled_from([state, state, {"net": state, "epoch": 3}, {"state_dict": {"model": state}}, [state], {}, 3])
    )
    buffer = io.BytesIO()
    torch.save(whole, buffer)
    name = draw(st.sampled_from(["m.pt", "m.pt", "m.safetensors"]))
    content = buffer.getvalue()
    if name == "m.safetensors" and isinstance(whole, dict) and whole is state:
        from safetensors.torch import save

        content = save({key: tensor.contiguous() for key, tensor in state.items()})
    files = {name: mostly(draw, content), "r.yaml": yaml.safe_dump(recipe_of()).encode()}
    output = draw(st.sampled_from(["u.safetensors", "u.safetensors", name, "no/where/u.safetensors", "r.yaml"]))
    options = draw(st.sampled_from([[], [], ["--method", "pgu"], ["--method", "none"], ["--moments", "r.yaml"]]))
    arguments = ["unlearn", "--model", name, "--recipe", "r.yaml", "--output", output, "--anyway", *options]
    return Input(files, arguments, ("u.safetensors", "u.json", "no/where/u.safetensors", "no/where/u.json"))


_MADE: dict[str, torch.Tensor] = {}


def _weights() -> dict[str, torch.Tensor]:
    """Returns the weights of the recipe's model, built once."""
    if not _MADE:
        from unlearn.models import build_model

        model = build_model("small_vgg", num_classes=10, in_channels=1, image_size=8, width=0.05)
        _MADE.update(model.state_dict())
    return _MADE


@st.composite
def images(draw: Draw) -> Input:
    """Folders of images, or Parquet files of them: odd modes and sizes, missing classes, damaged files."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    files: dict[str, bytes] = {}
    rows: dict[str, list[tuple[bytes, Any]]] = {"train": [], "test": []}
    for part in rows:
        for number in range(8):
            mode = draw(st.sampled_from(["L", "L", "RGB", "RGB", "I", "P", "LA", "1", "RGBA", "F", "CMYK", "I;16"]))
            side = 8 if draw(st.integers(0, 9)) else draw(st.sampled_from([1, 7, 9]))
            form = "TIFF" if mode in ("I", "F", "CMYK") else "PNG"
            content = _image(rng, mode, side, form)
            content = content if draw(st.integers(0, 9)) else damaged(draw, content)
            label = "ab"[number % 2] if draw(st.integers(0, 9)) else draw(st.sampled_from(["c", ".h", "a/deep", "é"]))
            files[f"{part}/{label}/{number}.{form.lower()}"] = content
            rows[part].append((content, {"a": 0, "b": 1}.get(label, draw(st.sampled_from([-1, 1, 2, 7])))))
    dataset: dict[str, Any] = {"source": "image_folder", "train": "train", "test": "test"}
    if draw(st.booleans()):
        files = {f"{part}.parquet": _images_parquet(draw, found) for part, found in rows.items()}
        dataset = {"source": "parquet", "train": "train.parquet", "test": "test.parquet"}
    if not draw(st.integers(0, 2)):
        dataset["image_size"] = draw(st.sampled_from([8, 16, 0]))
    if not draw(st.integers(0, 4)):
        dataset["mean"], dataset["std"] = draw(st.sampled_from([([0.5], [0.5]), ([0.5] * 3, [0.5] * 3), ([0], [0])]))
    document = recipe_of() | {"dataset": dataset, "scenario": {"kind": "samples", "per_class": 1}}
    files["r.yaml"] = yaml.safe_dump(document).encode()
    return Input(files, ["plan", "r.yaml"])


def _image(rng: np.random.Generator, mode: str, side: int, form: str) -> bytes:
    values = rng.random((side, side)) * 255
    if mode == "I;16":
        image = Image.fromarray((values * 256).astype(np.uint16))
    elif mode == "F":
        image = Image.fromarray(values.astype(np.float32))
    else:
        image = Image.fromarray(values.astype(np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def _images_parquet(draw: Draw, rows: list[tuple[bytes, Any]]) -> bytes:
    cells = [content for content, _ in rows]
    labels: Any = [label for _, label in rows]
    labels = draw(
        st.sampled_from([labels, labels, [str(each) for each in labels], [each / 2 for each in labels], [None] * 8])
    )
    structs = pa.array([{"bytes": cell, "path": None} for cell in cells])
    column = draw(st.sampled_from([structs, structs, pa.array(cells), pa.array([[1, 2]] * 8), pa.nulls(8)]))
    names = draw(st.sampled_from([("image", "label"), ("image", "label"), ("img", "label"), ("image", "Label")]))
    table = pa.table({names[0]: column, names[1]: pa.array(labels)})
    buffer = io.BytesIO()
    pq.write_table(table.slice(0, 8 if draw(st.integers(0, 5)) else draw(st.integers(0, 8))), buffer)
    return mostly(draw, buffer.getvalue()) if not draw(st.integers(0, 3)) else buffer.getvalue()


KINDS: dict[str, st.SearchStrategy[Input]] = {
    "recipes": recipes(),
    "mappings": mappings(),
    "outputs": outputs(),
    "checkpoints": checkpoints(),
    "images": images(),
}
