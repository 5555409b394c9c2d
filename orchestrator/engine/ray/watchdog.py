"""The watchdog: notices that the Ray cluster is gone before Ray ends this process without a
message.

Ray's driver gives a dead head up after 60 seconds and calls `_exit(1)`, which no handler sees.
It notices a dead raylet only when it next waits for one. Our thread checks both. It interrupts the
main thread in time for a clear last line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

from ...base.errors import EXIT_ENVIRONMENT, EnvironmentFault, forced_end

LOOK_SECONDS = 1.0
RAYLET_SECONDS = 3.0  # its socket is on this machine: refused means dead
HEAD_SECONDS = 30.0  # a head may restart with its state; Ray gives up after 60
LAST_SECONDS = 30.0  # for the main thread to disconnect in; then we end the process


class Watchdog:
    """Watches this driver's raylet and the cluster's head. `lost` says which of them is gone."""

    def __init__(self, raylet_socket: str, head: str):
        """**Arguments:** `raylet_socket`: path of the raylet's Unix socket; `head`: HOST:PORT of
        the head.
        """
        self.lost = ""
        self._waiting = False
        self._raylet_socket, self._head = raylet_socket, head
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")
        self._thread.start()

    def _watch(self) -> None:
        raylet, head = _Silence(RAYLET_SECONDS), _Silence(HEAD_SECONDS)
        while not self._stop.wait(LOOK_SECONDS):
            if raylet.too_long(self._raylet_answers()):
                self.lost = "Ray's process on this machine (the raylet) has died"
            elif head.too_long(self._head_answers()):
                self.lost = f"the head of the Ray cluster ({self._head}) has not answered for {HEAD_SECONDS:.0f} s"
            if self.lost:
                break
        while not self._stop.wait(0.1):
            if not self._waiting:
                continue  # the main thread does not use Ray now; `check` tells it later
            forced_end.append((EXIT_ENVIRONMENT, self.message()))
            _interrupt_main_thread()
            if not self._stop.wait(LAST_SECONDS):
                # Disconnecting may hang for ever. All finished work is in the store.
                with contextlib.suppress(OSError):
                    sys.stderr.write(f"{self.message()}\n")
                    sys.stderr.flush()
                os._exit(EXIT_ENVIRONMENT)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Marks code that waits for Ray. Raises `EnvironmentFault` in place of what a lost cluster
        raises.
        """
        self.check()
        self._waiting = True
        try:
            yield
        except BaseException:
            self.check()
            raise
        finally:
            self._waiting = False

    def check(self) -> None:
        """Raises `EnvironmentFault` where the cluster is gone."""
        if self.lost:
            raise EnvironmentFault(self.message()) from None

    def message(self) -> str:
        """Returns the one line for the user."""
        return f"{self.lost}; finished work is kept: run the same command again, with --address of a living cluster"

    def _raylet_answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(LOOK_SECONDS)
            try:
                probe.connect(self._raylet_socket)
            except TimeoutError:
                return True  # busy, not dead
            except OSError:
                return False
        return True

    def _head_answers(self) -> bool:
        host, _, port = self._head.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5.0).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Stops watching."""
        self._stop.set()


class _Silence:
    """How long something has not answered. It counts looks too: a machine that slept counts seconds
    only.
    """

    def __init__(self, limit: float):
        self._limit, self._since, self._looks = limit, time.monotonic(), 0

    def too_long(self, answers: bool) -> bool:
        if answers:
            self._since, self._looks = time.monotonic(), 0
            return False
        self._looks += 1
        return self._looks >= 3 and time.monotonic() - self._since >= self._limit


def _interrupt_main_thread() -> None:
    """Sends the main thread a real signal, which also ends a system call that it waits in."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A shell starts background commands with SIGINT ignored, so we may need SIGTERM.
        if callable(signal.getsignal(number)):
            signal.pthread_kill(threading.main_thread().ident or 0, number)
            return
