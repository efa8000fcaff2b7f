"""Matching: who fits, who comes first, and counts that add up when nobody does."""

from __future__ import annotations

import pytest

from coordinator.core.constraints import CONSTRAINTS, Candidate, Demand
from coordinator.core.matching import Relaxation, describe_funnel, explain, find_feasible, rank
from gpumarket.protocol.gpu import DeviceNeed
from gpumarket.protocol.job import Placement
from gpumarket.testing.factories import (
    make_address,
    make_device,
    make_offer,
    make_order,
    make_resources,
    make_spec,
)

GB = 10**9


def make_candidate(
    name="provider-1",
    *,
    stake=0,
    free=1,
    running=0,
    rep=500_000,
    busy=0,
    failed=(),
    is_being_checked=False,
    **offer,
):
    return Candidate(
        offer=make_offer(name, **offer),
        reputation_ppm=rep,
        stake=stake,
        slots_free=free,
        running=running,
        devices_busy=busy,
        failed=failed,
        is_being_checked=is_being_checked,
    )


def make_demand(*, need=None, excluded=(), allows_simulated=True, order=None, **placement):
    spec = make_spec(
        resources=make_resources(devices=need or DeviceNeed(count=1)),
        placement=Placement(**placement),
    )
    return Demand(
        spec=spec,
        order=make_order(spec, **(order or {})),
        allows_simulated=allows_simulated,
        excluded=frozenset(excluded),
    )


def find_falls(demand, *candidates):
    """Return {constraint: how many fell there}, without those where nobody fell."""
    stages = explain(demand, candidates).stages
    return {stage.constraint: stage.fell for stage in stages if stage.fell}


@pytest.mark.parametrize(
    ("constraint", "demand", "candidate"),
    [
        ("model", {"need": DeviceNeed(count=1, models=("H100",))}, {}),
        ("vendor", {"need": DeviceNeed(count=1, vendor="amd")}, {}),
        ("vram", {"need": DeviceNeed(count=1, vram_bytes_min=80 * GB)}, {}),
        ("vram", {"need": DeviceNeed(count=1, vram_bytes_max=8 * GB)}, {}),
        ("count", {"need": DeviceNeed(count=2)}, {}),
        ("compute_capability", {"need": DeviceNeed(count=1, compute_capability_min=(9, 0))}, {}),
        ("cuda", {"need": DeviceNeed(count=1, cuda_min=(13, 0))}, {}),
        ("hardware", {}, {"failed": (make_device(),)}),
        ("hardware", {"need": DeviceNeed(count=0)}, {"failed": (make_device(),)}),
        ("machine", {}, {"memory_bytes": 10}),
        ("price", {"price_per_device_hour_max": 399_999}, {}),
        ("region", {"regions": ("DE", "FR")}, {}),
        ("isolation", {"isolation": "gvisor"}, {}),
        ("reputation", {"reputation_min_ppm": 500_001}, {}),
        ("stake", {"stake_min": 1}, {}),
        ("excluded", {"excluded": (make_address("provider-1"),)}, {}),
        ("excluded", {"excluded_providers": (make_address("provider-1"),)}, {}),
        ("excluded", {"providers": (make_address("provider-2"),)}, {}),
        ("excluded", {"order": {"provider": make_address("provider-2")}}, {}),
        ("simulated", {"allows_simulated": False}, {"devices": (make_device(simulated=True),)}),
        ("free_slot", {}, {"free": 0}),
        ("free_slot", {}, {"busy": 1}),
        ("free_slot", {}, {"is_being_checked": True}),
    ],
)
def test_each_constraint_fells_the_provider_that_breaks_it(constraint, demand, candidate):
    assert find_falls(make_demand(**demand), make_candidate(**candidate)) == {constraint: 1}


def test_of_two_equal_devices_only_the_one_that_failed_is_off_the_book():
    candidate = make_candidate(devices=(make_device(), make_device()), failed=(make_device(),))
    assert find_falls(make_demand(need=DeviceNeed(count=1)), candidate) == {}
    assert find_falls(make_demand(need=DeviceNeed(count=2)), candidate) == {"hardware": 1}


def test_a_job_without_devices_runs_on_anything():
    cpu = make_candidate(devices=(make_device(vendor="cpu", model="EPYC", vram_bytes=0),))
    demand = make_demand(need=DeviceNeed(count=0, vram_bytes_min=80 * GB, models=("H100",)))
    assert find_feasible(demand, [cpu], free_only=True) == [cpu]
    assert {stage.need for stage in explain(demand, [cpu]).stages[:4]} == {"any"}


