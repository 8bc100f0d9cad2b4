"""Register a key with the wallet of the browser: the part of a page, and what its script calls.

The script (app.js) talks to the wallet; the messages are made, and the signatures checked and sent, by the operations behind
`kekbridge keys register`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final

import htpy as h
from aiohttp import web
from htpy import Renderable

from kekbridge.admin.auth import SESSION
from kekbridge.admin.elements import form_key
from kekbridge.admin.wallet_attempts import WalletAttempt, WalletAttempts
from kekbridge.errors import ConfigError
from kekbridge.model import Mode
from kekbridge.ops.key_registration import DiscardPendingKey, PrepareKey, RegisterKey, SignedMessage
from kekbridge.ops.operation import Operation
from kekbridge.wallet import typed_data
from kekbridge.wallet.chains import CHAINS
from kekbridge.wallet.typed_data import REGISTRATION

#: Begins the paths that the script sends the session's form to; their answers are JSON.
WALLET_PATH: Final = "/keys/wallet/"
_DAYS: Final = ("365", "180", "90", "30", "7")


class WalletRegistration:
    """Handlers of a registration, and its part of the page."""

    def __init__(
        self,
        run: Callable[[Operation], Awaitable[Any]],
        venue: Callable[[], Awaitable[tuple[Mode, str, str]]],
        next_steps: Callable[[Mode, str], Awaitable[list[str]]],
        *,
        clock: Callable[[], datetime],
        link: str | None,
        on_registered: Callable[[dict[str, Any]], object] = lambda done: None,
    ) -> None:
        """`run` runs operations; `venue` returns mode, the bridge's account (empty: none) and broker; `next_steps` says what to do with a
        key of that mode and account; `link`: a page that shows the keys; `on_registered` gets the result of `keys-register`.
        """
        self._run = run
        self._venue = venue
        self._next_steps = next_steps
        self._clock = clock
        self._link = link
        self._on_registered = on_registered
        self._attempts = WalletAttempts()

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_post(f"{WALLET_PATH}prepare", self._prepare)
        router.add_post(f"{WALLET_PATH}register", self._register)
        router.add_post(f"{WALLET_PATH}cancel", self._cancel)

    def section(self, request: web.Request, mode: Mode, broker_id: str) -> Renderable:
        """Where the script offers the browser's wallets; without script it names the command."""
        chain, option = CHAINS[mode.value].name, mode_option(mode)
        commands = h.code[f"kekbridge keys generate{option}"], ", then ", h.code[f"kekbridge keys register{option}"]
        days = h.select(name="days")[(h.option(value=each)[f"{each} days"] for each in _DAYS)]
        return h.section(data_wallet=True)[
            h.h2["Register with your browser wallet"],
            h.p[
                f"This bridge generates a key, your wallet signs that it may trade in your name at {broker_id}, and the exchange registers"
                f" it. The wallet signs on {chain}; nothing is sent to a chain, no gas is paid, and the wallet's private key stays in the"
                " wallet."
            ],
            h.noscript[h.p["This needs JavaScript. Without it: ", commands, "."]],
            h.form(class_="row", hidden=True)[
                form_key(request), h.label["Valid for", days], h.span(class_="row", data_choices=True)
            ],
            h.p(role="status", data_say=True),
            h.div(data_messages=True),
        ]

    async def _prepare(self, request: web.Request) -> web.Response:
        """`wallet` and `days`: what the wallet has to sign, as text for it and as `html` for the page, under a token for this session."""
        session, form = _session(request), await request.post()
        mode, own_account, broker_id = await self._venue()
        days = str(form.get("days", "365"))
        if days not in _DAYS:
            raise ConfigError(f"days: found {days[:20]!r}, expected one of {', '.join(_DAYS)}")
        operation = PrepareKey(
            mode=mode, wallet=str(form.get("wallet", "")), broker_id=broker_id, days=int(days), generate=True
        )
        prepared = await self._run(operation)
        now = self._clock()
        token, attempt = self._attempts.begin(prepared, session=session, broker_id=broker_id, now=now)
        chain = CHAINS[mode.value]
        return web.json_response(
            {
                "attempt": token,
                "wallet": attempt.wallet,
                "accountId": prepared["accountId"],
                "orderlyKey": attempt.orderly_key,
                "chain": chain.to_add(),
                "validForS": int((attempt.ends_at - now).total_seconds()),
                "summary": _summary(attempt) + _warning(mode, own_account, prepared["accountId"]),
                "html": str(h.fragment[(_shown_message(one, broker_id, chain.name) for one in attempt.messages)]),
                "messages": [
                    {"name": one["primaryType"], "typed": json.dumps(one, separators=(",", ":"))}
                    for one in attempt.messages
                ],
            }
        )

    async def _register(self, request: web.Request) -> web.Response:
        """`attempt` and its `signature`s in order: register the key; `lines`, and `html`, say what happened and what to do next."""
        form = await request.post()
        attempt = self._attempts.take(str(form.get("attempt", "")), session=_session(request), now=self._clock())
        signatures = [str(one) for one in form.getall("signature", [])]
        if len(signatures) != len(attempt.messages):
            raise ConfigError(
                f"signatures: found {len(signatures)}, expected {len(attempt.messages)}; nothing was sent"
            )
        mode, _, _ = await self._venue()
        signed = tuple(
            SignedMessage(message=message["message"], signature=signature)
            for message, signature in zip(attempt.messages, signatures, strict=True)
        )
        operation = RegisterKey(mode=mode, wallet=attempt.wallet, broker_id=attempt.broker_id, signed=signed)
        done: dict[str, Any] = await self._run(operation)
        until = f" until {done['expiresAt'][:10]}" if done["expiresAt"] else ""
        lines = [
            f"{done['orderlyKey']} is registered for account {done['accountId']} with the scopes {', '.join(done['scopes'])}{until}.",
            *(_check_line(one) for one in done["checks"] if one["level"] != "ok" and one["name"] != "addresses"),
            *await self._next_steps(mode, done["accountId"]),
        ]
        self._on_registered(done)
        link = h.p[h.a(href=self._link)["Show the keys"]] if self._link else None
        html = str(h.fragment[h.ul[(h.li[line] for line in lines)], link])
        return web.json_response(done | {"lines": lines, "html": html})

    async def _cancel(self, request: web.Request) -> web.Response:
        """`attempt`: give it up; the key that was generated for it is deleted."""
        token = str((await request.post()).get("attempt", ""))
        try:
            attempt = self._attempts.take(token, session=_session(request), now=self._clock())
        except ConfigError:
            return web.json_response({"discarded": False})
        if not attempt.is_new:
            return web.json_response({"discarded": False})
        return web.json_response(await self._run(DiscardPendingKey(orderly_key=attempt.orderly_key)))


