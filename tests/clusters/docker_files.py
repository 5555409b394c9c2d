"""Dockerfiles and the compose file, read by Docker's own parsers, hadolint and Compose itself."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from .commands import check_command, check_script, quoted_in_comments
from .places import CLUSTERS, ROOT, tool

FOLDER = CLUSTERS / "docker"
_SECRET = re.compile(r"PASSWORD|SECRET|TOKEN\b|ACCESS_KEY", re.IGNORECASE)


def check_dockerfile(text: str, name: str) -> list[str]:
    """Returns what is wrong with a Dockerfile; `name` says which ignore file goes with it."""
    import dockerfile

    done = subprocess.run(
        [tool("hadolint"), "--failure-threshold", "style", "--no-color", "-"],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        return [line for line in (done.stdout + done.stderr).splitlines() if line]
    try:
        instructions = dockerfile.parse_string(text)
    except dockerfile.GoParseError as error:
        return [str(error)]
    faults: list[str] = []
    stages: list[str] = []
    users: dict[str, str] = {}
    for instruction in instructions:
        kind, value = instruction.cmd.upper(), instruction.value
        if kind == "FROM":
            stage = value[2] if len(value) == 3 else str(len(stages))
            users[stage] = users.get(value[0], "root")
            stages.append(stage)
        elif kind == "COPY":
            faults += _check_copy(instruction.flags, value[:-1], stages, name)
        elif kind == "RUN":
            faults += [fault for command in value for fault in check_script(command) + _check_pip(command, name)]
        elif kind == "USER":
            users[stages[-1]] = value[0]
        elif kind == "CMD":
            faults += check_command(list(value))
        elif kind in ("ENV", "ARG"):
            faults += [
                f"{kind} {word}: no secrets in an image"
                for word in value[::2]
                if _SECRET.search(word.partition("=")[0])
            ]
        elif kind in ("ADD", "ONBUILD"):
            faults.append(f"{kind}: not used here")
    # Everything that is meant to run: all stages that no other one only copies from.
    faults += [f"stage {stage}: runs as root" for stage in users if stage != "build" and users[stage] in ("root", "0")]
    return faults


def _check_copy(flags: tuple[str, ...], sources: tuple[str, ...], stages: list[str], name: str) -> list[str]:
    options = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
    if unknown := set(options) - {"from", "chown", "chmod"}:
        return [f"COPY: unknown {sorted(unknown)}"]
    if "from" in options:
        known = options["from"] in stages[:-1]
        return [] if known else [f"COPY --from={options['from']}: no such stage before"]
    faults = []
    for source in sources:
        inside = [
            path for path in context(name) if path == source.rstrip("/") or path.startswith(source.rstrip("/") + "/")
        ]
        if not (ROOT / source).exists():
            faults.append(f"COPY {source}: not in the repository")
        elif not inside:
            faults.append(f"COPY {source}: {name}.dockerignore keeps it out")
    return faults


def _check_pip(command: str, name: str) -> list[str]:
    """pip is held to the lock, and the extras it installs are the project's."""
    faults = []
    for part in re.split(r"&&|;|\n", command):
        words = shlex.split(part, comments=True)
        if "install" not in words or not any(word.endswith("pip") for word in words):
            continue
        lock = next((after for word, after in pairwise(words) if word in ("-c", "--constraint")), "")
        if Path(lock).name != "requirements.lock":
            faults.append(f"pip install: not held to requirements.lock ({part.strip()})")
        for word in words:
            extras = re.fullmatch(r"\.\[([\w,-]+)\]", word)
            unknown = set(extras.group(1).split(",")) - set(project_extras()) if extras else set()
            faults += [f"pip install {word}: no extra {extra} in pyproject.toml" for extra in unknown]
            wanted = "gpu" if name.endswith(".gpu") else "cpu"
            if extras and wanted not in extras.group(1).split(","):
                faults.append(f"pip install {word}: {name} needs the extra {wanted}")
    return faults


