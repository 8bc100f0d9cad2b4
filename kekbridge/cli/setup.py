"""`kekbridge setup`: from nothing to a bridge that is ready to start, step by step, at a terminal or from a file with answers.

Each step asks for an answer, or finds it in the file, and carries it out. Steps can be left out and repeated; what exists already is the
default. Settings go into the settings file with their comments, secrets into the vault, never into either file.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
import typer

from kekbridge.cli.context import CliContext, keep_vaults_open, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples
from kekbridge.daemon.control_socket import service_place
from kekbridge.errors import ConfigError, KekbridgeError

if TYPE_CHECKING:
    from kekbridge.cli.config_file import Value

app = typer.Typer(rich_markup_mode=None, add_completion=False)

#: In this order: what runs first decides in which vault secrets are stored.
STEPS: Final = ("mode", "vault", "address", "service", "key", "webhook", "notify")
_TITLES: Final = {
    "mode": "where orders go",
    "vault": "where secrets are kept",
    "address": "how TradingView reaches the bridge",
    "service": "run it as a systemd service",
    "key": "the exchange key",
    "webhook": "the first webhook and its limits",
    "notify": "notifications",
}
_ACCOUNT: Final = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
_SERVICE_CONFIG: Final = "etc/kekbridge.toml"
_UNITS: Final = "etc/systemd/system"

Mode = Literal["paper", "testnet", "live"]
Backend = Literal["auto", "directory", "keyring", "file"]


class KeyAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The exchange key."""

    #: Orderly account, 0x and 64 hex digits.
    account_id: str
    #: File with the secret; it is read, not kept. Empty: only the account is set.
    secret_file: str = ""


class AddressAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How TradingView reaches the bridge."""

    #: `local`: not at all yet; `domain`: a name of this machine, with a certificate of its own; `proxy` and `tunnel`: TLS ends there.
    kind: Literal["local", "domain", "proxy", "tunnel"]
    #: Name of this machine, for `domain`.
    domain: str = ""
    #: Public address of the proxy or tunnel, such as https://bridge.example.com.
    public_url: str = ""
    #: Addresses of the proxy, as the bridge sees it.
    trusted_proxies: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1"])


class NotifyAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Notification channels."""

    #: File with apprise URLs, one per line; it is read, not kept.
    urls_file: str
    #: Send a test message to each of them.
    test: bool = True


class Answers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of `--answers`; a step without an answer is left out."""

    mode: Mode | None = None
    vault: Backend | None = None
    address: AddressAnswer | None = None
    #: Install the service.
    service: bool | None = None
    key: KeyAnswer | None = None
    #: `name`, and options of `webhook create` with underscores, such as max_order_size.
    webhook: dict[str, bool | int | float | str | list[str]] | None = None
    notify: NotifyAnswer | None = None


@dataclass
class _Run:
    """One run of the command."""

    ctx: typer.Context
    data_dir: Path | None
    #: Settings file that is written; may not exist yet.
    config: Path
    #: The answers; None: ask.
    answers: Answers | None
    #: Carried out or left out, and with what result, by step.
    results: dict[str, str] = field(default_factory=dict)
    #: The service was installed in this run and does not run: what needs its vault has to wait.
    is_waiting_for_service: bool = False

    def context(self) -> CliContext:
        """The bridge that runs, else the own directory, with the settings as they are now."""
        return resolve_context(self.ctx, self.data_dir, self.config if self.config.exists() else None)

    def save(self, changes: dict[str, Value]) -> None:
        """Write settings, and mention a bridge that still uses the old ones."""
        from kekbridge.cli import config_file, render
        from kekbridge.cli.control import daemon_status

        config_file.save(self.config, changes)
        if daemon_status(self.context()) is not None:
            render.note("Restart the bridge to use the new settings.")


@app.command(
    epilog=examples(
        "kekbridge setup                          asks every step",
        "kekbridge setup webhook notify           only these steps",
        "kekbridge setup --answers answers.toml   see `kekbridge docs settings`",
        "sudo kekbridge setup --config /etc/kekbridge.toml",
    )
)
def setup(
    ctx: typer.Context,
    steps: Annotated[
        list[str] | None,
        typer.Argument(metavar="STEP", help=f"Only these: {', '.join(STEPS)}.", show_default=False),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers", metavar="FILE", help="TOML file with the answers; nothing is asked.", show_default=False
        ),
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Set the bridge up, step by step.

    Asks for mode, vault, public address, service, exchange key, first webhook and notifications. Every step can be left out and run again.
    Settings are written with comments into config.toml in the data directory, or the file of --config. Exit code 1 if a step failed.
    """
    from kekbridge.cli import render

    chosen = _chosen_steps(steps or [])
    run = _Run(ctx, data_dir, _config_path(ctx, data_dir, config), None if answers is None else _read_answers(answers))
    if run.answers is None and not (sys.stdin is not None and sys.stdin.isatty()):
        raise ConfigError("no terminal to ask at; give --answers FILE, a TOML file (see `kekbridge setup --help`)")
    failed = ""
    with keep_vaults_open():
        for number, step in enumerate(chosen, 1):
            if run.answers is None:
                render.note(f"\n{number}/{len(chosen)}  {step}: {_TITLES[step]}")
            is_done = _carry_out(run, step)
            failed = failed or ("" if is_done else step)
            if failed and run.answers is not None:
                break
    if as_json:
        render.as_json({"configFile": str(run.config), "steps": run.results, "failed": failed or None})
    else:
        render.pairs([*run.results.items(), ("settings", run.config)])
        _print_next(run)
    return 1 if failed else 0


