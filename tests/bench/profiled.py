"""Runs a module with a profiler on each of its threads: `python -m tests.bench.profiled FILE MODULE [argument…]`.

SIGUSR1 begins to count anew, SIGUSR2 writes what was counted to FILE.loop and FILE.<thread> and ends the process. The clock is each
thread's own CPU time, so that waiting for the other thread counts for nobody.
"""

from __future__ import annotations

import cProfile
import marshal
import os
import runpy
import signal
import sys
import threading
import time

_profiles: dict[str, cProfile.Profile] = {}


def _watch(name: str) -> None:
    _profiles[name] = profile = cProfile.Profile(time.thread_time)
    profile.enable()


def _watch_threads() -> None:
    run = threading.Thread.run

    def watched(thread: threading.Thread) -> None:
        _watch(thread.name)
        run(thread)

    threading.Thread.run = watched  # type: ignore[method-assign, assignment]


def _begin_anew(*_: object) -> None:
    for profile in _profiles.values():
        profile.clear()


def _tell(file: str) -> None:
    for name, profile in list(_profiles.items()):
        profile.snapshot_stats()  # not `create_stats`: it would end open calls by this thread's clock
        with open(f"{file}.{name}", "wb") as opened:
            marshal.dump(profile.stats, opened)
    os._exit(0)


def main() -> None:
    file, module, *arguments = sys.argv[1:]
    signal.signal(signal.SIGUSR1, _begin_anew)
    signal.signal(signal.SIGUSR2, lambda *_: _tell(file))
    _watch_threads()
    _watch("loop")
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
