"""README and documents are correct: commands run as printed, names exist, links resolve, CI runs the README's test command."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command
from ulid import ULID

from kekbridge.alerts.field_names import CANONICAL_FIELDS, CREDENTIAL_FIELDS, squeeze
from kekbridge.alerts.fields import ACTION_WORDS
from kekbridge.alerts.profiles import PROFILES
from kekbridge.alerts.signal import Action, QuantityType
from kekbridge.alerts.template import KINDS, fill
from kekbridge.alerts.unknown_fields import look_alike
from kekbridge.cli import main
from kekbridge.cli.app import app
from kekbridge.codes import CODES
from kekbridge.config import Settings, Vault, dotted_names, load_settings
from kekbridge.errors import AlreadyRunning, ConfigError, NotFound
from kekbridge.model import Mode, OrderStatus, OrderType
from kekbridge.model.notifications import MESSAGES
from kekbridge.paper import faults
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_SECRET, Options
from kekbridge.webhooks import registry
from kekbridge.webhooks.options import ROWS
from tests.alert_cases import webhook_settings
from tests.bridge import BTC, Bridge, Clock, running_bridge
from tests.cli.processes import DEADLINE_S, Served, bare_environment, paste, shells, starting
from tests.cli.tree import walk
from tests.cli.venues import live_environment, running_venue
from tests.paths import ROOT
from tests.system.forked import run_forked
from tests.system.launcher import program_at

README = (ROOT / "README.md").read_text(encoding="utf-8")
DIRECTORY = ROOT / "kekbridge" / "docs"
# Documents for users; `internals` is for developers and may use names of other projects.
USER_DOCUMENTS = {"README.md": README} | {
    path.name: path.read_text(encoding="utf-8") for path in sorted(DIRECTORY.glob("*.md"))
}
ALL_DOCUMENTS = [ROOT / "README.md", *sorted(DIRECTORY.rglob("*.md"))]
# An HTML comment before a code block names it, invisible to the reader.
_BLOCK = re.compile(r"<!-- test: (\w+) -->\n[ ]*```sh\n(.*?)[ ]*```", re.DOTALL)
BLOCKS = dict(_BLOCK.findall(README))
# Every block of every document except the two that install.
RUNNABLE = [
    pytest.param(block, id=f"{path.relative_to(ROOT)}:{name}")
    for path in ALL_DOCUMENTS
    for name, block in _BLOCK.findall(path.read_text(encoding="utf-8"))
    if name not in ("run", "test") and not name.startswith("live")
]
# Blocks for a live account, in their order: name and stdin.
LIVE = {"livekey": PAPER_ORDERLY_SECRET, "livesign": "01" * 32, "livecheck": "", "livestart": "", "liveleak": "01" * 32}
# A message with the answer to it and, each optional, the options of its webhook, the positions before it and that in BTC after it:
# `<!-- test: filled; --profile traderspost; holds 0.05 BTC; leaves 0 BTC -->`.
_MESSAGE = re.compile(r"<!-- test: ([^\n]*) -->\n[ ]*```(?:json|text)\n(.*?)[ ]*```", re.DOTALL)
# What TradingView puts into the placeholders of these messages.
_PLACEHOLDERS = {
    "ticker": "BTCUSDT.P",
    "exchange": "BYBIT",
    "close": "65000",
    "strategy.order.action": "buy",
    "strategy.order.contracts": "0.01",
    "strategy.order.price": "65000",
    "strategy.order.comment": "long entry",
    "strategy.market_position": "long",
    "strategy.market_position_size": "0.01",
    "strategy.prev_market_position": "flat",
    "strategy.prev_market_position_size": "0",
    "strategy.position_size": "0.01",
}
VAULT_BACKENDS = get_args(Vault.model_fields["backend"].annotation)
SECTIONS = {name.partition(".")[0] for name in dotted_names() if "." in name}
each_document = pytest.mark.parametrize("name", USER_DOCUMENTS)

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="the README's line is a curl line")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory whose `.venv/bin/kekbridge` runs this package, as after the README's first command."""
    directory = tmp_path_factory.mktemp("clone")
    command = directory / ".venv" / "bin" / "kekbridge"
    command.parent.mkdir(parents=True)
    with program_at(command):
        yield directory