def _carry_out(run: _Run, step: str) -> bool:
    """Ask for one step until it works or is left out, and carry it out. False if it failed."""
    from kekbridge.cli import render

    while True:
        try:
            run.results[step] = _STEPS[step](run)
        except KekbridgeError as error:
            run.results[step] = f"failed: {error.message}"
            if run.answers is not None:
                render.note(f"step {step}: {error.message}")
                return False
            render.note(error.message)
            if not typer.confirm("Try this step again?", default=True, err=True):
                return False
        else:
            return True


def _print_next(run: _Run) -> None:
    from kekbridge.cli import render
    from kekbridge.cli.control import daemon_status

    if run.is_waiting_for_service:
        render.note("Start the service as shown, then:  kekbridge setup key webhook notify")
        return
    context = run.context()
    if daemon_status(context) is None:
        is_named = run.data_dir is not None or getattr(run.ctx.obj, "data_dir", None) is not None
        data_dir = f" --data-dir {context.data_dir}" if is_named else ""
        config = "" if run.config == context.data_dir / "config.toml" else f" --config {run.config}"
        render.note(f"Start the bridge:  kekbridge serve{data_dir}{config}")
    render.note("Check everything:  kekbridge doctor")


# ----------------------------------------------------------------------------------------------------------------- answers


def _chosen_steps(names: list[str]) -> list[str]:
    from kekbridge.formatting import did_you_mean

    for name in names:
        if name not in STEPS:
            raise ConfigError(f"no such step {name[:40]!r}; {did_you_mean(name, STEPS, otherwise=f'expected {STEPS}')}")
    return [step for step in STEPS if not names or step in names]


def _config_path(ctx: typer.Context, data_dir: Path | None, config: Path | None) -> Path:
    """The file to write: the one that is named, else that of the service if it runs, else config.toml in the data directory."""
    given = config or getattr(ctx.obj, "config", None) or os.environ.get("KEKBRIDGE_CONFIG")
    if given:
        return Path(given).expanduser().absolute()
    context = resolve_context(ctx, data_dir, None)
    service = service_place()
    if context.control_socket == service.socket and (service.root / _SERVICE_CONFIG).exists():
        return service.root / _SERVICE_CONFIG
    return context.data_dir / "config.toml"


def _read_answers(path: Path) -> Answers:
    """Raises ConfigError: the place, what was found and what is expected."""
    from kekbridge.ops.operation import in_words

    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert(found, Answers)
    except msgspec.ValidationError as error:
        raise ConfigError(f"--answers {path}: {in_words(str(error), Answers)}") from None
    except OSError as error:
        raise ConfigError(f"--answers: found {str(path)!r}, expected a readable file ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--answers {path}: not valid TOML ({error})") from None


