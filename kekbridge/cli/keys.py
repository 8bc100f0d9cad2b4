"""`kekbridge keys`: the Orderly key that orders are signed with: entered, made, looked at, restricted, removed.

The secret goes from the prompt to the vault and is never printed, except by `generate --print-secret`. Registering is keys_register.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge.cli.context import now, opened
from kekbridge.cli.key_session import Account, Venue, checks_as_data, key_session, print_checks, read_secret
from kekbridge.cli.keys_register import register
from kekbridge.cli.options import ConfigFile, DataDir, Json, Yes, examples

if TYPE_CHECKING:
    from kekbridge.cli.key_session import KeySession
    from kekbridge.exchange.base import KeyInfo
    from kekbridge.exchange.orderly.signing import Signer

app = typer.Typer(
    help="The exchange key: add, make, register, check, restrict, remove.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples(
        "kekbridge keys add --mode live --account 0x1486…       asks for the secret, hidden",
        "kekbridge keys check",
        "kekbridge keys generate --mode live && kekbridge keys register --mode live --wallet 0x1a64…",
    ),
)
app.command(
    epilog=examples(
        "kekbridge keys register --mode live                     asks who signs",
        "kekbridge keys register --mode live --wallet 0x1a64…    prints what to sign, takes the signature back",
        "kekbridge keys register --mode testnet --sign           asks for the wallet's key, hidden, and keeps it nowhere",
    )
)(register)


@app.command(
    epilog=examples(
        "kekbridge keys add --mode live --account 0x1486…", "pass show orderly | kekbridge keys add --mode live --json"
    )
)
def add(
    context: typer.Context,
    mode: Venue = None,
    account: Account = None,
    force: Annotated[bool, typer.Option("--force", help="Keep it even if the exchange does not accept it.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Enter the secret of a key that exists, from a hidden prompt or stdin, and keep it in the vault.

    It is base58 of 32 or 64 bytes, with or without `ed25519:`. Scopes, expiry and address rule are checked with the exchange when it
    can be reached.
    """
    from kekbridge.cli import render
    from kekbridge.errors import ConfigError
    from kekbridge.exchange.orderly.signing import Signer
    from kekbridge.vault import orderly_secret

    place = key_session(context, data_dir, config, mode, account)
    secret = read_secret("Orderly secret (ed25519:…)")
    signer = Signer(place.account_id, secret)
    checks = checks_as_data(place.checks(signer))
    broken = [check for check in checks if check["level"] == "broken" and check["name"] != "exchange"]
    if broken and not force:
        raise ConfigError(
            f"{signer.orderly_key} was not kept: {broken[0]['text']}; {broken[0]['fix']} (--force keeps it all the same)"
        )
    vault = place.vault
    vault.set(orderly_secret(place.account_id), secret.encode())
    place.remember(signer.orderly_key, place.account_id)
    shown = _key_data(place, signer) | {"vault": vault.name, "checks": checks}
    if as_json:
        render.as_json(shown)
        return
    render.pairs([("account", place.account_id), ("public key", signer.orderly_key), ("kept in", vault.description)])
    render.line("")
    print_checks(checks)
    _tell_setting(place)


