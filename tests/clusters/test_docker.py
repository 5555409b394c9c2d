"""The images and the compose file are accepted by Docker's own parsers, and planted faults are noticed."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

from .docker_files import FOLDER, check_compose, check_dockerfile, context, example, is_sent, render
from .mutation import noticed

DOCKERFILES = ("Dockerfile", "Dockerfile.gpu")


def text_of(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile_is_accepted(name: str) -> None:
    assert check_dockerfile(text_of(name), name) == []


def test_both_images_have_the_same_system_and_so_the_same_python() -> None:
    bases = [re.search(r"^ARG BASE=(\S+)$", text_of(name), re.MULTILINE) for name in DOCKERFILES]
    assert all(base is not None and "ubuntu" in base.group(1) and "24.04" in base.group(1) for base in bases)
    packages = [re.findall(r"--no-install-recommends (.+)$", text_of(name), re.MULTILINE) for name in DOCKERFILES]
    assert packages[0] == packages[1]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_only_what_is_installed_is_sent_to_a_build(name: str) -> None:
    sent = context(name)
    assert {"pyproject.toml", "requirements.lock", "orchestrator/commands/cli.py"} <= sent
    assert {path.partition("/")[0] for path in sent} <= {
        "attack",
        "orchestrator",
        "unlearn",
        "pyproject.toml",
        "requirements.lock",
        "README.md",
        "LICENSE",
    }
    for path in (
        "orchestrator/__pycache__/cli.cpython-312.pyc",
        "orchestrator/.env",
        ".git/config",
        "runs/demo/report.html",
    ):
        assert not is_sent(name, path)


COMMON = [
    ("COPY pyproject.toml", "COPY pyproject.tmol"),
    ("COPY attack/ attack/", "COPY attacks/ attack/"),
    ("COPY attack/ attack/", "COPY tests/ attack/"),
    ("COPY unlearn/", "COPPY unlearn/"),
    ("COPY --from=build", "COPY --from=biuld"),
    ("COPY --from=build", "COPY --form=build"),
    ("-c requirements.lock ", ""),
    ("-c requirements.lock", "-c requirements.txt"),
    ("s3]'", "s3,gcs]'"),
    ("USER 1000", "USER 0"),
    ("USER 1000", "USR 1000"),
    ("apt-get install -y", "apt-get install"),
    ('CMD ["orchestrator", "--help"]', 'CMD ["orchestrator", "runn"]'),
    ("RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN=abc"),
    ("WORKDIR /src", "WORKDIR src"),
    ("FROM ${BASE} AS build", "FROM ${BASE} AS"),
]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        *[(name, *mutation) for name in DOCKERFILES for mutation in COMMON],
        ("Dockerfile", "'.[cpu,s3]'", "'.[gpu,s3]'"),
        ("Dockerfile", '"mlflow", "server"', '"mlflow", "sever"'),
        ("Dockerfile", '"--port", "5000"', '"--prot", "5000"'),
        ("Dockerfile.gpu", "'.[gpu,s3]'", "'.[cpu,s3]'"),
    ],
)
def test_planted_fault_in_a_dockerfile_is_noticed(name: str, old: str, new: str) -> None:
    assert noticed(_checks[name], text_of(name), old, new)


# One object each, so that the untouched file is looked at once and not for every mutation.
_checks = {name: partial(check_dockerfile, name=name) for name in DOCKERFILES}


def test_compose_file_is_accepted(tmp_path: Path) -> None:
    assert check_compose(text_of("compose.yaml"), tmp_path) == []


def test_compose_refuses_to_start_before_every_secret_is_given(tmp_path: Path) -> None:
    given = {name: value or "0123abcd" for name, value in example().items()}
    secrets = [name for name, value in example().items() if not value]
    assert secrets == ["RAY_AUTH_TOKEN", "POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"]
    for name in secrets:
        done = render(text_of("compose.yaml"), given | {name: ""}, tmp_path)
        assert done.returncode != 0, name
        assert name in done.stderr


def test_filled_in_secrets_are_ignored_by_git() -> None:
    assert ".env" in (FOLDER / ".gitignore").read_text(encoding="utf-8").splitlines()


@pytest.mark.medium
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("healthcheck:", "healtcheck:"),
        ("shm_size: 2gb", "shm_size: [2gb]"),
        ("depends_on:", "depend_on:"),
        ("condition: service_healthy", "condition: service_healty"),
        ("head: {condition", "haed: {condition"),
        ('ports: ["127.0.0.1:8265:8265"]', 'ports: ["8265:8265"]'),
        ('ports: ["127.0.0.1:5000:5000"]', 'ports: ["0.0.0.0:5000:5000"]'),
        ("--port=6379", "--prot=6379"),
        ("--num-cpus=0", "--num-cpus=none"),
        ("[mlflow, server", "[mlflow, sever"),
        ("--allowed-hosts", "--allow-hosts"),
        ("--artifacts-destination", "--artifact-destination"),
        ("dockerfile: clusters/docker/Dockerfile.gpu", "dockerfile: clusters/docker/Dockerfile.cuda"),
        ("target: mlflow", "target: mlfow"),
        ("context: ../..", "context: .."),
        ("RAY_AUTH_TOKEN: ${RAY_AUTH_TOKEN:?set it in .env}", "RAY_AUTH_TOKEN: hunter2"),
        ("RAY_AUTH_MODE: token", "RAY_AUTH_MODE: disabled"),
        ("${POSTGRES_PASSWORD:?set it in .env}", "${POSTGRES_PASWORD}"),
        ("image: postgres:17-alpine", "image: postgres"),
        ('volumes: ["minio:/data"]', 'volumes: ["mini:/data"]'),
        ("networks: [cluster]", "networks: [clutser]"),
        ("memory: 4g", "memory: lots"),
        ("driver: nvidia", "drivers: nvidia"),
        ("restart: unless-stopped", "restart: unless-stopped\n  restart: always"),
    ],
)
def test_planted_fault_in_the_compose_file_is_noticed(tmp_path: Path, old: str, new: str) -> None:
    def check(text: str) -> list[str]:
        return check_compose(text, tmp_path)

    assert noticed(check, text_of("compose.yaml"), old, new)