def _secret_of(path: str, what: str) -> str:
    """Read a secret from a file that only its owner can read. Raises ConfigError, without quoting it."""
    file = Path(path).expanduser()
    try:
        if file.stat().st_mode & 0o077:
            raise ConfigError(f"{file} holds {what} and can be read by others; chmod 600 {file}")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}; expected a file with {what}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8 text; expected a file with {what}") from None


def _choose(question: str, options: tuple[str, ...], default: str) -> str:
    """Ask for one of the options; an unambiguous beginning is enough."""
    from kekbridge.cli import render

    while True:
        text: str = typer.prompt(f"{question} [{', '.join(options)}]", default=default, err=True).strip().lower()
        found = [option for option in options if option == text] or [
            option for option in options if option.startswith(text)
        ]
        if len(found) == 1:
            return found[0]
        render.note(f"found {text[:40]!r}, expected one of {', '.join(options)}")


def _text(question: str, default: str = "") -> str:
    """Ask for a text; Enter takes the default, which may be empty."""
    answer: str = typer.prompt(question, default=default, show_default=bool(default), err=True)
    return answer.strip()


_SKIPPED: Final = "left out"

# ------------------------------------------------------------------------------------------------------------------- steps


def _step_mode(run: _Run) -> str:
    now = run.context().settings.mode.value
    answer: str | None = run.answers.mode if run.answers else _choose("Mode", ("paper", "testnet", "live", "skip"), now)
    if answer is None or answer == "skip":
        return _SKIPPED
    run.save({"mode": answer})
    return {"paper": "paper, no money", "testnet": "testnet", "live": "live: real money"}[answer]


def _step_vault(run: _Run) -> str:
    now = run.context().settings.vault.backend
    answer: str | None
    if run.answers:
        answer = run.answers.vault
    else:
        options = ("auto", "directory", "keyring", "file", "skip")
        answer = _choose("Vault (auto takes the first that can be used)", options, now if now in options else "auto")
    if answer is None or answer == "skip":
        return _SKIPPED
    run.save({"vault.backend": answer})
    return answer


def _step_address(run: _Run) -> str:
    answer = run.answers.address if run.answers else _ask_address(run)
    if answer is None:
        return _SKIPPED
    if answer.kind == "local":
        run.save(
            {"tls.domain": "", "server.public_url": "", "server.behind_proxy": False, "server.trusted_proxies": []}
        )
        return "this machine only"
    if answer.kind == "domain":
        if not answer.domain:
            raise ConfigError("address.domain is missing; expected a name of this machine, such as bridge.example.com")
        run.save({"tls.domain": answer.domain, "server.public_url": "", "server.behind_proxy": False})
        return f"https://{answer.domain} (certificate obtained at the start)"
    if not answer.public_url.startswith("https://"):
        raise ConfigError(f"address.public_url: found {answer.public_url[:80]!r}, expected https://…")
    run.save(
        {
            "tls.domain": "",
            "server.public_url": answer.public_url,
            "server.behind_proxy": True,
            "server.trusted_proxies": answer.trusted_proxies,
        }
    )
    return f"{answer.public_url} ({answer.kind})"


def _ask_address(run: _Run) -> AddressAnswer | None:
    from kekbridge.cli import render

    server, tls = run.context().settings.server, run.context().settings.tls
    now = "domain" if tls.domain else "proxy" if server.behind_proxy else "local"
    kind = _choose("TradingView reaches it through", ("domain", "proxy", "tunnel", "local", "skip"), now)
    if kind == "skip":
        return None
    if kind == "domain":
        return AddressAnswer("domain", domain=_text("Name that points to this machine", tls.domain))
    if kind == "local":
        return AddressAnswer("local")
    if kind == "tunnel":
        render.note(f"A tunnel:  cloudflared tunnel --url http://127.0.0.1:{server.port}")
    url = _text("Its public address (https://…)", server.public_url)
    return AddressAnswer("tunnel" if kind == "tunnel" else "proxy", public_url=url)


