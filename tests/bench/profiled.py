"""Run a module with a profiler on each of its threads: `python -m tests.bench.profiled FILE MODULE [argument…]`.

SIGUSR1 resets the counts, SIGUSR2 writes them to FILE.loop and FILE.<thread> and ends the process. The clock is each thread's own CPU
time, so that waiting for another thread is not counted.
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


def _start_profile(name: str) -> None:
    _profiles[name] = profile = cProfile.Profile(time.thread_time)
    profile.enable()


def _profile_new_threads() -> None:
    run = threading.Thread.run

    def profiled(thread: threading.Thread) -> None:
        _start_profile(thread.name)
        run(thread)

    threading.Thread.run = profiled  # type: ignore[method-assign, assignment]


def _reset(*_: object) -> None:
    for profile in _profiles.values():
        profile.clear()


def _write_and_exit(file: str) -> None:
    for name, profile in list(_profiles.items()):
        profile.snapshot_stats()  # not `create_stats`, which would end open calls with this thread's clock
        with open(f"{file}.{name}", "wb") as opened:
            marshal.dump(profile.stats, opened)
    os._exit(0)


def main() -> None:
    file, module, *arguments = sys.argv[1:]
    signal.signal(signal.SIGUSR1, _reset)
    signal.signal(signal.SIGUSR2, lambda *_: _write_and_exit(file))
    _profile_new_threads()
    _start_profile("loop")
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
