"""Facts of many kinds of box, as `edged hardware --json` tells them, and what is to be chosen on each. `ranking` holds
one row for each variant and provider: precision, engine, provider, whether it fits, reason."""

from __future__ import annotations

from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.hardware.choose import choose, chosen
from edged.hardware.facts import Facts
from edged.hardware.fingerprint import fingerprint
from edged.hardware.place import places
from edged.store.entries import LocalSource, Variant
from edged.store.lineage import Target
from edged.types import EngineName

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).parent / "machines"
MB = 1_000_000


def form(precision: str, megabytes: int, engine: EngineName = "llama", target: Target = "cpu") -> Variant:
    return Variant(engine=engine, precision=precision, size=megabytes * MB, target=target, source=LocalSource(path="x"))


#: Parameters, KV bytes of a token, and forms: GGUF, and ONNX for the devices that somebody would build it for.
MODELS: dict[str, tuple[int, int, list[Variant]]] = {
    "135M": (134_515_008, 23_040, [
        form("Q4_1", 98), form("Q8_0", 145), form("int4", 112, "ort"), form("int4", 95, "genai", "cuda")]),
    "1.7B": (1_720_574_976, 114_688, [
        form("Q4_K_M", 1107), form("Q8_0", 1834), form("int4", 1250, "ort"), form("int4", 1180, "genai", "cuda"),
        form("int4", 1210, "genai", "qnn"), form("int4", 1190, "genai", "openvino")]),
    "8B": (8_190_735_360, 147_456, [
        form("Q4_K_M", 5028), form("Q8_0", 8709), form("int4", 5600, "genai", "cuda")]),
}


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: str
    facts: Facts
    ranking: dict[str, list[tuple[str, str, str, bool, str]]]


MACHINES = {file.stem: msgspec.json.decode(file.read_bytes(), type=Machine) for file in sorted(FOLDER.glob("*.json"))}


def ranking(facts: Facts, model: str) -> list[tuple[str, str, str, bool, str]]:
    parameters, kv_bytes_per_token, variants = MODELS[model]
    rows = choose(facts, variants, parameters=parameters, kv_bytes_per_token=kv_bytes_per_token)
    return [(row.variant.precision, row.engine, row.provider, row.fits, row.reason) for row in rows]


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("model", MODELS)
def test_each_machine_ranks_what_it_could_run_with_a_reason_for_every_row(machine: Machine, model: str) -> None:
    assert ranking(machine.facts, model) == machine.ranking[model]


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_each_machine_has_a_fingerprint_of_its_own(machine: Machine) -> None:
    others = [fingerprint(other.facts) for other in MACHINES.values() if other is not machine]
    own = fingerprint(machine.facts)
    assert own not in others
    assert len(own) == 12
    assert own == fingerprint(msgspec.json.decode(msgspec.json.encode(machine.facts), type=Facts))


@pytest.mark.parametrize(
    ("machine", "model", "best"),
    [
        ("jetson-orin-nano", "8B", ("Q4_K_M", "llama", "cuda")),
        ("raspberry-pi-5", "1.7B", ("Q8_0", "llama", "cpu")),
        ("raspberry-pi-zero-2", "135M", None),
        ("raspberry-pi-4-2gb", "135M", ("Q8_0", "llama", "cpu")),
        ("raspberry-pi-4-2gb", "1.7B", None),
        ("intel-nuc-core-ultra", "8B", ("Q4_K_M", "llama", "cpu")),
        ("snapdragon-x-laptop", "1.7B", ("Q8_0", "llama", "opencl")),
        ("rtx-4090-desktop", "8B", ("Q8_0", "llama", "cuda")),
        ("rtx-3060-desktop", "8B", ("Q4_K_M", "llama", "cpu")),
        ("rtx-hybrid-laptop", "8B", ("Q4_K_M", "llama", "cuda")),
        ("strix-halo", "8B", ("Q4_K_M", "llama", "vulkan")),
        ("apple-m2", "8B", ("Q8_0", "llama", "metal")),
        ("two-core-vps", "1.7B", ("Q4_K_M", "llama", "cpu")),
        ("pre-avx2-thin-client", "8B", ("Q4_K_M", "llama", "cpu")),
        ("container-2gb", "135M", ("Q8_0", "llama", "cpu")),
    ],
)
def test_what_is_chosen_is_what_its_owner_would_choose(
    machine: str, model: str, best: tuple[str, str, str] | None
) -> None:
    first = ranking(MACHINES[machine].facts, model)[0]
    assert (first[:3] if first[3] else None) == best


def test_the_card_of_the_machine_without_its_packages_is_told_with_the_way_to_get_them() -> None:
    refused = {(row[1], row[2]): row[4] for row in ranking(MACHINES["rtx-3060-desktop"].facts, "8B") if not row[3]}
    assert refused["llama", "cuda"].endswith("`edged engine install llama-cuda` brings it")
    assert refused["genai", "cuda"].endswith("`edged engine install cuda` brings it")


def test_an_engine_environment_brings_what_edgeds_own_interpreter_lacks() -> None:
    jetson = MACHINES["jetson-orin-nano"].facts
    found = {place.provider: place for place in places(jetson, "llama", "cpu")}
    assert (found["cuda"].environment, found["cuda"].refused) == ("llama-cuda", None)
    assert found["cpu"].environment is None
    alone = msgspec.structs.replace(jetson, environments={})
    assert "no CUDA back end" in (places(alone, "llama", "cpu")[-1].refused or "")


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("required", ["cuda", "qnn", "openvino", "vulkan", "cpu"])
def test_what_is_required_fails_closed_with_a_reason_for_every_form(machine: Machine, required: str) -> None:
    for parameters, kv_bytes_per_token, variants in MODELS.values():
        rows = choose(machine.facts, variants, parameters=parameters, kv_bytes_per_token=kv_bytes_per_token,
                      require=required)
        assert all(row.provider == required for row in rows if row.fits)
        assert all(row.reason for row in rows)
        assert {id(row.variant) for row in rows} == {id(variant) for variant in variants}
        if chosen(rows) is None:
            assert not any(row.fits for row in rows)


@given(st.sampled_from(sorted(MACHINES)), st.lists(st.sampled_from([one for _, _, some in MODELS.values()
                                                                    for one in some])), st.randoms())
def test_the_ranking_does_not_depend_on_the_order_of_forms(machine: str, forms: list[Variant], random: Random) -> None:
    shuffled = list(forms)
    random.shuffle(shuffled)
    one, other = (choose(MACHINES[machine].facts, some, parameters=10**9) for some in (forms, shuffled))
    assert [(row.variant.precision, row.provider, row.reason) for row in one] == [
        (row.variant.precision, row.provider, row.reason) for row in other]
