"""What the guide tells readers to type is understood by the programs it names, and the files it names are there."""

from __future__ import annotations

import re

import pytest

from .commands import check_script, commands_in
from .mutation import noticed
from .places import CLUSTERS, ROOT
from .slurm import check_usage

TEXT = (CLUSTERS / "README.md").read_text(encoding="utf-8")


def check_readme(text: str) -> list[str]:
    script = "\n".join(re.findall(r"^    (.+)$", text, re.MULTILINE))
    # In running text commands stand without their arguments.
    named = re.findall(r"`((?:orchestrator|ray|mlflow) [a-z-]+)", text)
    script += "".join(f"\n{command} --help" for command in named)
    faults = check_script(script)
    faults += [fault for usage in re.findall(r"^    sbatch (.*)$", text, re.MULTILINE) for fault in check_usage(usage)]
    faults += [f"{link}: not there" for link in re.findall(r"\]\(([^)#]+)\)", text) if not (CLUSTERS / link).exists()]
    faults += [
        f"{name}: not there" for name in re.findall(r"\bclusters/[\w./-]*\w", text) if not (ROOT / name).exists()
    ]
    return faults


def test_commands_and_links_of_the_guide() -> None:
    assert check_readme(TEXT) == []
    # The reader of commands did find them.
    assert len(commands_in("\n".join(re.findall(r"^    (.+)$", TEXT, re.MULTILINE)))) > 8


def test_every_file_is_in_the_guide() -> None:
    for path in [*(CLUSTERS / "ray").glob("*.yaml"), *(CLUSTERS / "slurm").iterdir()]:
        assert path.name in TEXT


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--follow\n", "--folow\n"),
        ("orchestrator submit RECIPE --address", "orchestrator submit RECIPE --adress"),
        ("ray down --yes", "ray down --yess"),
        ("ray dashboard clusters/ray/aws.yaml", "ray dashbord clusters/ray/aws.yaml"),
        ("| `ray down`", "| `ray dwon`"),
        ("](ray/gcp.yaml)", "](ray/gce.yaml)"),
        ("clusters/docker/Dockerfile.gpu", "clusters/docker/Dockerfile.cuda"),
        ("sbatch --nodes=4", "sbatch --nodse=4"),
        ("--set resources.gpus_per_unit=1\n    o", "--sett resources.gpus_per_unit=1\n    o"),
        ("orchestrator submit demo", "orchestrator submit dmeo"),
    ],
)
def test_planted_fault_is_noticed(old: str, new: str) -> None:
    assert noticed(check_readme, TEXT, old, new)
