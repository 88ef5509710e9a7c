"""Objectives and plans that tests of design share."""

from typing import Any

import torch
from torch import Tensor

import mrsim
from mrsim import Tissue, epg
from mrsim.units import deg, ms


@mrsim.record
class Plan:
    """A design of two fields of different size and unit."""

    a: Tensor  # (entry,)
    b: Tensor | None = mrsim.neutral(0.5)  # ()
    c: Tensor | None = None


GOAL = torch.tensor([1.0, 2.0, 3.0])


def bowl(plan: Plan) -> Tensor:
    """Be least, 1, at a = GOAL and b = 1000."""
    b = 0.0 if plan.b is None else (plan.b / 1000 - 1) ** 2
    return 1 + (plan.a - GOAL).square().sum() + b


def banana(plan: Plan) -> Tensor:
    """Rosenbrock's function of all neighbours."""
    a = plan.a
    return (100 * (a[1:] - a[:-1] ** 2) ** 2 + (1 - a[:-1]) ** 2).sum()


def train(**fields: Any) -> epg.FSE:
    return epg.FSE(**{"flip": [60 * deg] * 8, "esp": 10 * ms} | fields)


TISSUE = Tissue(T1=0.9, T2=70 * ms)


def variance(seq: epg.FSE) -> Tensor:
    return mrsim.crlb(epg.fse, "M0", "T2", sigma=1.0)(TISSUE, seq).T2
