"""Web pages of the exchange's keys: list, restrict, remove, enter, generate, and register with the wallet of the browser.

No secret is ever shown: what is entered goes to the vault. The wallet's part of the page is wallet_registration.py.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import htpy as h
from aiohttp import web
from htpy import Node, Renderable

from kekbridge.admin.elements import button, form_key, moment_element, pairs, status, table
from kekbridge.admin.service import AdminService
from kekbridge.admin.wallet_registration import WalletRegistration, mode_option
from kekbridge.errors import ConfigError, ExchangeUnavailable, KekbridgeError, NotFound
from kekbridge.model import Mode
from kekbridge.ops import exchange_keys
from kekbridge.ops.key_registration import DiscardPendingKey
from kekbridge.ops.operation import Operation
from kekbridge.ops.trading_operations import Halt
from kekbridge.ops.vault_operations import (
    AddKey,
    GenerateKey,
    ListKeys,
    RemoveKey,
    RestrictKey,
    ShowOwnAddress,
    ShowPendingKey,
    ShowVault,
    ShowVenue,
)
from kekbridge.paper.settings import PAPER_ACCOUNT_ID

_DAYS: Final = {"365": "365 days", "180": "180 days", "90": "90 days", "30": "30 days", "7": "7 days"}
_SOON_DAYS: Final = 14


class KeyPages:
    """Handlers of the key pages. `page` renders a whole page from a title and contents."""

    def __init__(self, service: AdminService, page: Callable[..., web.Response]) -> None:
        self._service = service
        self._page = page
        self._registration = WalletRegistration(
            self._run, self._venue, self._next_steps, clock=service.clock, link="/keys"
        )

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/keys", self._show)
        router.add_post("/keys/add", self._add)
        router.add_post("/keys/generate", self._generate)
        router.add_post("/keys/discard", self._discard)
        router.add_get("/keys/restrict", self._confirm_restriction)
        router.add_post("/keys/restrict", self._restrict)
        router.add_get("/keys/remove", self._confirm_removal)
        router.add_post("/keys/remove", self._remove)
        self._registration.register(router)

    async def _run(self, operation: Operation) -> Any:
        return await self._service.operations.run(operation)

    async def _venue(self) -> tuple[Mode, str, str]:
        """Mode, account and broker of the bridge."""
        venue = await self._run(ShowVenue())
        mode = Mode(venue["mode"])
        account_id = venue["accountId"] or (PAPER_ACCOUNT_ID if mode is Mode.PAPER else "")
        return mode, account_id, venue["brokerId"]

    # -------------------------------------------------------------------------------------------------------- list

    async def _show(self, request: web.Request) -> web.Response:
        return await self._render(request)

    async def _render(self, request: web.Request, *, entered: str | None = None, error: str = "") -> web.Response:
        """The page; with the account that was entered and what was wrong with it, after a form that could not be stored."""
        mode, account_id, broker_id = await self._venue()
        vault = await self._run(ShowVault())
        return self._page(
            request,
            "Keys and wallet",
            h.p(class_="dim")[_what_keys_are(mode)],
            pairs(
                [
                    ("Account", h.code[account_id]),
                    ("Broker", broker_id),
                    ("Mode", mode),
                    ("Vault", vault["description"]),
                ]
            ),
            *await self._keys(request, mode, account_id),
            *await self._other_keys(account_id),
            self._registration.section(request, mode, broker_id),
            _entry_section(request, account_id if entered is None else entered, error),
            await self._pending(request, mode, account_id),
            status=422 if error else 200,
        )

    async def _keys(self, request: web.Request, mode: Mode, account_id: str) -> list[Node]:
        """The account's keys at the exchange, and what can be done with the one in the vault."""
        try:
            found, in_use = await asyncio.gather(
                self._run(ListKeys(mode=mode, account_id=account_id)), self._service.exchange.own_key()
            )
        except (ExchangeUnavailable, KekbridgeError) as problem:
            return [h.p(class_="bad")[f"The keys at the exchange cannot be shown: {problem.message}"]]
        keys = [one for one in found if one["status"] != "REMOVED"]
        now = self._service.clock()
        used = None if in_use is None else in_use.orderly_key
        rows = [
            (
                short_key(one["orderlyKey"]),
                ", ".join(one["scopes"]),
                *_expiry(one["expiresAt"], now),
                _works_from(one),
                status(one["status"].lower() or "active"),
                _use(one, mode, used),
                h.a(href=f"/keys/remove?key={one['orderlyKey']}")["Remove…"]
                if _is_removable(one, mode, used)
                else h.span(),
            )
            for one in keys
        ]
        titles = ("Key", "Scopes", "Expires", "Days left", "Works from", "State", "Use", "")
        here = next((one for one in keys if one["isHere"] and one["status"] in ("", "ACTIVE")), None)
        parts: list[Node] = [table(titles, rows, empty="The account has no keys at the exchange.")]
        if len(found) > len(keys):
            parts.append(h.p(class_="dim")[f"Removed keys, not shown: {len(found) - len(keys)}."])
        if here is not None:
            parts.append(_restriction_controls(request, here))
        if mode is not Mode.PAPER and here is not None and used != here["orderlyKey"]:
            own = "a key that the exchange does not know any more" if used is None else "another key than the vault's"
            parts.append(h.p(class_="bad")[f"The bridge signs with {own}: restart it to use the one in the vault."])
        return parts

    async def _other_keys(self, account_id: str) -> list[Node]:
        """Keys of other accounts in the vault, such as those of practice."""

        def read(connection: sqlite3.Connection) -> list[exchange_keys.KnownKey]:
            known = exchange_keys.known_keys(connection)
            return [one for one in known if one.account_id.lower() != account_id.lower()]

        rows = [
            (h.code[one.account_id], short_key(one.orderly_key), one.mode, moment_element(one.added_at))
            for one in await self._service.database.read(read)
        ]
        if not rows:
            return []
        return [h.h2["Keys of other accounts in the vault"], table(("Account", "Key", "Mode", "Added"), rows, empty="")]

    async def _pending(self, request: web.Request, mode: Mode, account_id: str) -> Renderable:
        """The key that was generated and is not registered, or the button that generates one."""
        try:
            pending = await self._run(ShowPendingKey(mode=mode, account_id=account_id))
        except NotFound:
            return h.section[
                h.h2["Generate a key"],
                h.p(class_="dim")[
                    "To register it on the command line. Your browser wallet needs no key generated before."
                ],
                button(request, "/keys/generate", "Generate a key"),
            ]
        key = pending["orderlyKey"]
        discard = button(request, "/keys/discard", "Discard it", h.input(type="hidden", name="orderly_key", value=key))
        command = h.code[f"kekbridge keys register{mode_option(mode)}"]
        return h.section[
            h.h2["Generated key"],
            h.p["In the vault, but not registered yet: ", h.code[key]],
            h.p(class_="dim")["Register it with your browser wallet, or with ", command, "."],
            discard if pending["isPending"] else None,
        ]

    # ------------------------------------------------------------------------------------------------------- forms

    async def _add(self, request: web.Request) -> web.Response:
        form = await request.post()
        account_id, secret = str(form.get("account", "")).strip(), str(form.get("secret", "")).strip()
        mode, _, _ = await self._venue()
        try:
            if not secret:
                raise ConfigError("secret: found nothing, expected ed25519: and base58, as the exchange showed it once")
            added = await self._run(AddKey(mode=mode, account_id=account_id, secret=secret))
        except KekbridgeError as error:
            return await self._render(
                request, entered=account_id, error=error.message.replace(" (--force stores it anyway)", "")
            )
        return self._page(
            request,
            "Key stored",
            h.p[h.code[added["orderlyKey"]], f" is in the vault ({added['description']})."],
            _checks(added["checks"]),
            h.ul[(h.li[line] for line in await self._next_steps(mode, account_id))],
            h.p[h.a(href="/keys")["Back to the keys"]],
        )

    async def _generate(self, request: web.Request) -> web.Response:
        mode, _, _ = await self._venue()
        await self._run(GenerateKey(mode=mode))
        raise web.HTTPSeeOther("/keys")

    async def _discard(self, request: web.Request) -> web.Response:
        await self._run(DiscardPendingKey(orderly_key=str((await request.post()).get("orderly_key", ""))))
        raise web.HTTPSeeOther("/keys")

    async def _confirm_restriction(self, request: web.Request) -> web.Response:
        mode, _, _ = await self._venue()
        address = (await self._run(ShowOwnAddress(mode=mode)))["address"]
        if not address:
            raise ConfigError(
                "the exchange does not report this machine's address; use `kekbridge keys restrict-ip ADDRESS`"
            )
        text = (
            f"The exchange sees this machine as {address}. The key in the vault then works from this address only: a stolen copy is useless"
            " elsewhere. If the address changes, the exchange rejects every order until the rule is changed on its API-key page."
        )
        chosen = h.input(type="hidden", name="address", value=address)
        return self._page(
            request,
            "Restrict the key to this address?",
            h.p[text],
            h.div(class_="row")[
                button(request, "/keys/restrict", f"Yes, only from {address}", chosen),
                h.a(href="/keys", class_="button")["No"],
            ],
        )

    async def _restrict(self, request: web.Request) -> web.Response:
        address = str((await request.post()).get("address", "")).strip()
        mode, account_id, _ = await self._venue()
        addresses = () if address == "any" else (address,)
        await self._run(RestrictKey(mode=mode, account_id=account_id, addresses=addresses))
        raise web.HTTPSeeOther("/keys")

    async def _confirm_removal(self, request: web.Request) -> web.Response:
        key = request.query.get("key", "")
        is_used = await self._is_in_use(key)
        return self._page(
            request,
            "Remove the key?",
            h.p[h.code[key]],
            h.p["The exchange revokes it at once and for good, and the vault deletes its secret, if it has it."],
            h.p(class_="bad" if is_used else None)[_after_removal(is_used=is_used)],
            h.div(class_="row")[
                button(
                    request,
                    "/keys/remove",
                    "Yes, remove it",
                    h.input(type="hidden", name="orderly_key", value=key),
                    kind="bad",
                ),
                h.a(href="/keys", class_="button")["No"],
            ],
        )

    async def _remove(self, request: web.Request) -> web.Response:
        key = str((await request.post()).get("orderly_key", ""))
        mode, account_id, _ = await self._venue()
        is_used = await self._is_in_use(key)
        await self._run(RemoveKey(mode=mode, account_id=account_id, orderly_key=key))
        if is_used:
            await self._run(
                Halt(reason="its exchange key was removed: register another, restart, then resume", by="web page")
            )
        raise web.HTTPSeeOther("/keys")

    async def _is_in_use(self, key: str) -> bool:
        """Whether the bridge signs with it. Raises ExchangeUnavailable."""
        in_use = await self._service.exchange.own_key()
        return in_use is not None and in_use.orderly_key == key

    async def _next_steps(self, mode: Mode, account_id: str) -> list[str]:
        """What to do after a key of an account came into the vault."""
        _, own, _ = await self._venue()
        if mode is Mode.PAPER:
            return ["This was practice: a paper bridge goes on trading with the paper exchange's own key."]
        restrict = "Then restrict it to this machine's address: a stolen copy is useless elsewhere."
        if account_id.lower() == own.lower():
            return ["Restart the bridge: until then it signs with the key that it started with.", restrict]
        return [
            f"This bridge trades account {own}. To trade {account_id}, set exchange.account_id and use a data directory of its own."
        ]


