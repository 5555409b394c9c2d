"""Which device XGBoost can train on here."""

from __future__ import annotations

import ctypes

from ..library import load_xgboost


def best_device() -> str:
    """Returns `cuda` where XGBoost was built for it and this process sees a GPU, else `cpu`."""
    xgboost = load_xgboost()

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


def gpu_memory_free() -> int | None:
    """Returns the bytes free on the first GPU that this process sees, None where there is none or
    the driver does not say."""
    if gpu_count() == 0:
        return None
    driver = ctypes.CDLL("libcuda.so.1")
    device, context = ctypes.c_int(0), ctypes.c_void_p()
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    # The primary context is the one that XGBoost will use; only within a context does the driver
    # tell.
    if driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
        return None
    try:
        if driver.cuCtxPushCurrent_v2(context):
            return None
        told = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)
    return free.value if told else None
