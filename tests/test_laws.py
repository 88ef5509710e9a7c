"""Every law for every simulator."""

from collections.abc import Callable

import pytest
from cases import CASES, Case
from laws import LAWS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law: Callable[[Case], None], case: Case) -> None:
    law(case)