def short_key(key: str) -> Renderable:
    """A public key with its middle left out; the whole key is its title."""
    name, _, digits = key.rpartition(":")
    return h.code(title=key)[f"{name}:{digits[:6]}…{digits[-4:]}"]


def _what_keys_are(mode: Mode) -> str:
    if mode is Mode.PAPER:
        return "This bridge trades with the paper exchange's own key. All else works as at the real exchange, for practice."
    return "An exchange key signs this bridge's orders. It can read and trade, but not withdraw; your wallet's key is never needed here."


def _expiry(expires_at: str | None, now: datetime) -> tuple[object, object]:
    if expires_at is None:
        return "not reported", None
    at = datetime.fromisoformat(expires_at)
    left = (at - now).days
    return moment_element(at), h.span(class_="bad" if left < _SOON_DAYS else None)[
        str(max(left, 0)) if at > now else "expired"
    ]


def _works_from(key: dict[str, Any]) -> str:
    if key["addressRule"] == "DISALLOW_ALL_IPS":
        return "nowhere"
    return ", ".join(key["addresses"]) or "any address"


def _use(key: dict[str, Any], mode: Mode, used: str | None) -> str:
    if key["orderlyKey"] == used:
        return "this bridge signs with it"
    if not key["isHere"]:
        return ""
    return "in the vault, for practice" if mode is Mode.PAPER else "in the vault, from the next start on"


