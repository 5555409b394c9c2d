"""Every fault of a recipe is found before anything starts: field, value, what is allowed, the nearest spelling."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.base.errors import RecipeError
from orchestrator.base.values import plain
from orchestrator.base.yaml_text import YamlFault, dump, load
from orchestrator.plan.league import point_of
from orchestrator.recipe.checks import model_faults
from orchestrator.recipe.choices import Choice
from orchestrator.recipe.files import read_document
from orchestrator.recipe.options import fault_from, options_of
from orchestrator.recipe.recipe import check_recipe, load_recipe, shipped_recipes, to_yaml
from unlearn import METHODS


def faults(document: Any) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        check_recipe(document)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(caught.value.faults), "one line for each fault"
    return lines


def put(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    node: Any = document
    *parents, last = path.split(".")
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node[part]
    if isinstance(node, list):
        node[int(last)] = value
    else:
        node[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("sead", 1, ["sead", "unknown key", "did you mean 'seed'"]),
        ("seed", "many", ["seed", "'many'", "integer"]),
        ("seed", -1, ["seed", "-1", "at least 0"]),
        ("name", "a/b", ["name", "'a/b'"]),
        ("dataset.source", "digit", ["dataset.source", "did you mean 'digits'"]),
        ("dataset.test_fractoin", 0.2, ["dataset.test_fractoin", "did you mean 'test_fraction'"]),
        ("dataset.limit", {"trian": 5}, ["dataset.limit.trian", "did you mean 'train'"]),
        ("dataset.limit", {"train": 0}, ["dataset.limit.train", "at least 1"]),
        ("scenario.kind", "sample", ["scenario.kind", "'sample'", "samples"]),
        ("scenario.per_clas", 5, ["scenario.per_clas", "did you mean 'per_class'"]),
        ("scenario.per_class", "five", ["scenario.per_class", "'five'", "integer"]),
        ("scenario.ids", ["a1"], ["scenario.ids: ['a1']: not allowed beside per_class; give one of"]),
        ("model.name", "small_vg", ["model.name", "did you mean 'small_vgg'"]),
        ("model.widht", 0.5, ["model.widht", "did you mean 'width'"]),
        ("model.width", -1, ["model.width", "-1"]),
        ("training.epocs", 5, ["training.epocs", "did you mean 'epochs'"]),
        ("training.lr", "fast", ["training.lr", "'fast'", "number"]),
        ("training.lr", -1, ["training.lr", "-1", "above 0"]),
        ("training.optimizer", "adamm", ["training.optimizer", "'adamm'"]),
        ("training.augment", "crop-flip", ["training.augment", "'crop-flip'", "crop_flip"]),
        ("shadows.split", [3, 1, 2], ["shadows.split", "adds up to 6", "originals is 5", "[2, 1, 2]"]),
        ("shadows.split", [4, 0, 1], ["shadows.split", "each fold needs a model"]),
        (
            "shadows.split",
            [1, 1],
            ["shadows.split: [1, 1]: not allowed; allowed: three numbers: ", "validation and test"],
        ),
        ("shadows.split", [2, 1, 1, 1], ["shadows.split: [2, 1, 1, 1]: not allowed; allowed: three numbers: "]),
        ("shadows.originals", 0, ["shadows.originals: 0: not allowed; allowed: at least 1"]),
        ("seed", -1, ["seed: -1: not allowed; allowed: at least 0"]),
        ("name", "a/b", ["name: 'a/b': not allowed; allowed: letters, digits, '.', '_' and '-', at most 100"]),
        ("verdict", {"tail_fpr": 0.5}, ["verdict.tail_fpr: 0.5: not allowed; allowed: below 0.5"]),
        ("league", {"looks": 3}, ["league.looks: 3: not allowed; allowed: at most 2"]),
        ("league", {"budget": {1: 2}}, ["league.budget.1: 1: a text is needed"]),
        ("league", {"bound": {"error_test": 1}}, ["league.bound.error_test:", "did you mean 'error_test_increase'"]),
        ("shadows.retrained", float("inf"), ["shadows.retrained: inf: a finite number is needed"]),
        ("shadows.unlearn", "tests", ["shadows.unlearn", "did you mean 'test'"]),
        ("methods.0.name", "pgd", ["methods.0.name", "did you mean 'pgu'"]),
        ("methods.0.gama", 0.5, ["methods.0.gama", "did you mean 'gamma'"]),
        ("methods.0.gamma", 1.5, ["methods.0.gamma", "1.5"]),
        ("methods.0.gamma", {"grid": [0.9, 1.5]}, ["methods.0.gamma", "1.5"]),
        ("methods.0.gamma", {"grid": []}, ["methods.0.gamma.grid"]),
        ("methods.0.epochs", 2.5, ["methods.0.epochs", "integer"]),
        ("methods.0.criterion", "singlar", ["methods.0.criterion", "singlar", "singular"]),
        ("methods.0.name", "retrain", ["methods.0.name", "always a row"]),
        ("attacks", [{"name": "xgbost"}], ["attacks.0.name", "did you mean 'xgboost'"]),
        ("attacks", [{"name": "xgboost", "max_dept": 3}], ["attacks.0.max_dept", "did you mean 'max_depth'"]),
        ("attacks", [{"name": "xgboost"}, {"name": "xgboost"}], ["attacks", "twice"]),
        ("tracking", {"url": "x"}, ["tracking.url", "did you mean 'uri'"]),
        ("resources", {"cpus_per_unit": 0}, ["resources.cpus_per_unit", "above 0"]),
        ("resources", {"gpu_per_unit": 1}, ["resources.gpu_per_unit", "did you mean 'gpus_per_unit'"]),
    ],
)
def test_one_fault_is_one_line_that_says_all(tiny: dict[str, Any], path: str, value: Any, words: list[str]) -> None:
    lines = faults(put(tiny, path, value))
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("dataset.train: 'a' names no file; check it", "dataset.train: 'a' names no file; check it"),
        ("dataset.label_column: labels start at 1", "dataset.label_column: labels start at 1"),
        ("classes: 1 is not allowed; give 2 or more", "dataset.classes: 1: not allowed; allowed: 2 or more"),
        ("the file is empty", "dataset: {'train': 'a', 'classes': 1}: the file is empty"),
    ],
)
def test_a_value_is_told_once_and_a_default_is_not_called_given(said: str, line: str) -> None:
    assert str(fault_from(ValueError(said), "dataset", {"train": "a", "classes": 1})) == line


def test_all_faults_of_a_section_are_told_at_once(tiny: dict[str, Any]) -> None:
    tiny["training"]["epocs"] = 1
    tiny["shadows"]["split"] = [1, 1, 1]
    tiny["methods"][0]["name"] = "pgd"
    text = "\n".join(faults(tiny))
    assert "epocs" in text
    assert "shadows.split" in text
    assert "pgd" in text


ODD: list[Any] = [{}, [[]], {"grid": [{}]}, float("inf")]


def places_in(node: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the path of every value of a document, sections among them."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place, *(found for key, value in inner for found in places_in(value, (*place, key)))]


@pytest.mark.medium
def test_an_odd_value_anywhere_is_taken_or_named(tiny: dict[str, Any]) -> None:
    """Faults of a recipe are one line each, whichever value is of another kind than expected."""
    method = {"name": "pgu", "gamma": {"uniform": [0.5, 0.9]}, "lr": {"loguniform": [0.01, 0.1]}, "epochs": 2}
    tiny |= {
        "attacks": [{"name": "xgboost"}, {"name": "rmia"}],
        "search": {"method": method, "bound": {"error_test_increase": 2.0}},
        "resources": {"cpus_per_unit": 1, "gpus_per_unit": 0},
        "outputs": {"retain": 3, "test": 3},
    }
    told: list[str] = []
    for place in places_in(tiny)[1:]:
        for odd in ODD:
            document = copy.deepcopy(tiny)
            node: Any = document
            for part in place[:-1]:
                node = node[part]
            node[place[-1]] = copy.deepcopy(odd)
            try:
                check_recipe(document)
            except RecipeError as error:
                told.append(str(error))
    assert len(told) > 150  # most of them are refused, and nothing else is raised
    assert not [text for text in told if "should" in text], "the words are ours, not pydantic's"


@pytest.mark.parametrize("missing", ["name", "dataset", "scenario", "model"])
def test_a_missing_section_is_named(tiny: dict[str, Any], missing: str) -> None:
    del tiny[missing]
    (line,) = faults(tiny)
    assert missing in line
    assert "missing" in line


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_a_recipe_is_a_mapping(document: Any) -> None:
    assert "not a mapping" in faults(document)[0]


def test_u_lira_wants_every_original_unlearned(tiny: dict[str, Any]) -> None:
    tiny["attacks"] = [{"name": "u_lira"}]
    (line,) = faults(tiny)
    assert "shadows.unlearn" in line
    assert "all" in line


def write(tmp_path: Path, document: dict[str, Any], path: str, text: str) -> Path:
    """A recipe file in which the value at `path` is spelled `text`."""
    file = tmp_path / "r.yaml"
    file.write_text(dump(put(document, path, "HERE")).replace("HERE", text))
    return file


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("training.weight_decay", "1e-4", 0.0001),
        ("training.weight_decay", "'1e-4'", 0.0001),
        ("training.weight_decay", "0", 0.0),
        ("training.epochs", "010", 10),
        ("training.epochs", "3.0", 3),
        ("training.augment", "none", None),
        ("training.augment", "~", None),
        ("training.final_lr", "None", None),
        ("methods.0.gamma", "{grid: [5e-1, 0.9]}", {"grid": [0.5, 0.9]}),
        ("methods.0.lr", "{loguniform: [1e-3, 1e-1]}", {"loguniform": [0.001, 0.1]}),
        ("methods.0.early_stop", "none", None),
        ("tracking.uri", "none", None),
    ],
)
def test_one_value_has_one_spelling(tiny: dict[str, Any], tmp_path: Path, path: str, text: str, value: Any) -> None:
    tiny["methods"][0] = {"name": "pgu", "gamma": 0.5}
    node: Any = load_recipe(write(tmp_path, tiny, path, text)).document
    for part in path.split("."):
        node = node[int(part)] if isinstance(node, list) else node[part]
    assert node == value
    assert type(node) is type(value)


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("training.epochs", "yes", ["training.epochs", "'yes'", "an integer"]),
        ("training.epochs", "true", ["training.epochs: True: an integer is needed"]),
        ("training.lr", "true", ["training.lr: True: a number is needed"]),
        ("methods.0.epochs", "true", ["methods.0.epochs: True: an integer is needed"]),
        ("shadows.originals", "true", ["shadows.originals: True: an integer is needed"]),
        ("training.lr", ".inf", ["training.lr: inf is not allowed; give a finite number"]),
        ("training.lr", "2020-01-01", ["training.lr", "'2020-01-01'", "a number"]),
        ("training.epochs", "1\n  epochs: 50", ["epochs is there twice (line "]),
    ],
)
def test_values_that_mean_something_else_are_refused(
    tiny: dict[str, Any], tmp_path: Path, path: str, text: str, words: list[str]
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, tiny, path, text))
    (line,) = str(caught.value).splitlines()
    for word in words:
        assert word in line


def test_three_spellings_of_one_setting_are_one_row(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["methods"] = [{"name": "pgu", "lr": 0, "entropy_weight": 1}, {"name": "pgu", "lr": 0.05, "offset": 0.05}]
    tiny["methods"].append({"name": "pgu", "entropy_weight": 1.0, "lr": 0.05, "epochs": 100})
    path = write(tmp_path, tiny, "methods.0.lr", "{grid: [5e-2, 0.05, '0.05', 5.0e-2]}")
    points = load_recipe(path).methods
    assert [point.params for point in points] == [{"lr": 0.05, "entropy_weight": 1.0}, {"lr": 0.05, "offset": 0.05}]


@pytest.mark.parametrize("text", ["yes", "010", "1e-2", "0o10", "null", "2020-01-01", "on", "1_000", "~", "a: b", " x"])
def test_texts_that_look_like_values_come_back_as_texts(text: str) -> None:
    assert load(dump({"k": text, text: [text]})) == {"k": text, text: [text]}


@pytest.mark.medium
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "a is there twice (line 2, column 1)"),
        ("a: [1", "not readable as YAML at line 1"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("? [1, 2]\n: 3", "is not allowed as a key"),
        ("[" * 3000, "nested too deep"),
        ("a: !!binary aGk=", "a: a bytes is not allowed"),
    ],
)
def test_what_is_no_plain_yaml_is_told_in_one_line(text: str, words: str) -> None:
    with pytest.raises(YamlFault, match=r".") as caught:
        load(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_torchvision_model_by_name(tiny: dict[str, Any]) -> None:
    check_recipe(put(tiny, "model", {"name": "mobilenet_v3_small"}))
    (line,) = faults(put(tiny, "model", {"name": "mobilenet_v3_smal"}))
    assert "did you mean 'mobilenet_v3_small'" in line


def test_a_model_that_cannot_be_built_without_weights_is_checked_with_them() -> None:
    def found(**model: Any) -> list[str]:
        return [str(fault) for fault in model_faults(Choice.of(model), 10, 3, 32)]

    assert found(name="regnet_y_400mf") == []
    (line,) = found(name="regnet_y_400mf", depht=3)
    assert "depht" in line
    (line,) = found(name="resnet34", replace_stride_with_dilation=[False, True, False])
    assert "Dilation > 1 not supported" in line


def test_environment_variables_stand_for_places(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    tiny["dataset"] = {"source": "parquet", "train": "${SOME_PLACE}/a.parquet", "test": "b.parquet"}
    monkeypatch.delenv("SOME_PLACE", raising=False)
    assert "SOME_PLACE is not set" in faults(tiny)[0]
    monkeypatch.setenv("SOME_PLACE", "/data")
    assert check_recipe(tiny).dataset.options["train"] == "/data/a.parquet"


def test_overrides(tiny: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(tiny))
    recipe = load_recipe(
        path, ["training.epochs=7", "methods.0.gamma=0.8", "shadows.split=[3, 1, 1]", "dataset.limit.train=150"]
    )
    assert recipe.training.epochs == 7
    assert recipe.methods[0].params["gamma"] == 0.8
    assert recipe.shadows.split == (3, 1, 1)
    assert recipe.dataset.options["limit"] == {"train": 150, "test": 100}
    for bad in ("training.epochs", "=3", "methods.9.gamma=1", "seed.deep.er=1", "a.b=[1"):
        with pytest.raises(RecipeError, match="--set"):
            load_recipe(path, [bad])


def test_unreadable_files_are_one_line(tmp_path: Path) -> None:
    torn = tmp_path / "torn.yaml"
    torn.write_text("name: x\ndataset: {source: digits")
    with pytest.raises(RecipeError, match=r"line \d+, column \d+"):
        load_recipe(torn)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="UTF-8"):
        load_recipe(binary)
    with pytest.raises(RecipeError, match="did you mean 'demo'"):
        load_recipe("dmo")
    with pytest.raises(RecipeError, match="is a folder; allowed: a YAML file"):
        load_recipe(tmp_path)


@pytest.mark.medium
def test_shipped_recipes_are_right_and_resolve_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_DATA", "/data")
    assert "demo" in shipped_recipes()
    for name in shipped_recipes():
        recipe = load_recipe(name)
        assert recipe.name == name.removeprefix("_")
        assert recipe.description
        assert check_recipe(yaml.safe_load(to_yaml(recipe))) == recipe


def test_points_of_a_sweep(tiny: dict[str, Any]) -> None:
    points = check_recipe(tiny).methods
    assert [(p.name, p.params.get("gamma")) for p in points] == [("pgu", 0.9), ("pgu", 0.5), ("eu_k", None)]
    tiny["methods"].append(dict(tiny["methods"][1]))
    assert len(check_recipe(tiny).methods) == 3, "the same point twice is one point"


@pytest.mark.parametrize("name", sorted(name for name in METHODS if METHODS[name].selectable))
def test_every_option_may_be_written_out_at_its_default(tiny: dict[str, Any], name: str) -> None:
    """Options that came later are not among the settings of a unit's key while they are at their default."""
    needed = dict(METHODS[name].examples)
    for option, value in settings_at_default(name).items():
        tiny["methods"] = [{"name": name, **needed, option: value}]
        recipe = check_recipe(tiny)
        assert recipe.methods[0].params[option] == value
        in_league = point_of(recipe, name, {**needed, option: value})
        assert in_league is not None
        assert in_league.params[option] == value


