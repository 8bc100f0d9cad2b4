"""Litestream's configuration and environment: exact, read by Litestream as meant, and without secrets."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kekbridge.config import ReplicaSettings, load_settings
from kekbridge.errors import ConfigError
from kekbridge.ops import litestream
from tests.replication import needs_litestream

DATABASE = Path("/var/lib/kekbridge/kekbridge.db")


def settings(**values: Any) -> ReplicaSettings:
    return load_settings(environment={}, overrides={f"replica.{name}": value for name, value in values.items()}).replica


def test_the_configuration_is_exact() -> None:
    """No checkpoint that holds all writes up, no more files at the target than looks at the database, no secret."""
    text = litestream.configuration(
        settings(url="sftp://me@host:22/srv/k", ssh_key="/etc/k/id", host_key="ssh-ed25519 AAAA"),
        DATABASE,
        socket=Path("/run/k.sock"),
    )
    assert yaml.safe_load(text) == {
        "logging": {"level": "info", "type": "json", "stderr": True},
        "shutdown-sync-timeout": "3s",
        "socket": {"enabled": True, "path": "/run/k.sock", "permissions": 0o600},
        "dbs": [
            {
                "path": str(DATABASE),
                "monitor-interval": "1000ms",
                "checkpoint-interval": "1m",
                "min-checkpoint-page-count": 4000,
                "truncate-page-n": 0,
                "busy-timeout": "1s",
                "replica": {
                    "url": "sftp://me@host:22/srv/k",
                    "sync-interval": "1000ms",
                    "key-path": "/etc/k/id",
                    "host-key": "ssh-ed25519 AAAA",
                },
            }
        ],
    }


def test_only_what_is_set_is_in_the_configuration() -> None:
    """Another server for s3:// and a slower copy; everything else is Litestream's own."""
    text = litestream.configuration(
        settings(url="s3://bucket/k", endpoint="https://s3.example.com", region="auto", sync_s=2.5),
        DATABASE,
        socket=None,
    )
    found = yaml.safe_load(text)
    assert "socket" not in found
    assert found["dbs"][0]["replica"] == {
        "url": "s3://bucket/k",
        "sync-interval": "2500ms",
        "endpoint": "https://s3.example.com",
        "region": "auto",
    }


@needs_litestream
@pytest.mark.parametrize("url", ["s3://bucket/k", "sftp://me@host/srv/k", 'file:///srv/a "quoted" $HOME: {k}'])
def test_litestream_reads_it_as_meant(url: str, tmp_path: Path) -> None:
    """Also with characters that mean something in YAML or to a shell."""
    config = tmp_path / "litestream.yml"
    database = tmp_path / 'a "b" $c: {d}.db'
    config.write_text(litestream.configuration(settings(url=url), database, socket=None), encoding="utf-8")
    arguments = ["databases", "-config", str(config), "-no-expand-env", "-json"]
    done = subprocess.run([litestream.find_program(), *arguments], capture_output=True, text=True, check=True)
    assert yaml.safe_load(done.stdout) == [{"path": str(database), "replica": url.partition(":")[0]}]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/path", "found 'ftp://host/path', expected \"s3://"),
        ("s3://", 'expected "s3://'),
        ("file://relative/path", 'expected "s3://'),
        ("/srv/replica", 'expected "s3://'),
        ("sftp://me:SECRET@host/path", "found a password in the URL"),
        ("s3://[bad", 'expected "s3://'),
    ],
)
def test_a_place_that_cannot_be_is_one_line(url: str, message: str) -> None:
    """The setting, what was found unless it holds a secret, and what is expected."""
    with pytest.raises(ConfigError, match=r"setting replica\.url") as raised:
        settings(url=url)
    assert message in raised.value.message
    assert "SECRET" not in raised.value.message


def test_its_environment_has_the_keys_and_nothing_of_kekbridge() -> None:
    """What the daemon's environment may hold besides (credentials, settings) is none of its business; one name makes it fail."""
    own = {
        "AWS_PROFILE": "p",
        "AWS_CA_BUNDLE": "/etc/ca",
        "PATH": "/bin",
        "KEKBRIDGE_MODE": "live",
        "CREDENTIALS_DIRECTORY": "/run/c",
        "HOME": "/h",
    }
    assert litestream.environment(own, {"LITESTREAM_ACCESS_KEY_ID": "k"}) == {
        "AWS_PROFILE": "p",
        "PATH": "/bin",
        "HOME": "/h",
        "LITESTREAM_ACCESS_KEY_ID": "k",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no reason given"),
        ("a\nError: no such bucket\n", "no such bucket"),
        ('{"level":"ERROR","msg":"failed to run","error":"denied"}\n', "failed to run: denied"),
    ],
)
def test_its_last_line_is_the_reason(text: str, expected: str) -> None:
    """Plain or as JSON."""
    assert litestream.failure(text) == expected