def _is_removable(key: dict[str, Any], mode: Mode, used: str | None) -> bool:
    is_papers_own = mode is Mode.PAPER and key["orderlyKey"] == used
    return key["status"] in ("", "ACTIVE") and not is_papers_own


def _after_removal(*, is_used: bool) -> str:
    if is_used:
        return (
            "This bridge signs with it. Afterwards it can send no order, no cancel and no stop, and trading is halted. Open positions stay,"
            " and so do the stops that the exchange holds. To trade on, register another key, restart the bridge and resume."
        )
    return "This bridge does not sign with it and goes on trading. Whatever else uses it stops working."


def _restriction_controls(request: web.Request, key: dict[str, Any]) -> Renderable:
    parts: list[Node] = [h.a(href="/keys/restrict", class_="button")["Restrict to this machine's address…"]]
    if key["addressRule"] not in ("", "ALLOW_ALL_IPS"):
        anywhere = h.input(type="hidden", name="address", value="any")
        parts.append(button(request, "/keys/restrict", "Allow every address", anywhere))
    return h.div(class_="row")[parts]


def _checks(checks: list[dict[str, Any]]) -> Renderable:
    rows = [
        (
            one["name"],
            h.span(class_={"ok": "good", "broken": "bad"}.get(one["level"]))[one["level"]],
            one["text"],
            one["fix"],
        )
        for one in checks
    ]
    return table(("Check", "State", "Found", "What to do"), rows, empty="Not checked.")


def _entry_section(request: web.Request, account_id: str, error: str) -> Renderable:
    """The form for the secret of an existing key, which is never shown again."""
    return h.section[
        h.h2["Enter an existing key"],
        h.p(class_="dim")["Created on the exchange's API-key page. Its secret goes to the vault, and no page shows it."],
        h.form(method="post", action="/keys/add", class_="fields")[
            form_key(request),
            h.label[h.b["Account"], h.input(name="account", value=account_id, required=True, autocomplete="off", spellcheck="false"),
                    h.span["0x and 64 hex digits"]],
            h.label[
                h.b["Secret"],
                h.input(type="password", name="secret", required=True, autocomplete="new-password", aria_invalid="true" if error else None,
                        aria_describedby="key-error" if error else None),
                h.span["ed25519: and base58"],
                h.span(id="key-error", class_="bad", role="alert")[error] if error else None,
            ],
            h.div[h.button["Store the key"]],
        ],
    ]  # fmt: skip
