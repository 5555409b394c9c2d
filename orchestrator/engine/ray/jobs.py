"""The job server of a cluster, which starts drivers there."""

from __future__ import annotations

import logging

from ray.job_submission import JobDetails, JobSubmissionClient

from ...base.errors import EnvironmentFault, first_line

__all__ = ["JobDetails", "JobSubmissionClient", "connect"]


def connect(address: str) -> JobSubmissionClient:
    """Returns a client of the cluster's job server; raises `EnvironmentFault` where it does not
    answer or refuses the token."""
    try:
        client = JobSubmissionClient(address)
        for name in [name for name in logging.root.manager.loggerDict if name.startswith("ray")]:
            logging.getLogger(name).setLevel(logging.WARNING)  # uploads are not news
        return client
    except Exception as error:
        text = first_line(error)
        hint = (
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH as on the head"
            if "401" in text or "nauth" in text
            else "is the head running?"
        )
        raise EnvironmentFault(f"{address}: the job server cannot be used ({text}); {hint}") from None
