"""Choose the vault (docs/internals/architecture.md section 4): directory, OS keyring, passphrase file; for paper also a key file.

The data directory records in which vault its master key was created. That vault is tried before the order above (but after a
directory), so that a keyring that appears or disappears never changes the key silently. Backends are imported when used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from kekbridge.config import Vault as VaultSettings
from kekbridge.errors import VaultError
from kekbridge.model import Mode
from kekbridge.vault.base import MASTER_KEY, SEALED_FILE, UNLOCK_CREDENTIAL, OpenVault, VaultBackend
from kekbridge.vault.directory import DirectoryVault
from kekbridge.vault.master import recorded_vault

Ask = Callable[[str], str]

_ORDER = ("directory", "keyring", "file", "key_file")
_OPTIONS = (
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
    """Open the vault that `settings.backend` names, or for `auto` the first that can be used. May block for seconds (D-Bus, argon2id).

    `ask` prompts on the terminal and returns the hidden answer; None if there is no terminal. `environment` defaults to os.environ.
    Raises VaultError with the reason why each vault was skipped, and the options.
    """
    chooser = _Chooser(settings, data_dir, mode, ask, os.environ if environment is None else environment)
    if settings.backend != "auto":
        backend = chooser.open(settings.backend)
        return OpenVault(backend, f'vault.backend = "{settings.backend}"', data_dir)
    recorded = recorded_vault(data_dir)
    order = sorted(_ORDER, key=lambda name: (name != "directory", name != recorded, _ORDER.index(name)))
    skipped: list[str] = []
    for name in order:
        try:
            backend = chooser.open_if_eligible(name)
        except _NotEligible as error:
            skipped.append(str(error))
            continue
        reason = "where this data directory's key was created" if name == recorded else "; ".join(skipped)
        return OpenVault(backend, reason or "first choice", data_dir)
    raise VaultError(f"{mode.value} mode needs a vault ({'; '.join(skipped)}); use one of: {_OPTIONS}")


class _NotEligible(Exception):
    """Why this vault is skipped in the automatic order."""


class _Chooser:
    def __init__(
        self, settings: VaultSettings, data_dir: Path, mode: Mode, ask: Ask | None, environment: Mapping[str, str]
    ) -> None:
        self._data_dir = data_dir
        self._mode = mode
        self._ask = ask
        self._environment = environment
        self._sealed_file = data_dir / SEALED_FILE
        directory = settings.secrets_dir or environment.get("CREDENTIALS_DIRECTORY", "")
        self._directory = DirectoryVault(Path(directory).expanduser(), data_dir) if directory else None

    def open(self, name: str) -> VaultBackend:
        """Open the named vault. Raises VaultError."""
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
                        f"the key file is for paper mode only, not {self._mode.value}; use one of: {_OPTIONS}"
                    )
                from kekbridge.vault.directory import KeyFileVault

                return KeyFileVault(self._data_dir)

    def open_if_eligible(self, name: str) -> VaultBackend:
        """Open the named vault if the automatic order may use it, else raise _NotEligible; VaultError if it is eligible but broken."""
        if name == "directory":
            if self._directory is None:
                raise _NotEligible("no secrets directory")
            if self._directory.get(MASTER_KEY) is None:
                raise _NotEligible(f"no master-key in the {self._directory.title}")
        if name == "file" and not self._sealed_file.exists() and self._passphrase_credential() is None:
            raise _NotEligible("no passphrase file")
        if name == "key_file" and self._mode is not Mode.PAPER:
            raise _NotEligible("the key file is for paper only")
        if name == "keyring":
            try:
                return self.open(name)
            except VaultError as error:
                raise _NotEligible(error.message) from None
        return self.open(name)

    def _open_sealed_file(self) -> VaultBackend:
        passphrase = self._passphrase_credential()
        is_new = not self._sealed_file.exists()
        if passphrase is None and self._ask is not None:
            passphrase = self._ask(f"Passphrase for {'the new vault' if is_new else self._sealed_file}: ")
            if is_new and self._ask("The same passphrase again: ") != passphrase:
                raise VaultError("the two passphrases differ; no vault was created")
        if passphrase is None:
            raise VaultError(
                f"{self._sealed_file} needs its passphrase: start on a terminal, or give it as the credential"
                " vault-passphrase in vault.secrets_dir or $CREDENTIALS_DIRECTORY"
            )
        from kekbridge.vault.passphrase import PassphraseVault

        create_or_open = PassphraseVault.create if is_new else PassphraseVault.open
        return create_or_open(self._sealed_file, passphrase)

    def _passphrase_credential(self) -> str | None:
        content = self._directory.get(UNLOCK_CREDENTIAL) if self._directory else None
        if content is None:
            return None
        try:
            return content.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise VaultError("the credential vault-passphrase is not UTF-8 text") from None