def _step_service(run: _Run) -> str:
    from kekbridge.cli.control import status_at
    from kekbridge.cli.main import run_command

    if run.answers:
        is_wanted = bool(run.answers.service)
    else:
        is_wanted = typer.confirm("Install it as a systemd service (needs root)?", default=False, err=True)
    if not is_wanted:
        return _SKIPPED
    root = service_place().root
    config, units = root / _SERVICE_CONFIG, root / _UNITS
    if not os.access(units, os.W_OK):
        return f"needs root: sudo kekbridge setup service --config {run.config}"
    if run.config != config and run.config.exists():
        _copy(run.config, config)  # the service cannot read a file below /home
        run.config = config
    arguments = ["--config", str(run.config)] if run.config.exists() else []
    if root != Path("/"):  # a test's directory: no place for users and services
        arguments += ["--directory", str(units)]
    with redirect_stdout(sys.stderr):  # its texts and next steps are no result of this command
        code = run_command(["install-systemd", *arguments])
    if code != 0:
        raise ConfigError("the service was not installed; see above")
    run.is_waiting_for_service = not status_at(service_place().socket)
    return f"installed, settings in {run.config}"


def _copy(source: Path, target: Path) -> None:
    try:
        target.write_bytes(source.read_bytes())
        target.chmod(0o644)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from None


def _step_key(run: _Run) -> str:
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.cli.key_session import print_checks
    from kekbridge.model import Mode as Venue
    from kekbridge.ops.vault_operations import AddKey, GenerateKey, ShowVenue

    context = run.context()
    # The settings as they will be; without a file, those of the bridge that runs.
    mode = context.settings.mode if run.config.exists() else Venue(run_operation(context, ShowVenue())["mode"])
    if mode is Venue.PAPER:
        return "none needed for paper"
    if run.answers:
        answer = run.answers.key
        if answer is None:
            return _SKIPPED
        account, secret = answer.account_id, ""
        if answer.secret_file and not run.is_waiting_for_service:
            secret = _secret_of(answer.secret_file, "the exchange key").strip()
    else:
        how = _choose("Exchange key", ("add", "generate", "skip"), "add")
        if how == "skip":
            return _SKIPPED
        if how == "generate":
            if (waits := _waits(run)) is not None:
                return waits
            made = run_operation(context, GenerateKey(mode=mode))
            return (
                f"{made['orderlyKey']}: now `kekbridge keys register --mode {mode.value}`, then `kekbridge setup key`"
            )
        account = _text("Account (0x…, shown on the exchange's API-key page)", context.settings.exchange.account_id)
        secret = "" if run.is_waiting_for_service else _hidden("Secret (hidden; Enter keeps the one in the vault)")
    if not _ACCOUNT.fullmatch(account):
        raise ConfigError(f"account_id: found {account[:80]!r}, expected 0x and 64 hex digits")
    if secret:
        checks = run_operation(context, AddKey(mode=mode, account_id=account, secret=secret))["checks"]
        if run.answers is None:
            print_checks(checks)
    run.save({"exchange.account_id": account})
    if run.is_waiting_for_service:
        # A bridge without its key does not start, so the service needs it before its vault can take one.
        render.note(
            "The exchange key is the service's credential orderly-secret: give it as shown before you start it."
        )
        return f"{account[:10]}…, its key as the credential orderly-secret"
    return f"{account[:10]}…{', secret in the vault' if secret else ''}"


def _hidden(question: str) -> str:
    answer: str = typer.prompt(question, default="", hide_input=True, show_default=False, err=True)
    return answer.strip()


def _step_webhook(run: _Run) -> str:
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.webhook_operations import CreateWebhook, EditWebhook, ShowWebhook

    if (waits := _waits(run)) is not None:
        return waits
    asked = _webhook_answer(run.answers) if run.answers else _ask_webhook()
    if asked is None:
        return _SKIPPED
    name, options = asked
    context = run.context()
    try:
        run_operation(context, ShowWebhook(webhook=name))
    except KekbridgeError as error:
        if error.code != "not_found":
            raise
        run_operation(context, CreateWebhook(name=name, options=options))
        return f"{name} created; its message: kekbridge template {name}"
    if options:
        run_operation(context, EditWebhook(webhook=name, options=options))
    return f"{name} {'changed' if options else 'exists'}; its message: kekbridge template {name}"


