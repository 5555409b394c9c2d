"""`attack` by itself: no Ray, no torch, on Arrow tables in memory; and fast enough for a real audit."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from attack import RMIA, ForgettingQuality, KLoM, LiRA, ULiRA
from attack.outputs.measured import Measured

EVERYTHING = """
import sys, numpy as np, pyarrow as pa
import attack
from attack import ATTACKS, XGBoostAttack, outputs_table, run_attacks
generator = np.random.default_rng(0)
def model(role, number, method=""):
    fold = "train" if number < 4 else "validation" if number < 6 else "test"
    logits = generator.normal(size=(12, 3))
    return outputs_table(f"{role}{number}", role, method, "{}", fold, np.arange(12), np.arange(12) % 3, logits)
roles = [("original", ""), ("retrained", ""), ("unlearned", "pgu"), ("unlearned", "retrain")]
table = pa.concat_tables([model(role, number, method) for role, method in roles for number in range(8)])
scores = XGBoostAttack(rounds=3).fit(table).score(table)
assert scores.shape == (len(table),)
rows = run_attacks(table, list(ATTACKS), settings={"xgboost": {"rounds": 2}}, bootstrap=20)
assert len(rows) == 3
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.medium
def test_every_attack_works_without_ray_and_torch() -> None:
    done = subprocess.run([sys.executable, "-c", EVERYTHING], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert {"attack", "pyarrow", "xgboost"} <= loaded
    assert not loaded & {"ray", "torch", "torchvision", "mlflow", "unlearn", "orchestrator", "pydantic"}


def test_many_models_are_vectorised() -> None:
    """2,000 samples × 100 models through every attack that works on φ; a loop over samples would be noticed by whoever waits."""
    generator = np.random.default_rng(0)
    models, samples = 100, 2000
    folds = ["train"] * 40 + ["validation"] * 5 + ["test"] * 5
    identities = [
        (role, method, "{}", f"{role}{i:02d}", folds[i])
        for role, method in (("original", ""), ("retrained", ""), ("unlearned", "pgu"))
        for i in range(models // 2)
    ]
    phi = generator.normal(size=(len(identities), samples)) + generator.normal(size=samples)
    phi[: models // 2] += 1.0
    measured = Measured(identities, np.arange(samples), np.zeros(samples, int), phi, np.ones_like(phi))
    for attack in (LiRA(), ULiRA(), RMIA()):
        scores = attack.fit(measured).score(measured)
        assert scores.shape == (len(measured),)
        assert np.isfinite(scores).all()
    sides = measured.only(measured.where(role="unlearned")), measured.only(measured.where(role="retrained"))
    for divergence in (KLoM(), ForgettingQuality()):
        assert divergence.measure(*sides).values.shape == (samples,)
