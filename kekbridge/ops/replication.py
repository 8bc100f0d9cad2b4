"""Litestream beside the daemon: started, started again when it ends, and asked how far it has come. Trading never waits for it.

How far: the daemon asks it, every `replica.sync_s`, to copy everything to the target. When it says that it has, the replica reaches at
least the instant of the question, whatever was written meanwhile. The lag is the time since that instant.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import aiohttp

from kekbridge.config import ReplicaSettings
from kekbridge.errors import ConfigError
from kekbridge.formatting import clip_words, duration, sanitize
from kekbridge.log import get_logger
from kekbridge.ops import litestream
from kekbridge.ops.conditions import Conditions
from kekbridge.store.connections import FILE_NAME

log = get_logger("kekbridge.ops.replication")

#: Litestream's configuration and its socket in the data directory.
CONFIG_NAME: Final = "litestream.yml"
SOCKET_NAME: Final = "litestream.sock"
# The kernel takes 104 (BSD) or 108 (Linux) bytes.
_MAX_PATH_BYTES: Final = 100
_ANSWER_WITHIN_S: Final = 10
# It listens once it has reached the target. One that does not in the end hangs, and is started again.
_LISTENS_SOON_S: Final = 10.0
_LISTENS_WITHIN_S: Final = 60.0
# Pauses before it is started again, each twice the one before.
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
# One that ran for so long did not fail at its start.
_STEADY_S: Final = 30.0
# The last copy at the end of the bridge: Litestream's own limit, and its start.
_STOP_WITHIN_S: Final = litestream.LAST_COPY_S + 2.0
# And that of a target which did not take the changes before either: a restart of the bridge must not wait for it.
_STOP_BEHIND_WITHIN_S: Final = 1.0
_BEHIND_S: Final = 15.0
_POLL_S: Final = 0.1
_LONGEST_LINE: Final = 1 << 16
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """How far the replica has come."""

    #: Where it is: `replica.url`.
    url: str
    #: True while Litestream runs.
    is_running: bool
    #: Everything written before this instant is at the target, UTC. None: nothing is known since the bridge started.
    up_to: datetime | None
    #: Seconds since that instant, or since the start of the bridge.
    lag_s: float
    #: Why it does not advance; empty if it does.
    problem: str


class Replication:
    """The replication of one daemon: `run` as a task, and `stop` once the database is closed."""

    def __init__(
        self,
        settings: ReplicaSettings,
        data_dir: Path,
        *,
        secrets: Mapping[str, str],
        clock: Callable[[], datetime],
    ) -> None:
        """`secrets`: environment variables with the target's keys."""
        self._settings = settings
        self._data_dir = data_dir
        self._secrets = secrets
        self._clock = clock
        self._started_at = clock()
        self._up_to: datetime | None = None
        self._problem = "it has not begun"
        self._process: asyncio.subprocess.Process | None = None
        self._socket = data_dir / SOCKET_NAME
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._reason = ""
        self._reading: asyncio.Task[None] | None = None

    def status(self) -> ReplicaStatus:
        """How far the replica has come, as known now."""
        since = self._up_to or self._started_at
        return ReplicaStatus(
            url=self._settings.url,
            is_running=self._process is not None and self._process.returncode is None,
            up_to=self._up_to,
            lag_s=max((self._clock() - since) / timedelta(seconds=1), 0.0),
            problem=self._problem,
        )

    async def run(self) -> None:
        """Until cancelled: keep Litestream running, and ask it how far it is. Its errors end up in `status`."""
        pause_s = _FIRST_PAUSE_S
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._start()
                await self._follow()
            except (ConfigError, OSError) as error:
                self._problem = str(error)
            except Exception as error:  # a defect here must not end the daemon, whose task this is
                self._problem = f"{type(error).__name__}: {error}"
            log.warning("replication_interrupted", error=self._problem)
            if asyncio.get_running_loop().time() - began >= _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def stop(self) -> None:
        """Copy the rest and end Litestream, within some seconds. Called when nothing is written any more."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        else:  # a stop of the service may have ended it, too, before the last changes were written
            with contextlib.suppress(OSError, ConfigError):
                process = await self._spawn("-once")
        is_behind = self.status().lag_s > _BEHIND_S + self._settings.sync_s
        within_s = _STOP_BEHIND_WITHIN_S if is_behind else _STOP_WITHIN_S
        try:
            await asyncio.wait_for(process.wait(), within_s)
        except TimeoutError:
            log.warning("replica_not_complete", error=self._problem or f"it did not end within {within_s:.0f} s")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._temporary is not None:
            self._temporary.cleanup()
        self._socket.unlink(missing_ok=True)

    async def _start(self) -> None:
        """Raises ConfigError if Litestream is missing or of another series, OSError if it cannot be started."""
        program = litestream.find_program()
        await asyncio.to_thread(litestream.check_version, program)
        await self._kill()
        await self._end_leftover()
        self._reason = ""
        self._process = await self._spawn()
        log.info("replication_started", process=self._process.pid, url=self._settings.url)

    async def _spawn(self, *options: str) -> asyncio.subprocess.Process:
        config = self._data_dir / CONFIG_NAME
        config.write_text(
            litestream.configuration(self._settings, self._data_dir / FILE_NAME, socket=self._socket_path()), "utf-8"
        )
        process = await asyncio.create_subprocess_exec(
            str(litestream.find_program()),
            "replicate",
            *("-config", str(config), "-no-expand-env", *options),
            env=litestream.environment(os.environ, self._secrets),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            umask=0o077,
            start_new_session=True,  # Ctrl-C is for the bridge, which ends it last
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        self._reading = asyncio.get_running_loop().create_task(self._read_log(process))
        return process

    def _socket_path(self) -> Path:
        if len(os.fsencode(self._socket)) > _MAX_PATH_BYTES and self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="kekbridge-replica-")
            self._socket = Path(self._temporary.name) / SOCKET_NAME
        return self._socket

    async def _end_leftover(self) -> None:
        """End the Litestream of a daemon that was killed: two of them would write to one target."""
        try:
            async with _session(self._socket_path()) as session, session.get("http://litestream/info") as response:
                process = int((await response.json())["pid"])
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError):
            return
        log.warning("leftover_replication_ended", process=process)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)

    async def _follow(self) -> None:
        """Ask how far it is until it ends, or does not answer. Raises ConfigError then."""
        assert self._process is not None  # noqa: S101 - `_start` has set it
        ended = asyncio.ensure_future(self._process.wait())
        asking = asyncio.ensure_future(self._ask())
        try:
            await asyncio.wait((ended, asking), return_when=asyncio.FIRST_COMPLETED)
        finally:
            asking.cancel()
            if not ended.done():
                ended.cancel()
        if ended.done():
            raise ConfigError(self._reason or f"Litestream ended with {self._process.returncode}")
        await self._kill()
        asking.result()

    async def _kill(self) -> None:
        """End the present process, if it still runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _ask(self) -> None:
        body = {"path": str(self._data_dir / FILE_NAME), "wait": True, "timeout": _ANSWER_WITHIN_S}
        loop = asyncio.get_running_loop()
        last_answer_at = loop.time()
        async with _session(self._socket_path()) as session:
            while True:
                asked_at = self._clock()
                try:
                    async with session.post("http://litestream/sync", json=body) as response:
                        answer = await response.json()
                    last_answer_at = loop.time()
                    if response.ok:
                        self._up_to, self._problem = asked_at, ""
                    else:
                        reason = answer.get("error") if isinstance(answer, dict) else None
                        self._problem = clip_words(sanitize(str(reason or answer)), 300)
                except TimeoutError:
                    self._problem = f"the target did not take the changes within {_ANSWER_WITHIN_S} s"
                except (aiohttp.ClientError, OSError, ValueError):
                    silent_s = loop.time() - last_answer_at
                    if silent_s > _LISTENS_WITHIN_S:
                        raise ConfigError(
                            "the target did not answer in a minute; Litestream is started again"
                        ) from None
                    if silent_s > _LISTENS_SOON_S:
                        self._problem = "the target does not answer"
                    await asyncio.sleep(_POLL_S)
                    continue
                await asyncio.sleep(self._settings.sync_s)

    async def _read_log(self, process: asyncio.subprocess.Process) -> None:
        """Pass its warnings and errors on to the log, and keep the last as the reason of its end."""
        assert process.stderr is not None  # noqa: S101 - a pipe
        while True:
            try:
                line = (await process.stderr.readline()).decode(errors="replace").strip()
            except ValueError:  # longer than any line of a log
                continue
            if not line and process.stderr.at_eof():
                return
            if line:
                self._reason = _pass_on(line) or self._reason