def test_a_processor_is_no_device_for_a_job_that_wants_any_gpu():
    cpu = make_candidate(devices=(make_device(vendor="cpu", model="EPYC", vram_bytes=0),))
    assert find_falls(make_demand(), cpu) == {"vendor": 1}


def test_model_names_are_compared_without_spaces_and_case():
    demand = make_demand(need=DeviceNeed(count=1, models=("rtx-4090",)))
    assert find_falls(demand, make_candidate()) == {}


def test_devices_of_two_models_are_not_one_pair():
    mixed = make_candidate(devices=(make_device(), make_device(model="RTX 3090")))
    assert find_falls(make_demand(need=DeviceNeed(count=2)), mixed) == {"count": 1}
    anyhow = make_demand(need=DeviceNeed(count=2, same_model=False))
    assert find_falls(anyhow, mixed) == {}


def test_the_counts_of_a_funnel_add_up():
    demand = make_demand(need=DeviceNeed(count=1, vram_bytes_min=20 * GB), regions=("SE",))
    small = make_device(vram_bytes=8 * GB)
    candidates = [
        make_candidate("a", devices=(small,)),
        make_candidate("b", devices=(small,), region="DE"),
        make_candidate("c", region="DE"),
        make_candidate("d", free=0),
        make_candidate("e"),
    ]
    funnel = explain(demand, candidates)
    left = funnel.online
    for stage in funnel.stages:
        assert stage.left == left - stage.fell
        left = stage.left
    assert [stage.constraint for stage in funnel.stages] == [c.name for c in CONSTRAINTS]
    assert (funnel.online, funnel.feasible, funnel.free) == (5, 2, 1)
    assert describe_funnel(funnel) == (
        "5 providers online, 2 fit: 2 at vram 20 GB, 1 at region SE, 1 at free_slot"
    )


def test_the_smallest_relaxation_of_each_constraint_is_named():
    demand = make_demand(
        need=DeviceNeed(count=1, vram_bytes_min=40 * GB), price_per_device_hour_max=300_000
    )
    big = make_device(vram_bytes=80 * GB)
    candidates = [
        make_candidate("a", devices=(big,), price_per_device_hour=450_000),
        make_candidate("b", devices=(big,), price_per_device_hour=450_000),
        make_candidate("c", devices=(big,), price_per_device_hour=900_000),
        make_candidate("d", price_per_device_hour=200_000),
        make_candidate("two obstacles", price_per_device_hour=900_000),
    ]
    relaxations = explain(demand, candidates).relaxations
    assert relaxations == (
        Relaxation(constraint="price", need="0.300000", have="0.450000", offers=2),
        Relaxation(constraint="vram", need="40 GB", have="24 GB", offers=1),
    )
    assert str(relaxations[0]) == "price 0.300000 -> 0.450000 gives 2 offers"


def test_a_provider_with_two_obstacles_gives_no_relaxation():
    demand = make_demand(regions=("DE",), stake_min=5)
    assert explain(demand, [make_candidate()]).relaxations == ()


def test_a_device_count_and_a_capability_can_be_relaxed():
    pair = make_demand(need=DeviceNeed(count=2))
    assert [str(r) for r in explain(pair, [make_candidate()]).relaxations] == [
        "count 2 -> 1 gives 1 offers"
    ]
    newer = make_demand(need=DeviceNeed(count=1, compute_capability_min=(9, 0)))
    assert [str(r) for r in explain(newer, [make_candidate()]).relaxations] == [
        (
            "compute_capability 9.0 -> 8.9 gives 1 offers "
            "(with a program built for compute capability 8.9)"
        )
    ]


def test_a_busy_provider_still_counts_for_a_relaxation():
    demand = make_demand(price_per_device_hour_max=1)
    relaxation = explain(demand, [make_candidate(free=0)]).relaxations[0]
    assert (relaxation.constraint, relaxation.offers) == ("price", 1)


def pick_first(candidates, **placement):
    demand = make_demand(**placement)
    return min(candidates, key=lambda candidate: rank(demand, candidate))


def test_a_provider_with_half_the_reputation_must_be_half_as_dear():
    good = make_candidate("good", rep=900_000, price_per_device_hour=400_000)
    poor = make_candidate("poor", rep=450_000, price_per_device_hour=201_000)
    assert pick_first([good, poor]) == good
    assert pick_first([good, poor], prefer="cheapest") == poor
    assert pick_first([poor, good], prefer="most_reliable") == good


def test_among_equals_the_one_with_the_fewest_tasks_comes_first():
    assert pick_first([make_candidate("a", running=1), make_candidate("b")]).running == 0
