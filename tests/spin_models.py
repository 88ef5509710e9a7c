"""A signal of one spin, and plain loops and differences to compare with."""

import math
from typing import Any

import torch
from torch import Tensor

from mrsim import Tissue, neutral, record, tree


@record
class Spin:
    """A sequence: samples at equal distances, one of its fields optional."""

    TE: Tensor  # (echo,) [s]
    phase: Tensor | None = neutral(0.0, like="TE")  # (echo,) [rad]
    flip: Tensor | None = None


def signal(tissue: Tissue, seq: Spin) -> Tensor:
    """A damped, recovering, precessing spin; complex."""
    amplitude = 1 if tissue.M0 is None else tissue.M0
    angle = 0 if seq.phase is None else seq.phase
    if tissue.df is not None:
        angle = angle + 2 * math.pi * tissue.df * seq.TE
    envelope = (1 - (-seq.TE[-1] / tissue.T1).exp()) * (-seq.TE / tissue.T2).exp()
    if tissue.B1 is not None:
        envelope = envelope * (tissue.B1 * math.pi / 2).sin()
    value = amplitude * envelope
    turn = angle + torch.zeros_like(value)
    # torch.polar's reverse mode is NaN at values of 1e-320
    return torch.complex(value * turn.cos(), value * turn.sin())


def magnitude(tissue: Tissue, seq: Spin) -> Tensor:
    """Its squared magnitude; abs() would fail in torch's jacrev(jacfwd)."""
    s = signal(tissue, seq)
    return s.real**2 + s.imag**2


TISSUE = Tissue(T1=1.0, T2=0.1, df=3.0)
SEQ = Spin(TE=[0.01, 0.05, 0.2])


def close(a: Any, b: Any, rtol: float = 1e-12, atol: float = 1e-14) -> None:
    """Require equal structure and close leaves of equal dtype."""
    (x, s), (y, t) = tree.tree_flatten(a), tree.tree_flatten(b)
    assert s == t
    torch.testing.assert_close(x, y, rtol=rtol, atol=atol)


def central(f: Any, x: Tensor, step: float = 1e-6) -> Tensor:
    """Central differences of f along a scalar."""
    return (f(x + step) - f(x - step)) / (2 * step)
