"""`orchestrator jobs`: the jobs of a cluster, or one of them by its id."""

from __future__ import annotations

import argparse
import sys
import time

from ..base.errors import EXIT_OK, UserError, did_you_mean
from ..engine.ray.jobs import JobDetails, connect
from .ending import print_json
from .submit import ACTIVE, follow, jobs_of, stop


def main(args: argparse.Namespace) -> int:
    client = connect(args.address)
    jobs = [job for job in jobs_of(client, args.address) if job.submission_id]
    if args.job is None:
        if args.follow or args.stop:
            raise UserError("JOB: not given; `orchestrator jobs --address …` lists them")
        found = [_facts(job) for job in sorted(jobs, key=lambda job: -(job.start_time or 0))]
        if args.json:
            print_json(found)
        else:
            print("\n".join(map(_line, found)) or "no jobs")
        return EXIT_OK
    known = [job for job in jobs if job.submission_id == args.job]
    if not known:
        hint = did_you_mean(args.job, [str(job.submission_id) for job in jobs])
        raise UserError(f"JOB: {args.job!r}: no such job{hint}")
    if args.stop:
        if str(known[0].status.value) not in ACTIVE:
            raise UserError(f"JOB: {args.job!r}: it is not running (it {str(known[0].status.value).lower()})")
        return stop(client, args.job, args.json)
    if args.json:
        print_json(_facts(known[0]))
    elif not args.follow:
        print(_line(_facts(known[0])))
        if message := (known[0].message or "").strip():
            print(message.splitlines()[0])
    return follow(client, args.job, sys.stderr if args.json else sys.stdout) if args.follow else EXIT_OK


def _facts(job: JobDetails) -> dict[str, object]:
    metadata = job.metadata or {}
    return {
        "submission_id": job.submission_id,
        "recipe": metadata.get("recipe", ""),
        "status": str(job.status.value),
        "started": None if not job.start_time else time.strftime("%F %T", time.localtime(job.start_time / 1000)),
        "command": job.entrypoint,
    }


def _line(facts: dict[str, object]) -> str:
    return f"{facts['submission_id']}  {str(facts['status']).lower()}  {facts['started'] or 'not started'}"
