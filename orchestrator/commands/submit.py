"""`orchestrator submit`: an experiment as a Ray job. Submitting the same thing twice attaches to the first."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ..errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_UNITS_FAILED, EnvironmentFault, UserError
from . import common

ACTIVE = ("PENDING", "RUNNING")
HEAD_START_SECONDS = 60.0


def arguments(parser: argparse.ArgumentParser) -> None:
    common.recipe_arguments(parser)
    parser.add_argument("--address", metavar="http://HEAD:8265", required=True, help="the cluster's dashboard")
    parser.add_argument(
        "--output", metavar="DIR", help="output folder as the cluster sees it (default: runs/NAME in the job's folder)"
    )
    parser.add_argument(
        "--store",
        metavar="DIR|s3://…",
        help="store as the cluster sees it; give one, or results stay on the node of the driver",
    )
    parser.add_argument(
        "--follow", action="store_true", help="print the job's log until it ends; interrupting leaves the job running"
    )
    parser.add_argument("--stop", action="store_true", help="stop the job instead; what is finished is kept")
    parser.add_argument(
        "--ship-code",
        action="store_true",
        help="send this installation's code along, for clusters that do not have it installed",
    )
    parser.add_argument(
        "--env",
        metavar="NAME",
        action="append",
        default=[],
        help="pass this environment variable on to the job; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main(args: argparse.Namespace) -> int:
    from ..cli import print_json
    from ..plan import experiment_id

    if not args.address.startswith(("http://", "https://")):
        raise UserError(
            f"--address: {args.address!r}: not a dashboard; give http://HEAD:8265 (for HOST:PORT of the cluster itself use `orchestrator run`)"
        )
    recipe = common.load(args)
    base = f"{recipe.name}-{experiment_id(recipe)}"
    client = connect(args.address)
    known = {
        job.submission_id: str(job.status.value)
        for job in client.list_jobs()
        if (job.submission_id or "").startswith(base)
    }
    current = max(known, key=lambda name: _attempt(name, base)) if known else ""
    status = known.get(current, "")
    if args.stop:
        if status not in ACTIVE:
            raise UserError(
                f"{base}: no such job is running at {args.address}" + (f" (it {status.lower()})" if status else "")
            )
        client.stop_job(current)
        print(f"{current}: stopping; finished units are kept, the same submit resumes")
        return EXIT_OK
    if status in (*ACTIVE, "SUCCEEDED"):
        action = "attached"
    else:
        current = base if not current else f"{base}-{_attempt(current, base) + 1}"
        _submit(client, current, recipe, args)
        action = "submitted"
        status = "PENDING"
    if args.json:
        print_json({"submission_id": current, "action": action, "status": status, "address": args.address})
    else:
        print(f"{current}: {action}" + (f" ({status.lower()})" if action == "attached" else ""))
    return follow(client, current) if args.follow else EXIT_OK


def connect(address: str) -> Any:
    """Returns a client of the cluster's job server; raises `EnvironmentFault` where it does not answer or refuses the token."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
        for name in [name for name in logging.root.manager.loggerDict if name.startswith("ray")]:
            logging.getLogger(name).setLevel(logging.WARNING)  # uploads are not news
        return client
    except Exception as error:
        lines = str(error).strip().splitlines()
        text = lines[0] if lines else type(error).__name__
        hint = (
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH as on the head"
            if "401" in text or "nauth" in text
            else "is the head running?"
        )
        raise EnvironmentFault(f"{address}: the job server cannot be used ({text}); {hint}") from None


def _submit(client: Any, identity: str, recipe: Any, args: argparse.Namespace) -> None:
    from ..recipe import to_yaml

    missing = [name for name in args.env if name not in os.environ]
    if missing:
        raise UserError(f"--env: {missing[0]!r}: this variable is not set here")
    command = [
        "python",
        "-m",
        "orchestrator",
        "run",
        "recipe.yaml",
        "--address",
        "auto",
        "--output",
        args.output or f"runs/{recipe.name}",
    ]
    if args.store:
        command += ["--store", args.store]
    with tempfile.TemporaryDirectory() as folder:
        # Only the recipe travels: data, runs and .git never do.
        Path(folder, "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
        environment: dict[str, Any] = {"working_dir": folder, "env_vars": {name: os.environ[name] for name in args.env}}
        if args.ship_code:
            here = Path(__file__).resolve().parents[2]
            environment["py_modules"] = [str(here / package) for package in ("orchestrator", "unlearn", "attack")]
        deadline = time.monotonic() + HEAD_START_SECONDS
        while True:
            try:
                client.submit_job(
                    entrypoint=shlex.join(command),
                    submission_id=identity,
                    runtime_env=environment,
                    entrypoint_num_gpus=0,
                    metadata={"recipe": recipe.name},
                )
                return
            except Exception as error:
                text = str(error)
                if "already exists" in text:  # somebody was faster: attach to theirs
                    return
                # A head that has just started answers before its job agent does.
                if "No available agent" not in text or time.monotonic() > deadline:
                    lines = text.strip().splitlines()
                    raise EnvironmentFault(
                        f"the job was refused: {lines[-1] if lines else type(error).__name__}"
                    ) from None
            time.sleep(1.0)


def follow(client: Any, identity: str) -> int:
    """Prints the job's log to its end; returns the exit code that fits how it ended."""
    import asyncio

    async def tail() -> None:
        async for text in client.tail_job_logs(identity):
            print(text, end="", flush=True)

    try:
        asyncio.run(tail())
    except KeyboardInterrupt:
        print(f"\nstopped following; {identity} goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    info = client.get_job_info(identity)
    status = str(info.status.value)
    print(f"{identity}: {status.lower()}", file=sys.stderr)
    if status == "SUCCEEDED":
        return EXIT_OK
    code = getattr(info, "driver_exit_code", None)
    return int(code) if code else EXIT_UNITS_FAILED


def _attempt(identity: str, base: str) -> int:
    suffix = identity.removeprefix(base).removeprefix("-")
    return int(suffix) if suffix.isdigit() else 1
