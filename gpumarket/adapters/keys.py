"""
Keys at rest: an Ethereum keystore (version 3), a libp2p key and a sealing key for each role.

The folder is 0700 and its files 0600; wider permissions are refused.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from eth_keyfile.keyfile import create_keyfile_json, decode_keyfile_json

from gpumarket.adapters.recursion import restore_recursion_limit
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.signing import PrivateKey

restore_recursion_limit()

KEYSTORE_NAME = "operator.json"
SCRYPT_N = 2**18
"""geth's own cost: about a second and 256 MB to open a key."""
SCRYPT_N_DEVNET = 2**12
"""For keys that hold play money, so that a devnet starts fast."""
_PEER_NAME = "peer.key"
_SEALING_NAME = "sealing.key"
_KEYS_FOLDER = "keys"


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything a role signs, connects and decrypts with."""

    key: PrivateKey
    secret: bytes = field(repr=False)
    """The operator's secp256k1 secret, which the chain adapter needs to sign transactions."""
    peer_seed: bytes = field(repr=False)
    sealing_secret: bytes = field(repr=False)

    @property
    def address(self) -> Address:
        """The operator's account."""
        return self.key.address

    @property
    def sealing_public(self) -> Hash32:
        """The public X25519 key that others seal to."""
        from nacl.public import PrivateKey as SealingKey  # the client opens keystores without it

        return bytes(SealingKey(self.sealing_secret).public_key)


def create_identity(
    data_dir: Path, *, password: str, secret: bytes | None = None, scrypt_n: int = SCRYPT_N
) -> Identity:
    """Make the keys of a new role; an existing key is never overwritten."""
    folder = data_dir / _KEYS_FOLDER
    # `parents=True` would make the data folder itself readable by others.
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True, mode=0o700)
    secret = secret or secrets.token_bytes(32)
    write_keystore(folder / KEYSTORE_NAME, secret, password=password, scrypt_n=scrypt_n)
    for name in (_PEER_NAME, _SEALING_NAME):
        _write_new(folder / name, secrets.token_bytes(32))
    return load_identity(data_dir, password=password)


def load_identity(data_dir: Path, *, password: str) -> Identity:
    """Open a role's keys; raise `InvalidInput` where one is missing, too open or locked."""
    folder = data_dir / _KEYS_FOLDER
    secret = read_keystore(folder / KEYSTORE_NAME, password=password)
    return Identity(
        key=PrivateKey(secret),
        secret=secret,
        peer_seed=_read_private(folder / _PEER_NAME),
        sealing_secret=_read_private(folder / _SEALING_NAME),
    )


def find_keystore(data_dir: Path) -> Path:
    """Return where a role's keystore is; its address can be read without opening it."""
    return data_dir / _KEYS_FOLDER / KEYSTORE_NAME


def write_keystore(
    path: Path, secret: bytes, *, password: str, scrypt_n: int = SCRYPT_N
) -> Address:
    """Write a version 3 keystore that geth and foundry read, then prove that it opens."""
    document = create_keyfile_json(secret, password.encode(), kdf="scrypt", iterations=scrypt_n)
    _write_new(path, json.dumps(document).encode())
    return PrivateKey(read_keystore(path, password=password)).address


def read_keystore(path: Path, *, password: str) -> bytes:
    """Open a version 3 keystore and return its secret."""
    raw = _read_private(path)
    try:
        return bytes(decode_keyfile_json(json.loads(raw), password.encode()))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"the keystore {path} does not open",
            code="GM-3103",
            why=str(error)[:200],
            hints=("check the password file",),
        ) from error


def read_password(path: Path) -> str:
    """Read a password file: its first line, without the line's end."""
    return _read_private(path).decode().split("\n")[0]


def write_password(path: Path, password: str) -> None:
    """Write a new password file, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write_new(path, password.encode() + b"\n")


def _read_private(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if mode & 0o077:
            raise InvalidInput(
                f"{path} can be read by others",
                code="GM-3102",
                hints=(f"chmod 600 {path}",),
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InvalidInput(f"there is no key file {path}", code="GM-3101") from error


def _write_new(path: Path, content: bytes) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InvalidInput(f"{path} exists and is not overwritten", code="GM-3104") from error
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
