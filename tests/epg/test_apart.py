"""Pools of their own velocity or diffusivity: without exchange, a sum of tissues."""

import pytest
import torch
from cases import WOUND

from mrsim import Exchange, Tissue, epg
from mrsim.tree import replace

WATER = {"T1": 0.9, "T2": 0.08}
OTHER = {"T1": 0.5, "T2": 0.03}


def _parted(moment: list[float], tolerance: float, **moves: list[float]) -> None:
    """Compare two pools that move apart with the two alone."""
    program = replace(WOUND, moment=torch.tensor(moment), substeps=3)
    own, others = ({n: v[k] for n, v in moves.items()} for k in (0, 1))
    pool = Exchange(**OTHER, f=0.3, k=0.0, **others)
    made = epg.run(Tissue(**WATER, **own, exchange=pool), program)
    one, two = (epg.run(Tissue(**x), program) for x in (WATER | own, OTHER | others))
    torch.testing.assert_close(made, 0.7 * one + 0.3 * two, rtol=0, atol=tolerance)
    assert (one - two)[1:].abs().min() > 1e-3  # they do move


def test_velocities_alone() -> None:
    _parted([25.0], 1e-12, v=[3.0, 20.0])


@pytest.mark.parametrize("moment", [[25.0], [20.0, 10.0, 5.0]])
def test_diffusivities_along_any_direction(moment: list[float]) -> None:
    rows = moment if len(moment) == 1 else [moment]
    _parted(rows, 1e-9, D=[2e-3, 5e-4])
