"""What Ray and OpenMP read from the environment when they are imported or started."""

from __future__ import annotations

import os

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # each report waits for such a check
    # Else the first driver waits for workers that Ray starts ahead of time, and for ever if one of
    # them dies.
    "RAY_prestart_worker_first_driver": "0",
    # At Ray's own nice 15, workers starve beside any other busy process: 469 s instead of 30 s.
    "RAY_worker_niceness": "0",
    # Threads that spin while they wait starve each other beside other work: 5.5 s an epoch instead
    # of 0.45 s.
    "OMP_WAIT_POLICY": "passive",
}


def prepare_environment() -> None:
    """Sets what Ray and OpenMP read when they start; a user's own setting wins."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