def mode_option(mode: Mode) -> str:
    """The option of `kekbridge keys` for a mode."""
    return "" if mode is Mode.PAPER else f" --mode {mode.value}"


def _session(request: web.Request) -> str:
    if SESSION not in request:
        raise ConfigError("a wallet signs in a browser: sign in to the web pages, or use `kekbridge keys register`")
    form_key_of_session: str = request[SESSION].form_key
    return form_key_of_session


def _check_line(check: dict[str, str]) -> str:
    return f"{check['name']}: {check['text']}" + (f"; {check['fix']}" if check["fix"] else "")


def _summary(attempt: WalletAttempt) -> str:
    """What the wallet will be asked for."""
    match len(attempt.messages):
        case 0:
            return "The exchange has this key already: the answer to your last signature was lost."
        case 1:
            return f"{attempt.wallet} signs one message."
        case count:
            return f"{attempt.wallet} signs {count} messages, one after the other."


def _warning(mode: Mode, own_account: str, account_id: str | None) -> str:
    """That the wallet's account is not the bridge's; on paper it never is, and that is said elsewhere."""
    if mode is Mode.PAPER or not own_account or own_account.lower() == (account_id or "").lower():
        return ""
    return f" (Not the account that this bridge trades, {own_account}.)"


def _shown_message(typed: dict[str, Any], broker_id: str, chain: str) -> Renderable:
    """What a message does in a sentence, every field with its meaning, and the text that the wallet gets."""
    scopes = str(typed["message"].get("scope", "")).replace(",", " and ")
    text = (
        f"Opens an account for this wallet at {broker_id}. It moves no funds."
        if typed["primaryType"] == REGISTRATION
        else f"Lets this bridge's key {scopes.replace('trading', 'trade')} in this wallet's account at {broker_id}. It cannot withdraw."
    )
    fields = [(h.dt[name], h.dd[value, h.small[meaning]]) for name, value, meaning in typed_data.describe(typed)]
    return h.section[
        h.h3[typed["primaryType"]],
        h.p[f"{text} Signed for {chain}."],
        h.dl[fields],
        h.details[h.summary["As the wallet gets it"], h.pre[json.dumps(typed, indent=1)]],
    ]
