"""The installed service's directory: what root runs and removes is only what it has put there."""

from __future__ import annotations

from pathlib import Path

import pytest

from kekbridge.cli.installation import Installation, InstallFailed


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
