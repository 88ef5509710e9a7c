"""Every law for every simulator."""

from collections.abc import Callable
from typing import Any

import pytest
from cases import CASES, Case
from laws import LAWS

from mrsim import epg
from mrsim.epg import engine

each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@each
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law: Callable[[Case], None], case: Case) -> None:
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
