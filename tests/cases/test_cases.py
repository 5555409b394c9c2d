"""What guards each input from the field that once failed, and the small mistakes that have no test elsewhere."""

from __future__ import annotations

import importlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from attack.outputs.readers import read_outputs
from orchestrator.base.errors import RecipeError, UserError
from orchestrator.commands.cli import main
from orchestrator.plan.data import load_data
from orchestrator.recipe.recipe import check_recipe
from orchestrator.work.context import Context
from orchestrator.work.first_look import FirstAccuracy, first_accuracy, require_trained
from unlearn import load_dataset
from unlearn.data.sources import Decoder

from ..fuzz.inputs import AUDIT, recipe_of
from ..orchestrator.test_audit import audit_outputs  # noqa: F401 - a fixture

# The kind of input → the tests that give one like it.
GUARDS: dict[str, tuple[str, ...]] = {
    "a head defined before its body": ("unlearn.test_probe:test_the_deepest_layers_are_never_the_wrong_ones",),
    "labels of shape (n, 1)": ("unlearn.test_probe:test_labels_in_a_column_are_labels_and_other_shapes_are_refused",),
    "prefixes and wrappers of checkpoints": ("orchestrator.test_checkpoints:test_wrappings_are_taken_off_and_said",),
    "ids above 2^53": ("attack.test_csv:test_what_is_read_is_what_was_written",),
    "a CSV header of digits": ("attack.test_csv:test_a_header_of_digits_is_no_sample",),
    "a CSV column of ids": ("attack.test_csv:test_what_may_be_something_else_is_refused_by_name",),
    "a pandas index in a CSV": ("attack.test_csv:test_what_may_be_something_else_is_refused_by_name",),
    "nested image folders": ("unlearn.test_pixels:test_nested_folders_are_read_as_torchvision_reads_them",),
    "images of 16 bits": ("unlearn.test_pixels:test_sixteen_bits_keep_their_upper_eight",),
    "labels from 1 in images": ("unlearn.test_pixels:test_labels_that_leave_classes_without_images",),
    "MLFLOW_TRACKING_URI": ("orchestrator.test_environment:test_a_recipe_without_a_server_takes_mlflows_own_variable",),
    "brackets in paths": ("cases.test_cases:test_a_file_may_be_named_like_a_pattern",),
    "labels from 1 in outputs": ("attack.test_doubts:test_what_looks_wrong_is_questioned",),
    "a dead RAY_ADDRESS": (
        "orchestrator.test_environment:test_run_and_doctor_name_the_variable_that_holds_a_dead_address",
        "orchestrator.test_environment:test_a_dead_address_is_refused_in_seconds",
    ),
    "`epochs: yes`": ("orchestrator.test_recipe:test_values_that_mean_something_else_are_refused",),
    "a key twice": ("orchestrator.test_recipe:test_what_is_no_plain_yaml_is_told_in_one_line",),
    "1e-2 in a grid": ("orchestrator.test_recipe:test_three_spellings_of_one_setting_are_one_row",),
    "1e-3 in a range": ("orchestrator.test_recipe:test_one_value_has_one_spelling",),
    "moments under augmentation": ("unlearn.test_projection:test_classes_are_taken_off_as_they_were_summed",),
    "an output folder of somebody else's": (
        "orchestrator.test_ownership:test_a_folder_that_is_not_ours_is_refused_untouched",
        "orchestrator.test_ownership:test_an_empty_name_is_no_folder",
    ),
    "standard output in ASCII": ("orchestrator.test_endings:test_what_standard_output_is_changes_no_ending",),
    "an output that cannot be written": ("orchestrator.test_ownership:test_unlearn_keeps_what_is_there",),
    "a projection head beside the classifier": (
        "unlearn.test_probe:test_classes_are_taken_from_the_layer_that_makes_the_logits",
    ),
    "cuda without a GPU": ("orchestrator.test_endings:test_a_device_that_is_not_there_is_said_at_once",),
    "NaN in a checkpoint": ("unlearn.test_probe:test_a_model_that_gives_no_logits_is_one_line",),
    "another normalisation": (
        "unlearn.test_normalisation:test_images_reach_the_model_as_it_was_trained",
        "cases.test_cases:test_the_accuracy_of_the_given_model_is_told_and_questioned",
    ),
    "--output is --model": ("orchestrator.test_ownership:test_unlearn_keeps_what_is_there",),
    "tied weights": ("orchestrator.test_checkpoints:test_tied_and_shared_weights_can_be_saved",),
    "a tuple of outputs": ("unlearn.test_probe:test_a_model_that_gives_no_logits_is_one_line",),
}


