"""The homogenised apparent diffusion coefficient, by its own diffusion equation."""

from typing import Any

import torch
from torch import Tensor

from mrsim._check import check_floats
from mrsim.torrey._stepping import Steps, fine, solved
from mrsim.torrey._strength import attenuation, check_refocused
from mrsim.torrey._sweep import Plan
from mrsim.torrey.assembly import MS, UM, apply, assemble, diffusion_parts, readout
from mrsim.torrey.encoding import profile
from mrsim.torrey.mesh import Nodes, Topology
from mrsim.torrey.water import Water
from mrsim.tree import put


def hadc(
    nodes: Nodes,
    topology: Topology,
    water: Water,
    encoding: Any,
    steps: Steps = 100,
    theta: float = 0.5,
    order: int = 1,
) -> Tensor:
    r"""Return the homogenised apparent diffusion coefficient of an encoding.

    D = [∫Fᵀ D̄ F dt − ∫Fᵀ Xᵀ(K + Q) ζ dt / V] / b, where M ζ' = −(K + Q) ζ + (K + Q) X F
    corrects the homogeneous state, F = ∫g and D̄ = Xᵀ(K + Q)X / V. It needs one real
    sparse solution a time step and no modes; relaxation is left out.

    Args:
        nodes: positions [mm].
        topology: connectivity.
        water: properties of the water.
        encoding: any refocused encoding with b > 0.
        steps: of each constant piece, or one number for all; see `count_steps`.
        theta: 1/2 (Crank–Nicolson) to 1 (implicit Euler).
        order: highest order of derivatives; beyond it they raise.

    Returns:
        () [mm²/s]; `apparent_diffusion` of the complete basis up to the time steps.

    Raises:
        ValueError: the encoding has no gradients or does not refocus, or numbers of
            steps, θ or the order do not fit.
        MemoryError: the states would not fit; the message has the estimate.

    Reference:
        Haddar, Li and Schiavi 2018 (Comm Math Sci 16:1763), equation 19.

    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> x = torrey.PGSE(q=5e4, direction=[1.0, 0, 0], delta=0.01, Delta=0.03)
    >>> bool(torrey.hadc(*mesh, torrey.Water(D=2e-3), x) < 2e-3)
    True
    """
    check_refocused("hadc", encoding, needed=True)
    b = attenuation("hadc", encoding)
    wave = profile(encoding)
    check_floats("hadc", points=nodes.points, duration=wave.duration)
    h, g = fine("hadc", wave, steps, len(topology.home))
    blocks = assemble(nodes, topology, put(water, "T2", None))
    parts = diffusion_parts(blocks, topology)
    x = nodes.points[topology.point] * UM
    weights = readout(blocks, topology).sum(0)
    x = x - (weights @ x) / weights.sum()
    flux = apply(parts, x)
    ends = (h[:, None] * g).cumsum(0) / UM
    before = torch.cat([torch.zeros_like(ends[:1]), ends[:-1]])
    F = theta * ends + (1 - theta) * before
    plan = Plan(
        dofs=tuple(dofs for dofs, _ in parts),
        size=len(topology.home),
        steps=len(h),
        theta=theta,
        phased=False,
    )
    h = h * MS
    source = h * (flux @ F.mT)
    zeta = solved("hadc", blocks, topology, plan, h, 0 * g, source, order)
    middle = (zeta[:, 1:] + zeta[:, :-1]) / 2
    F = (ends + before) / 2
    lost = (h * (F * (middle.mT @ flux)).sum(1)).sum() / weights.sum()
    free = ((x.mT @ flux) / weights.sum() * b).sum() * MS / UM**2
    return (free - lost) / b.diagonal().sum()
