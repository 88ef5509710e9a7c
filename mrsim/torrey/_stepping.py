"""Time stepping of the whole finite-element problem by the θ-scheme.

The states at all times solve one block-bidiagonal system. Its solution at the given
values is a constant; derivatives come from steps of the chord iteration x ← x − S R(x),
where R is the residual, written in differentiable tensors, and S the constant inverse:
each step makes one order of the derivatives exact, at the price of one more sweep.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mrsim._check import check_floats, concrete, traced
from mrsim.torrey._fence import fence
from mrsim.torrey._memory import demand
from mrsim.torrey._strength import check_refocused
from mrsim.torrey._sweep import Plan, states, sweep
from mrsim.torrey.assembly import (
    MS,
    UM,
    Blocks,
    apply,
    assemble,
    diffusion_parts,
    readout,
)
from mrsim.torrey.encoding import profile
from mrsim.torrey.encoding_profile import Pieces, Profile, pieces, timeline
from mrsim.torrey.mesh import Nodes, Topology
from mrsim.torrey.water import Water

Steps = int | tuple[int, ...]


def count_steps(encoding: Any, step: float) -> tuple[int, ...]:
    """Return how many time steps of at most a given length each piece takes.

    Args:
        encoding: any encoding, outside of transforms.
        step: longest step [s].

    Returns:
        One number for each constant piece of the encoding.

    Raises:
        ValueError: a transform follows the timings, or the step is not positive.

    >>> from mrsim import torrey
    >>> x = torrey.PGSE(q=50.0, direction=[1.0, 0, 0], delta=0.01, Delta=0.03)
    >>> torrey.count_steps(x, 1e-3)
    (10, 20)
    """
    if not step > 0:
        raise ValueError(f"count_steps: step must be a positive time, got {step} s")
    made = pieces(profile(encoding)).duration
    if not concrete(made):
        raise ValueError(
            "count_steps: the number of steps is structure and cannot follow timings"
            " inside a transform; find it outside by count_steps(encoding, step)"
        )
    return tuple(max(1, math.ceil(float(t) / step - 1e-5)) for t in made)


def stepped(
    nodes: Nodes,
    topology: Topology,
    water: Water,
    encoding: Any,
    steps: Steps = 100,
    theta: float = 0.5,
    order: int = 1,
) -> Tensor:
    r"""Return the signal of a mesh by implicit time steps.

    (M + θhA) m_{j+1} = (M − (1 − θ)hA) m_j with A = K + Q + R + i g·J: second order
    in h at θ = 1/2, first at θ = 1. Sparse throughout: the way to check a matrix
    formalism on a mesh too large for the complete basis. `stepped_error` estimates the
    error of the steps.

    Args:
        nodes: positions [mm].
        topology: connectivity.
        water: properties of the water.
        encoding: any encoding; curved waveforms are cut in constant pieces first.
        steps: of each constant piece, or one number for all; see `count_steps`.
        theta: 1/2 (Crank–Nicolson) to 1 (implicit Euler).
        order: highest order of derivatives; beyond it they raise.

    Returns:
        () complex signal, as a share of all spins.

    Raises:
        ValueError: numbers of steps do not fit the encoding, or θ or the order is out
            of range.
        MemoryError: the states would not fit; the message has the estimate.

    Reference:
        Li et al. 2019 (NeuroImage 202:116120).

    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> pair = torrey.PGSE(q=1e4, direction=[1.0, 0, 0], delta=0.005, Delta=0.02)
    >>> torrey.stepped(*mesh, torrey.Water(D=2e-3), pair).abs()
    tensor(0.9951)
    """
    parts = stepped_parts(nodes, topology, water, encoding, steps, theta, order)
    return parts.sum()


def stepped_parts(
    nodes: Nodes,
    topology: Topology,
    water: Water,
    encoding: Any,
    steps: Steps = 100,
    theta: float = 0.5,
    order: int = 1,
) -> Tensor:
    """Return the signal of every compartment; their sum is `stepped`.

    Args:
        nodes: positions [mm].
        topology: connectivity.
        water: properties of the water.
        encoding: any encoding.
        steps: of each constant piece, or one number for all.
        theta: 1/2 to 1.
        order: highest order of derivatives.

    Returns:
        (compartment,) complex signals, as shares of all spins.

    Raises:
        ValueError: numbers of steps do not fit the encoding, or θ or the order is out
            of range.
        MemoryError: the states would not fit.

    >>> import torch
    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> pair = torrey.PGSE(q=1e4, direction=[1.0, 0, 0], delta=0.005, Delta=0.02)
    >>> torrey.stepped_parts(*mesh, torrey.Water(D=2e-3), pair).abs()
    tensor([0.9951])
    """
    check_refocused("stepped", encoding)
    wave = profile(encoding)
    check_floats("stepped", points=nodes.points, duration=wave.duration)
    size = len(topology.home)
    h, g = fine("stepped", wave, steps, size)
    blocks = assemble(nodes, topology, water)
    plan = Plan(
        dofs=tuple(dofs for dofs, _ in damping(blocks, topology)),
        size=size,
        steps=len(h),
        theta=theta,
        phased=True,
    )
    h, g = h * MS, g / (UM * MS)
    x = solved("stepped", blocks, topology, plan, h, g, None, order)[:, -1]
    weights = readout(blocks, topology)
    made = torch.complex(weights @ x.real, weights @ x.imag)
    return made / weights.sum()


def stepped_error(
    nodes: Nodes,
    topology: Topology,
    water: Water,
    encoding: Any,
    steps: Steps = 100,
    theta: float = 0.5,
) -> Tensor:
    """Return an estimate of the error of the time steps, by doubling their number.

    Args:
        nodes: positions [mm].
        topology: connectivity.
        water: properties of the water.
        encoding: any encoding.
        steps: as in `stepped`.
        theta: as in `stepped`.

    Returns:
        () |S − S'|, where S' has twice the steps.

    >>> import torch
    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> pair = torrey.PGSE(q=1e4, direction=[1.0, 0, 0], delta=0.005, Delta=0.02)
    >>> bool(torrey.stepped_error(*mesh, torrey.Water(D=2e-3), pair, 50) < 1e-3)
    True
    """
    twice = 2 * steps if isinstance(steps, int) else tuple(2 * n for n in steps)
    run = partial(stepped, nodes, topology, water, encoding, theta=theta)
    return (run(steps=steps) - run(steps=twice)).abs()


def fine(where: str, wave: Profile, steps: Steps, size: int) -> tuple[Tensor, Tensor]:
    """Cut a profile into time steps.

    Args:
        where: the function that asks, for messages.
        wave: of an encoding.
        steps: of each constant piece, or one number for all.
        size: number of degrees of freedom, whose states must fit.

    Returns:
        (step,) lengths [s] and (step, 3) gradients [rad/(mm s)].

    Raises:
        ValueError: there are not as many numbers as pieces, or one is not positive.
        MemoryError: the states would not fit.
    """
    made = pieces(wave)
    count = len(made.still)
    if not isinstance(steps, int) and len(steps) != count:
        raise ValueError(
            f"{where}: steps must hold one number for each of the {count} constant"
            f" pieces of the encoding, got {len(steps)}; see count_steps"
        )
    each = (steps,) * count if isinstance(steps, int) else steps
    if min(each) < 1:
        raise ValueError(f"{where}: each piece takes at least one step, got {steps}")
    total = sum(each[k] for s in made.play for k in made.segments[s.segment])
    if not made.duration.is_meta:
        demand(
            f"{where}: {total} states of {size} degrees of freedom",
            16 * total * size * made.duration.element_size(),
            made.duration.device,
            "take fewer steps",
        )
    place, cut = [], []
    for k, n in enumerate(each):
        cut.append(tuple(range(len(place), len(place) + n)))
        place.extend([k] * n)
    share = [1 / each[k] for k in place]
    # made on the device itself they fail for meta tensors under jvp
    at = torch.tensor(place).to(made.duration.device)
    shares = torch.tensor(share, dtype=made.duration.dtype).to(made.duration.device)
    segments = tuple(tuple(j for p in s for j in cut[p]) for s in made.segments)
    length = made.duration[at] * shares
    return timeline(
        Pieces(
            duration=length,
            vector=made.vector[at],
            still=tuple(made.still[k] for k in place),
            segments=segments,
            play=made.play,
        )
    )


def damping(blocks: Blocks, topology: Topology) -> list[tuple[Tensor, Tensor]]:
    """Return K + Q + R as pairs of dofs and matrices."""
    first, *rest = diffusion_parts(blocks, topology)
    if blocks.relaxation is None:
        return [first, *rest]
    return [(first[0], first[1] + blocks.relaxation), *rest]


def solved(
    where: str,
    blocks: Blocks,
    topology: Topology,
    plan: Plan,
    h: Tensor,
    g: Tensor,
    source: Tensor | None,
    order: int,
) -> Tensor:
    """Return the states at all times, differentiable to a given order.

    Args:
        where: the function that asks, for messages.
        blocks: of the mesh and its water.
        topology: connectivity.
        plan: structure of the sweep.
        h: (step,) lengths [ms].
        g: (step, 3) gradients [rad/(µm ms)].
        source: (dof, step) what each step adds; ``None``: nothing.
        order: highest order of derivatives.

    Returns:
        (dof, step + 1) states.

    Raises:
        ValueError: the order or θ is out of range.
    """
    if order < 1 or not 0.5 <= plan.theta <= 1:
        raise ValueError(
            f"{where}: order must be at least 1 and theta from 1/2 to 1, below which"
            f" steps are not stable; got order={order}, theta={plan.theta}"
        )
    message = (
        f"{where}: the derivative of order {order + 1} is not exact and is refused; ask"
        f" for it with order={order + 1}, or take the complete model (simulate)"
    )
    rows, parts = zip(*damping(blocks, topology), strict=True)
    given = [h, g, blocks.mass, blocks.moment, *parts]
    kind = h.dtype.to_complex() if plan.phased else h.dtype
    zero = torch.zeros(plan.size, plan.steps, dtype=kind, device=h.device)
    r = zero if source is None else source.to(kind)
    x = states(plan, given, r)
    if not any(traced(y) or y.requires_grad for y in (*given, r)):
        return x
    h, g, mass, moment, *parts = (fence(y, order, message) for y in given)
    if source is not None:
        r = fence(r, order, message)
    for _ in range(order):
        late, early = x[:, 1:], x[:, :-1]
        middle = plan.theta * late + (1 - plan.theta) * early
        flow = _times(list(zip(rows, parts, strict=True)), middle)
        if plan.phased:
            turned = _times([(rows[0], moment)], middle)
            phase = turned[0] * g[:, 0] + turned[1] * g[:, 1] + turned[2] * g[:, 2]
            flow = flow + torch.complex(-phase.imag, phase.real)
        residual = _times([(rows[0], mass)], late - early) + h * flow - r
        step = sweep(plan, given, residual - residual.detach())
        x = torch.cat([x[:, :1], late - step], 1)
    return x


def _times(parts: list[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    if not x.is_complex():
        return apply(parts, x)
    made = apply(parts, torch.cat([x.real, x.imag], -1))
    return torch.complex(*made.split(x.shape[-1], -1))