class ReplicaWatch:
    """Job, every ten seconds: does the replica keep up."""

    def __init__(self, conditions: Conditions, status: Callable[[], ReplicaStatus], *, warn_after_s: float) -> None:
        self._conditions = conditions
        self._status = status
        self._warn_after_s = warn_after_s

    async def run(self) -> None:
        """Raises StoreUnavailable."""
        status = self._status()
        if status.lag_s < self._warn_after_s and status.up_to is None:
            return  # it has just begun
        data = {"place": status.url, "lasting": duration(status.lag_s), "detail": status.problem}
        kind = "replica_behind" if status.lag_s >= self._warn_after_s else None
        await self._conditions.update("replica", kind, over="replica_current", data=data)


def _session(path: Path) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(str(path)), timeout=aiohttp.ClientTimeout(total=_ANSWER_WITHIN_S + 2)
    )


def _pass_on(line: str) -> str:
    """Log a warning or an error of Litestream's, and return its text; empty for anything less."""
    try:
        level = str(json.loads(line)["level"])
    except (ValueError, KeyError, TypeError):
        level = "WARN"
    if level not in ("WARN", "ERROR"):
        return ""
    reason = litestream.failure(line)
    log.warning("litestream", message=reason)
    return reason


_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """Runs in the new process: the kernel ends it when the daemon ends, also when that is killed."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
