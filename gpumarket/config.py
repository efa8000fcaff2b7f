"""
Settings as frozen values: read from one TOML file a role, unknown keys refused by name.

Environment variables `GPUMARKET_<SECTION>__<KEY>` win over the file, as flags win over both.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.gpu import Vendor
from gpumarket.protocol.ids import Multiaddr, parse_address
from gpumarket.protocol.offer import DEVNET_CHAIN_ID
from gpumarket.protocol.repro import check_emulation
from gpumarket.protocol.signing import Domain

T = TypeVar("T")
Port = Annotated[int, Meta(ge=0, le=65535)]
ENV_PREFIX = "GPUMARKET_"
STORE_BYTES_MAX = 50 * 10**9
CONFIRMATIONS = 12
"""On chains that are not the devnet; at twelve seconds a block under three minutes."""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of a configuration file."""


class RoleSettings(_Section, frozen=True, kw_only=True):
    """What every role needs: where it keeps things, listens, and settles."""

    data_dir: str
    password_file: str
    listen_port: Port = 0
    http_port: Port = 0
    rpc_url: str
    chain_id: int
    contract: str
    coordinators: tuple[Multiaddr, ...] = ()
    """Where a provider or verifier dials out to."""
    confirmations: Annotated[int, Meta(ge=0, le=64)] | None = None
    """Blocks on top before a transaction or an event counts; 0 on the devnet, else 12."""
    store_bytes_max: int = STORE_BYTES_MAX
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @property
    def domain(self) -> Domain:
        """The signing domain of this network."""
        return Domain(chain_id=self.chain_id, contract=parse_address(self.contract))

    @property
    def is_devnet(self) -> bool:
        """Whether money and devices here are play."""
        return self.chain_id == DEVNET_CHAIN_ID

    @property
    def blocks_to_confirm(self) -> int:
        """How many blocks on top of an event make it one that stays."""
        if self.confirmations is not None:
            return self.confirmations
        return 0 if self.is_devnet else CONFIRMATIONS


class CoordinatorSettings(_Section, frozen=True, kw_only=True):
    """What a coordinator charges and how patient it is."""

    fee: str = "0 USDC"
    lost_after_seconds: int = 10
    """How long a provider's session may be gone before its leases go elsewhere."""
    epoch_seconds_max: int = 60
    epoch_receipts_max: int = 256
    hardware_interval_seconds: Annotated[int, Meta(ge=0, le=30 * 86_400)] = 14_400
    """About how long between two hardware challenges to a provider; zero is never."""
    settle_interval_seconds: Annotated[int, Meta(ge=0, le=86_400)] = 60
    """How long what a finished job pays may wait for other jobs to share a transaction."""
    settle_jobs_max: Annotated[int, Meta(ge=1, le=10_000)] = 1_000
    proofs_bytes_max: Annotated[int, Meta(ge=0)] = 10 * 10**9
    """What the kept proofs of ended jobs may take; then whole ones go first, and old ones."""
    canary_providers: tuple[str, ...] = ()
    """Addresses of the operator's own providers, which forge results to test verifiers."""
    canary_requesters: tuple[str, ...] = ()
    """Addresses whose orders they may forge; nobody else's."""
    canary_ppm: Annotated[int, Meta(ge=0, le=1_000_000)] = 5_000
    """Of a million checks, how many should be of a result forged on purpose."""


class SimulatedDevice(_Section, frozen=True, kw_only=True):
    """A made-up device for the devnet; its offer says so."""

    model: str
    vram: str
    vendor: Vendor = "nvidia"
    compute_capability: tuple[int, int] = (8, 9)
    cuda: tuple[int, int] = (12, 4)


class Cheat(_Section, frozen=True, kw_only=True):
    """How a provider of the devnet cheats, to show that it is found; refused elsewhere."""

    forge_share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """The share of its results that it makes up."""
    poses: bool = False
    """Whether it offers its simulated devices as real ones."""