@cache
def project_extras() -> dict[str, list[str]]:
    """Returns the project's extras."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        return dict(tomllib.load(file)["project"]["optional-dependencies"])


@cache
def _matcher(name: str) -> Any:
    from docker.utils.build import PatternMatcher

    lines = (FOLDER / f"{name}.dockerignore").read_text(encoding="utf-8").splitlines()
    return PatternMatcher([line.strip() for line in lines if line.strip() and not line.startswith("#")])


def is_sent(name: str, path: str) -> bool:
    """Whether Docker sends this path to a build of the given Dockerfile, by its ignore file."""
    return not _matcher(name).matches(path)


@cache
def context(name: str) -> frozenset[str]:
    """Returns what git knows of that Docker sends to a build of the given Dockerfile."""
    known = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return frozenset(path for path in known.stdout.splitlines() if is_sent(name, path))


def render(text: str, values: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Has Compose read a compose file, with an .env of the given values."""
    place, environment = folder / "compose.yaml", folder / "values.env"
    place.write_text(text, encoding="utf-8")
    environment.write_text("".join(f"{name}={value}\n" for name, value in values.items()), encoding="utf-8")
    command = [tool("docker-compose"), "--file", str(place), "--env-file", str(environment)]
    command += ["--project-directory", str(FOLDER), "--profile", "*", "config", "--format", "json"]
    # Nothing of the caller's environment fills a variable that .env leaves out.
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
    )


def example() -> dict[str, str]:
    """Returns the variables of env.example; secrets are empty there."""
    lines = (FOLDER / "env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def check_compose(text: str, folder: Path) -> list[str]:
    """Returns what is wrong with a compose file: Compose must take it without a warning, and the result must be safe."""
    done = render(text, {name: value or "0123abcd" for name, value in example().items()}, folder)
    if done.returncode or done.stderr.strip():
        return [done.stderr.strip() or "refused"]
    model = json.loads(done.stdout)
    faults = check_script(quoted_in_comments(text))
    for name, service in model["services"].items():
        faults += [f"{name}: {fault}" for fault in _check_service(service, model["services"])]
    for name in example():
        if f"${{{name}:" not in text:
            faults.append(f"env.example: {name} is not used")
    return faults


def _check_service(service: dict[str, Any], services: dict[str, Any]) -> list[str]:
    faults = check_command(list(service.get("command") or []))
    for port in service.get("ports", []):
        if port.get("host_ip") != "127.0.0.1":
            faults.append(f"port {port['target']}: published beyond loopback")
    long_lived = service.get("restart") == "unless-stopped"
    if long_lived and "healthcheck" not in service:
        faults.append("healthcheck: missing")
    for name, need in service.get("depends_on", {}).items():
        if need["condition"] == "service_healthy" and "healthcheck" not in services[name]:
            faults.append(f"depends_on: {name} has no healthcheck")
    if build := service.get("build"):
        place = Path(build["context"]) / build["dockerfile"]
        if Path(build["context"]).resolve() != ROOT or not place.is_file():
            faults.append(f"build: no {place}")
        elif "target" in build and not re.search(rf"^FROM \S+ AS {build['target']}$", place.read_text(), re.MULTILINE):
            faults.append(f"build.target: no stage {build['target']}")
    elif ":" not in service["image"] or service["image"].endswith(":latest"):
        faults.append(f"image {service['image']}: name a version")
    environment = service.get("environment", {})
    is_ray = (service.get("command") or [""])[0] == "ray"
    if is_ray and (environment.get("RAY_AUTH_MODE") != "token" or not environment.get("RAY_AUTH_TOKEN")):
        faults.append("environment: no token is asked for")
    for key, value in environment.items():
        # The filled-in value shows that it came from .env.
        if _SECRET.search(key) and "0123abcd" not in value:
            faults.append(f"environment.{key}: a secret that does not come from .env")
    return faults
