"""Directions for HARDI shells, and protocols of encodings made of them."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from mrsim.torrey._strength import with_b
from mrsim.torrey.encoding import Waveform
from mrsim.tree import put, tree_map

_STEPS = 400


def directions(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return directions spread evenly over the half sphere.

    They minimise the electrostatic energy of charges at ±u, from a spiral. The same
    number gives the same directions always.

    Args:
        count: number of directions.
        dtype: of the result.

    Returns:
        (count, 3) unit vectors with z ≥ 0.

    Raises:
        ValueError: ``count`` is less than 1.

    Reference:
        Jones et al. 1999 (Magn Reson Med 42:515).

    >>> from mrsim import torrey
    >>> u = torrey.directions(3)  # at right angles
    >>> bool((u @ u.T - torch.eye(3, dtype=u.dtype)).abs().max() < 1e-3)
    True
    """
    if count < 1:
        raise ValueError(f"directions: the number must be at least 1, got {count}")
    z = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    turn = math.pi * (1 + math.sqrt(5)) * torch.arange(count, dtype=torch.float64)
    ring = (1 - z * z).sqrt()
    u = torch.stack([ring * turn.cos(), ring * turn.sin(), z], -1)
    step = 0.5 / count
    for k in range(_STEPS if count > 1 else 0):
        force = _force(u)
        size = force.norm(dim=-1).amax().clamp_min(1e-300)
        u = torch.nn.functional.normalize(u + step * 0.985**k * force / size, dim=-1)
    return torch.where(u[:, 2:] < 0, -u, u).to(dtype)


def _force(u: Tensor) -> Tensor:
    """Return the repulsion along the sphere from all charges at ±u but oneself."""
    apart = u[:, None] - torch.stack([u, -u], 1).flatten(0, 1)
    r = apart.norm(dim=-1, keepdim=True)
    pull = torch.where(r > 1e-9, apart / r.clamp_min(1e-9) ** 3, 0.0).sum(1)
    return pull - (pull * u).sum(-1, keepdim=True) * u


def shells(encoding: Any, b: Any, directions: Tensor) -> Any:
    """Return encodings at every combination of b values and directions: a flat batch.

    Args:
        encoding: one encoding, whose q and direction are replaced.
        b: (shell,) b values, varying slowest [s/mm²].
        directions: (direction, 3) unit vectors.

    Returns:
        The encoding with the batch axis (shell · direction,) in front of every leaf.

    Raises:
        TypeError: a waveform has no direction to replace.

    >>> from mrsim import torrey
    >>> pair = torrey.PGSE(q=1.0, direction=[1.0, 0, 0], delta=0.01, Delta=0.03)
    >>> u = torrey.directions(5, dtype=torch.float32)
    >>> torrey.shells(pair, [1000.0, 2000.0], u).direction.shape
    torch.Size([10, 3])
    """
    if isinstance(encoding, Waveform):
        raise TypeError("shells: a Waveform has no direction; rotate its vectors")
    like = encoding.q
    values = torch.as_tensor(b, dtype=like.dtype, device=like.device)
    units = directions.to(like)
    grid_b = values.repeat_interleave(len(units))
    grid_u = units.repeat(len(values), 1)

    def one(value: Tensor, unit: Tensor) -> Any:
        there = put(encoding, "direction", unit)
        if getattr(encoding, "direction2", None) is not None:
            there = put(there, "direction2", unit)
        made = with_b(put(there, "q", torch.ones_like(like)), value)
        return tree_map(lambda x: x.clone(), made)

    return vmap(one)(grid_b, grid_u)