class CanarySettings(_Section, frozen=True, kw_only=True):
    """What an operator's own provider forges, so that verifiers that do not look are found."""

    requesters: tuple[str, ...]
    """Addresses whose orders these are: the operator's, named to its coordinator as well."""
    share: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Of the tasks that they order."""


class ProviderSettings(_Section, frozen=True, kw_only=True):
    """What a provider sells and at what price."""

    price_per_device_hour: str
    region: str
    region_source: str = ""
    """How the operator knows the country; stands in the offer."""
    carbon_grams_per_kwh: Annotated[int, Meta(ge=0, le=3_000)] | None = None
    """Of carbon dioxide, for the power that this machine draws."""
    carbon_source: str = ""
    """Where that figure is from; a figure without one is refused."""
    slots: Annotated[int, Meta(ge=1, le=64)] = 1
    memory: str = ""
    disk: str = "20GB"
    isolation: Literal["runc", "gvisor"] = "runc"
    watch_escrow: str = ""
    """What to keep in escrow for bonds of challenges; empty is two on the devnet, else nothing."""
    simulate: tuple[SimulatedDevice, ...] = ()
    emulate: dict[str, str] = {}
    """Makes the processor of a devnet's node compute as another one; refused elsewhere."""
    cheat: Cheat | None = None
    canary: CanarySettings | None = None


class VerifierSettings(_Section, frozen=True, kw_only=True):
    """What a verifier asks for one re-execution."""

    price_per_check: str
    slots: Annotated[int, Meta(ge=1, le=64)] = 1
    emulate: dict[str, str] = {}
    """The same as a provider's."""


class CoordinatorConfig(_Section, frozen=True, kw_only=True):
    """A coordinator's whole file."""

    role: RoleSettings
    coordinator: CoordinatorSettings = CoordinatorSettings()


class ProviderConfig(_Section, frozen=True, kw_only=True):
    """A provider node's whole file."""

    role: RoleSettings
    provider: ProviderSettings


class VerifierConfig(_Section, frozen=True, kw_only=True):
    """A verifier's whole file."""

    role: RoleSettings
    verifier: VerifierSettings


def load_config(path: Path, as_type: type[T], *, env: Mapping[str, str] = os.environ) -> T:
    """Read a TOML file into `as_type`; raise `InvalidInput` that names the key and the file."""
    try:
        raw = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise InvalidInput(f"there is no configuration file {path}", code="GM-1301") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is not TOML: {error}", code="GM-1301") from error
    _overlay_env(raw, env)
    try:
        config = msgspec.convert(raw, as_type)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"{path}: {error}",
            code="GM-1302",
            hints=tuple(_suggest(str(error), as_type)),
        ) from error
    _check_devnet_only(config)
    _check_sources(config)
    return config


def _overlay_env(raw: dict[str, Any], env: Mapping[str, str]) -> None:
    for name, value in env.items():
        section, separator, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
        if name.startswith(ENV_PREFIX) and separator:
            try:
                parsed = tomllib.loads(f"value = {value}")["value"]
            except tomllib.TOMLDecodeError:
                parsed = value
            raw.setdefault(section, {})[key] = parsed


def _suggest(message: str, as_type: type) -> list[str]:
    if "unknown field" not in message:
        return []
    wrong = message.split("`")[1]
    known: list[str] = []
    for section in msgspec.structs.fields(as_type):
        known.append(section.name)
        if isinstance(section.type, type) and issubclass(section.type, msgspec.Struct):
            known += [field.name for field in msgspec.structs.fields(section.type)]
    return [f"did you mean {name}?" for name in difflib.get_close_matches(wrong, known, 1)]


def _check_devnet_only(config: object) -> None:
    emulation: Mapping[str, str] = {}
    has_made_up = False
    match config:
        case ProviderConfig(role=role, provider=settings):
            emulation = settings.emulate
            has_made_up = bool(settings.cheat or settings.simulate)
        case VerifierConfig(role=role, verifier=checks):
            emulation = checks.emulate
        case _:
            return
    check_emulation(emulation)
    if (has_made_up or emulation) and not role.is_devnet:
        raise InvalidInput(
            "simulated devices, emulated processors and cheats exist on the devnet only",
            code="GM-1303",
            why=f"this file names chain {role.chain_id}",
            money="nothing was offered",
        )


def _check_sources(config: object) -> None:
    settings = config.provider if isinstance(config, ProviderConfig) else None
    if settings and settings.carbon_grams_per_kwh is not None and not settings.carbon_source:
        raise InvalidInput(
            "provider.carbon_grams_per_kwh says nothing without its source",
            code="GM-1302",
            why="requesters see the figure beside where it is from",
            money="nothing was offered",
            hints=('add carbon_source = "the grid operator, average of 2025"',),
        )