def _webhook_answer(answers: Answers) -> tuple[str, dict[str, Any]] | None:
    """Name and options, as `webhook create` takes them. Raises ConfigError for an unknown option or another kind of value."""
    if answers.webhook is None:
        return None
    given = dict(answers.webhook)
    name = given.pop("name", "default")
    if not isinstance(name, str):
        raise ConfigError(f"webhook.name: found {name!r}, expected a text")
    return name, {key: _option(key, value) for key, value in given.items()}


def _option(key: str, value: bool | int | float | str | list[str]) -> bool | str | list[str]:
    from kekbridge.formatting import did_you_mean
    from kekbridge.webhooks.options import ROWS

    row = next((row for row in ROWS if row.parameter == key), None)
    if row is None:
        hint = did_you_mean(key, [each.parameter for each in ROWS], otherwise="see `kekbridge webhook create --help`")
        raise ConfigError(f"webhook.{key[:40]} is not an option of a webhook; {hint}")
    is_switch = row.parser is None and not row.is_many
    if is_switch is not isinstance(value, bool):
        raise ConfigError(
            f"webhook.{key}: found {value!r}, expected {'true or false' if is_switch else 'a value in quotes'}"
        )
    if isinstance(value, list):
        return value if row.is_many else ",".join(value)
    if row.is_many:
        return [str(value)]
    return value if isinstance(value, bool) else str(value)


def _ask_webhook() -> tuple[str, dict[str, Any]] | None:
    name = _text("Name of the webhook, - to leave it out", "default")
    if name == "-":
        return None
    questions = {
        "allowed_symbols": "Markets it may trade, such as BTC,ETH (Enter: any)",
        "max_order_size": "Largest order in coins (Enter: the default)",
        "max_notional": "Largest order in USDC (Enter: the default)",
        "daily_limit": "Largest traded value a day in USDC (Enter: no limit)",
        "max_daily_loss": "Close it for entries after a loss of this many USDC a day (Enter: no limit)",
    }
    options: dict[str, Any] = {key: answer for key, question in questions.items() if (answer := _text(question))}
    if typer.confirm("Refuse entries without a stop loss?", default=False, err=True):
        options["require_stop_loss"] = True
    return name, options


def _step_notify(run: _Run) -> str:
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.vault_operations import SetChannels, TryChannels

    if (waits := _waits(run)) is not None:
        return waits
    is_tested = True
    if run.answers:
        if run.answers.notify is None:
            return _SKIPPED
        urls, is_tested = _secret_of(run.answers.notify.urls_file, "apprise URLs"), run.answers.notify.test
    else:
        question = "Apprise URL, such as tgram://TOKEN/CHAT (hidden; several with blanks; Enter leaves it out)"
        urls = "\n".join(_hidden(question).split())
        if not urls:
            return _SKIPPED
        is_tested = typer.confirm("Send a test message now?", default=True, err=True)
    context = run.context()
    names = run_operation(context, SetChannels(urls=urls))
    if not is_tested:
        return f"{', '.join(names)}, not tested"
    delivered = run_operation(context, TryChannels())
    missing = [name for name, is_delivered in delivered.items() if not is_delivered]
    if missing:
        raise ConfigError(f"stored, but the test message was not delivered to {', '.join(missing)}; check the URL")
    return f"{', '.join(names)}: test message delivered"


def _waits(run: _Run) -> str | None:
    """Why a step that needs the vault cannot be done now: the service that will read it does not run yet."""
    return "waits for the service to run" if run.is_waiting_for_service else None


_STEPS: Final[dict[str, Callable[[_Run], str]]] = {
    "mode": _step_mode,
    "vault": _step_vault,
    "address": _step_address,
    "service": _step_service,
    "key": _step_key,
    "webhook": _step_webhook,
    "notify": _step_notify,
}