@pytest.fixture(scope="module")
def served(clone: Path) -> Iterator[Served]:
    """A bridge as started by the README's first command, with one order placed by the printed curl line."""
    with starting(bare_environment(clone / "data")) as start:
        bridge = start("serve")
        bridge.line(lambda text: text.startswith("Ready."))
        assert paste(shells()[0], bridge.line(lambda text: text.startswith("curl ")))["status"] == "filled"
        yield bridge


def plain_lines(block: str) -> str:
    """Remove the indentation of a block in a list."""
    return "\n".join(line.strip() for line in block.splitlines())


def script(name: str) -> str:
    """Return a block of the README without indentation."""
    return plain_lines(BLOCKS[name])


def section(name: str, heading: str) -> str:
    """Return the text of a document below a heading."""
    return USER_DOCUMENTS[name].split(f"## {heading}\n")[1].split("\n## ")[0]


def in_backticks(text: str) -> set[str]:
    """Return the inline code of a document, without its code blocks."""
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))


def test_run_and_test_are_one_line_each() -> None:
    """One command to run and one to test, which need nothing but Python, and no root."""
    for name, end in (("run", "/kekbridge serve"), ("test", "/pytest")):
        line = script(name)
        assert "\n" not in line
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert line.endswith(end)
        assert "sudo" not in line


def test_the_readme_is_short() -> None:
    """It takes five minutes to read; details are in the documents."""
    assert len(README.encode()) <= 7_500


