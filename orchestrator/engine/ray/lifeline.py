"""Notices that the Ray cluster is gone, before Ray ends this process without a word.

Ray's driver leaves a dead head after 60 seconds with `_exit(1)`, which no handler sees. It finds
out about a dead raylet only when it next waits for one. A thread looks at both, and interrupts the
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
RAYLET_SECONDS = 3.0  # a raylet's socket lies on this machine: refused means dead
HEAD_SECONDS = 30.0  # a head may be restarted with its state kept; Ray itself gives up after 60
LAST_SECONDS = 30.0  # for the main thread to disconnect in, before the process is ended for it


class Lifeline:
    """Watches this driver's raylet and the cluster's head; `lost` says in words which of them is
    gone."""

    def __init__(self, raylet_socket: str, head: str):
        """**Arguments:** `raylet_socket`: path of the raylet's Unix socket; `head`: HOST:PORT of
        the head."""
        self.lost = ""
        self._waiting = False
        self._raylet_socket, self._head = raylet_socket, head
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="lifeline")
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
                # the main thread does without Ray now, and hears of it when it next needs it
                continue
            forced_end.append((EXIT_ENVIRONMENT, self.message()))
            _interrupt_main_thread()
            if not self._stop.wait(LAST_SECONDS):
                # Disconnecting from what is no longer there may wait for ever. All that was
                # finished is in the store.
                with contextlib.suppress(OSError):
                    sys.stderr.write(f"{self.message()}\n")
                    sys.stderr.flush()
                os._exit(EXIT_ENVIRONMENT)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Marks work that waits for Ray; raises `EnvironmentFault` instead of whatever a lost
        cluster makes of it."""
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
    """How long something has not answered. Looks count as well as seconds: a machine that slept has
    seen seconds only."""

    def __init__(self, limit: float):
        self._limit, self._since, self._looks = limit, time.monotonic(), 0

    def too_long(self, answers: bool) -> bool:
        if answers:
            self._since, self._looks = time.monotonic(), 0
            return False
        self._looks += 1
        return self._looks >= 3 and time.monotonic() - self._since >= self._limit


def _interrupt_main_thread() -> None:
    """Sends the main thread a signal that raises in it; a real one, which ends a system call that
    it waits in."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A shell starts background commands with SIGINT ignored.
        if callable(signal.getsignal(number)):
            signal.pthread_kill(threading.main_thread().ident or 0, number)
            return
