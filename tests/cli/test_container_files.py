"""Dockerfile and Compose file: parsed, and held to the rules that make the container safe by default."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from kekbridge.cli.container_files import COMPOSE, DOCKERFILE, IGNORE, USER_ID, ImageSettings, container_texts
from kekbridge.cli.units import UnitSettings, unit_texts
from kekbridge.config import load_settings
from kekbridge.daemon.preflight import check_settings

PACKAGE = ImageSettings("1.2.3", "kekbridge-1.2.3-py3-none-any.whl")
EXECUTABLE = ImageSettings("1.2.3", None)
each_form = pytest.mark.parametrize("settings", [PACKAGE, EXECUTABLE], ids=["package", "executable"])


def instructions(settings: ImageSettings) -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", container_texts(settings)[DOCKERFILE], flags=re.MULTILINE))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def service(settings: ImageSettings) -> dict[str, Any]:
    """The bridge's part of the Compose file, with the defaults of its variables."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", container_texts(settings)[COMPOSE])
    found: dict[str, Any] = yaml.safe_load(text)["services"]["bridge"]
    return found


@each_form
def test_the_image_runs_as_a_user_without_rights(settings: ImageSettings) -> None:
    """A number, which every runtime can check; the program belongs to root, and signals reach it, not a shell."""
    found = dict(instructions(settings))
    assert found["USER"] == f"{USER_ID}:{USER_ID}"
    assert found["ENTRYPOINT"] == '["kekbridge"]'
    assert found["CMD"] == '["serve"]'
    assert found["STOPSIGNAL"] == "SIGTERM"
    assert found["VOLUME"] == "/data"
    assert found["HEALTHCHECK"].endswith('CMD ["kekbridge", "health"]')
    names = [name for name, _ in instructions(settings)]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))
    assert "EXPOSE" not in names  # `docker run -P` would publish it to everybody


@each_form
def test_the_image_alone_listens_on_its_own_loopback(settings: ImageSettings) -> None:
    """What opens it to others is in the Compose file, beside the ports. No secret and no setting of the trader is in the image."""
    environment = dict(instructions(settings))["ENV"]
    assert "_HOST" not in environment
    assert "KEKBRIDGE_VAULT_SECRETS_DIR=/run/secrets" in environment
    assert container_texts(settings)[IGNORE].splitlines()[0] == "*"
    copied = [rest for name, rest in instructions(settings) if name == "COPY"]
    assert not any(word in rest for rest in copied for word in ("secrets", ".toml", " . "))


def test_packages_are_pinned_by_hash_and_nothing_is_built() -> None:
    """A changed file of an index stops the build, and no downloaded build script runs."""
    (install,) = [rest for name, rest in instructions(PACKAGE) if name == "RUN" and "pip install" in rest]
    for option in ("--require-hashes", "--only-binary :all:", "--no-deps"):
        assert option in install
    assert "pip uninstall" in install
    assert [name for name, _ in instructions(PACKAGE)][:2] == ["ARG", "FROM"]  # any base image can be named


@each_form
def test_compose_publishes_on_loopback_only(settings: ImageSettings) -> None:
    """Everybody who can reach the machine could else send alerts in plain text, or see the page that signs in."""
    assert service(settings)["ports"] == ["127.0.0.1:8080:8080", "127.0.0.1:8081:8081"]


@each_form
def test_compose_takes_away_every_right_that_is_not_needed(settings: ImageSettings) -> None:
    """Read-only root, no capabilities, no new ones; limits as in the systemd unit; logs that cannot fill the disk."""
    found = service(settings)
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["user"] == f"{USER_ID}:{USER_ID}"
    assert {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc"}.isdisjoint(found)
    assert found["logging"]["options"] == {"max-size": "10m", "max-file": "5"}
    assert found["restart"] == "unless-stopped"
    mounts = found["volumes"]
    assert mounts[0] == "data:/data"
    assert all(mount["read_only"] for mount in mounts[1:])
    (temporary,) = found["tmpfs"]
    options = set(temporary.partition(":")[2].split(","))
    assert {"nosuid", "nodev", "mode=1777"} <= options
    assert ("noexec" in options) is (settings is PACKAGE)  # the executable runs what it unpacks there


def test_compose_has_the_limits_and_the_patience_of_the_systemd_unit() -> None:
    """One set of limits for both ways to run it; SIGKILL comes only after the daemon's own shutdown."""
    unit = unit_texts(UnitSettings(["/k"], "", None, "127.0.0.1", 1, []))["kekbridge.service"]
    limits = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
    found = service(PACKAGE)
    assert found["stop_grace_period"] == f"{limits['TimeoutStopSec']}s"
    assert found["mem_limit"].upper() == limits["MemoryMax"]
    assert found["pids_limit"] == int(limits["TasksMax"])
    assert found["ulimits"]["nofile"] == int(limits["LimitNOFILE"])
    assert int(limits["TimeoutStopSec"]) > 2 * load_settings(environment={}).server.shutdown_timeout_s


@each_form
def test_the_master_key_is_a_secret(settings: ImageSettings) -> None:
    """In a file, not in the environment, which `docker inspect` shows."""
    found = service(settings)
    assert found["secrets"] == ["master-key"]
    whole = yaml.safe_load(container_texts(settings)[COMPOSE])
    assert whole["secrets"] == {"master-key": {"file": "./secrets/master-key"}}
    assert not any(word in name for name in found["environment"] for word in ("SECRET", "TOKEN", "PASSWORD"))


@each_form
def test_the_bridge_accepts_the_settings_of_the_container(settings: ImageSettings) -> None:
    """Proxies are believed in the bridge's own network only, which the Compose file makes."""
    found = service(settings)
    environment = {name: value for name, value in found["environment"].items() if name != "KEKBRIDGE_CONFIG"}
    accepted = load_settings(environment=environment)
    check_settings(accepted)
    whole = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", container_texts(settings)[COMPOSE]))
    (network,) = whole["networks"]["default"]["ipam"]["config"]
    assert list(accepted.server.trusted_proxies) == [network["subnet"]]
