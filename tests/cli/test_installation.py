"""The installation's files, in a directory that stands for `/`; tests/system/test_service.py installs a real service."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from kekbridge.cli.installation import Installation, InstallFailed, NeedsRoot, need_root
from kekbridge.cli.program_copy import Account
from kekbridge.cli.units import SERVICE, SOCKET
from kekbridge.errors import ConfigError
from tests.cli.conftest import Run


@pytest.fixture
def place(tmp_path: Path) -> Installation:
    """An empty machine's."""
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    return Installation(tmp_path)


def test_a_version_is_switched_in_one_step(place: Installation) -> None:
    """`current` always names a whole version; others are removed but for those that are kept."""
    assert place.version() is None
    with place.locked():
        for version in ("0.1.0-a", "0.2.0-b", "0.3.0-c", ".0.4.0-d.new"):
            (place.directory_of(version) / "bin").mkdir(parents=True)
            (place.directory_of(version) / "bin" / "kekbridge").write_text(version)
        place.switch("0.1.0-a")
        assert place.program.read_text() == "0.1.0-a"
        place.switch("0.2.0-b")
        assert (place.version(), place.program.read_text()) == ("0.2.0-b", "0.2.0-b")
        place.remove_versions(but={"0.1.0-a", "0.2.0-b"})
    assert sorted(path.name for path in (place.base / "versions").iterdir()) == ["0.1.0-a", "0.2.0-b"]


def test_two_commands_do_not_change_it_at_once(place: Installation) -> None:
    """The second ends with one line."""
    with place.locked(), pytest.raises(InstallFailed, match="another command is changing"), place.locked():
        pass


def test_the_command_of_another_program_is_left_alone(place: Installation) -> None:
    """In /usr/local/bin only our own link is written and removed."""
    assert place.add_link()
    assert place.add_link()
    assert os.readlink(place.link) == str(place.program)
    place.remove_link()
    place.link.write_text("another's")
    assert not place.add_link()
    place.remove_link()
    assert place.link.read_text() == "another's"


def test_units_are_put_back_as_they_were(place: Installation) -> None:
    """For an upgrade that is undone."""
    place.write_units({SERVICE: "[Unit]\n", SOCKET: "[Socket]\n"})
    before = place.read_units()
    place.write_units({SERVICE: "[Unit]\nDescription=later\n"})
    place.write_units(before)
    assert place.read_units() == {SERVICE: "[Unit]\n", SOCKET: "[Socket]\n"}
    assert (place.units / SERVICE).stat().st_mode & 0o777 == 0o644
    place.remove_units()
    assert place.read_units() == {}
    with pytest.raises(ConfigError, match="--print"):
        Installation(place.root / "nowhere").write_units(before)


def test_the_settings_file_is_remembered(place: Installation) -> None:
    """An upgrade uses the one that the service was installed with, else the usual one, if it is there."""
    assert place.recorded_config() is None
    place.config.write_text("")
    assert place.recorded_config() == place.config
    with place.locked():
        place.record(Path("/srv/k 1.toml"))
        assert place.recorded_config() == Path("/srv/k 1.toml")
        place.record(None)
    assert place.recorded_config() is None


@pytest.mark.parametrize("path", ["tmp/k.toml", "var/tmp/k.toml", "home/me/k.toml", "root/k.toml"])
def test_settings_that_the_service_does_not_see_are_copied(place: Installation, path: str) -> None:
    """It has no homes, and a /tmp of its own: a readable file there is one that it cannot open. Other settings in /etc are kept."""
    file = place.root / PurePosixPath(path)
    file.parent.mkdir(parents=True)
    file.write_text('mode = "paper"\n')
    nobody = Account(65534, 65534)
    assert place.config_for_service(file, nobody) == place.config
    assert place.config.read_text() == 'mode = "paper"\n'
    file.write_text('mode = "testnet"\n')
    with pytest.raises(ConfigError, match="other settings"):
        place.config_for_service(file, nobody)


@pytest.mark.parametrize("command", ["install-systemd", "upgrade", "uninstall"])
def test_others_than_root_get_the_line_to_type(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Exit code 3, and nothing is changed: the program by its whole path, since sudo does not search a user's own directories."""
    (root / "opt/kekbridge/versions/0.0.1-x").mkdir(parents=True)
    Installation(root).switch("0.0.1-x")
    before = sorted(root.rglob("*"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    done = run(command)
    assert done.code == 3
    assert "run: sudo /" in done.err
    assert done.err.strip().endswith(command)
    assert sorted(root.rglob("*")) == before
    with pytest.raises(NeedsRoot, match="sudo 'a b' upgrade"):
        need_root(["a b", "upgrade"])


@pytest.mark.parametrize("command", ["upgrade", "uninstall"])
def test_without_a_service_there_is_nothing_to_change(run: Run, root: Path, command: str) -> None:
    """Exit code 3, and nothing is created; it has data and settings of its own, so none can be named."""
    done = run(command)
    assert done.code == 3
    assert "no service is installed" in done.err
    assert list(root.iterdir()) == []
    assert run(command, "--data-dir", str(root)).code == 2


def test_files_of_somebody_else_are_neither_run_nor_removed(tmp_path: Path) -> None:
    """A clone, or a data directory, where the program is to go; a link to one. An empty directory is as good as none."""
    place = Installation(tmp_path)
    place.check_base()
    place.base.mkdir(parents=True)
    with place.locked():
        (place.base / "versions").mkdir()
    place.check_base()

    (place.base / ".lock").unlink()
    for command in (place.check_base, lambda: place.locked().__enter__()):
        with pytest.raises(InstallFailed, match=r"nothing was changed; move them, for example to .*/opt/kekbridge-old"):
            command()
    place.base.rename(tmp_path / "clone")
    place.base.symlink_to(tmp_path / "clone")
    with pytest.raises(InstallFailed, match="did not put there"):
        place.check_base()


def test_root_uses_no_directory_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in it runs as root at an upgrade, and its owner can replace it, however empty it is now."""
    place = Installation(tmp_path)
    place.base.mkdir(parents=True)
    owner = place.base.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    with pytest.raises(InstallFailed, match="did not put there"):
        place.check_base()
