"""`kekbridge webhook rotate`: a second pair, a grace time for the first, and a last use that tells when the first may go."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kekbridge.config import Vault
from kekbridge.model import Mode
from kekbridge.model.webhooks import WEBHOOK_PATH
from kekbridge.store import webhooks as stored
from kekbridge.store.database import Database
from kekbridge.vault import Sealer, master_key, open_vault
from kekbridge.webhooks import registry
from tests.cli.processes import bare_environment, starting
from tests.system.harness import call, wait_until


def opens(data_dir: Path, api_key: str, at: datetime) -> bool:
    """Whether the daemon's own lookup would find the key at that time."""
    sealer = Sealer(master_key(open_vault(Vault(backend="key_file"), data_dir, Mode.PAPER)))
    with Database.open(data_dir, create=False).snapshot() as connection:
        return stored.find_by_lookup(connection, sealer.lookup(api_key), at) is not None


def test_both_pairs_work_during_the_grace_time(run: Any, data_dir: Path) -> None:
    """The new pair works at once, the old one to the end of the grace time and not a moment longer."""
    old = run("webhook", "create", "main", "--json").data
    new = run("webhook", "rotate", "main", "--grace", "2h", "--json").data
    assert new["apiKey"] != old["apiKey"]
    assert new["apiSecret"] != old["apiSecret"]
    (replaced,) = new["replaced"]
    end = datetime.fromisoformat(replaced["expiresAt"])
    assert timedelta(hours=1, minutes=59) < end - datetime.now(UTC) <= timedelta(hours=2)
    assert opens(data_dir, old["apiKey"], end - timedelta(seconds=1))
    assert not opens(data_dir, old["apiKey"], end)
    assert opens(data_dir, new["apiKey"], end + timedelta(days=4000))


def test_no_grace_ends_the_old_pair_at_once(run: Any, data_dir: Path) -> None:
    """`--grace 0` is for a leaked key; also one that was in its grace time already stops."""
    keys = [run("webhook", "create", "main", "--json").data, run("webhook", "rotate", "main", "--json").data]
    keys.append(run("webhook", "rotate", "main", "--grace", "0", "--json").data)
    now = datetime.now(UTC)
    assert [opens(data_dir, one["apiKey"], now) for one in keys] == [False, False, True]
    assert [key["state"] for key in run("webhook", "show", "main", "--json").data["keys"]] == [
        "ended",
        "ended",
        "valid",
    ]


def test_a_second_rotation_never_lengthens_the_first_grace(run: Any) -> None:
    """A key that ends sooner keeps its earlier end."""
    run("webhook", "create", "main")
    first = run("webhook", "rotate", "main", "--grace", "1h", "--json").data["replaced"][0]
    again = run("webhook", "rotate", "main", "--grace", "7d", "--json").data["replaced"]
    assert again[0] == first
    shown = run("webhook", "show", "main", "--json").data["keys"]
    assert shown[0]["expiresAt"] == first["expiresAt"]
    assert [key["state"] for key in shown] == ["ending", "ending", "valid"]


def test_templates_use_the_newest_pair(run: Any) -> None:
    """After a rotation the message to paste carries the new key; the old secret is not shown any more."""
    run("webhook", "create", "main")
    new = run("webhook", "rotate", "main", "--json").data
    assert json.loads(run("template", "main").out)["apiKey"] == new["apiKey"]
    assert run("webhook", "show", "main", "--secret", "--json").data["apiSecret"] == new["apiSecret"]


def test_show_lists_keys_for_people(run: Any) -> None:
    """Prefix, creation, last use and end of each key; never the key itself."""
    made = run("webhook", "create", "main", "--json").data
    run("webhook", "rotate", "main", "--grace", "7d")
    shown = run("webhook", "show", "main").out
    assert made["apiKey"][: registry.KEY_PREFIX_LENGTH] + "…" in shown
    assert made["apiKey"] not in shown
    assert "LAST USED" in shown
    assert "never" in shown
    assert "in 6 d 23 h" in shown or "in 7 d" in shown


def test_people_are_told_what_becomes_of_the_old_key(run: Any) -> None:
    """Credentials on stdout, the old key's end and the next command on stderr."""
    run("webhook", "create", "main")
    result = run("webhook", "rotate", "main", "--grace", "0")
    assert "whs_" in result.out
    assert "is refused from now on" in result.err
    assert "kekbridge template main" in result.err


@pytest.mark.parametrize(("arguments", "code"), [(("nobody",), 3), (("main", "--grace", "soon"), 2)])
def test_wrong_arguments(run: Any, arguments: tuple[str, ...], code: int) -> None:
    """An unknown name is exit code 3, an unreadable duration 2; nothing is rotated."""
    run("webhook", "create", "main")
    result = run("webhook", "rotate", *arguments)
    assert result.code == code
    assert result.err.count("\n") == 1
    assert len(run("webhook", "show", "main", "--json").data["keys"]) == 1


def test_list_marks_webhooks_without_signature(run: Any) -> None:
    """A webhook whose apiKey alone is the proof is marked in the list, with the command that ends it."""
    run("webhook", "create", "safe")
    run("webhook", "create", "open", "--no-require-signature")
    result = run("webhook", "list")
    lines = {line.split()[0]: line for line in result.out.splitlines()}
    assert "NO SIGNATURE" in lines["open"]
    assert "NO SIGNATURE" not in lines["safe"]
    assert "--require-signature" in result.err
    assert run("webhook", "edit", "open", "--require-signature").code == 0
    assert "--require-signature" not in run("webhook", "list").err


def test_a_running_daemon_takes_both_pairs_and_notes_their_use(tmp_path: Path) -> None:
    """Rotated beside a running daemon: old and new key both open the door, a revoked one is unknown, and `show` tells who was used."""
    with starting(bare_environment(tmp_path / "data")) as start:
        bridge = start("serve", "--json")
        first = json.loads(bridge.line(lambda text: text.startswith("{")))
        url = first["url"] + WEBHOOK_PATH
        name = first["webhook"]["name"]
        bridge.data("webhook", "edit", name, "--no-require-signature")

        def ping(api_key: str) -> dict[str, Any]:
            stamp = datetime.now(UTC).isoformat()
            answer: dict[str, Any] = call(url, {"apiKey": api_key, "action": "ping", "timestamp": stamp})
            return answer

        old, new = first["webhook"]["apiKey"], bridge.data("webhook", "rotate", name, "--grace", "1h")["apiKey"]
        assert [key["lastUsedAt"] for key in bridge.data("webhook", "show", name)["keys"]] == [None, None]
        assert ping(old)["success"] is True
        assert ping(new)["success"] is True
        wait_until(
            lambda: all(key["lastUsedAt"] for key in bridge.data("webhook", "show", name)["keys"]),
            what="the last use of both keys",
        )
        bridge.data("webhook", "rotate", name, "--grace", "0")
        stranger = ping("wh_test_" + "x" * 43)
        assert ping(old) == stranger
        assert ping(new) == stranger
        assert stranger["code"] == "unauthorized"
