"""The service on a real systemd: installed, used, upgraded, rolled back, removed, on a private machine (tests/system/machine.py)."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kekbridge import __version__
from kekbridge.store.connections import FILE_NAME
from kekbridge.vault.standby import seal
from tests.paths import ROOT
from tests.store.test_migrations import BEFORE_THE_JOURNAL, old_database
from tests.system.machine import Machine, private_machine, why_no_machine
from tests.waiting import DEADLINE_S

pytestmark = pytest.mark.skipif(bool(why_no_machine()), reason=why_no_machine() or "-")

# In the unit, each of its signs would mean something else.
_CONFIG = '/etc/kek "bridge" $HOME 100%h.toml'
_SETTINGS = """\
[server]
port = 9123
[replica]
url = "file:///var/lib/kekbridge/replica"
"""
_BROKEN = 'raise ConfigError("broken on purpose")'
# The user and the directory of version 0.1's unit; its program is of no interest here, but that its data is used further.
_UNIT_OF_0_1 = f"""\
[Service]
ExecStart=/bin/sh -c 'cp /srv/{FILE_NAME} /var/lib/kekbridge/ && exec sleep infinity'
DynamicUser=yes
StateDirectory=kekbridge
StateDirectoryMode=0700
UMask=0077
"""


# What a machine that trades would seal for a standby.
_BUNDLE = {
    "madeAt": "2026-11-29T15:00:00.000Z",
    "version": __version__,
    "host": "vps1",
    "mode": "testnet",
    "accountId": "0x" + "1" * 64,
    "orderlyKey": "ed25519:9C6hybhQ6Aycep9jaUnP6uL9ZYvDjUp1aSkFWPUFJtpj",
    "masterKey": base64.b64encode(bytes(32)).decode(),
    "secrets": {"notify-urls": base64.b64encode(b"json://example.com").decode()},
    "settings": {"mode": "testnet", "exchange.account_id": "0x" + "1" * 64, "replica.url": "file:///mnt/replica"},
}


@dataclass(frozen=True, slots=True)
class Host:
    """A private machine, with versions of kekbridge in root's home (mode 0700)."""

    #: The machine.
    machine: Machine

    def program(self, home: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the kekbridge of a clone in root's home."""
        command = (sys.executable, "-P", "-m", "kekbridge", *arguments)
        return self.machine.run(*command, environment={"PYTHONPATH": home})

    def kekbridge(self, *arguments: str, user: str = "", typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run the installed command."""
        return self.machine.run("kekbridge", *arguments, user=user, typed=typed)

    def data(self, *arguments: str, user: str = "") -> Any:
        """JSON of an installed command that must succeed."""
        done = self.kekbridge(*arguments, "--json", user=user)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def show(self, name: str) -> str:
        """A property of the service, as systemd has it."""
        return self.machine.output("systemctl", "show", "kekbridge.service", f"--property={name}", "--value")

    def clone(self, home: str, **changes: tuple[str, str]) -> None:
        """Put a clone into a directory of the machine; per file (`__` for `/`) one replacement, or what is added at its end."""
        script = ["set -eu", f"mkdir -p {home}", f"cp -a {ROOT}/kekbridge {ROOT}/pyproject.toml {home}/"]
        self.machine.output("sh", "-c", "; ".join(script))
        for file, (old, new) in changes.items():
            path = f"kekbridge/{file}.py" if file == "__init__" else f"kekbridge/{file.replace('__', '/')}.py"
            text = (ROOT / path).read_text(encoding="utf-8")
            assert not old or text.count(old) == 1, (file, old)
            changed = text.replace(old, new) if old else text + new
            assert self.machine.run("tee", f"{home}/{path}", typed=changed).returncode == 0


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A booted machine with the user `trader`, who is nobody special."""
    try:
        with private_machine(tmp_path_factory.mktemp("machine")) as machine:
            machine.output("sh", "-c", "chmod 700 /root && useradd --create-home trader")
            yield Host(machine)
    except OSError as error:
        pytest.skip(str(error))


@pytest.mark.timeout(600)
def test_a_service_is_installed_used_upgraded_rolled_back_and_removed(host: Host, tmp_path: Path) -> None:
    """From a home that only root can read: nothing that the service needs stays there, no order is lost, its data is replicated."""
    machine = host.machine
    assert machine.output("stat", "-c", "%a", "/root") == "700"
    host.clone("/root/one")
    assert machine.run("tee", _CONFIG, typed=_SETTINGS).returncode == 0
    _serve_as_0_1(host, tmp_path)
    for step in (_install, _use, _restore, _upgrade, _roll_back):
        step(host)
        _is_replicated(host)
    _stand_by(host)
    _remove(host)


def _serve_as_0_1(host: Host, directory: Path) -> None:
    """A service of version 0.1, whose user is gone once it has stopped: it has to be stopped first, and its data is kept."""
    machine = host.machine
    old_database(directory, BEFORE_THE_JOURNAL)
    data = base64.b64encode((directory / FILE_NAME).read_bytes()).decode()
    assert machine.run("sh", "-c", f"base64 -d > /srv/{FILE_NAME}", typed=data).returncode == 0
    assert machine.run("tee", "/etc/systemd/system/kekbridge.service", typed=_UNIT_OF_0_1).returncode == 0
    machine.output("systemctl", "start", "kekbridge.service")
    refused = host.program("/root/one", "install-systemd", "--now", "--config", _CONFIG)
    assert refused.returncode == 1, refused.stderr
    assert "the service of version 0.1 runs, nothing was changed; run `sudo systemctl stop" in refused.stderr
    assert machine.run("test", "-e", "/opt/kekbridge/versions").returncode == 1
    machine.output("systemctl", "stop", "kekbridge.service")


def _is_replicated(host: Host) -> None:
    """All that has been written is at the replica within seconds."""
    deadline = time.monotonic() + DEADLINE_S
    while (status := host.data("replica", "status"))["upTo"] is None:
        assert time.monotonic() < deadline, status
        time.sleep(0.1)
    assert status["lagS"] < DEADLINE_S, status


def _install(host: Host) -> None:
    """A sandboxed process of its own user, from root's files, which nobody else can write."""
    machine = host.machine
    done = host.program("/root/one", "install-systemd", "--now", "--config", _CONFIG)
    assert done.returncode == 0, done.stderr
    assert f"it accepts {_CONFIG}" in done.stdout
    assert "checked: the user kekbridge can run it" in done.stdout
    assert "usermod -aG kekbridge" in done.stdout
    assert host.show("ActiveState") == "active"
    assert host.show("NRestarts") == "0"
    assert host.show("Result") == "success"
    process = host.show("MainPID")
    status = dict(line.split(":\t") for line in machine.output("cat", f"/proc/{process}/status").splitlines())
    uid = machine.output("id", "-u", "kekbridge")
    assert (status["Uid"].split()[0], status["NoNewPrivs"], status["Seccomp"]) == (uid, "1", "2")
    assert int(status["CapEff"], 16) == 0
    files = machine.output("ls", "-l", f"/proc/{process}/map_files") + machine.output("cat", f"/proc/{process}/cmdline")
    assert "/root/" not in files
    assert machine.run("find", "/opt/kekbridge", "!", "-user", "root").stdout == ""
    assert machine.run("find", "/opt/kekbridge", "-perm", "/022", "!", "-type", "l").stdout == ""
    assert machine.output("stat", "-c", "%U", f"/var/lib/kekbridge/{FILE_NAME}") == "kekbridge"
    assert machine.run("test", "-e", "/var/lib/kekbridge/before-migration-0008_journal.db").returncode == 0
    again = host.program("/root/one", "install-systemd", "--now", "--json", "--config", _CONFIG)
    assert again.returncode == 0, again.stderr


def _use(host: Host) -> None:
    """Root and members of the group act on it from any directory; others get the reason."""
    machine = host.machine
    refused = host.kekbridge("install-systemd", "--now", user="trader")
    assert refused.returncode == 3
    assert "run: sudo /" in refused.stderr
    assert "install-systemd --now" in refused.stderr
    stranger = host.kekbridge("halt", user="trader")
    assert stranger.returncode == 3, stranger.stderr
    assert "join the group kekbridge" in stranger.stderr
    machine.output("usermod", "-aG", "kekbridge", "trader")
    tried = host.kekbridge("try", user="trader")
    assert tried.returncode == 0, tried.stderr
    halted = host.kekbridge("halt", user="trader")
    assert halted.returncode == 0
    assert f"halted: PAPER, /var/lib/kekbridge (process {host.show('MainPID')})" in halted.stdout + halted.stderr
    assert host.kekbridge("resume", user="trader").returncode == 0
    assert [each["status"] for each in host.data("orders")] == ["filled"]


def _restore(host: Host) -> None:
    """The lines of operations.md bring a nightly backup back, as the service's user and under its master key."""
    machine, before = host.machine, host.data("webhook", "list")
    assert host.kekbridge("jobs", "run", "backup").returncode == 0
    assert host.kekbridge("webhook", "create", "after").returncode == 0
    file = f"/var/lib/kekbridge/backups/{machine.output('ls', '/var/lib/kekbridge/backups').strip()}"
    assert "stop it before restoring" in host.kekbridge("restore", file, "--yes").stderr
    document = (ROOT / "kekbridge" / "docs" / "operations.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"<!-- test: restore -->\n```text\n(.*?)```", document, re.DOTALL)
    # Root needs no sudo, and there is nobody to ask.
    done = machine.run("sh", "-e", "-c", script.replace("sudo ", "").replace("FILE", f"{file} --yes"))
    assert done.returncode == 0, done.stderr
    assert host.show("ActiveState") == "active"
    assert host.data("webhook", "list") == before


def _upgrade(host: Host) -> None:
    """A new version with a migration of its own: a backup first, then the same orders, positions and key."""
    machine, before = host.machine, host.data("webhook", "list")
    host.clone("/root/two", __init__=(__version__, "9.1.0"), store__migrations=_with_table("later"))
    _follow_no_link(host)
    done = host.program("/root/two", "upgrade", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["changed"], report["to"][:6], report["state"]) == (True, "9.1.0-", "the service is ready")
    assert machine.output("stat", "-c", "%U %a", report["backup"]) == "kekbridge 600"
    assert host.show("NRestarts") == "0"
    assert host.data("webhook", "list") == before
    assert ":9123/" in host.kekbridge("web", "link").stdout + host.kekbridge("webhook", "show", "default").stdout
    assert "later" in _tables(host)
    assert machine.output("kekbridge", "--version").startswith("kekbridge 9.1.0")
    assert "is installed already" in host.program("/root/two", "upgrade").stdout
    assert "is installed already" in host.kekbridge("upgrade").stdout


def _follow_no_link(host: Host) -> None:
    """A service that was broken into gains nothing of root by a link in its directory."""
    backups, victim, machine = "/var/lib/kekbridge/backups", "/srv/victim", host.machine
    machine.output("sh", "-c", f"mkdir -m 700 {victim}; rm -rf {backups}; ln -s {victim} {backups}")
    done = host.program("/root/two", "upgrade")
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert machine.output("stat", "-c", "%U", victim) == "root"
    assert machine.run("ls", "-A", victim).stdout == ""
    machine.output("rm", backups)


def _roll_back(host: Host) -> None:
    """One that migrates and then does not get ready: the version of before runs again, on the database of before."""
    version = host.machine.output("readlink", "/opt/kekbridge/current")
    host.clone(
        "/root/three",
        __init__=(__version__, "9.2.0"),
        store__migrations=_with_table("later", "much_later"),
        daemon__app=("            supervisor.ready()\n", f"            {_BROKEN}\n"),
    )
    done = host.program("/root/three", "upgrade")
    assert done.returncode == 1
    assert "broken on purpose" in done.stderr
    assert "rolled back: 9.1.0-" in done.stderr
    assert "with the database of before the migration" in done.stderr
    assert host.machine.output("readlink", "/opt/kekbridge/current") == version
    assert host.show("ActiveState") == "active"
    assert "much_later" not in _tables(host)
    found = host.machine.output("find", "/var/lib/kekbridge", "-name", "before-migration-*", "-printf", "%f ")
    assert set(found.split()) == {"before-migration-0008_journal.db", "before-migration-zz_later.db"}
    assert [each["status"] for each in host.data("orders")] == ["filled"]
    assert host.kekbridge("webhook", "test", "default").returncode == 0


def _remove(host: Host) -> None:
    """The program goes and the data stays; --purge asks, and takes everything."""
    machine = host.machine
    refused = host.kekbridge("uninstall", user="trader")
    assert refused.returncode == 3
    assert "sudo" in refused.stderr
    done = host.kekbridge("uninstall")
    assert done.returncode == 0, done.stderr
    assert "kept: /var/lib/kekbridge" in done.stdout
    assert host.show("ActiveState") == "inactive"
    for path in ("/opt/kekbridge", "/etc/systemd/system/kekbridge.service", "/usr/local/bin/kekbridge"):
        assert machine.run("test", "-e", path).returncode == 1, path
    assert machine.run("test", "-e", "/var/lib/kekbridge/kekbridge.db").returncode == 0
    assert host.program("/root/one", "uninstall").returncode == 3  # nothing is installed
    assert machine.run("test", "-e", "/var/lib/kekbridge/kekbridge.db").returncode == 0
    assert host.program("/root/one", "uninstall", "--purge", "--yes").returncode == 0
    assert machine.run("test", "-e", "/var/lib/kekbridge").returncode == 1
    assert machine.run("id", "kekbridge").returncode == 1


def _with_table(*names: str) -> tuple[str, str]:
    """A change of the migrations that adds one for each table."""
    steps = "".join(f'("zz_{name}", ("CREATE TABLE {name} (x TEXT) STRICT",)), ' for name in names)
    return "", f"MIGRATIONS = (*MIGRATIONS, {steps})\n"


def _tables(host: Host) -> str:
    query = "connect('/var/lib/kekbridge/kekbridge.db').execute('SELECT name FROM sqlite_master').fetchall()"
    return host.machine.output(sys.executable, "-c", f"import sqlite3; print(sqlite3.{query})")


def _stand_by(host: Host) -> None:
    """Root's commands run as the service while it is stopped: only its user can open its vault, a systemd credential."""
    machine = host.machine
    machine.output("systemctl", "stop", "kekbridge.socket", "kekbridge.service")
    word = host.kekbridge("replica", "prepare")
    assert word.returncode == 0, word.stderr
    sealed = seal(word.stdout, json.dumps(_BUNDLE).encode())
    assert machine.run("tee", "/root/standby.txt", typed=sealed).returncode == 0
    prepared = host.kekbridge("replica", "prepare", "/root/standby.txt")
    assert prepared.returncode == 0, prepared.stderr
    owners = machine.output(
        "sh", "-c", "stat -c '%U %a' /var/lib/kekbridge/standby.json /var/lib/kekbridge/vault.added"
    )
    assert set(owners.splitlines()) == {"kekbridge 600"}
    assert 'mode = "testnet"' in machine.output("cat", _CONFIG)
    lacking = host.kekbridge("takeover", "--check")
    assert lacking.returncode == 2, lacking.stderr
    assert "no exchange key of its own" in lacking.stderr
    assert host.data("keys", "generate")["vault"] == "directory"
    assert machine.output("sh", "-c", "ls /run | grep -c kekbridge-credentials || true") == "0"