def test_ci_runs_the_command_of_the_readme() -> None:
    """CI has no test command of its own: it extracts the README's."""
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (program,) = re.findall(r"awk '(.*?)' README\.md", ci)
    found = subprocess.run(["awk", program, "README.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == script("test")
    assert ".venv/bin/pytest" not in ci


def test_every_document_for_users_has_blocks_that_run() -> None:
    """The number of named blocks per document is fixed, because a block without its name would not be run."""
    counts = {name: len(_BLOCK.findall(text)) for name, text in USER_DOCUMENTS.items()}
    assert counts == {
        "README.md": 5,
        "alerts.md": 5,
        "answers.md": 1,
        "changelog.md": 0,  # its commands are those of an upgrade
        "evidence.md": 0,  # its commands take hours
        "limits.md": 4,
        "live.md": 6,
        "operations.md": 11,
        "public-address.md": 0,  # its files and commands are run by tests/system/test_public_address.py
        "security.md": 1,
        "settings.md": 1,
        "standby.md": 0,  # its commands need a replica: tests/cli/test_replica.py runs them
    }


@needs_curl
@pytest.mark.parametrize("block", RUNNABLE)
def test_every_block_runs(block: str, served: Served, clone: Path) -> None:
    """Each block runs in a shell beside the running bridge without an error."""
    if "webhook create btc-trend" in block:
        served.run("webhook", "delete", "btc-trend", "--yes")
    elif "btc-trend" in block:  # the webhook that another block creates
        served.run("webhook", "create", "btc-trend")
    if "kekbridge close BTC" in block:
        block = block.replace("kb-M8K8KQXH2TWBZP8HSCRCFZMQ00", _position_and_resting_order(served, clone))
    done = subprocess.run(
        ["sh", "-e", "-c", plain_lines(block)],
        cwd=clone,
        env=served.environment | {"PATH": f"{clone / '.venv' / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S * 2,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def _position_and_resting_order(served: Served, directory: Path) -> str:
    """Buy BTC, place a limit order far below the market, and return its client order id."""
    for extra in ((), ("--order-type", "limit", "--limit-price", "50000")):
        file = str(directory / f"message{len(extra)}.json")
        made = ("template", "default", "--kind", "indicator", "--symbol", "BTCUSDT.P", "--quantity", "0.01")
        assert served.run(*made, *extra, "--output", file).returncode == 0
        sent = served.run("webhook", "test", "default", "--body", file, "--fill", "close=65000")
        assert sent.returncode == 0, sent.stderr
    (order,) = served.data("orders", "--open")
    return str(order["clientOrderId"])


async def test_every_message_is_answered_as_its_document_says(tmp_path: Path) -> None:
    """Each message of a document, with the key and the time that the document leaves out, gets the answer named beside it."""
    wrong = []
    async with running_bridge(tmp_path) as bridge:
        for path in ALL_DOCUMENTS:
            if path.name in ("public-address.md", "operations.md"):
                continue  # no messages: tests/system/test_public_address.py and test_service.py run what they name
            for head, body in _MESSAGE.findall(path.read_text(encoding="utf-8")):
                wanted, options, held, left = _read_head(head)
                request = await _request(bridge, options, held, body.strip())
                answer: dict[str, Any] = {}
                for _ in range(20):  # a busy machine answers before the order has its end; a resend has the outcome
                    answer = await _post(bridge, *request)
                    if f"{answer.get('status')} {answer.get('code', '')}".strip() == wanted:
                        break
                    await asyncio.sleep(0.1)
                else:
                    wrong.append(f"{path.name}: {body.strip()}\n  {answer}")
                if left is not None and await bridge.position() != left:
                    wrong.append(f"{path.name}: {body.strip()}\n  leaves {await bridge.position()} BTC")
    assert wrong == [], "\n".join(wrong)


async def _post(bridge: Bridge, url: str, body: bytes) -> dict[str, Any]:
    async with bridge.session.post(url, data=body) as response:
        answer: dict[str, Any] = await response.json()
        return answer


def _read_head(head: str) -> tuple[str, str, dict[str, str], Decimal | None]:
    """Return the wanted answer, the webhook's options, the positions before and the one after, of a message's comment."""
    wanted, *rest = head.split("; ")
    held = next((part.removeprefix("holds ") for part in rest if part.startswith("holds ")), "")
    positions = {base: size for size, base in (one.split() for one in held.split(", ") if one)}
    left = next((Decimal(part.split()[1]) for part in rest if part.startswith("leaves ")), None)
    return wanted, next((part for part in rest if part.startswith("--")), ""), positions, left


# A row of the table of limits: `buy 0.1 BTC` or `buy 0.01 BTC stopLoss=8%` is an alert, `BTC falls to 59,000` a price.
_STEP = re.compile(r"`(buy) ([\d.]+) ([A-Z]+)(?: (\w+)=([^`]+))?`|([A-Z]+) falls to ([\d,]+)")


async def test_every_limit_denies_its_example(tmp_path: Path) -> None:
    """On a webhook with the limit of the row, the orders of its example are taken, but the last one is denied with the row's code."""
    rows = re.findall(
        r"^\| `(--.*?)` \| .* \| (.*?) \| `(\w+)` \|$", section("limits.md", "Limits of a webhook"), re.MULTILINE
    )
    found, clock = {}, Clock.starting_at(datetime(2026, 11, 21, 12, tzinfo=UTC))  # a Saturday
    async with running_bridge(tmp_path, clock=clock) as bridge:
        for option, example, code in rows:
            given = webhook_settings(shlex.split(option.partition("`")[0]))
            bridge.add_webhook(code, limits=given.limits, rates=given.rates)
            answers = []
            for side, quantity, base, name, value, falling, price in _STEP.findall(example):
                if falling:
                    await bridge.control("prices", {f"PERP_{falling}_USDC": price.replace(",", "")})
                    await bridge.daemon.exchange.refresh()
                else:
                    extra = {name: value} if name else {}
                    fields = {"action": side, "quantity": quantity, "symbol": f"{base}USDT.P"}
                    answers.append((await bridge.send(code, **fields, **extra))[1])
            found[option, example] = [(one["success"], one.get("code")) for one in answers]
            assert found[option, example] == [(True, None)] * (len(answers) - 1) + [(False, code)], (
                f"{option}: {answers}"
            )
            await bridge.control("prices", {BTC: "65000"})
            await bridge.set_positions(BTC="0", ETH="0")
    assert len(found) == len(rows) >= 17


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.name) for path in ALL_DOCUMENTS if "```toml" in path.read_text()]
)
def test_settings_in_documents_are_valid(path: Path, tmp_path: Path) -> None:
    """Each block of settings is read as config.toml without an error."""
    for number, block in enumerate(
        re.findall(r"<!-- test: settings -->\n```toml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    ):
        file = tmp_path / f"{number}.toml"
        file.write_text(block.replace("0x1486…", PAPER_ACCOUNT_ID), encoding="utf-8")
        assert load_settings(file, environment={})


def test_profiles_and_position_mode_have_a_message() -> None:
    """Each profile, and position mode, is shown by a message that is accepted."""
    heads = [_read_head(head) for head, _ in _MESSAGE.findall(USER_DOCUMENTS["alerts.md"])]
    options = " ".join(given for wanted, given, *_ in heads if wanted in ("filled", "accepted"))
    assert {f"--profile {name}" in options for name in PROFILES if name != "seed"} == {True}
    assert "--follow position" in options


async def _request(bridge: Bridge, options: str, held: dict[str, str], body: str) -> tuple[str, bytes]:
    """Make a webhook with these options and these positions; return the URL and the body of a document's message to it."""
    if options not in bridge.credentials:
        with bridge.daemon.database.transaction() as connection:
            _, bridge.credentials[options] = registry.create(
                connection,
                bridge.daemon.sealer,
                name=f"w{len(bridge.credentials)}",
                settings=webhook_settings(shlex.split(options)),
                mode=Mode.PAPER,
                now=bridge.clock(),
            )
    key = bridge.credentials[options].api_key
    if held:
        await bridge.set_positions(**{"BTC": "0", "ETH": "0"} | held)
    now = bridge.clock().strftime("%Y-%m-%dT%H:%M:%SZ")
    text = fill(re.sub(r"wh_test_…", key, body), {**_PLACEHOLDERS, "timenow": now})
    if key not in text and text.startswith("{"):
        text = json.dumps({"apiKey": key, "timestamp": now, "alertId": str(ULID()), **json.loads(text)})
    return bridge.daemon.info.webhook_url + (f"/{key}" if "--key-in-path" in options else ""), text.encode()


def test_the_way_to_live_runs(tmp_path: Path) -> None:
    """The commands of live.md work in live mode, in their order, on a venue that is a paper exchange; its keys are as live.md says."""
    blocks = dict(_BLOCK.findall(USER_DOCUMENTS["live.md"]))
    assert [name for name in blocks if name.startswith("live")] == list(LIVE)
    command = tmp_path / "bin" / "kekbridge"
    command.parent.mkdir()
    with running_venue(tmp_path / "venue") as venue, program_at(command):
        environment = bare_environment(tmp_path / "data") | live_environment(tmp_path, venue.base_url)
        environment["PATH"] = f"{command.parent}:{os.environ['PATH']}"
        for name, typed in LIVE.items():
            done = subprocess.run(
                ["sh", "-e", "-c", blocks[name].replace("0x1486…", PAPER_ACCOUNT_ID)],
                env=environment,
                cwd=tmp_path,
                input=typed,
                capture_output=True,
                text=True,
                timeout=DEADLINE_S * 2,
                check=False,
            )
            assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        listed = run_forked("keys", "list", "--json", environment=environment)
        (own,) = [one for one in json.loads(listed.stdout) if one["isHere"]]
        assert (own["scopes"], own["addressRule"]) == (["read", "trading"], "ALLOW_RESTRICTION_LIST")


@needs_curl
def test_read_commands_show_the_order(served: Served) -> None:
    """After the curl line, `orders` and `logs` show its order."""
    assert "buy 0.001 market" in served.run("orders").stdout
    assert "filled" in served.run("logs").stdout


@each_document
def test_options_exist(name: str) -> None:
    """Every option in text, tables and blocks exists in some command, in pip, a campaign or the benchmark."""
    known = {
        option
        for _, command in walk(get_command(app))
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    # python -m tests.system.campaign, tests.system.fuzz, tests.system.soak, and .ci/fresh
    of_the_campaigns = {"--trials", "--seed", "--size", "--bodies", "--kills", "--minutes", "--suite"}
    of_the_benchmark = {"--rounds", "--markdown", "--systems"}  # python -m tests.bench
    of_others = {"--quiet", "--help", "--now", "--url", "--unix-socket"}  # pip, systemctl, cloudflared, curl
    of_others |= {"--nginx", "--deploy-hook", "--system"}  # certbot, sysctl
    of_others |= {"--build", "--wait", "--rm"}  # docker compose
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", USER_DOCUMENTS[name]))
    assert named <= known | of_the_campaigns | of_the_benchmark | of_others


@each_document
def test_commands_exist(name: str) -> None:
    """Every `kekbridge COMMAND` exists, with its subcommand if it is a group."""
    tree = {" ".join(path): command for path, command in walk(get_command(app))}
    text = USER_DOCUMENTS[name]
    code = "\n".join((*re.findall(r"```\w*\n(.*?)```", text, re.DOTALL), *in_backticks(text)))
    for first, second in re.findall(
        r"(?:^ *|/|&& |sudo )kekbridge ([a-z][a-z-]+)(?: ([a-z][a-z-]+))?", code, re.MULTILINE
    ):
        assert first in tree, first
        if isinstance(tree[first], TyperGroup) and second:
            assert f"{first} {second}" in tree


@each_document
def test_commands_are_well_formed(name: str) -> None:
    """Every command with its options and values, in the text or in a block, is accepted by the command that it names.

    A command that is only mentioned may lack its arguments.
    """
    text = USER_DOCUMENTS[name]
    code = "\n".join((*re.findall(r"```sh\n(.*?)```", text, re.DOTALL), *in_backticks(text)))
    wrong = {}
    for line in re.findall(r"(?:^ *|/|&& |sudo )(kekbridge [a-z][^\n|<>&#]*)", code, re.MULTILINE):
        try:
            _parse(get_command(app), shlex.split(line)[1:])
        except typer.TyperException as error:
            if type(error).__name__ not in ("MissingParameter", "NoArgsIsHelpError"):
                wrong[line] = str(error)
    assert wrong == {}


def _parse(command: Any, arguments: list[str], parent: Any = None) -> None:
    """Parse a command line down to its last command, without running any. Raises TyperException if it is wrong."""
    context = command.make_context(command.name, list(arguments), parent=parent)
    left = [*context._protected_args, *context.args]
    if isinstance(command, TyperGroup) and left:
        _, inner, rest = command.resolve_command(context, left)
        _parse(inner, rest, context)


@each_document
def test_settings_exist(name: str) -> None:
    """Every `section.name`, `[section]` and KEKBRIDGE_ variable is a setting."""
    text = USER_DOCUMENTS[name]
    sections = "|".join(sorted(SECTIONS))
    dotted = set(re.findall(rf"`((?:{sections})\.[a-z_]+)(?: = [^`]*)?`", text))
    assert dotted <= set(dotted_names())
    assert set(re.findall(r"`\[([a-z.]+)\]", text)) <= SECTIONS | {"notify.templates", "notify.levels"}
    variables = {f"KEKBRIDGE_{one.replace('.', '_').upper()}" for one in dotted_names()}
    assert set(re.findall(r"KEKBRIDGE_[A-Z_]+", text)) <= variables | {"KEKBRIDGE_CONFIG", "KEKBRIDGE_DATA_DIR"}


@each_document
def test_identifiers_exist(name: str) -> None:
    """A `snake_case` or `camelCase` word in backticks is a code, setting, event, status, field, metric, fault or action word that exists.

    Or a name that is said to be refused, and is.
    """
    statuses = {status.value for status in OrderStatus} | {kind.value for kind in OrderType}
    units = {unit.value for unit in QuantityType} | {action.value for action in Action} | {"cancel_all"}
    settings = {one.rpartition(".")[2] for one in dotted_names()}
    answers = {"retryAfter", "alertId"}
    webhook = {"apiSecret", "webhookUrl"}
    known = {*CODES, *settings, *MESSAGES, *statuses, *units, *CANONICAL_FIELDS, *VAULT_BACKENDS, *answers, *webhook}
    known |= {mapping.path for profile in PROFILES.values() for mapping in profile.mappings} | {"max_lag"}
    known |= {*faults.KINDS, *faults.Fault.__slots__, *Options.__slots__}  # of the paper exchange
    words = {word for word in in_backticks(USER_DOCUMENTS[name]) if re.fullmatch(r"[a-z]+([_A-Z][a-zA-Z]+)+", word)}
    words = {word for word in words if not word.startswith("kekbridge_") and squeeze(word) not in ACTION_WORDS}
    assert {word for word in words - known if look_alike(word) is None} == set()


def test_metrics_exist() -> None:
    """Every metric in operations.md is exported."""
    source = (ROOT / "kekbridge" / "admin" / "metrics.py").read_text(encoding="utf-8")
    for metric in set(re.findall(r"kekbridge_([a-z_]+)", USER_DOCUMENTS["operations.md"])):
        assert re.search(rf'"(kekbridge_)?{metric.removesuffix("_total").removesuffix("_bucket")}"', source), metric


def test_the_status_table_is_complete() -> None:
    """answers.md explains every HTTP status of the codes, and no other."""
    rows = re.findall(r"^\| ([0-9, ]+) \|", section("answers.md", "HTTP statuses"), re.MULTILINE)
    explained = {int(number) for row in rows for number in row.split(",")}
    answered = {code.status for code in CODES.values() if code.status is not None} | {200, 202}
    assert explained == answered - {404, 405, 408}  # a wrong path or method or a broken connection is no alert


def test_the_table_of_codes_is_that_of_the_code() -> None:
    """answers.md has each code with its status, meaning and fix; KEKBRIDGE_WRITE_DOCUMENTS=1 writes the table again."""
    rows = [
        f"| `{code.name}` | {code.status or ''} | {code.meaning} | {code.fix} |".replace("  ", " ")
        for code in CODES.values()
    ]
    table = "\n".join(("| code | status | meaning | what to do |", "|---|---|---|---|", *rows, ""))
    text = USER_DOCUMENTS["answers.md"]
    if os.environ.get("KEKBRIDGE_WRITE_DOCUMENTS") == "1":
        text = text.partition("| code | status |")[0] + table
        (DIRECTORY / "answers.md").write_text(text, encoding="utf-8")
    assert text.endswith(f"\n\n{table}"), "write it again: KEKBRIDGE_WRITE_DOCUMENTS=1"


def test_the_exit_code_table_is_complete() -> None:
    """answers.md explains every exit code, and no other."""
    explained = {
        int(code) for code in re.findall(r"^\| ([0-9]+) \|", section("answers.md", "Exit codes"), re.MULTILINE)
    }
    errors = {error.exit_code for error in (ConfigError, NotFound, AlreadyRunning)}
    assert explained == {0, main.FAILED, main.INTERRUPTED} | errors


def test_the_tables_of_fields_and_values_are_complete() -> None:
    """alerts.md explains every field, action, unit, order type, profile and kind of template."""
    quoted = in_backticks(USER_DOCUMENTS["alerts.md"])
    words = {*Action, *QuantityType, *OrderType}
    assert {str(word.value) for word in words} | (CANONICAL_FIELDS - {"steps"}) | set(CREDENTIAL_FIELDS) <= quoted
    assert {*PROFILES, *KINDS, "steps"} <= quoted


def test_limit_table_is_complete() -> None:
    """limits.md explains every limit and rate of a webhook, and every limit of the account."""
    text = USER_DOCUMENTS["limits.md"]
    options = {row.option for row in ROWS if row.part in ("limits", "rates")}
    assert options <= set(re.findall(r"--[a-z-]+", text))
    account = re.findall(r"^(\w+) = ", section("limits.md", "Limits of the account"), re.MULTILINE)
    assert set(type(Settings().risk).model_fields) == set(account)


def test_section_table_is_complete() -> None:
    """settings.md names every section and mode, and live.md every vault."""
    assert {f"[{name}]" for name in SECTIONS} <= in_backticks(USER_DOCUMENTS["settings.md"])
    assert {mode.value for mode in Mode} <= in_backticks(USER_DOCUMENTS["settings.md"])
    assert set(VAULT_BACKENDS) - {"auto"} <= in_backticks(USER_DOCUMENTS["live.md"])


def test_environment_variables_are_complete() -> None:
    """settings.md names every variable that the program reads, and its examples are accepted."""
    text = section("settings.md", "Environment variables")
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "kekbridge").rglob("*.py")))
    read = set(re.findall(r'environ(?:ment)?(?:\.(?:get|pop)\(|\[)"([A-Z_]+)"', source))
    read |= set(re.findall(r'"(LISTEN_[A-Z]+|SSL_CERT_[A-Z]+|KEKBRIDGE_(?!TEST_)[A-Z_]*[A-Z])"', source))
    assert len(read) > 15
    of_settings = {f"KEKBRIDGE_{one.replace('.', '_').upper()}" for one in dotted_names()}
    assert read - of_settings - {"HOME", "SUDO_USER"} <= in_backticks(text)
    examples = dict(re.findall(r"`(KEKBRIDGE_[A-Z_]+)=([^`]+)`", text))
    assert load_settings(None, environment=examples) == Settings.model_validate(
        {
            "mode": "live",
            "server": {"port": 9000},
            "risk": {"allowed_symbols": ("BTC", "ETH")},
            "notify": {"levels": {"order_filled": "off", "stop_fired": "failure"}},
        }
    )


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in ALL_DOCUMENTS])
def test_links_resolve(path: Path) -> None:
    """Links into the repository and between documents lead to an existing file and heading."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, target


def test_the_readme_links_every_document_for_users() -> None:
    """The README's index of documents is complete."""
    linked = set(re.findall(r"\]\(kekbridge/docs/([a-z-]+\.md)\)", README.split("## Documents")[1]))
    assert linked == set(USER_DOCUMENTS) - {"README.md"}


