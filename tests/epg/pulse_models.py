"""Random pulses and the rotations they are made of, sample by sample."""

import torch
from torch import Tensor

from mrsim.epg.pulses import Profile

Z = torch.linspace(-6, 6, 13)


def t(x: float) -> Tensor:
    return torch.tensor(x)


def turn(axis: Tensor, angle: Tensor) -> Tensor:
    """Return the matrix of a right-handed rotation by |axis|·angle (Rodrigues)."""
    w = axis * angle
    size = w.norm()
    x, y, z = w / size.clamp(min=1e-300)
    zero = torch.zeros_like(x)
    rows = [torch.stack(r) for r in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    K = torch.stack(rows)
    return torch.eye(3) + size.sin() * K + 2 * (size / 2).sin() ** 2 * (K @ K)


def euler(x: Profile) -> Tensor:
    """Return the rotation of a profile."""
    up = torch.tensor([0.0, 0.0, 1.0])
    axis = torch.stack([x.phase.cos(), x.phase.sin(), t(0.0)])
    return turn(up, x.after) @ turn(axis, x.flip) @ turn(up, x.before)
