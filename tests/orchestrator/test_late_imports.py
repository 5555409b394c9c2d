"""Imports stand at the top of a file. The few that do not are here, each with its reason."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("orchestrator", "unlearn", "attack")

ALLOWED = {
    "attack/library.py": "XGBoost and SciPy take seconds to import",
    "unlearn/core/_torchvision.py": "torchvision takes a second to import",
    "unlearn/core/tensor_files.py": "safetensors serves files alone; the library needs torch, NumPy, Pillow and Arrow",
    "unlearn/data/digits.py": "scikit-learn takes seconds to import, for one of the sources",
    "unlearn/data/forget_set.py": "Arrow and imagehash serve few scenarios, and the library needs torch alone",
    "orchestrator/commands/store.py": "torch takes seconds to import; `store verify` needs none",
    "orchestrator/engine/ray/engine.py": "the distributed attacker imports XGBoost, SciPy and scikit-learn",
    "orchestrator/engine/start.py": "Ray takes seconds to import",
    "orchestrator/experiments/run.py": "Matplotlib is for the report alone",
    "orchestrator/experiments/league/league.py": "Matplotlib is for the report alone",
    "orchestrator/experiments/search.py": "Ray takes seconds to import",
    "orchestrator/experiments/stages.py": "Ray takes seconds to import",
    "orchestrator/records/folder.py": "torch takes seconds to import; `status` and `watch` need none",
    "orchestrator/records/mlflow_server.py": "MLflow takes seconds to import; a thread of its own waits for it",
    "orchestrator/store/__init__.py": "boto3 is an extra",
}


def late_imports(source: str) -> list[str]:
    """Returns the imports of a file that are inside a function, those for types alone left out."""
    found: list[str] = []

    def walk(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom) and inside:
                found.append(ast.unparse(child))
            walk(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    walk(ast.parse(source), False)
    return found


@lru_cache(maxsize=1)
def all_late_imports() -> dict[str, list[str]]:
    """Returns the late imports of each file of the product."""
    files = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): late_imports(path.read_text(encoding="utf-8")) for path in files}


def test_imports_stand_at_the_top() -> None:
    late = all_late_imports()
    assert {name: found for name, found in late.items() if found and name not in ALLOWED} == {}


def test_any_is_rare() -> None:
    """It stands where a library has no types, or where any value may come: 106 times when this was written."""
    counted = sum(
        len(re.findall(r"\bAny\b", path.read_text(encoding="utf-8"))) for path in (ROOT / "orchestrator").rglob("*.py")
    )
    assert counted < 150


@pytest.mark.parametrize("package", ["xgboost", "scipy", "torchvision", "mlflow", "sklearn", "boto3"])
def test_a_heavy_package_has_one_door(package: str) -> None:
    """A file that imports it at its top is one that only its users import."""
    doors = [
        name
        for name, lines in all_late_imports().items()
        for line in lines
        if line.split()[1].partition(".")[0] == package
    ]
    assert len(doors) <= 1


def test_an_import_inside_a_function_is_seen() -> None:
    assert late_imports("def f():\n    if True:\n        from a import b\nimport c\n") == ["from a import b"]
    assert late_imports("if TYPE_CHECKING:\n    from a import b\n") == []