def settings_at_default(name: str) -> dict[str, Any]:
    """Returns the options of a method that have a default, with it, as a recipe has them."""
    given = {option: default for option, (_, default) in options_of(METHODS[name]).items() if default is not ...}
    return {option: plain(value) for option, value in given.items() if not hasattr(value, "default_factory")}


def test_cores_may_be_left_to_the_scheduler(tiny: dict[str, Any]) -> None:
    """One core a unit, whatever the machine: another number of threads would change the last bits of a model."""
    import jsonschema

    from orchestrator.recipe.schema import recipe_schema

    chosen = check_recipe(put(tiny, "resources", {"cpus_per_unit": None}))
    assert chosen.resources.cpus_per_unit == 1
    assert chosen == check_recipe(put(tiny, "resources", {"cpus_per_unit": 1}))
    validator = jsonschema.Draft202012Validator(recipe_schema())
    assert validator.is_valid(put(tiny, "resources", {"cpus_per_unit": None}))
    assert not validator.is_valid(put(tiny, "resources", {"cpus_per_unit": "two"}))


@pytest.mark.medium
def test_the_schema_accepts_recipes_and_refuses_a_typo(tiny: dict[str, Any]) -> None:
    import jsonschema

    from orchestrator.recipe.schema import recipe_schema

    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    document = json.loads(json.dumps(tiny))
    assert not list(validator.iter_errors(document))
    for name in shipped_recipes():
        assert not list(validator.iter_errors(read_document(name))), name
        assert not list(validator.iter_errors(yaml.safe_load(shipped_recipes()[name].read_text()))), name
    for path in ("training.epocs", "methods.0.gama", "dataset.tets", "seeed"):
        assert list(validator.iter_errors(put(json.loads(json.dumps(tiny)), path, 1))), path


