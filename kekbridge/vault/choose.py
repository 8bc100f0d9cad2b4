"""Chooses the vault (docs/internals/architecture.md section 4): directory, OS keyring, passphrase file, and for paper only a key file.

The data directory remembers which vault its master key was made in; that one is tried before the order above, so that a keyring
appearing or vanishing never silently changes the key. Prompts only through the `ask` it is given. A vault is imported when it is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from kekbridge.config import Vault as VaultSettings
from kekbridge.errors import VaultError
from kekbridge.model import Mode
from kekbridge.vault.base import MASTER_KEY, SEALED_FILE, UNLOCKING, OpenVault, Place
from kekbridge.vault.directory import DirectoryVault
from kekbridge.vault.master import remembered_vault

Ask = Callable[[str], str]

_ORDER = ("directory", "keyring", "file", "key_file")
_WAYS_OUT = (
    "(1) systemd credentials or vault.secrets_dir holding a master-key file,"
    " (2) an OS keyring in a D-Bus session,"
    ' (3) vault.backend = "file" and a passphrase (on a terminal, or as the credential vault-passphrase)'
)


def open_vault(
    settings: VaultSettings,
    data_dir: Path,
    mode: Mode,
    *,
    ask: Ask | None = None,
    environment: Mapping[str, str] | None = None,
) -> OpenVault:
    """The vault to use, by `settings.backend`, or for `auto` the first that can be used. May block for seconds (D-Bus, argon2id).

    `ask` puts a question to somebody at the terminal and returns the hidden answer; None means that nobody is there.
    Raises VaultError that names why each was passed over and the ways out.
    """
    search = _Search(settings, data_dir, mode, ask, os.environ if environment is None else environment)
    if settings.backend != "auto":
        place = search.open(settings.backend)
        return OpenVault(place, f'vault.backend = "{settings.backend}"', data_dir)
    remembered = remembered_vault(data_dir)
    order = sorted(_ORDER, key=lambda name: (name != "directory", name != remembered, _ORDER.index(name)))
    passed_over: list[str] = []
    for name in order:
        try:
            place = search.open_if_meant(name)
        except _NotMeant as error:
            passed_over.append(str(error))
            continue
        reason = "where this data directory's key was made" if name == remembered else "; ".join(passed_over)
        return OpenVault(place, reason or "first choice", data_dir)
    raise VaultError(f"{mode.value} mode needs a place for secrets ({'; '.join(passed_over)}); use one of: {_WAYS_OUT}")


class _NotMeant(Exception):
    """This vault is passed over in the automatic order, and why."""


class _Search:
    def __init__(
        self, settings: VaultSettings, data_dir: Path, mode: Mode, ask: Ask | None, environment: Mapping[str, str]
    ) -> None:
        self._data_dir = data_dir
        self._mode = mode
        self._ask = ask
        self._environment = environment
        self._sealed_file = data_dir / SEALED_FILE
        given = settings.secrets_dir or environment.get("CREDENTIALS_DIRECTORY", "")
        self._directory = DirectoryVault(Path(given).expanduser()) if given else None

    def open(self, name: str) -> Place:
        """The named vault, or VaultError."""
        match name:
            case "directory":
                if self._directory is None:
                    raise VaultError(
                        'vault.backend is "directory", but neither vault.secrets_dir nor $CREDENTIALS_DIRECTORY is set'
                    )
                return self._directory
            case "keyring":
                from kekbridge.vault.os_keyring import KeyringVault

                return KeyringVault.find(self._data_dir, self._environment)
            case "file":
                return self._open_sealed_file()
            case _:
                if self._mode is not Mode.PAPER:
                    raise VaultError(
                        f"the key file is for paper mode only, not {self._mode.value}; use one of: {_WAYS_OUT}"
                    )
                from kekbridge.vault.directory import KeyFileVault

                return KeyFileVault(self._data_dir)

    def open_if_meant(self, name: str) -> Place:
        """The named vault when the automatic order may take it; _NotMeant says why not. A vault that is meant but broken is an error."""
        if name == "directory":
            if self._directory is None:
                raise _NotMeant("no secrets directory")
            if self._directory.get(MASTER_KEY) is None:
                raise _NotMeant(f"no master-key in the {self._directory.title}")
        if name == "file" and not self._sealed_file.exists() and self._passphrase_credential() is None:
            raise _NotMeant("no passphrase file")
        if name == "key_file" and self._mode is not Mode.PAPER:
            raise _NotMeant("the key file is for paper only")
        if name == "keyring":
            try:
                return self.open(name)
            except VaultError as error:
                raise _NotMeant(error.message) from None
        return self.open(name)

    def _open_sealed_file(self) -> Place:
        passphrase = self._passphrase_credential()
        is_new = not self._sealed_file.exists()
        if passphrase is None and self._ask is not None:
            passphrase = self._ask(f"Passphrase for {'the new vault' if is_new else self._sealed_file}: ")
            if is_new and self._ask("The same passphrase again: ") != passphrase:
                raise VaultError("the two passphrases differ; nothing was made")
        if passphrase is None:
            raise VaultError(
                f"{self._sealed_file} needs its passphrase: start on a terminal, or give it as the credential"
                " vault-passphrase in vault.secrets_dir or $CREDENTIALS_DIRECTORY"
            )
        from kekbridge.vault.passphrase import PassphraseVault

        make_or_open = PassphraseVault.create if is_new else PassphraseVault.open
        return make_or_open(self._sealed_file, passphrase)

    def _passphrase_credential(self) -> str | None:
        content = self._directory.get(UNLOCKING) if self._directory else None
        if content is None:
            return None
        try:
            return content.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise VaultError("the credential vault-passphrase is not UTF-8 text") from None
