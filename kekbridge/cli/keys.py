"""`kekbridge keys`: manage the Orderly key that signs orders: add, generate, list, check, restrict, remove.

The secret goes from the prompt to the vault and is never printed, except by `generate --print-secret`. Registration: keys_register.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge.cli.control import run_operation
from kekbridge.cli.groups import CommandGroup
from kekbridge.cli.key_session import Account, Venue, key_session, print_checks, read_secret
from kekbridge.cli.keys_register import register
from kekbridge.cli.options import ConfigFile, DataDir, Json, Yes, examples

if TYPE_CHECKING:
    from kekbridge.cli.key_session import KeySession

app = typer.Typer(
    cls=CommandGroup,
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
        "kekbridge keys register --mode live --browser    your browser's wallet signs",
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
    from kekbridge.ops.vault_operations import AddKey

    session = key_session(ctx, data_dir, config, mode, account)
    secret = read_secret("Orderly secret (ed25519:…)")
    operation = AddKey(mode=session.mode, account_id=session.account_id, secret=secret, force=force)
    added = run_operation(session.context, operation)
    description = added.pop("description")
    data = _key_data(session, added.pop("orderlyKey")) | added
    if as_json:
        render.as_json(data)
        return
    render.pairs([("account", session.account_id), ("public key", data["orderlyKey"]), ("stored in", description)])
    render.line("")
    print_checks(data["checks"])
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
    from kekbridge.cli import render
    from kekbridge.ops import exchange_keys
    from kekbridge.ops.vault_operations import GenerateKey

    session = key_session(ctx, data_dir, config, mode, None, needs_account=False)
    data: dict[str, Any]
    if print_secret:
        secret = exchange_keys.new_secret()
        data = {"orderlyKey": exchange_keys.public_key(secret), "secret": secret}
    else:
        data = run_operation(session.context, GenerateKey(mode=session.mode))
    if as_json:
        render.as_json(data)
        return
    render.pairs([("public key", data["orderlyKey"]), *([("secret", data["secret"])] if print_secret else [])])
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
    from kekbridge.ops.vault_operations import ListKeys

    session = key_session(ctx, data_dir, config, mode, account)
    keys = run_operation(session.context, ListKeys(mode=session.mode, account_id=session.account_id))
    if as_json:
        render.as_json(keys)
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
                key["orderlyKey"],
                ",".join(key["scopes"]),
                key["expiresAt"][:10] if key["expiresAt"] else None,
                ", ".join(key["addresses"]) or ("none" if key["addressRule"] == "DISALLOW_ALL_IPS" else "any"),
                key["status"].lower(),
                "this vault" if key["isHere"] else "",
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
    from kekbridge.ops.vault_operations import CheckKey

    session = key_session(ctx, data_dir, config, mode, account)
    checks = run_operation(session.context, CheckKey(mode=session.mode, account_id=session.account_id))
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
    from kekbridge.ops.vault_operations import RestrictKey

    if (bool(addresses) + here + anywhere) != 1:
        raise ConfigError("give addresses, or --here, or --any: exactly one of the three")
    session = key_session(ctx, data_dir, config, mode, account)
    operation = RestrictKey(
        mode=session.mode, account_id=session.account_id, addresses=tuple(addresses or ()), here=here
    )
    restricted = run_operation(session.context, operation)
    if as_json:
        render.as_json(_key_data(session, restricted["orderlyKey"]) | {"addresses": restricted["addresses"]})
    else:
        render.line(f"{restricted['orderlyKey']} works from {', '.join(restricted['addresses']) or 'any address'}")


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
    from kekbridge.cli import render
    from kekbridge.ops.vault_operations import RemoveKey, ShowKey

    session = key_session(ctx, data_dir, config, mode, account)
    target = orderly_key
    if target is None:
        show = ShowKey(mode=session.mode, account_id=session.account_id)
        target = run_operation(session.context, show)["orderlyKey"]
    if not yes:
        where = "from this vault only" if local else "at the exchange, permanently"
        typer.confirm(f"Remove {target} {where}?", abort=True, err=True)
    remove_key = RemoveKey(mode=session.mode, account_id=session.account_id, orderly_key=target, local=local)
    removed = run_operation(session.context, remove_key)
    if as_json:
        render.as_json(removed)
    else:
        render.line(f"{target} removed{' from the vault; the exchange still accepts it' if local else ''}")


def _key_data(session: KeySession, orderly_key: str) -> dict[str, Any]:
    return {"mode": session.mode, "accountId": session.account_id, "orderlyKey": orderly_key}


def _print_settings_hint(session: KeySession) -> None:
    from kekbridge.cli import render

    if session.configured_account_id != session.account_id:
        render.note(
            f'To trade with it, set  mode = "{session.mode.value}"  and  [exchange] account_id = "{session.account_id}"'
        )
