"""`kekbridge replica`: how far the copy of the database at another place has come, its configuration, and the keys of the place."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge import formatting
from kekbridge.cli.context import now, open_vault, resolve_context, settings_in_force
from kekbridge.cli.groups import CommandGroup
from kekbridge.cli.options import ConfigFile, DataDir, GlobalOptions, Json, examples
from kekbridge.cli.standby import prepare, seal

if TYPE_CHECKING:
    from pathlib import Path

    from kekbridge.cli.context import CliContext
    from kekbridge.config import ReplicaSettings
    from kekbridge.ops.standby_record import StandbyRecord

app = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode=None,
    add_completion=False,
)


@app.callback(
    invoke_without_command=True,
    epilog=examples(
        "kekbridge replica                       how far it has come",
        "kekbridge replica --print               Litestream's configuration",
        "kekbridge replica status --json | jq .lagS",
    ),
)
def replica(
    ctx: typer.Context,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the configuration with which the bridge runs Litestream.")
    ] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int | None:
    """Show how far the copy of the database on another machine has come.

    The bridge starts Litestream for it when `replica.url` is set (`kekbridge docs standby`). Without a subcommand: `status`.
    """
    if ctx.invoked_subcommand is not None:
        given = ctx.obj if isinstance(ctx.obj, GlobalOptions) else GlobalOptions()
        ctx.obj = GlobalOptions(data_dir=data_dir or given.data_dir, config=config or given.config)
        return None
    if not only_print:
        return _show_status(ctx, data_dir, config, as_json=as_json)
    from kekbridge.ops import litestream
    from kekbridge.ops.replication import SOCKET_NAME
    from kekbridge.store.connections import FILE_NAME

    context = resolve_context(ctx, data_dir, config)
    socket = context.data_dir / SOCKET_NAME
    sys.stdout.write(litestream.configuration(_settings(context), context.data_dir / FILE_NAME, socket=socket))
    return None


@app.command(epilog=examples("kekbridge replica status", "kekbridge replica status --json"))
def status(ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> int:
    """Show up to when the replica is complete, and its lag in seconds.

    The running bridge asks Litestream every second to copy everything; once that is done, the replica is complete up to the moment of the
    question. Without a bridge, or on a standby, the newest change at the target is looked up there. Exit code 1 if it is more than
    `replica.warn_after_s` old, or if there is none.
    """
    return _show_status(ctx, data_dir, config, as_json=as_json)


def _show_status(ctx: typer.Context, data_dir: Path | None, config: Path | None, *, as_json: bool) -> int:
    from kekbridge.cli import render
    from kekbridge.cli.as_service import exit_as_service
    from kekbridge.cli.control import bridge_status

    context = resolve_context(ctx, data_dir, config)
    running = bridge_status(context)
    if running is None:
        exit_as_service(ctx, data_dir)  # also a standby's
    settings = _settings(context)
    found = _at_target(context, settings) if running is None else running.get("replica")
    if found is None:
        from kekbridge.errors import ConfigError

        raise ConfigError("the running bridge replicates nothing: replica.url was set after its start; restart it")
    is_current = found["upTo"] is not None and found["lagS"] <= settings.warn_after_s
    if as_json:
        render.as_json(found)
        return 0 if is_current else 1
    up_to = None if found["upTo"] is None else datetime.fromisoformat(found["upTo"])
    shown = (
        "nothing is there yet" if up_to is None else f"{up_to:%Y-%m-%d %H:%M:%S} UTC, {formatting.age(up_to, now())}"
    )
    rows = [("replica", found["url"]), ("complete up to" if running is not None else "newest change", shown)]
    if running is not None:
        rows.append(("Litestream", "running" if found["isRunning"] else "not running; it is started again"))
    if found["problem"]:
        rows.append(("problem", found["problem"]))
    render.pairs(rows)
    return 0 if is_current else 1


def _settings(context: CliContext) -> ReplicaSettings:
    """On a standby those of the other machine's replica. Raises ConfigError if there is none."""
    from kekbridge.errors import ConfigError
    from kekbridge.ops.replica import replace_url

    in_force = settings_in_force(context)
    standby = _standby(context)
    settings = in_force.replica if standby is None else replace_url(in_force, standby.replica_url).replica
    if not settings.url:
        raise ConfigError(
            "no replica is configured; set replica.url to where the database is to be copied: `kekbridge docs standby`"
        )
    return settings


def _standby(context: CliContext) -> StandbyRecord | None:
    """The machine that this one stands by for; None if it is no standby, or has taken over."""
    from kekbridge.ops.standby_record import read_record

    record = None if context.control_socket is not None else read_record(context.data_dir)
    return record if record is not None and record.taken_over_at is None else None


def _at_target(context: CliContext, settings: ReplicaSettings) -> dict[str, Any]:
    """What is at the target, in the shape of a bridge's status. Raises ConfigError if it cannot be read."""
    from kekbridge.ops import litestream
    from kekbridge.ops.replica import target_keys

    needs_keys = settings.url.startswith("s3:")
    keys = target_keys(settings, open_vault(context, context.settings.mode)) if needs_keys else {}
    newest = litestream.newest_change(litestream.find_program(), settings, keys)
    return {
        "url": settings.url,
        "isRunning": False,
        "upTo": None if newest is None else formatting.to_jsonable(newest.at),
        "lagS": None if newest is None else round((datetime.now(UTC) - newest.at).total_seconds(), 3),
        "problem": "" if _standby(context) is not None else "no bridge answers on this machine",
    }


@app.command(
    epilog=examples(
        "kekbridge replica keys                          hidden prompts", "kekbridge replica keys < two-lines"
    )
)
def keys(ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Store the access key of an s3:// replica in the vault.

    Two lines, from prompts or stdin: the access key id and its secret. They are never printed. A key in the environment of the bridge
    (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) needs no vault. Takes effect at the bridge's next start.
    """
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.cli.key_session import read_secret
    from kekbridge.ops.vault_operations import StoreReplicaKeys

    operation = StoreReplicaKeys(access_key_id=read_secret("Access key id"), secret=read_secret("Secret access key"))
    stored: dict[str, Any] = run_operation(resolve_context(ctx, data_dir, config), operation)
    if as_json:
        render.as_json(stored)
    else:
        render.line(f"stored in the {stored['vault']}; restart the bridge to use it")


app.command(
    epilog=examples(
        "kekbridge replica prepare                 prints a word for `replica seal`",
        "kekbridge replica prepare standby.txt",
        "ssh vps kekbridge replica seal kb-standby-… | kekbridge replica prepare - -y",
    )
)(prepare)
app.command(epilog=examples("kekbridge replica seal kb-standby-… > standby.txt"))(seal)
