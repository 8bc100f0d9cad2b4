"""JSON API of the admin listener, for scripts and the pages' own script: `docs/api.yaml` describes every path.

Handlers read a request strictly (json_requests.py), run an operation or a query that commands run, too, and return what becomes JSON.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from importlib.resources import files
from typing import Any, Final

from aiohttp import web

from kekbridge.admin.auth import SESSION
from kekbridge.admin.json_requests import Fields, read_json, wrong
from kekbridge.admin.replays import Replays
from kekbridge.admin.service import AdminService
from kekbridge.admin.webhook_api import WebhookApi
from kekbridge.errors import ConfigError
from kekbridge.formatting import to_jsonable
from kekbridge.model import MarginMode
from kekbridge.ops import queries
from kekbridge.ops.operation import Operation
from kekbridge.ops.trading_operations import (
    BY_HAND,
    Cancel,
    Close,
    Examine,
    ExitsOnly,
    Halt,
    LiftLockout,
    ListHeldExits,
    ListLockouts,
    NoteLostOrdersShown,
    Resume,
    RunJob,
)
from kekbridge.reports import limits
from kekbridge.store import job_runs, journal
from kekbridge.store import orders as order_rows

_BY_TOKEN, _BY_SESSION = "API", "web page"
_FEW, _MANY = 50, 1000
_MOST_EVENTS: Final = 500
_LARGEST: Final = 10**15  # sequence number
_ALL: Final = "all"
_USUAL_PERIOD: Final = "7d"

Handler = Callable[[web.Request], Awaitable[Any]]


class Api:
    """The API of one daemon."""

    def __init__(self, service: AdminService) -> None:
        self._service = service
        self._replays = Replays(service.clock)
        self._webhooks = WebhookApi(service, self._replays)

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        gets: dict[str, Handler] = {
            "/api/state": self._state,
            "/api/trading": self._trading,
            "/api/positions": self._positions,
            "/api/orders": self._orders,
            "/api/orders/{order}": self._order,
            "/api/alerts": self._alerts,
            "/api/alerts/{alert}": self._alert,
            "/api/statistics": self._statistics,
            "/api/limits": self._limits,
            "/api/history": self._history,
            "/api/jobs": self._jobs,
            "/api/lockouts": self._lockouts,
        }
        posts: dict[str, Handler] = {
            "/api/trading": self._change_trading,
            "/api/positions/close": self._close,
            "/api/orders/cancel": self._cancel,
            "/api/jobs/{job}/run": self._run_job,
            "/api/doctor": self._examine,
            "/api/lockouts/lift": self._lift_lockout,
        }
        for path, handler in gets.items():
            router.add_get(path, as_json(handler))
        for path, handler in posts.items():
            router.add_post(path, as_json(handler))
        router.add_get("/api/openapi", self._describe)
        self._webhooks.register(router)

    async def _run(self, request: web.Request, operation: Operation) -> Any:
        return await self._replays.run(request, partial(self._service.operations.run, operation))

    # ------------------------------------------------------------------------------------------------------ trading

    async def _state(self, request: web.Request) -> Any:
        Fields.of_query(request, ())
        return await self._service.state()

    async def _trading(self, request: web.Request) -> Any:
        Fields.of_query(request, ())
        held = await self._service.operations.run(ListHeldExits())
        return (await self._service.state())["trading"] | {"heldExits": held}

    async def _change_trading(self, request: web.Request) -> Any:
        """Halt, exits only, or resume: the account, or one webhook that a limit closed."""
        fields = Fields.of(await read_json(request), ("state", "reason", "webhook", "heldExits", "resetPeak"))
        state = fields.word("state", ("running", "exits_only", "halted"))
        reason = fields.text("reason") or BY_HAND
        if state is None:
            raise ConfigError(
                "state is missing; add running, exits_only or halted", code="field_missing", field="state"
            )
        if state == "running":
            operation: Operation = Resume(
                reason=reason,
                by=_asker(request),
                webhook=fields.text("webhook"),
                reset_peak=fields.flag("resetPeak"),
                held_exits="drop" if fields.word("heldExits", ("send", "drop")) == "drop" else "send",
            )
        else:
            for name in ("webhook", "heldExits", "resetPeak"):
                if name in fields.given:
                    text = f"{name} belongs to state running only; leave it out"
                    raise ConfigError(text, code="field_invalid", field=name)
            kind = Halt if state == "halted" else ExitsOnly
            operation = kind(reason=reason, by=_asker(request))
        return await self._run(request, operation)

    async def _positions(self, request: web.Request) -> Any:
        Fields.of_query(request, ())
        return {"positions": await self._service.positions()}

    async def _close(self, request: web.Request) -> Any:
        names = ("symbol", "quantity", "share", "marginMode", "dryRun")
        fields = Fields.of(await read_json(request), names)
        mode = fields.word("marginMode", tuple(MarginMode))
        operation = Close(
            symbol=fields.required_text("symbol"),
            quantity=fields.number("quantity"),
            share=fields.number("share"),
            margin_mode=None if mode is None else MarginMode(mode),
            dry_run=fields.flag("dryRun"),
            by=_asker(request),
        )
        return await self._run(request, operation)

    # ------------------------------------------------------------------------------------------------ orders, alerts

    async def _orders(self, request: web.Request) -> Any:
        fields = Fields.of_query(request, ("open", "symbol", "webhook", "status", "since", "before", "limit"))
        limit = fields.count("limit", default=_FEW, most=_MANY)
        found = await self._service.database.read(
            queries.list_orders,
            webhook=fields.text("webhook"),
            symbol=fields.text("symbol"),
            status=fields.text("status"),
            since=fields.instant("since", self._service.clock()),
            open_only=fields.flag("open"),
            before=fields.count("before", default=0, most=_LARGEST) or None,
            limit=limit,
        )
        return {"orders": found, "older": found[0]["sequence"] if len(found) == limit else None}

    async def _order(self, request: web.Request) -> Any:
        Fields.of_query(request, ())

        def read(connection: sqlite3.Connection) -> dict[str, Any]:
            order = order_rows.get(connection, request.match_info["order"])
            return queries.order_with_exits(connection, order)

        return await self._service.database.read(read)

    async def _cancel(self, request: web.Request) -> Any:
        fields = Fields.of(await read_json(request), ("order",))
        return await self._run(request, Cancel(order=fields.required_text("order"), by=_asker(request)))

    async def _alerts(self, request: web.Request) -> Any:
        names = ("webhook", "symbol", "status", "code", "since", "until", "before", "text", "limit")
        fields, now = Fields.of_query(request, names), self._service.clock()
        limit = fields.count("limit", default=_FEW, most=_MANY)
        found = await self._service.database.read(
            queries.list_alerts,
            webhook=fields.text("webhook"),
            symbol=fields.text("symbol"),
            status=fields.text("status"),
            code=fields.text("code"),
            since=fields.instant("since", now),
            until=fields.instant("until", now),
            before=fields.text("before"),
            text=fields.text("text"),
            limit=limit,
        )
        return {"alerts": found, "older": found[0]["id"] if len(found) == limit else None}

    async def _alert(self, request: web.Request) -> Any:
        Fields.of_query(request, ())
        return await self._service.database.read(queries.alert_story, request.match_info["alert"])

    # ------------------------------------------------------------------------------------------------------ figures

    async def _statistics(self, request: web.Request) -> Any:
        fields, now = Fields.of_query(request, ("since", "webhook")), self._service.clock()
        is_all = fields.text("since") == _ALL
        chosen = fields if "since" in fields.given else Fields({**fields.given, "since": _USUAL_PERIOD})
        return await self._service.database.read(
            queries.statistics_of,
            self._service.settings,
            since=None if is_all else chosen.instant("since", now),
            webhook=fields.text("webhook"),
            now=now,
        )

    async def _limits(self, request: web.Request) -> Any:
        fields = Fields.of_query(request, ("webhook",))
        settings, now = self._service.settings, self._service.clock()
        return await self._service.database.read(limits.read, settings, fields.text("webhook"), at=now)

    # ---------------------------------------------------------------------------------------------------- operation

    async def _history(self, request: web.Request) -> Any:
        names = ("kind", "trouble", "since", "until", "before", "limit")
        fields, now = Fields.of_query(request, names, repeatable="kind"), self._service.clock()
        limit = fields.count("limit", default=_FEW, most=_MOST_EVENTS)
        before = fields.count("before", default=0, most=_LARGEST)

        def read(connection: sqlite3.Connection) -> dict[str, Any]:
            found = journal.latest(
                connection,
                kinds=queries.wanted_kinds(connection, fields.texts("kind"), "kind", trouble=fields.flag("trouble")),
                since=fields.instant("since", now),
                until=fields.instant("until", now),
                before=before or None,
                limit=limit,
            )
            older = found[0].sequence if len(found) == limit and found[0].sequence > 1 else None
            return {"events": [queries.event_data(connection, event) for event in found], "older": older}

        return await self._service.database.read(read)

    async def _jobs(self, request: web.Request) -> Any:
        Fields.of_query(request, ())
        return {"jobs": await self._service.database.read(job_runs.list_runs)}

    async def _run_job(self, request: web.Request) -> Any:
        Fields.of(await read_json(request), ())
        return await self._run(request, RunJob(job=request.match_info["job"]))

    async def _examine(self, request: web.Request) -> Any:
        """The checks of `kekbridge doctor`; those of lost orders count as shown, as there."""
        Fields.of(await read_json(request), ())
        return examined(await examine(self._service))

    async def _lockouts(self, request: web.Request) -> Any:
        Fields.of_query(request, ())
        return await self._service.operations.run(ListLockouts())

    async def _lift_lockout(self, request: web.Request) -> Any:
        """`lifted` is false when that address was not locked out."""
        fields = Fields.of(await read_json(request), ("address",))
        address = fields.required_text("address")
        try:
            operation = LiftLockout(address=address)
        except ConfigError:
            raise wrong("address", address, "an IP address such as 203.0.113.7") from None
        return await self._run(request, operation)

    async def _describe(self, request: web.Request) -> web.Response:
        text = (files("kekbridge") / "docs" / "api.yaml").read_text(encoding="utf-8")
        return web.Response(text=text, content_type="application/yaml")


def _asker(request: web.Request) -> str:
    """Who asked, for the history."""
    return _BY_SESSION if SESSION in request else _BY_TOKEN


async def examine(service: AdminService) -> list[dict[str, Any]]:
    """Run the checks of `kekbridge doctor`, and record that orders which the database does not know were shown."""
    checks: list[dict[str, Any]] = await service.operations.run(Examine())
    from kekbridge.ops.doctor.setup import LOST_ORDERS  # late: loaded by the checks

    if any(check["name"] == LOST_ORDERS for check in checks):
        await service.operations.run(NoteLostOrdersShown())
    return checks


def examined(checks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The checks as `kekbridge doctor --json` prints them."""
    found = list(checks)
    return {"ok": all(check["level"] != "broken" for check in found), "checks": found}


def as_json(handler: Handler, status: int = 200) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler that answers with the JSON of what `handler` returns."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(to_jsonable(await handler(request)), status=status)

    return answer