@needs_curl
@pytest.mark.timeout(600)
@pytest.mark.skipif(not os.environ.get("CI"), reason="installs everything: done in CI")
def test_the_first_command_works_in_a_new_clone(tmp_path: Path) -> None:
    """In a clean clone and an empty home the README's first command serves, and the order of its printed curl line is filled."""
    clone = tmp_path / "kekbridge"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True, capture_output=True)
    # pip finds the packages where it keeps them, and Python compiles those modules that are used.
    cache = os.environ.get("PIP_CACHE_DIR") or str(Path.home() / ".cache" / "pip")
    environment = bare_environment(tmp_path / "data") | {"HOME": str(tmp_path)}
    environment |= {"PIP_CACHE_DIR": cache, "PIP_NO_COMPILE": "no"}  # "no" is how pip spells this one
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        environment.pop(name, None)
    process = subprocess.Popen(
        ["bash", "-c", script("run")],
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    printed: list[str] = []
    try:
        for line in process.stdout:
            printed.append(line)
            if line.startswith("Ready."):
                break
        curl = next((line for line in printed if line.startswith("curl ")), None)
        assert curl is not None, "".join(printed)
        assert paste("sh", curl)["status"] == "filled"
    finally:
        os.killpg(process.pid, 15)
        process.stdout.close()
        process.wait(DEADLINE_S)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True)
    assert changed.stdout == ""
