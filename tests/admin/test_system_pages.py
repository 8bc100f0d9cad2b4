"""Jobs, checks and backups in the browser."""

from __future__ import annotations

from pathlib import Path

from kekbridge.ops import backup
from tests.admin.session import Browser


def files_of(directory: Path) -> set[str]:
    """Every file below a directory but those of the running database."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


async def test_a_job_is_run(browser: Browser) -> None:
    """Its row shows when it ran; an unknown job is 404."""
    key = await browser.log_in()
    assert 'id="job-backup"' in await browser.page("/jobs")
    assert (await browser.post("/jobs/run", key=key, job="backup"))[0] == 303
    assert len(backup.nightly_files(browser.bridge.data_dir / "backups")) == 1
    assert (await browser.post("/jobs/run", key=key, job="bakup"))[0] == 404


async def test_the_checks_are_run(browser: Browser) -> None:
    """Only when asked for; worst first, each with what to do."""
    key = await browser.log_in()
    assert "Found" not in await browser.page("/doctor")
    status, page = await browser.post("/doctor", key=key)
    assert status == 200
    assert page.index("status warning") < page.index("status ok")
    assert "<code>kekbridge webhook edit NAME --require-signature</code>" in page


async def test_a_backup_is_downloaded_and_leaves_nothing(browser: Browser, tmp_path: Path) -> None:
    """The download is a backup that restores; the data directory has no file more, and knows when the backup was made."""
    key = await browser.log_in()
    assert "none yet" in await browser.page("/backup")
    before = files_of(browser.bridge.data_dir)
    async with browser.session.post(f"{browser.url}/backup/download", data={"key": key}) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/zip"
        assert 'filename="kekbridge-' in answer.headers["Content-Disposition"]
        saved = tmp_path / "saved.zip"
        saved.write_bytes(await answer.read())
    made = backup.inspect(saved, browser.bridge.daemon.sealer.backup_key)
    assert made.bytes == saved.stat().st_size
    assert files_of(browser.bridge.data_dir) == before
    assert "none yet" not in await browser.page("/backup")
    assert (await browser.post("/backup/download"))[0] == 403


async def test_the_recovery_code_is_shown_once_unless_asked_again(browser: Browser) -> None:
    """As `kekbridge backup key`: the second time only on request."""
    key = await browser.log_in()
    code = browser.bridge.daemon.sealer.backup_key.code
    assert code not in await browser.page("/backup")
    assert code in (await browser.post("/backup/code", key=key))[1]
    status, page = await browser.post("/backup/code", key=key)
    assert status == 409
    assert code not in page
    assert "Show it again" in await browser.page("/backup")
    assert code in (await browser.post("/backup/code", key=key, again="yes"))[1]


async def test_a_backup_that_cannot_be_written_is_one_line(browser: Browser) -> None:
    """The page comes back with what is wrong and what to do."""
    key = await browser.log_in()
    (browser.bridge.data_dir / "backups").write_text("a file where the directory should be")
    status, page = await browser.post("/backup/download", key=key)
    assert status == 409
    assert "set backup.dir" in page
