"""A bent, twisted, beaded, flattened axon as a differentiable shape."""

import math

import torch
from torch import Tensor

from mrsim.torrey.chart import Chart, chart_radius
from mrsim.torrey.mesh import Nodes
from mrsim.tree import neutral, record

_SMALL = 0.3  # below, sin(x)/x is a series: error 1e-17


@record
class Axon:
    """A cylinder of layers about z, deformed; every leaf but radii is scalar."""

    radii: Tensor  # (layer,) outer radius of each layer [mm], ascending; or ()
    length: Tensor  # () length of the axis [mm]
    bead: Tensor | None = neutral(0.0)  # () swelling of the radius at beads [1]
    bead_length: Tensor | None = None  # () from bead to bead [mm]; None: the length
    flat: Tensor | None = neutral(0.0)  # () semi-axes are radius·e^flat, radius·e^−flat
    twist: Tensor | None = neutral(0.0)  # () turn of the flat cross-section [rad/mm]
    bend: Tensor | None = neutral(0.0)  # () curvature of the axis, towards +x [1/mm]


def axon(chart: Chart, shape: Axon) -> Nodes:
    r"""Place the points of a `cylinder_chart` in a deformed cylinder.

    At arc length s from the middle the radius is r (1 + bead cos(2πs / bead_length)),
    the cross-section is flattened and turned by twist·s, and the axis is an arc of
    curvature κ: p = (x cos κs + (1 − cos κs)/κ, y, (1/κ − x) sin κs).

    Args:
        chart: coordinates.
        shape: the parameters.

    Returns:
        Positions; derivatives of any order hold at bend 0 too.

    Source: bend and twist after SpinDoctor (Li et al. 2019, NeuroImage 202:116120),
    here as an arc of constant curvature, which keeps the length.

    >>> from mrsim import torrey
    >>> chart, topology = torrey.cylinder_chart((2,), slices=4)
    >>> shape = torrey.Axon(radii=1e-3, length=4e-3, bead=0.1, bend=50.0)
    >>> torrey.axon(chart, shape).points.shape
    torch.Size([95, 3])
    """
    s = chart.along.to(shape.length.dtype) * shape.length
    radius = chart_radius(chart, shape.radii)
    if shape.bead is not None:
        period = shape.length if shape.bead_length is None else shape.bead_length
        radius = radius * (1 + shape.bead * (2 * math.pi * s / period).cos())
    x, y, _ = (chart.across.to(radius.dtype) * radius.unsqueeze(-1)).unbind(-1)
    if shape.flat is not None:
        x, y = x * shape.flat.exp(), y * (-shape.flat).exp()
    if shape.twist is not None:
        c, d = (shape.twist * s).cos(), (shape.twist * s).sin()
        x, y = x * c - y * d, x * d + y * c
    if shape.bend is None:
        return Nodes(points=torch.stack([x, y, s], -1))
    turn = shape.bend * s
    height = shape.bend * s * s / 2 * _sine_ratio(turn / 2).square()
    rows = [x * turn.cos() + height, y, s * _sine_ratio(turn) - x * turn.sin()]
    return Nodes(points=torch.stack(rows, -1))


def _sine_ratio(x: Tensor) -> Tensor:
    """Return sin(x)/x with all derivatives at 0, which torch.sinc lacks."""
    small = x.abs() < _SMALL
    safe = torch.where(small, 1.0, x)
    square = torch.where(small, x, 0.0).square()
    series = torch.ones_like(x)
    for k in range(6, 0, -1):
        series = 1 - square * series / (2 * k * (2 * k + 1))
    return torch.where(small, series, safe.sin() / safe)
