"""Every law for every simulator."""

from collections.abc import Callable
from typing import Any

import pytest
from cases import CASES, Case
from laws import LAWS, NIGHTLY

from mrsim import epg
from mrsim.epg import engine

each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


# a sequence adds a program to what the cases of `epg.run` show of high orders
DEEP = {
    *("hessians_are_right", "third_derivatives_are_right"),
    *("mapped_jacobians_are_loops", "mapped_once_jacobians_are_loops"),
    "mapped_hessians_are_loops",
}


@each
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law: Callable[[Case], None], case: Case) -> None:
    if (
        not NIGHTLY
        and law.__name__ in DEEP
        and case.f not in (epg.run, epg.fse, epg.dess)
    ):
        pytest.skip("for the profile nightly")
    law(case)


@each
def test_plain_phases_run_in_real_arithmetic(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk, seen = engine.walk, []

    def watched(plan: Any, *rest: Any) -> Any:
        seen.append(plan.real)
        return walk(plan, *rest)

    monkeypatch.setattr(engine, "walk", watched)
    with epg.use_engine("torch"):
        case.f(*case.args)
    assert any(seen) == case.real