def test_every_kind_of_input_has_its_test() -> None:
    assert len(GUARDS) == 29
    for kind, names in GUARDS.items():
        for name in names:
            module, _, test = name.partition(":")
            assert callable(getattr(importlib.import_module(f"tests.{module}"), test, None)), (kind, name)


def images(path: Path, count: int = 12) -> str:
    """Writes a Parquet file of grey images in two classes; returns its path."""
    cells = []
    for number in range(count):
        buffer = io.BytesIO()
        Image.fromarray(np.full((8, 8), number * 9, dtype=np.uint8)).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": cells, "label": [number % 2 for number in range(count)]}), path)
    return str(path)


def test_a_file_may_be_named_like_a_pattern(tmp_path: Path) -> None:
    train, test = (
        images(tmp_path / "data [old]" / "train.parquet"),
        images(tmp_path / "data [old]" / "test*.parquet", 6),
    )
    assert len(load_dataset("parquet", train=train, test=test).test) == 6


def test_images_are_not_both_trained_and_tested_on(tmp_path: Path) -> None:
    train, other = tmp_path / "train.parquet", tmp_path / "other.parquet"
    (tmp_path / "link.parquet").symlink_to(train)
    for test in (str(train), str(tmp_path / "link.parquet"), [str(other), f"{tmp_path}/./train.parquet"]):
        for source in ("parquet", "image_folder"):
            dataset = {"source": source, "train": str(train), "test": test if source == "parquet" else str(train)}
            with pytest.raises(RecipeError, match=r"dataset\.test: .*: the same as dataset\.train") as refused:
                check_recipe(recipe_of() | {"dataset": dataset})
            assert len(refused.value.faults) == 1
    check_recipe(recipe_of() | {"dataset": {"source": "parquet", "train": str(train), "test": str(other)}})


def test_no_message_holds_a_memory_address() -> None:
    with pytest.raises(ValueError, match="row 3: cannot be decoded as an image") as caught:
        Decoder(None, None, 1).decode([b"no image"], lambda row: f"row {row + 3}")
    assert "0x" not in str(caught.value)


def test_the_accuracy_of_the_given_model_is_told_and_questioned() -> None:
    recipe = check_recipe(recipe_of())
    context = Context(None, load_data(recipe, None))
    model = context.new_model(recipe.model, seed=0).eval()
    found = first_accuracy(model, context)
    told, asked, *_ = require_trained(model, context, found, anyway=True)
    assert "the model as given is right on " in told
    assert asked.startswith("is it given the images that it was trained on?")
    assert "set dataset.mean and dataset.std" in asked

    class Knows(torch.nn.Module):
        """Answers with the labels of the images in order, as a model that is given what it was trained on."""

        place = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = slice(self.place, self.place + len(x))
            self.place += len(x)
            return torch.nn.functional.one_hot(torch.from_numpy(context.data.split.labels[rows]), 10).float()

    found = first_accuracy(Knows(), context)
    known = require_trained(Knows(), context, found, anyway=False)
    assert known == ["the model as given is right on 100.0 % of 60 training images"]