def test_a_recipe_extends_another(tiny: dict[str, Any], tmp_path: Path) -> None:
    base, child = tmp_path / "base.yaml", tmp_path / "child.yaml"
    base.write_text(yaml.safe_dump(tiny))
    child.write_text(
        yaml.safe_dump(
            {
                "extends": "base.yaml",
                "name": "child",
                "training": {"epochs": 7},
                "scenario": {"kind": "classes", "classes": [1]},
                "methods": [],
            }
        )
    )
    recipe = load_recipe(child)
    assert recipe.section("training") == {**tiny["training"], "epochs": 7}, "sections of one kind are merged"
    assert recipe.section("scenario") == {"kind": "classes", "classes": [1]}, (
        "a scenario of another kind takes the other's place"
    )
    assert recipe.methods == ()
    assert (recipe.name, recipe.section("dataset")) == ("child", tiny["dataset"])
    base.write_text(yaml.safe_dump({"extends": "child.yaml"}))
    with pytest.raises(
        RecipeError, match=r"in a circle: child\.yaml → base\.yaml → child\.yaml; allowed: a recipe that"
    ):
        load_recipe(child)
    base.write_text(yaml.safe_dump({"extends": "./base.yaml"}))
    with pytest.raises(RecipeError, match=r"in a circle: child\.yaml → base\.yaml → base\.yaml"):
        load_recipe(child)
    child.write_text(yaml.safe_dump({"extends": "demmo"}))
    with pytest.raises(RecipeError, match="did you mean 'demo'"):
        load_recipe(child)


def test_the_attackers_memory_is_left_out_where_it_is_not_given(tiny: dict[str, Any]) -> None:
    """Recipes without it stay the experiments that they were; what could never hold anything is refused."""
    assert "attacker_memory_gib" not in to_yaml(check_recipe(tiny))
    given = check_recipe({**tiny, "resources": {"attacker_memory_gib": 0.5}})
    assert given.resources.attacker_memory_gib == 0.5
    assert "attacker_memory_gib: 0.5" in to_yaml(given)
    for value, words in ((0, "above 0"), ("much", "number"), (float("inf"), "resources.attacker_memory_gib")):
        (line,) = faults({**tiny, "resources": {"attacker_memory_gib": value}})
        assert words in line


def test_a_base_that_cannot_be_read_is_named_by_its_key(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    for parent, told in ((str(tmp_path), "is a folder"), ("nowhere.yaml", "no such file")):
        mine.write_text(f"name: mine\nextends: {parent}\n")
        with pytest.raises(RecipeError, match=told) as caught:
            load_recipe(str(mine))
        assert "extends: " in str(caught.value)
        assert "RECIPE" not in str(caught.value)
