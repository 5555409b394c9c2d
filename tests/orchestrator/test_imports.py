"""What is imported before the first unit, counted by modules: a budget does not depend on how busy the machine is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

# Nothing of these before a unit or a report needs it. Each costs a second of processor time or more in every process.
LATE = {"mlflow", "matplotlib", "torchvision", "xgboost", "scipy", "sklearn", "boto3", "optuna", "timm", "sympy"}


def imported(code: str, before: str = "") -> Counter[str]:
    """Returns how many modules of each package `code` imports in a new process, after what `before` has imported."""
    program = f"import sys, json\n{before}\nknown = set(sys.modules)\n{code}\nprint(json.dumps(sorted(set(sys.modules) - known)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    return Counter(name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.medium
def test_a_worker() -> None:
    """Ray Tune and torch come with any worker; pandas, Ray Data and Ray Train come with Ray Tune."""
    found = imported("import orchestrator.engine.ray.unit_trials", "import torch\nfrom ray import tune")
    assert not LATE & set(found)
    ours = sum(found[name] for name in ("orchestrator", "unlearn", "attack"))
    assert ours <= 165  # small files of our own; each costs about a millisecond
    assert found.total() - ours <= 30, found  # Pillow is most of them


@pytest.mark.medium
@pytest.mark.parametrize("module", ["orchestrator.experiments.run", "orchestrator.experiments.search"])
def test_the_driver(module: str) -> None:
    found = imported(f"import {module}")
    assert not (LATE | {"ray"}) & set(found), "a run with everything stored starts no Ray, and a plan none"
    assert sum(found[name] for name in ("orchestrator", "unlearn", "attack")) <= 196


@pytest.mark.medium
def test_a_start_of_ray() -> None:
    """Ray Train's XGBoost, which few runs use, is not needed to join or start Ray."""
    found = imported("import orchestrator.engine.ray.engine", "import torch\nfrom ray import tune")
    assert not LATE & set(found)


@pytest.mark.medium
@pytest.mark.parametrize("command", ["status", "watch", "table", "compare", "store", "recipes", "completion"])
def test_a_command_that_only_reads(command: str) -> None:
    """Somebody waits for its answer: torch alone takes longer than all else that it does."""
    found = imported(f"import orchestrator.commands.{command}")
    assert not (LATE | {"ray", "torch", "pyarrow", "pandas"}) & set(found)


@pytest.mark.medium
def test_the_process_of_the_queue() -> None:
    """No unit can begin before it is there."""
    found = imported("import orchestrator.engine.ray.queue_server", "import ray")
    assert set(found) <= {"orchestrator"} | set(sys.stdlib_module_names)
    assert found["orchestrator"] <= 10


TRAINING = """
from unlearn import MODELS, Training, build_model, train
from unlearn.models import build_shapes
for name in MODELS:
    build_shapes(name, num_classes=4)
batches = [(torch.zeros(4, 3, 8, 8), torch.arange(4))]
for optimizer in ("sgd", "adam", "adamw"):
    model = build_model("small_vgg", num_classes=4, image_size=8, width=0.0625)
    train(model, batches, Training(optimizer=optimizer, epochs=1, batch_size=4, augment=None), seed=1)
"""


@pytest.mark.medium
def test_training_needs_no_compiler() -> None:
    """torch imports its compiler for optimisers and for models without weights: two seconds and 70 MiB."""
    found = imported(TRAINING, "import torch")
    assert not {"sympy", "mpmath"} & set(found), "only the compiler does algebra"
