"""The readers of commands find them, and notice what is wrong with them."""

from __future__ import annotations

import pytest

from .commands import check_script, commands_in


@pytest.mark.parametrize(
    ("script", "count"),
    [
        ("ulimit -n 65536; ray start --head --port=6379", 1),
        ("ray stop && exec ray start --address=$RAY_HEAD_IP:6379 > log 2>&1", 2),
        ('if ! ray health-check --address "$address" 2> /dev/null; then\n  exit 3\nfi', 1),
        ("A=1 python -m orchestrator run demo --address auto \\\n  --quiet &", 1),
        ("echo ray; # ray start --nonsense", 0),
    ],
)
def test_commands_are_found_and_well(script: str, count: int) -> None:
    assert len(commands_in(script)) == count
    assert check_script(script) == []


@pytest.mark.medium
@pytest.mark.parametrize(
    "script",
    [
        "ray start --head --prot=6379",
        "ray start --head --port=many",
        "ray strat --head",
        "ray up clusters/ray/aws.yaml --yess",
        "mlflow server --hots 0.0.0.0",
        "mlflow sever",
        "mlflow server --port five",
        "orchestrator rum demo",
        "orchestrator submit demo --adress http://HEAD:8265",
        "orchestrator submit demo",
        "python -m orchestrator run demo --sett a=b",
        "orchestrator run no-such-recipe",
        "orchestrator run demo --set training.epoch=3",
        "ray job submit --address http://HEAD:8265 -- python -m orchestrator runn demo",
        "true && ulimit -n 1; ray start --block --dashboard-hots=1",
    ],
)
def test_faults_are_noticed(script: str) -> None:
    assert check_script(script)
