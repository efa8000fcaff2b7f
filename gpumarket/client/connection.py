"""
Where the market is and who we are: each setting with the place it came from.

Order: flag, environment, `./gpumarket.toml`, the user's `config.toml`, a running devnet's
`.gpumarket/devnet.json` in this folder or one above, the default.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gpumarket.protocol.errors import InvalidInput

KEYS: Final = (
    "url",
    "rpc_url",
    "chain_id",
    "contract",
    "account",
    "keystore",
    "password_file",
)
ENV_PREFIX: Final = "GPUMARKET_"
PROJECT_FILE: Final = "gpumarket.toml"
SECTION: Final = "client"
DEVNET_FILE: Final = Path(".gpumarket") / "devnet.json"
DEFAULT_URL: Final = "http://127.0.0.1:8080"
FILE_BYTES_MAX: Final = 2**20
PARENTS_MAX: Final = 40


@dataclass(frozen=True, slots=True)
class Setting:
    """One value and where it came from."""

    key: str
    value: str
    origin: str


@dataclass(frozen=True)
class Devnet:
    """What a running devnet says about itself."""

    path: Path
    content: Mapping[str, Any]

    @property
    def accounts(self) -> Mapping[str, Mapping[str, str]]:
        """Accounts by name: address, keystore and password file of each."""
        accounts: Mapping[str, Mapping[str, str]] = self.content.get("accounts", {})
        return accounts


@dataclass(frozen=True)
class Connection:
    """All settings of one command or client; `find` gives a value or an empty text."""

    settings: Mapping[str, Setting]
    devnet: Devnet | None = None
    """Set where its values are in use."""
    folder: Path = field(default_factory=Path)

    def find(self, key: str) -> str:
        """Return a setting's value, or an empty text where nobody set it."""
        setting = self.settings.get(key)
        return "" if setting is None else setting.value

    @property
    def url(self) -> str:
        """The coordinator's address."""
        return self.find("url")

    @property
    def chain_id(self) -> int | None:
        """The chain that was configured, or None where the coordinator's word is taken."""
        text = self.find("chain_id")
        if not text:
            return None
        if not text.isdigit():
            raise InvalidInput(
                f"chain_id must be a number, got {text!r} from {self.settings['chain_id'].origin}",
                code="GM-1302",
            )
        return int(text)

    @property
    def keystore(self) -> Path:
        """The folder of key files, or one key file."""
        return Path(self.find("keystore")).expanduser()

    def require(self, key: str) -> str:
        """Return a setting's value; raise `InvalidInput` that says how to set it."""
        value = self.find(key)
        if not value:
            raise InvalidInput(
                f"the setting {key} is needed and nobody set it",
                code="GM-1302",
                hints=(f"export {ENV_PREFIX}{key.upper()}=VALUE", "gpumarket config show --origin"),
            )
        return value


def find_connection(
    flags: Mapping[str, str | None] | None = None,
    *,
    env: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Connection:
    """Collect all settings; raises `InvalidInput` for a file that cannot be read or understood."""
    folder = folder or Path.cwd()
    found: dict[str, Setting] = {}
    for key, value, origin in _list_candidates(flags or {}, env, folder):
        found.setdefault(key, Setting(key, value, origin))
    devnet = find_devnet(folder)
    if devnet is not None and "url" in found and found["url"].value != devnet.content.get("url"):
        devnet = None  # another coordinator was named: nothing of the devnet fits it
    if devnet is not None:
        _add_devnet(found, devnet)
    found.setdefault("url", Setting("url", DEFAULT_URL, "default"))
    found.setdefault(
        "keystore", Setting("keystore", str(find_data_folder() / "keystore"), "default")
    )
    return Connection(found, devnet, folder)


def find_devnet(folder: Path) -> Devnet | None:
    """Find the devnet that was started in `folder` or above it."""
    for place in (folder, *folder.parents[:PARENTS_MAX]):
        path = place / DEVNET_FILE
        if path.is_file():
            return Devnet(path, _read_json(path))
    return None


def find_config_folder() -> Path:
    """Return the folder of the user's own configuration."""
    import platformdirs

    return platformdirs.user_config_path("gpumarket")


def find_data_folder() -> Path:
    """Return the folder of the user's own keys."""
    import platformdirs

    return platformdirs.user_data_path("gpumarket")


def _list_candidates(
    flags: Mapping[str, str | None], env: Mapping[str, str], folder: Path
) -> Iterator[tuple[str, str, str]]:
    for key in KEYS:
        flag = flags.get(key)
        if flag:
            yield key, flag, f"flag --{key.replace('_', '-')}"
        name = ENV_PREFIX + key.upper()
        if env.get(name):
            yield key, env[name], f"environment {name}"
    for path in (folder / PROJECT_FILE, find_config_folder() / "config.toml"):
        if path.is_file():
            for key, value in _read_settings(path).items():
                yield key, value, f"file {path}"


def _read_settings(path: Path) -> dict[str, str]:
    try:
        section = tomllib.loads(_read_text(path)).get(SECTION, {})
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is not TOML: {error}", code="GM-1301") from error
    for key in section:
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, 1)
            advice = f"did you mean {close[0]}?" if close else f"known: {', '.join(KEYS)}"
            raise InvalidInput(
                f"{path}: unknown setting {key} in [{SECTION}]", code="GM-1302", why=advice
            )
    return {key: str(value) for key, value in section.items()}


def _add_devnet(found: dict[str, Setting], devnet: Devnet) -> None:
    origin = f"devnet {devnet.path}"
    for key in ("url", "rpc_url", "chain_id", "contract"):
        if devnet.content.get(key):
            found.setdefault(key, Setting(key, str(devnet.content[key]), origin))
    if "account" not in found and devnet.accounts:
        found["account"] = Setting("account", next(iter(devnet.accounts)), origin)


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(_read_text(path))
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON", code="GM-1301") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"{path} does not describe a devnet", code="GM-1301")
    return content


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read", code="GM-1301", why=str(error)) from error