@app.command(epilog=examples("kekbridge keys generate --mode live", "kekbridge keys generate --mode testnet --json"))
def generate(
    context: typer.Context,
    mode: Venue = None,
    print_secret: Annotated[
        bool,
        typer.Option(
            "--print-secret", help="Print the secret instead of keeping it, for a vault that kekbridge cannot write."
        ),
    ] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Make a new key on this machine. It opens nothing before `keys register` adds it to your account.

    The account's present key stays in use until then.
    """
    from kekbridge.cli import exchange_keys, render
    from kekbridge.exchange.orderly.key_management import NO_ACCOUNT
    from kekbridge.exchange.orderly.signing import Signer

    place = key_session(context, data_dir, config, mode, None, needs_account=False)
    secret = exchange_keys.new_secret()
    shown: dict[str, Any] = {"orderlyKey": Signer(NO_ACCOUNT, secret).orderly_key}
    if print_secret:
        shown["secret"] = secret
    else:
        vault = place.vault
        vault.set(exchange_keys.PENDING, secret.encode())
        shown["vault"] = vault.name
    if as_json:
        render.as_json(shown)
        return
    render.pairs([("public key", shown["orderlyKey"]), *([("secret", secret)] if print_secret else [])])
    render.note(f"Add it to your account:  kekbridge keys register --mode {place.mode.value}")


@app.command("list", epilog=examples("kekbridge keys list", "kekbridge keys list --json"))
def list_keys(
    context: typer.Context,
    mode: Venue = None,
    account: Account = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """List every key of the account as the exchange has it; the one in this vault is marked."""
    from kekbridge.cli import render

    place = key_session(context, data_dir, config, mode, account)
    signer = place.signer(place.vault)

    async def ask() -> tuple[KeyInfo, ...]:
        async with place.desk(signer) as desk:
            return await desk.keys()

    keys = asyncio.run(ask())
    if as_json:
        render.as_json([_as_data(key, signer) for key in keys])
        return
    columns = [
        render.Column("KEY"),
        render.Column("SCOPES"),
        render.Column("EXPIRES"),
        render.Column("ADDRESSES", shrinks=True),
        render.Column("STATE", is_status=True),
        render.Column("HERE"),
    ]
    render.table(
        columns,
        [
            (
                key.orderly_key,
                ",".join(sorted(key.scopes)),
                f"{key.expires_at:%Y-%m-%d}" if key.expires_at else None,
                ", ".join(key.ip_list) or ("none" if key.ip_rule == "DISALLOW_ALL_IPS" else "every"),
                key.status.lower(),
                "this vault" if key.orderly_key == signer.orderly_key else "",
            )
            for key in keys
        ],
    )


@app.command(epilog=examples("kekbridge keys check", "kekbridge keys check --mode live --json"))
def check(
    context: typer.Context,
    mode: Venue = None,
    account: Account = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Ask the exchange about the key in the vault: scopes, expiry, address rule, wallet and broker. Exit code 1 if orders would fail."""
    from kekbridge.cli import render

    place = key_session(context, data_dir, config, mode, account)
    checks = checks_as_data(place.checks(place.signer(place.vault)))
    if as_json:
        render.as_json(checks)
    else:
        print_checks(checks)
    return int(any(one["level"] == "broken" for one in checks))


@app.command(
    "restrict-ip",
    epilog=examples(
        "kekbridge keys restrict-ip --here",
        "kekbridge keys restrict-ip 203.0.113.7",
        "kekbridge keys restrict-ip --any",
    ),
)
def restrict_ip(
    context: typer.Context,
    addresses: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ADDRESS]...", help="Addresses, or ranges such as 203.0.113.1-203.0.113.9."),
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="The address that the exchange sees this machine at.")] = False,
    anywhere: Annotated[bool, typer.Option("--any", help="Take the restriction away.")] = False,
    mode: Venue = None,
    account: Account = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Let the key be used from certain addresses only: a stolen copy is then worthless elsewhere."""
    from kekbridge.cli import render
    from kekbridge.errors import ConfigError

    if (bool(addresses) + here + anywhere) != 1:
        raise ConfigError("name addresses, or --here, or --any: exactly one of the three")
    wanted = tuple(_check_address(text) for text in addresses or ())
    place = key_session(context, data_dir, config, mode, account)
    signer = place.signer(place.vault)

    async def tell() -> tuple[str, ...]:
        async with place.desk(signer) as desk:
            if anywhere:
                await desk.allow_everywhere(signer.orderly_key)
                return ()
            chosen = (_check_address(await desk.own_address()),) if here else wanted
            await desk.restrict(signer.orderly_key, chosen)
            return chosen

    set_to = asyncio.run(tell())
    if as_json:
        render.as_json(_key_data(place, signer) | {"addresses": list(set_to)})
    else:
        render.line(f"{signer.orderly_key} works from {', '.join(set_to) or 'every address'}")


@app.command(epilog=examples("kekbridge keys remove", "kekbridge keys remove ed25519:9C6h… --yes"))
def remove(
    context: typer.Context,
    orderly_key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="Another key of the account. Default: the one in the vault.")
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Remove it from the vault only; at the exchange it stays valid.")
    ] = False,
    yes: Yes = False,
    mode: Venue = None,
    account: Account = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Make a key worthless at the exchange, then forget it here. A running bridge cannot trade with it any more."""
    from kekbridge.cli import exchange_keys, render
    from kekbridge.vault import orderly_secret

    place = key_session(context, data_dir, config, mode, account)
    vault = place.vault
    signer = place.signer(vault)
    target = orderly_key or signer.orderly_key
    is_own = target == signer.orderly_key
    if not yes:
        where = "from this vault only" if local else "at the exchange, for good"
        typer.confirm(f"Remove {target} {where}?", abort=True, err=True)

    async def tell() -> None:
        async with place.desk(signer) as desk:
            await desk.remove(target)

    if not local:
        asyncio.run(tell())
    if is_own:
        vault.delete(orderly_secret(place.account_id))
        with opened(place.workspace, create=True) as database, database.transaction() as connection:
            exchange_keys.remove_key(connection, place.account_id, now=now())
    if as_json:
        render.as_json({"orderlyKey": target, "removedAtExchange": not local, "removedHere": is_own})
    else:
        render.line(f"{target} is removed{'' if not local else ' from the vault; the exchange still accepts it'}")


def _key_data(place: KeySession, signer: Signer) -> dict[str, Any]:
    return {"mode": place.mode, "accountId": place.account_id, "orderlyKey": signer.orderly_key}


def _as_data(key: KeyInfo, signer: Signer) -> dict[str, Any]:
    return {
        "orderlyKey": key.orderly_key,
        "scopes": sorted(key.scopes),
        "expiresAt": key.expires_at,
        "status": key.status,
        "tag": key.tag,
        "addressRule": key.ip_rule,
        "addresses": list(key.ip_list),
        "isHere": key.orderly_key == signer.orderly_key,
    }


def _tell_setting(place: KeySession) -> None:
    from kekbridge.cli import render

    if place.workspace.settings.exchange.account_id != place.account_id:
        render.note(
            f'To trade with it, set  mode = "{place.mode.value}"  and  [exchange] account_id = "{place.account_id}"'
        )


def _check_address(text: str) -> str:
    """An address, or a range of two. Raises ConfigError."""
    import ipaddress

    from kekbridge.errors import ConfigError

    parts = [part.strip() for part in text.split("-")]
    try:
        found = [ipaddress.ip_address(part) for part in parts]
    except ValueError:
        found = []
    if len(found) not in (1, 2):
        raise ConfigError(f"{text[:60]!r} is no address; write 203.0.113.7, or a range such as 203.0.113.1-203.0.113.9")
    return "-".join(str(address) for address in found)
