"""The reproducibility class: declared facts and a probe, on one machine that plays several."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gpumarket.adapters.class_probe import probe_facts
from gpumarket.adapters.gpus import Processor
from gpumarket.config import ProviderConfig, VerifierConfig, load_config
from gpumarket.protocol.errors import InvalidInput, Unrecoverable
from gpumarket.protocol.repro import (
    ReproFacts,
    compute_repro_class,
    describe_devices,
    make_thread_env,
)
from gpumarket.testing.factories import make_device
from gpumarket.testing.machine_classes import AVX2, NATIVE, SSE, TWO_THREADS

PROCESSOR = Processor(architecture="x86_64", model="one processor", cores=2, isa=("avx2",))
FACTS = ReproFacts(
    architecture="x86_64",
    model="a processor",
    isa=("avx2", "fma"),
    threads=1,
    devices=(),
    libraries=("numpy 2.4.6",),
    fingerprint=b"f" * 32,
)
ROLE = """
[role]
data_dir = "d"
password_file = "p"
rpc_url = "http://127.0.0.1:1"
contract = "0x0000000000000000000000000000000000000001"
"""


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "aarch64"},
        {"model": "another"},
        {"isa": ("avx2",)},
        {"threads": 2},
        {"devices": ("nvidia H100",)},
        {"libraries": ("numpy 2.4.5",)},
        {"fingerprint": b"g" * 32},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_fact_is_part_of_the_class(change: dict[str, object]) -> None:
    other = msgspec.structs.replace(FACTS, **change)
    assert compute_repro_class(other) != compute_repro_class(FACTS)


def test_devices_that_compute_nothing_are_no_part_of_it() -> None:
    real, made_up = make_device(driver="560"), make_device(simulated=True)
    assert describe_devices((made_up,)) == ()
    assert describe_devices((real, made_up)) == describe_devices((real,))
    newer = make_device(driver="570")
    assert describe_devices((newer,)) != describe_devices((real,))


def test_one_class_gives_the_same_bits_in_two_processes() -> None:
    first, second = (probe_facts(PROCESSOR, emulation=SSE) for _ in range(2))
    assert first == second
    assert compute_repro_class(first) == compute_repro_class(second)


def test_emulated_machines_give_other_bits_and_other_classes() -> None:
    # All declare the same processor: only the probe can tell them apart.
    native, avx2, sse = (probe_facts(PROCESSOR, emulation=each) for each in (NATIVE, AVX2, SSE))
    assert avx2.fingerprint != sse.fingerprint
    assert native.fingerprint != sse.fingerprint
    # A machine without AVX-512 is itself of the class `avx2`.
    assert len({compute_repro_class(each) for each in (native, avx2, sse)}) >= 2
    assert msgspec.structs.replace(sse, fingerprint=avx2.fingerprint) == avx2


def test_the_number_of_threads_is_part_of_the_class() -> None:
    one, two = probe_facts(PROCESSOR), probe_facts(PROCESSOR, emulation=TWO_THREADS)
    assert (one.threads, two.threads) == (1, 2)
    assert compute_repro_class(one) != compute_repro_class(two)


def test_a_probe_that_fails_says_why() -> None:
    with pytest.raises(Unrecoverable) as caught:
        probe_facts(PROCESSOR, emulation={"NPY_DISABLE_CPU_FEATURES": "X86_V2"})
    assert caught.value.code == "GM-2130"
    assert "X86_V2" in caught.value.why


def test_threads_are_told_to_every_library_and_never_zero() -> None:
    assert set(make_thread_env(0).values()) == {"1"}
    assert make_thread_env(3)["OMP_NUM_THREADS"] == "3"


# ---- the setting ---------------------------------------------------------------------------

PROVIDER = '[provider]\nprice_per_device_hour = "1 USDC"\nregion = "SE"\n'
VERIFIER = '[verifier]\nprice_per_check = "1 USDC"\n'


@pytest.mark.parametrize(
    ("tables", "as_type"), [(PROVIDER, ProviderConfig), (VERIFIER, VerifierConfig)]
)
def test_a_processor_is_emulated_on_the_devnet_only(
    tmp_path: Path, tables: str, as_type: type[ProviderConfig] | type[VerifierConfig]
) -> None:
    path = tmp_path / "node.toml"
    table = tables + 'emulate = {OPENBLAS_CORETYPE = "Haswell"}\n'
    path.write_text(ROLE + "chain_id = 31337\n" + table)
    config = load_config(path, as_type, env={})
    section = config.provider if isinstance(config, ProviderConfig) else config.verifier
    assert section.emulate == {"OPENBLAS_CORETYPE": "Haswell"}
    path.write_text(ROLE + "chain_id = 1\n" + table)
    with pytest.raises(InvalidInput) as caught:
        load_config(path, as_type, env={})
    assert caught.value.code == "GM-1303"


def test_only_variables_about_computing_can_be_emulated(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    table = VERIFIER + 'emulate = {LD_PRELOAD = "x.so"}\n'
    path.write_text(ROLE + "chain_id = 31337\n" + table)
    with pytest.raises(InvalidInput) as caught:
        load_config(path, VerifierConfig, env={})
    assert caught.value.code == "GM-1302"
