"""How a job begins: its driver reads the data and tries model and store before the first unit."""

from __future__ import annotations

import sys
import time

from ..base.errors import EXIT_USAGE, EnvironmentFault, UserError
from ..engine.ray.jobs import JobSubmissionClient
from ..records.progress import JOINING, duration

BEGUN_SECONDS = 60.0
BETWEEN_SECONDS = 0.5
ENDED = ("FAILED", "STOPPED", "SUCCEEDED")


def wait_for_begin(client: JobSubmissionClient, identity: str) -> str:
    """Waits until the job's driver has read its data and joins its workers; returns its status.

    Says so and returns after a minute, or where the user interrupts. The job goes on either way.

    **Raises:** `UserError` or `EnvironmentFault` with the driver's own last line where the job has
    failed by then.
    """
    deadline = time.monotonic() + BEGUN_SECONDS
    status = "PENDING"
    try:
        while time.monotonic() < deadline:
            try:
                info = client.get_job_info(identity)
                log = client.get_job_logs(identity)
            except (RuntimeError, OSError):
                time.sleep(BETWEEN_SECONDS)  # a head that has just started answers in part
                continue
            status = str(info.status.value)
            if status == "FAILED":
                raise _failure(identity, log, info.driver_exit_code, info.message or "")
            if status in ENDED or JOINING in log:
                return status
            time.sleep(BETWEEN_SECONDS)
        print(f"{identity}: no unit has begun after {duration(BEGUN_SECONDS)}; it goes on", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{identity}: goes on", file=sys.stderr)
    return status


def _failure(identity: str, log: str, code: int | None, message: str) -> UserError:
    said = [line for line in (log.strip() or message.strip()).splitlines() if line.strip()]
    text = f"{identity}: ended before its first unit: {said[-1].strip() if said else 'it said nothing'}"
    return UserError(text) if code == EXIT_USAGE else EnvironmentFault(text)
