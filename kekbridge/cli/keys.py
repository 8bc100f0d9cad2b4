"""`kekbridge keys`: manage the Orderly key that signs orders: add, generate, list, check, restrict, remove.

The secret goes from the prompt to the vault and is never printed, except by `generate --print-secret`. Registration: keys_register.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge.cli.context import now, open_database
from kekbridge.cli.key_session import Account, Venue, checks_as_data, key_session, print_checks, read_secret
from kekbridge.cli.keys_register import register
from kekbridge.cli.options import ConfigFile, DataDir, Json, Yes, examples

if TYPE_CHECKING:
    from kekbridge.cli.key_session import KeySession
    from kekbridge.exchange.base import KeyInfo
    from kekbridge.exchange.orderly.signing import Signer

app = typer.Typer(
    help="Manage the exchange key: add, generate, register, check, remove.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples(
        "kekbridge keys add --mode live --account 0x1486…    hidden prompt",
        "kekbridge keys check",
        "kekbridge keys generate --mode live",
        "kekbridge keys register --mode live --wallet 0x1a64…",
    ),
)
app.command(
    epilog=examples(
        "kekbridge keys register --mode live                   asks how to sign",
        "kekbridge keys register --mode live --wallet 0x1a64…  sign in your wallet",
        "kekbridge keys register --mode testnet --sign         sign here",
    )
)(register)


@app.command(
    epilog=examples(
        "kekbridge keys add --mode live --account 0x1486…", "pass show orderly | kekbridge keys add --mode live --json"
    )
)
def add(
    ctx: typer.Context,
    mode: Venue = None,
    account: Account = None,
    force: Annotated[bool, typer.Option("--force", help="Store it even if the exchange does not accept it.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Store the secret of an existing key in the vault.

    The secret is read from a hidden prompt or stdin: base58 of 32 or 64 bytes, with or without `ed25519:`. If the exchange can be
    reached, scopes, expiry and IP restriction are checked.
    """
    from kekbridge.cli import render
    from kekbridge.errors import ConfigError
    from kekbridge.exchange.orderly.signing import Signer
    from kekbridge.vault import orderly_secret

    session = key_session(ctx, data_dir, config, mode, account)
    secret = read_secret("Orderly secret (ed25519:…)")
    signer = Signer(session.account_id, secret)
    checks = checks_as_data(session.checks(signer))
    broken = [check for check in checks if check["level"] == "broken" and check["name"] != "exchange"]
    if broken and not force:
        raise ConfigError(
            f"{signer.orderly_key} was not stored: {broken[0]['text']}; {broken[0]['fix']} (--force stores it anyway)"
        )
    vault = session.open_vault()
    vault.set(orderly_secret(session.account_id), secret.encode())
    session.record_key(signer.orderly_key, session.account_id)
    data = _key_data(session, signer) | {"vault": vault.name, "checks": checks}
    if as_json:
        render.as_json(data)
        return
    render.pairs(
        [("account", session.account_id), ("public key", signer.orderly_key), ("stored in", vault.description)]
    )
    render.line("")
    print_checks(checks)
    _print_settings_hint(session)


@app.command(epilog=examples("kekbridge keys generate --mode live", "kekbridge keys generate --mode testnet --json"))
def generate(
    ctx: typer.Context,
    mode: Venue = None,
    print_secret: Annotated[
        bool,
        typer.Option(
            "--print-secret", help="Print the secret instead of storing it, for a vault that kekbridge cannot write."
        ),
    ] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Generate a new key on this machine. It is not valid until `keys register` adds it to your account.

    The account's current key stays in use until then.
    """
    from kekbridge.cli import exchange_keys, render
    from kekbridge.exchange.orderly.key_management import NO_ACCOUNT
    from kekbridge.exchange.orderly.signing import Signer

    session = key_session(ctx, data_dir, config, mode, None, needs_account=False)
    secret = exchange_keys.new_secret()
    data: dict[str, Any] = {"orderlyKey": Signer(NO_ACCOUNT, secret).orderly_key}
    if print_secret:
        data["secret"] = secret
    else:
        vault = session.open_vault()
        vault.set(exchange_keys.PENDING, secret.encode())
        data["vault"] = vault.name
    if as_json:
        render.as_json(data)
        return
    render.pairs([("public key", data["orderlyKey"]), *([("secret", secret)] if print_secret else [])])
    render.note(f"Add it to your account:  kekbridge keys register --mode {session.mode.value}")


@app.command("list", epilog=examples("kekbridge keys list", "kekbridge keys list --json"))
def list_keys(
    ctx: typer.Context,
    mode: Venue = None,
    account: Account = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """List the account's keys at the exchange. The one in this vault is marked."""
    from kekbridge.cli import render

    session = key_session(ctx, data_dir, config, mode, account)
    signer = session.signer(session.open_vault())

    async def fetch_keys() -> tuple[KeyInfo, ...]:
        async with session.key_management(signer) as management:
            return await management.keys()

    keys = asyncio.run(fetch_keys())
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
                ", ".join(key.ip_list) or ("none" if key.ip_rule == "DISALLOW_ALL_IPS" else "any"),
                key.status.lower(),
                "this vault" if key.orderly_key == signer.orderly_key else "",
            )
            for key in keys
        ],
    )