def test_a_model_at_chance_stops_with_the_likely_reason() -> None:
    recipe = check_recipe(recipe_of())
    data = load_data(recipe, None)
    context = Context(None, data)

    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 10).float()

    found = first_accuracy(Constant(), context)
    assert found.near_chance
    with pytest.raises(UserError, match="that is chance; nothing was started") as stopped:
        require_trained(Constant(), context, found, anyway=False)
    assert "set dataset.mean and dataset.std" in str(stopped.value)
    assert len(require_trained(Constant(), context, found, anyway=True)) == 2
    assert not FirstAccuracy(0.3, 0.1, 100).near_chance

    class Shifted(torch.nn.Module):
        """Is right where images lie between 0 and 1, as a model that was trained on such is."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            known = torch.from_numpy(data.split.labels[:1].repeat(len(x)))
            right = (x.amin(dim=(1, 2, 3)) >= 0) & (x.amax(dim=(1, 2, 3)) <= 1)
            return torch.nn.functional.one_hot(torch.where(right, known, (known + 1) % 10), 10).float()

    only = replace(data, split=replace(data.split, labels=np.full_like(data.split.labels, data.split.labels[0])))
    context = Context(None, only)
    found = first_accuracy(Shifted(), context)
    told = require_trained(Shifted(), context, found, anyway=True)
    assert found.share < 0.1
    assert told[-1].startswith("with numbers from 0 to 1 (mean [0], std [1]) it is right on 100.0 %")


@pytest.mark.parametrize("number", ["0", "1", "-3", "x", "2.5"])
def test_a_number_of_classes_is_two_or_more(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["audit", "o.parquet", "--num-classes", number])
    assert ended.value.code == 2
    assert f"{number!r} is not allowed; give a whole number of 2 or more" in capsys.readouterr().err


def test_folders_in_folders_and_partitions_are_told_apart(outputs: Path, tmp_path: Path) -> None:
    table = pq.read_table(outputs)
    nested = tmp_path / "o" / "a"
    nested.mkdir(parents=True)
    pq.write_table(table, nested / "x.parquet")
    with pytest.raises(ValueError, match=r"its files lie in folders inside, such as .*; give '.*/o/\*/\*\.parquet'"):
        read_outputs(tmp_path / "o")
    assert len(read_outputs(f"{tmp_path}/o/*/*.parquet")) == 1
    ds.write_dataset(table, tmp_path / "p", format="parquet", partitioning=["role"], partitioning_flavor="hive")
    for given in (tmp_path / "p", f"{tmp_path}/p/*/*.parquet"):
        with pytest.raises(ValueError, match=r"the column 'role' is the name of a folder \(a Hive partition\)"):
            read_outputs(given)


@pytest.mark.medium
def test_empty_parts_change_nothing(
    outputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = pq.read_table(outputs)
    monkeypatch.chdir(tmp_path)
    rows = []
    # As pandas writes them: a list without rows does not say its length.
    place = table.schema.names.index("logits")
    lists = table.set_column(place, "logits", table["logits"].cast(pa.list_(pa.float32())))
    parted = {"whole": [table]} | {
        name: [given.slice(0, 0), given, given.slice(0, 0)] for name, given in (("parts", table), ("lists", lists))
    }
    for name, parts in parted.items():
        shutil.rmtree("out", ignore_errors=True)
        Path(name).mkdir()
        for number, part in enumerate(parts):
            pq.write_table(part, f"{name}/{number}.parquet")
        assert main(["audit", name, *AUDIT, "--json"]) == 0
        rows.append(capsys.readouterr().out)
    one, *others = ([(row["method"], row["metrics"], row["ci"]) for row in json.loads(text)["rows"]] for text in rows)
    assert [one] * 2 == others
    pq.write_table(table.slice(0, 0), "empty.parquet")
    assert main(["audit", "empty.parquet", *AUDIT[:-1], "other"]) == 2
    assert "Traceback" not in capsys.readouterr().err
