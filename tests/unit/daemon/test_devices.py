from __future__ import annotations

import pytest

from edged.daemon.devices import Devices
from edged.hardware.admit import Serve
from edged.hardware.place import Place
from edged.store.entries import ModelEntry
from edged.store.lineage import Target

pytestmark = pytest.mark.unit


def devices(*, require: Target | None = None, fall_back: bool = False, on: str = "cuda") -> Devices:
    made = Devices(lambda: ModelEntry(name="m", require=require, fall_back=fall_back))
    made.place(Serve(Place("llama", on, 4, None), "because"))
    made.serves()
    return made


def test_nothing_is_required_before_anything_happened() -> None:
    made = devices()
    assert (made.only, made.lost, made.reason) == (None, None, "because")


def test_a_lost_device_is_the_only_one_that_may_serve_again() -> None:
    made = devices()
    assert not made.gone("driver reset")
    assert (made.only, made.lost) == ("cuda", "cuda was lost (driver reset)")
    made.place(Serve(Place("llama", "cuda", 4, None), "because"))
    made.serves()
    assert (made.only, made.lost) == (None, None)


def test_it_falls_back_where_the_catalog_says_so_and_stays_there_and_says_why() -> None:
    made = devices(fall_back=True)
    assert made.gone("driver reset")
    made.place(Serve(Place("llama", "cpu", 4, None), "because"))
    made.serves()
    assert made.only == "cpu"
    assert made.reason == "cuda was lost (driver reset), and the catalog lets it fall back to the processor"


def test_what_is_required_is_never_replaced() -> None:
    made = devices(require="cuda", fall_back=True)
    assert not made.gone("driver reset")
    assert made.only == "cuda"


@pytest.mark.parametrize(("fall_back", "only"), [(False, "cuda"), (True, None)])
def test_a_death_on_a_device_binds_it_to_that_device_unless_it_may_fall_back(fall_back: bool, only: str | None) -> None:
    made = devices(fall_back=fall_back)
    assert not made.gone(None)
    assert (made.only, made.lost) == (only, None)


def test_a_death_on_the_processor_binds_nothing() -> None:
    made = devices(on="cpu")
    assert not made.gone(None)
    assert made.only is None


def test_an_operator_makes_the_choice_free_again() -> None:
    made = devices()
    made.gone("driver reset")
    made.reset()
    assert (made.only, made.lost) == (None, None)
