"""Python imports this by itself when its folder is on the path: the process's clock is then wrong by `CHAOS_SKEW` seconds,
and by up to an hour more that differs from process to process. Clocks for durations stay right, as on a real machine."""

import os
import time

_OFFSET = float(os.environ.get("CHAOS_SKEW", "0")) + os.getpid() * 7919 % 3600
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _OFFSET
time.time_ns = lambda: _time_ns() + int(_OFFSET * 1e9)
