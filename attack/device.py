"""Which device XGBoost can train on here."""

from __future__ import annotations

import ctypes


def best_device() -> str:
    """Returns `cuda` where XGBoost was built for it and this process sees a GPU, else `cpu`."""
    import xgboost

    return "cuda" if xgboost.build_info().get("USE_CUDA") and gpu_count() > 0 else "cpu"


def gpu_count() -> int:
    """Returns how many GPUs the CUDA driver shows this process, 0 where there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
