"""Web pages of the machinery: scheduled jobs, the checks of `kekbridge doctor`, and backups to download."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import htpy as h
from aiohttp import web
from htpy import Renderable

from kekbridge.admin.api import examine
from kekbridge.admin.elements import button, moment_element, pairs, status, table, with_code
from kekbridge.admin.service import AdminService
from kekbridge.errors import KekbridgeError
from kekbridge.formatting import age, counted, duration
from kekbridge.ops.backup_operations import ShowBackups
from kekbridge.ops.trading_operations import RunJob
from kekbridge.ops.vault_operations import ShowRecoveryCode
from kekbridge.store import job_runs
from kekbridge.store.job_runs import JobRun

_WAIT_S: Final = 20.0
_CHUNK: Final = 256 * 1024
_ORDER: Final = {"broken": 0, "warning": 1, "ok": 2}
_KILO: Final = 1000


class SystemPages:
    """Handlers of the pages. `page` renders a whole page from a request, a title and contents."""

    def __init__(self, service: AdminService, page: Callable[..., web.Response]) -> None:
        self._service = service
        self._page = page
        self._running: set[asyncio.Task[Any]] = set()  # jobs that a page waited for in vain
        self._making = asyncio.Lock()

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/jobs", self._jobs)
        router.add_post("/jobs/run", self._run_job)
        router.add_get("/doctor", self._doctor)
        router.add_post("/doctor", self._examine)
        router.add_get("/backup", self._backup)
        router.add_post("/backup/download", self._download)
        router.add_post("/backup/code", self._show_code)

    # --------------------------------------------------------------------------------------------------------- jobs

    async def _jobs(self, request: web.Request) -> web.Response:
        runs = await self._service.database.read(job_runs.list_runs)
        rows = [_job_row(request, one, self._service.clock()) for one in runs]
        return self._page(
            request,
            "Jobs",
            h.p(class_="dim")["What the bridge does by the clock. A job that fails is tried again at its next time."],
            h.div(id="live-jobs", data_live=True)[
                table(
                    ("Job", "Last", "Took", "Next", "Runs", "Result", ""),
                    rows,
                    empty="No job has run yet.",
                    keys=[f"job-{one.name}" for one in runs],
                    phone=("first", "second", "off", "second", "off", "second", "first"),
                )
            ],
            is_live=True,
        )

    async def _run_job(self, request: web.Request) -> web.Response:
        """Run a job; the page waits for 20 s at most, and the job goes on."""
        name = str((await request.post()).get("job", ""))
        task = asyncio.ensure_future(self._service.operations.run(RunJob(job=name)))
        self._running.add(task)
        task.add_done_callback(self._ended)
        done, _ = await asyncio.wait({task}, timeout=_WAIT_S)
        if not done:
            note = f"{name} has been running for {_WAIT_S:.0f} s and goes on; the list shows when it is done."
            return self._page(request, f"Job {name}", h.p[note], _back("/jobs", "All jobs"))
        run: dict[str, Any] = task.result()
        if run["error"]:
            return self._page(
                request,
                f"Job {name}",
                h.p(class_="problem", role="alert")[f"{name} failed: {run['error']}"],
                _back("/jobs", "All jobs"),
            )
        raise web.HTTPSeeOther("/jobs")

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen: it is recorded with the job

    # ------------------------------------------------------------------------------------------------------- doctor

    async def _doctor(self, request: web.Request) -> web.Response:
        return self._page(
            request,
            "Doctor",
            h.p[
                "Checks the whole installation, from the settings to reachability from TradingView. It changes nothing."
            ],
            button(request, "/doctor", "Run the checks"),
            h.p(class_="dim")["It takes some seconds."],
        )

    async def _examine(self, request: web.Request) -> web.Response:
        checks = await examine(self._service)
        counts = {level: sum(check["level"] == level for check in checks) for level in _ORDER}
        if counts["broken"]:
            verdict = h.p(class_="problem")[f"{counted(counts['broken'], 'check')} found something broken."]
        elif counts["warning"]:
            verdict = h.p(class_="problem warning")[f"Nothing is broken. {counted(counts['warning'], 'warning')}."]
        else:
            verdict = h.p(class_="good")["Everything is in order."]
        rows = [
            (
                status(check["level"]),
                check["name"],
                h.fragment[
                    check["text"], h.div(class_="dim")["To do: ", with_code(check["fix"])] if check["fix"] else None
                ],
            )
            for check in sorted(checks, key=lambda check: _ORDER[check["level"]])
        ]
        return self._page(
            request,
            "Doctor",
            h.div(role="status")[verdict],
            table(("State", "Check", "Found"), rows, empty="No checks.", phone=("first", "first", "second")),
            button(request, "/doctor", "Run them again"),
        )

    # ------------------------------------------------------------------------------------------------------- backup

    async def _backup(self, request: web.Request) -> web.Response:
        return await self._show_backups(request)

    async def _show_backups(self, request: web.Request, *notes: Renderable, status: int = 200) -> web.Response:
        shown = await self._service.operations.run(ShowBackups())
        now = self._service.clock()
        last = None if shown["lastAt"] is None else datetime.fromisoformat(shown["lastAt"])
        rows: list[tuple[str, object]] = [
            ("Last backup", "none yet" if last is None else h.fragment[moment_element(last), f", {age(last, now)}"]),
            ("Every night", f"at {shown['at']} UTC" if shown["nightly"] else "off (backup.nightly)"),
            ("Directory", h.code[shown["directory"]]),
            ("There now", f"{counted(shown['count'], 'file')}, the newest {shown['keep']} are kept"),
        ]
        if shown["codeShown"]:
            code: Renderable = h.fragment[
                h.p(class_="dim")["The recovery code was shown before. Show it again only if you have lost it."],
                button(request, "/backup/code", "Show it again", h.input(type="hidden", name="again", value="yes")),
            ]
        else:
            code = button(request, "/backup/code", "Show the recovery code")
        return self._page(
            request,
            "Backup",
            *notes,
            pairs(rows),
            h.h2["Download"],
            h.p["A consistent copy of the database, the sealed parts of the vault and the settings. No copy stays here."],
            button(request, "/backup/download", "Make and download a backup"),
            h.h2["Recovery code"],
            h.p["On another machine a backup opens only with this code. Keep it away from the backups: together they open",
                " every webhook's secret."],
            code,
            h.p(class_="dim")["To restore, stop the bridge and run ", h.code["kekbridge restore FILE"], "."],
            status=status,
        )  # fmt: skip

    async def _show_code(self, request: web.Request) -> web.Response:
        again = (await request.post()).get("again") == "yes"
        shown = await self._service.operations.run(ShowRecoveryCode(again=again))
        note = h.div(class_="state", role="status")[
            h.p[h.b["Recovery code"]],
            h.p[h.code(id="recovery-code")[shown["recoveryCode"]]],
            h.p(class_="dim")["Write it down or store it in a password manager, not beside the backups."],
        ]
        return await self._show_backups(request, note)

    async def _download(self, request: web.Request) -> web.StreamResponse:
        """Stream a backup. Its file has no name any more when the first byte is sent, so that nothing is left behind."""
        async with self._making:
            try:
                backup, file = await self._service.open_backup()
            except KekbridgeError as error:
                return await self._show_backups(request, h.p(class_="problem", role="alert")[error.message], status=409)
        with file:
            response = web.StreamResponse(
                headers={
                    "Content-Type": "application/zip",
                    "Content-Disposition": f'attachment; filename="{backup.file.name}"',
                    "Content-Length": str(backup.bytes),
                }
            )
            await response.prepare(request)
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                await response.write(chunk)
            await response.write_eof()
        return response


def _back(path: str, label: str) -> Renderable:
    return h.p[h.a(href=path, class_="button")[label]]


def _job_row(request: web.Request, run: JobRun, now: datetime) -> tuple[object, ...]:
    took = None if run.last_at is None else duration(run.took_ms / _KILO)
    if run.error:
        failed = f", failed {run.failures} times in a row" if run.failures > 1 else ""
        result: Renderable | None = h.span(class_="bad")[f"{run.error}{failed}"]
    else:
        result = None if run.last_at is None else h.span(class_="good")["ok"]
    return (
        h.b[run.name],
        None if run.last_at is None else h.fragment[h.span(class_="name")["last "], moment_element(run.last_at, now)],
        took,
        None if run.next_at is None else h.fragment[h.span(class_="name")["next "], moment_element(run.next_at, now)],
        str(run.runs),
        result,
        button(request, "/jobs/run", "Run now", h.input(type="hidden", name="job", value=run.name)),
    )