@app.command(epilog=examples("kekbridge keys check", "kekbridge keys check --mode live --json"))
def check(
    ctx: typer.Context,
    mode: Venue = None,
    account: Account = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Check the key in the vault with the exchange.

    Checks scopes, expiry, IP restriction, wallet and broker. Exit code 1 if orders would fail.
    """
    from kekbridge.cli import render

    session = key_session(ctx, data_dir, config, mode, account)
    checks = checks_as_data(session.checks(session.signer(session.open_vault())))
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
    ctx: typer.Context,
    addresses: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ADDRESS]...", help="IP addresses, or ranges such as 203.0.113.1-203.0.113.9."),
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="This machine's address, as the exchange sees it.")] = False,
    anywhere: Annotated[bool, typer.Option("--any", help="Remove the restriction.")] = False,
    mode: Venue = None,
    account: Account = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Restrict the key to certain IP addresses. A stolen copy is then useless elsewhere."""
    from kekbridge.cli import render
    from kekbridge.errors import ConfigError

    if (bool(addresses) + here + anywhere) != 1:
        raise ConfigError("give addresses, or --here, or --any: exactly one of the three")
    allowed = tuple(_check_address(text) for text in addresses or ())
    session = key_session(ctx, data_dir, config, mode, account)
    signer = session.signer(session.open_vault())

    async def apply() -> tuple[str, ...]:
        async with session.key_management(signer) as management:
            if anywhere:
                await management.allow_everywhere(signer.orderly_key)
                return ()
            addresses_allowed = (_check_address(await management.own_address()),) if here else allowed
            await management.restrict(signer.orderly_key, addresses_allowed)
            return addresses_allowed

    restricted_to = asyncio.run(apply())
    if as_json:
        render.as_json(_key_data(session, signer) | {"addresses": list(restricted_to)})
    else:
        render.line(f"{signer.orderly_key} works from {', '.join(restricted_to) or 'any address'}")


@app.command(epilog=examples("kekbridge keys remove", "kekbridge keys remove ed25519:9C6h… --yes"))
def remove(
    ctx: typer.Context,
    orderly_key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="A key of the account. Default: the one in the vault.")
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Remove it only from the vault; it stays valid at the exchange.")
    ] = False,
    yes: Yes = False,
    mode: Venue = None,
    account: Account = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Revoke a key at the exchange and remove it from the vault. A running bridge can no longer trade with it."""
    from kekbridge.cli import exchange_keys, render
    from kekbridge.vault import orderly_secret

    session = key_session(ctx, data_dir, config, mode, account)
    vault = session.open_vault()
    signer = session.signer(vault)
    target = orderly_key or signer.orderly_key
    is_own = target == signer.orderly_key
    if not yes:
        where = "from this vault only" if local else "at the exchange, permanently"
        typer.confirm(f"Remove {target} {where}?", abort=True, err=True)

    async def revoke() -> None:
        async with session.key_management(signer) as management:
            await management.remove(target)

    if not local:
        asyncio.run(revoke())
    if is_own:
        vault.delete(orderly_secret(session.account_id))
        with open_database(session.context, create=True) as database, database.transaction() as connection:
            exchange_keys.remove_key(connection, session.account_id, now=now())
    if as_json:
        render.as_json({"orderlyKey": target, "removedAtExchange": not local, "removedHere": is_own})
    else:
        render.line(f"{target} removed{' from the vault; the exchange still accepts it' if local else ''}")


def _key_data(session: KeySession, signer: Signer) -> dict[str, Any]:
    return {"mode": session.mode, "accountId": session.account_id, "orderlyKey": signer.orderly_key}


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


def _print_settings_hint(session: KeySession) -> None:
    from kekbridge.cli import render

    if session.context.settings.exchange.account_id != session.account_id:
        render.note(
            f'To trade with it, set  mode = "{session.mode.value}"  and  [exchange] account_id = "{session.account_id}"'
        )


def _check_address(text: str) -> str:
    """Normalise an IP address or a range of two. Raises ConfigError."""
    import ipaddress

    from kekbridge.errors import ConfigError

    parts = [part.strip() for part in text.split("-")]
    try:
        addresses = [ipaddress.ip_address(part) for part in parts]
    except ValueError:
        addresses = []
    if len(addresses) not in (1, 2):
        raise ConfigError(
            f"{text[:60]!r} is not an IP address; write 203.0.113.7, or a range such as 203.0.113.1-203.0.113.9"
        )
    return "-".join(str(address) for address in addresses)
