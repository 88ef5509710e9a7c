"""The unit system: s, rad, mm, T."""

import math

import pytest

from mrsim import units


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (80 * units.ms, 0.08),
        (80_000 * units.us, 0.08),
        (180 * units.deg, math.pi),
        (2 * units.um**2 / units.ms, 2e-3),  # mm²/s: the diffusivity of water
        (1 * units.m, 1000.0),
        (1 * units.cm, 10.0),
        (1000 * units.s / units.mm**2, 1000.0),
        (40 * units.mT / units.m, 4e-5),  # T/mm
        (13.5 * units.uT, 13.5e-6),
        (0.4 * units.kHz, 400 * units.Hz),
    ],
)
def test_multipliers_lead_into_one_system(made: float, wanted: float) -> None:
    assert made == pytest.approx(wanted, rel=1e-15)


def test_gamma_turns_protons_at_42_megahertz_per_tesla() -> None:
    assert units.GAMMA * units.T / (2 * math.pi) == pytest.approx(
        42.577478461e6, rel=1e-9
    )
