"""
Proofs of Ethereum state: accounts and storage slots under a block's state root.

A proof is the list of trie nodes that some keys need, each node once, in the order of its first
use; so for the same keys there is one list and no other. What is not there is proven too: the walk
ends where the key's place is empty.
Source: Ethereum yellow paper, appendices B (RLP) and D (Merkle-Patricia trie); EIP-1186.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.rlp_reading import Item, decode_rlp_untrusted
from gpumarket.protocol.signing import keccak256

EMPTY_ROOT: Final = keccak256(b"\x80")
"""The root of a trie that holds nothing."""
EMPTY_CODE: Final = keccak256(b"")
NODE_BYTES_MAX: Final = 600
"""A full branch has 532 bytes; a leaf is shorter than that."""
_WORD: Final = 32
_BRANCH, _SHORT = 17, 2


@dataclass(frozen=True, slots=True)
class Account:
    """An account as the state holds it."""

    nonce: int
    balance: int
    storage_root: Hash32
    code_hash: Hash32


NO_ACCOUNT: Final = Account(nonce=0, balance=0, storage_root=EMPTY_ROOT, code_hash=EMPTY_CODE)


def read_accounts_untrusted(
    state_root: Hash32, addresses: Sequence[Address], nodes: Sequence[bytes]
) -> tuple[Account, ...]:
    """
    Return the accounts at `addresses`; one that is not there is empty.

    Raises `RemoteProtocolError` unless `nodes` are exactly what these keys need.
    """
    values = read_trie_untrusted(state_root, [keccak256(each) for each in addresses], nodes)
    return tuple(NO_ACCOUNT if value is None else _decode_account(value) for value in values)


def read_slots_untrusted(
    storage_root: Hash32, slots: Sequence[Hash32], nodes: Sequence[bytes]
) -> tuple[int, ...]:
    """
    Return the words in storage `slots` of one account; a slot that is not there is zero.

    Raises `RemoteProtocolError` unless `nodes` are exactly what these keys need.
    """
    values = read_trie_untrusted(storage_root, [keccak256(each) for each in slots], nodes)
    return tuple(0 if value is None else _decode_word(value) for value in values)


def read_trie_untrusted(
    root: Hash32, keys: Sequence[Hash32], nodes: Sequence[bytes]
) -> list[bytes | None]:
    """
    Return what is at each key of a trie, or None where nothing is.

    Raises `RemoteProtocolError` for a node that is missing, foreign, unused, out of its place or
    not canonical.
    """
    walker = _Walker(nodes)
    found = [walker.walk(root, _split_nibbles(key)) for key in keys]
    if walker.used != len(nodes):
        raise RemoteProtocolError(f"{len(nodes) - walker.used} trie nodes are not needed")
    return found


def select_nodes(root: Hash32, keys: Sequence[Hash32], nodes: Iterable[bytes]) -> tuple[bytes, ...]:
    """
    Return of all `nodes` those that these keys need, as `read_trie_untrusted` wants them.

    Raises `RemoteProtocolError` where one is missing.
    """
    picker = _Picker({keccak256(node): node for node in nodes})
    for key in keys:
        picker.walk(root, _split_nibbles(key))
    return tuple(picker.picked)


class _Walker:
    """Takes nodes from the list in order; one that was taken may be passed again."""

    def __init__(self, nodes: Sequence[bytes]) -> None:
        self._nodes = nodes
        self._seen: dict[Hash32, list[Item]] = {}
        self.used = 0

    def walk(self, root: Hash32, path: bytes) -> bytes | None:
        """Follow a path of nibbles from the root."""
        if root == EMPTY_ROOT:
            return None
        node = self._take(root)
        while True:
            if len(node) == _BRANCH:
                if not path:
                    raise RemoteProtocolError("a trie path ends in a branch")
                child, path = node[path[0]], path[1:]
            else:
                is_leaf, part = _decode_path(node[0])
                child = node[1]
                if is_leaf:
                    return _require_bytes(child) if part == path else None
                if not path.startswith(part):
                    return None
                path = path[len(part) :]
            if child == b"":
                return None
            # A node of less than 32 bytes stands in its parent, any other by its hash.
            node = _check_node(child) if isinstance(child, list) else self._take(child)

    def _take(self, name: bytes) -> list[Item]:
        known = self._seen.get(name)
        if known is not None:
            return known
        if self.used == len(self._nodes):
            raise RemoteProtocolError("a trie node is missing")
        raw = self._nodes[self.used]
        if len(raw) > NODE_BYTES_MAX or keccak256(raw) != name:
            raise RemoteProtocolError("a trie node is not the one that its parent names")
        node = _check_node(decode_rlp_untrusted(raw))
        self._seen[name] = node
        self.used += 1
        return node


class _Picker(_Walker):
    """Takes nodes by their hash, wherever they are, and lists what it took."""

    def __init__(self, pool: Mapping[Hash32, bytes]) -> None:
        super().__init__(())
        self._pool = pool
        self.picked: list[bytes] = []

    def _take(self, name: bytes) -> list[Item]:
        if name not in self._seen:
            if name not in self._pool:
                raise RemoteProtocolError("a trie node is missing")
            self.picked.append(self._pool[name])
            self._seen[name] = _check_node(decode_rlp_untrusted(self._pool[name]))
        return self._seen[name]


def _check_node(item: Item) -> list[Item]:
    if not isinstance(item, list) or len(item) not in (_BRANCH, _SHORT):
        raise RemoteProtocolError("a trie node has another shape")
    if len(item) == _BRANCH and item[-1] != b"":
        raise RemoteProtocolError("a branch of a trie of hashed keys holds a value")
    return item


def _split_nibbles(key: bytes) -> bytes:
    return bytes(nibble for byte in key for nibble in (byte >> 4, byte & 15))


def _decode_path(item: Item) -> tuple[bool, bytes]:
    raw = _require_bytes(item)
    if not raw:
        raise RemoteProtocolError("a trie node has no path")
    nibbles = _split_nibbles(raw)
    flag = nibbles[0]
    is_odd = flag & 1
    if flag > 3 or (not is_odd and nibbles[1]):
        raise RemoteProtocolError("a trie path is not canonical")
    path = nibbles[1:] if is_odd else nibbles[2:]
    is_leaf = flag >= 2
    if not is_leaf and not path:
        raise RemoteProtocolError("an extension of a trie leads nowhere")
    return is_leaf, path


def _require_bytes(item: Item) -> bytes:
    if not isinstance(item, bytes):
        raise RemoteProtocolError("a trie node has a list where bytes belong")
    return item


# ---- values --------------------------------------------------------------------------------


def _decode_account(value: bytes) -> Account:
    fields = decode_rlp_untrusted(value)
    if not isinstance(fields, list) or len(fields) != 4:
        raise RemoteProtocolError("an account has four fields")
    nonce, balance, storage_root, code_hash = (_require_bytes(field) for field in fields)
    if len(storage_root) != _WORD or len(code_hash) != _WORD:
        raise RemoteProtocolError("an account's roots have 32 bytes")
    return Account(_decode_number(nonce), _decode_number(balance), storage_root, code_hash)


def _decode_word(value: bytes) -> int:
    word = _decode_number(_require_bytes(decode_rlp_untrusted(value)))
    if word == 0:
        raise RemoteProtocolError("a slot that holds zero is not in the trie")
    return word


def _decode_number(raw: bytes) -> int:
    if len(raw) > _WORD or raw[:1] == b"\0":
        raise RemoteProtocolError("a number in the state is not canonical")
    return int.from_bytes(raw, "big")
