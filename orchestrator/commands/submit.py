"""`orchestrator submit`: an experiment as a Ray job. Submitting the same thing twice attaches to
the first."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO, TypeVar

from unlearn.core.paths import local_path

from ..base.errors import EXIT_ENVIRONMENT, EXIT_INTERRUPTED, EXIT_OK, EnvironmentFault, UserError, first_line
from ..base.values import digest
from ..engine.ray.jobs import JobDetails, JobSubmissionClient, connect
from ..plan.league import check_league
from ..plan.search import check_search
from ..plan.units import experiment_id
from ..recipe.files import shipped_recipes
from ..recipe.places import VARIABLE
from ..recipe.recipe import to_yaml
from ..recipe.sections import Recipe
from . import common
from .ending import print_json
from .job_start import wait_for_begin
from .shipping import ship_code

T = TypeVar("T")
ACTIVE = ("PENDING", "RUNNING")
HEAD_START_SECONDS = 60.0
FOLLOW_TRIES = 5
STOP_SECONDS = 60.0


def main(args: argparse.Namespace) -> int:
    if not args.address.startswith(("http://", "https://")):
        raise UserError(
            f"--address: {args.address!r}: not a dashboard; give http://HEAD:8265 (for HOST:PORT of the cluster itself use `orchestrator run`)"
        )
    if args.stop and not _names_recipe(args):
        name = args.stop if isinstance(args.stop, str) else args.recipe
        return stop(connect(args.address), str(name), args.json)
    if args.recipe is None:
        raise UserError("RECIPE: not given; name a recipe, or --stop JOB")
    recipe = common.load(args)
    if args.task == "search":
        check_search(recipe)
    elif args.task == "league":
        check_league(recipe)
    _require_data(recipe)
    base = f"{recipe.name}-{experiment_id(recipe)}"
    client = connect(args.address)
    jobs = {name: job for job in jobs_of(client, args.address) if (name := job.submission_id or "").startswith(base)}
    # The same recipe into another folder or store is another job.
    same = [name for name, job in jobs.items() if (job.metadata or {}).get("place", _place(args)) == _place(args)]
    current = max(same, key=lambda name: _attempt(name, base)) if same else ""
    status = str(jobs[current].status.value) if current else ""
    if args.stop:
        if status not in ACTIVE:
            raise UserError(
                f"{base}: no such job is running at {args.address}" + (f" (it {status.lower()})" if status else "")
            )
        return stop(client, current, args.json)
    latest = max((_attempt(name, base) for name in jobs), default=0)
    if status in (*ACTIVE, "SUCCEEDED"):
        action = "attached"
    else:
        current = f"{base}-{latest + 1}" if latest else base
        _warn(recipe, args)
        action = "submitted"
        while not _submit(client, current, recipe, args):
            # Somebody was faster, with the same or with another place for its results.
            other = _ask(current, "looked up", lambda: client.get_job_info(current))  # noqa: B023
            if (other.metadata or {}).get("place", _place(args)) == _place(args):
                action = "attached"
                break
            latest = _attempt(current, base)
            current = f"{base}-{latest + 1}"
        status = "PENDING" if args.follow else wait_for_begin(client, current)
    told = next_commands(current, args, recipe.name)
    if args.json:
        found = {"submission_id": current, "action": action, "status": status, "address": args.address, "next": told}
        print_json(found)
    else:
        print(f"{current}: {action}" + (f" ({status.lower()})" if action == "attached" else ""))
        for what, command in told.items():
            print(f"  {what + ':':<8} {command}")
    # Of --json, standard output holds one document and nothing else.
    return follow(client, current, sys.stderr if args.json else sys.stdout) if args.follow else EXIT_OK


def next_commands(identity: str, args: argparse.Namespace, name: str) -> dict[str, str]:
    """Returns what a user does next with a job: follow, look, stop, fetch its results."""
    job = f"orchestrator jobs {identity} --address {args.address}"
    found = {"follow": f"{job} --follow", "status": job, "stop": f"{job} --stop"}
    if args.store and args.store.startswith("s3://"):
        folder = shlex.quote(f"runs/{name}")
        found["fetch"] = (
            f"orchestrator {args.task} {shlex.quote(str(args.recipe))} --store {args.store} --output {folder}"
        )
    elif args.output:
        found["fetch"] = f"read {args.output} on a machine that shares it"
    return found


def _names_recipe(args: argparse.Namespace) -> bool:
    """Whether `submit RECIPE --stop` is meant, not `submit --stop JOB`."""
    if args.recipe is None:
        return False
    return Path(args.recipe).is_file() or args.recipe in shipped_recipes()


def _require_data(recipe: Recipe) -> None:
    """Refuses data that no machine of the cluster can find: relative paths start in the job's own
    folder, where only the recipe is."""
    for part in ("train", "test", "root", "path"):
        given = recipe.dataset.options.get(part)
        for place in given if isinstance(given, list) else [given]:
            if isinstance(place, str) and place and "://" not in place and not local_path(place).is_absolute():
                raise UserError(
                    f"dataset.{part}: {place!r}: a job cannot find relative paths; give the absolute path of a folder that "
                    "the cluster's machines share, or s3://…"
                )


def _place(args: argparse.Namespace) -> str:
    """Returns the command and where its results go: with the recipe they make two submissions the
    same.
    """
    return digest([args.output, args.store, *([] if args.task == "run" else [args.task])])[:16]


def stop(client: JobSubmissionClient, identity: str, as_json: bool) -> int:
    """Stops a job and waits until it has ended, so that it can be submitted again at once."""
    _ask(identity, "stopped", lambda: client.stop_job(identity))
    deadline = time.monotonic() + STOP_SECONDS
    status = "RUNNING"
    while time.monotonic() < deadline:
        status = str(_ask(identity, "looked up", lambda: client.get_job_info(identity)).status.value)
        if status not in ACTIVE:
            break
        time.sleep(0.25)
    if as_json:
        print_json({"submission_id": identity, "action": "stopped", "status": status})
    else:
        print(f"{identity}: {status.lower()}; finished units are kept, the same submit resumes")
    return EXIT_OK if status not in ACTIVE else EXIT_ENVIRONMENT


def _ask(identity: str, what: str, action: Callable[[], T]) -> T:
    """Returns what the job server answers; raises `EnvironmentFault` with its first line where it
    refuses."""
    try:
        return action()
    except (RuntimeError, OSError) as error:
        raise EnvironmentFault(f"{identity}: cannot be {what}: {first_line(error)}") from None


def jobs_of(client: JobSubmissionClient, address: str) -> list[JobDetails]:
    try:
        return list(client.list_jobs())
    except RuntimeError as error:
        raise EnvironmentFault(f"{address}: the job server does not say what runs: {first_line(error)}") from None


def _warn(recipe: Recipe, args: argparse.Namespace) -> None:
    """Says what would be missed later: results that go with the job's folder, a variable that the
    cluster may not have."""
    if not args.output:
        print(
            "--output: not given: results go into the job's own folder on one node and with it; name a folder that stays",
            file=sys.stderr,
        )
    needed = [name for name in VARIABLE.findall(recipe.tracking.uri or "") if name not in args.env]
    for name in needed:
        print(
            f"tracking.uri: {name} is looked up on the cluster; where it is not set there, add --env {name}",
            file=sys.stderr,
        )


def job_command(args: argparse.Namespace, name: str) -> list[str]:
    """Returns the command that the cluster runs for these arguments and a recipe of this name."""
    command = ["python", "-m", "orchestrator", args.task, "recipe.yaml", "--address", "auto"]
    command += ["--output", args.output or f"runs/{name}"]
    command += ["--store", args.store] if args.store else []
    command += ["--force"] if args.force else []
    return command + (["--allow-code"] if args.allow_factory else [])


def _submit(client: JobSubmissionClient, identity: str, recipe: Recipe, args: argparse.Namespace) -> bool:
    """Submits the job; returns False where somebody else has just submitted the same one."""
    missing = [name for name in args.env if name not in os.environ]
    if missing:
        raise UserError(f"--env: {missing[0]!r}: this variable is not set here")
    command = job_command(args, recipe.name)
    with tempfile.TemporaryDirectory() as folder:
        # Only the recipe and the code that it names travel: data, runs and .git never do.
        Path(folder, "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
        if args.allow_factory:
            ship_code(recipe, Path(folder))
        environment: dict[str, object] = {
            "working_dir": folder,
            "env_vars": {name: os.environ[name] for name in args.env},
        }
        if args.ship_code:
            here = Path(__file__).resolve().parents[2]
            environment["py_modules"] = [str(here / package) for package in ("orchestrator", "unlearn", "attack")]
            environment["excludes"] = ["**/__pycache__/**"]
        deadline = time.monotonic() + HEAD_START_SECONDS
        while True:
            try:
                client.submit_job(
                    entrypoint=shlex.join(command),
                    submission_id=identity,
                    runtime_env=environment,
                    entrypoint_num_gpus=0,
                    metadata={"recipe": recipe.name, "place": _place(args)},
                )
                return True
            except Exception as error:
                text = str(error)
                if "already exists" in text:  # somebody was faster: attach to theirs
                    return False
                # A head that has just started answers before its job agent does.
                if "No available agent" not in text or time.monotonic() > deadline:
                    lines = text.strip().splitlines()
                    raise EnvironmentFault(
                        f"the job was refused: {lines[-1] if lines else type(error).__name__}"
                    ) from None
            time.sleep(1.0)


def follow(client: JobSubmissionClient, identity: str, stream: TextIO) -> int:
    """Prints the job's log to its end on `stream`; returns the exit code that fits how it ended.

    A connection that breaks is made again, and the log goes on where it was.
    """
    printed = 0

    async def tail() -> None:
        nonlocal printed
        seen = 0  # the server begins at the beginning
        async for text in client.tail_job_logs(identity):
            seen += len(text)
            fresh = text[max(0, len(text) - (seen - printed)) :] if seen > printed else ""
            printed = max(printed, seen)
            print(fresh, end="", flush=True, file=stream)

    failures = 0
    try:
        while True:
            try:
                asyncio.run(tail())
                info = client.get_job_info(identity)
                failures = 0
            except Exception as error:
                failures += 1
                if failures > FOLLOW_TRIES:
                    why = first_line(error)
                    raise EnvironmentFault(f"{identity}: its log cannot be followed ({why}); the job goes on") from None
                time.sleep(failures)
                continue
            if str(info.status.value) not in ACTIVE:
                break
            time.sleep(1.0)
    except KeyboardInterrupt:
        print(f"\nstopped following; {identity} goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    status = str(info.status.value)
    print(f"{identity}: {status.lower()}", file=sys.stderr)
    if status == "SUCCEEDED":
        return EXIT_OK
    if status == "STOPPED":
        return EXIT_INTERRUPTED
    code = getattr(info, "driver_exit_code", None)
    # it ended without a word: its node or the head is gone
    return int(code) if code else EXIT_ENVIRONMENT


def _attempt(identity: str, base: str) -> int:
    suffix = identity.removeprefix(base).removeprefix("-")
    return int(suffix) if suffix.isdigit() else 1
