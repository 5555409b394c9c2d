"""The package works where only torch, NumPy, Pillow and pyarrow are installed: others are not found here."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

# Hides what is installed beside the four. What torch itself needs (sympy, networkx, …) comes with it.
CODE = '''
import sys

BLOCKED = {
    "ray", "mlflow", "pydantic", "yaml", "safetensors", "sklearn", "scipy", "pandas", "matplotlib", "jinja2", "rich",
    "psutil", "xgboost", "boto3", "torchvision", "orchestrator", "attack",
}

class Without:
    """Finds what another finder finds, as if the blocked packages were not installed."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in BLOCKED else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]

import importlib, pkgutil
import unlearn

for module in pkgutil.walk_packages(unlearn.__path__, "unlearn."):
    if module.name != "unlearn.training.plain":  # the plain path is torchvision's transforms
        importlib.import_module(module.name)
for name in unlearn.__all__:
    getattr(unlearn, name)

from unlearn import (
    PGU, METHODS, ArrayLoader, CFk, EUk, Retrain, Scenario, Training, build_model, load_dataset, make_split, predict,
    second_moments, train,
)

data = load_dataset("parquet", train=sys.argv[1], test=sys.argv[1], image_column="img", label_column="label")
split = make_split(data, Scenario(per_class=2), 0)
options = {"mean": data.mean, "std": data.std, "batch_size": 16}
loader, forget, retain = (
    ArrayLoader(data.train.images, data.train.labels, rows, **options) for rows in (None, split.forget, split.retain)
)
model = build_model("small_vgg", num_classes=data.num_classes, in_channels=data.channels, image_size=8, width=0.125)
train(model, loader, Training(epochs=1, batch_size=16), seed=0)
moments = second_moments(model, loader)
assert set(METHODS) >= {"pgu", "eu_k", "cf_k", "retrain"}
settings = {"epochs": 1, "batch_size": 16}
for method in (PGU(epochs=2, early_stop=None), EUk(k=1, **settings), CFk(k=1, **settings), Retrain(**settings)):
    result = method.unlearn(model, forget=forget, retain=retain, moments=moments)
    assert predict(result.model, forget)[0].shape == (len(split.forget), data.num_classes)
print("done")
'''


@pytest.mark.medium
def test_a_model_is_trained_and_unlearned_without_other_packages(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    encoded = []
    for _ in labels:
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": ""})
    path = tmp_path / "images.parquet"
    pq.write_table(pa.table({"img": encoded, "label": labels}), path)
    command = [sys.executable, "-c", CODE, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split() == ["done"]
