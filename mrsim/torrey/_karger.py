"""Compartments of Gaussian diffusion that exchange: the model of Kärger."""

from typing import Any

import torch
from torch import Tensor

from mrsim._check import check_floats
from mrsim.torrey.encoding import profile
from mrsim.torrey.encoding_profile import moments, pieces, timeline
from mrsim.torrey.mesh import Nodes, Topology, compartment_volumes
from mrsim.torrey.water import Water, spread

_GAUSS = 3**0.5 / 6


def karger(
    nodes: Nodes,
    topology: Topology,
    water: Water,
    encoding: Any,
    D: Tensor | None = None,
    steps: int = 8,
) -> Tensor:
    r"""Return the signal of compartments that exchange water through their interfaces.

    S' = [X − diag(Fᵀ Dᵢ F) − diag(R₂)] S with F(t) = ∫g and X of `exchange_rates`.
    Exact exponentials where F rests; steps of the commutator-free Magnus integrator of
    fourth order while it moves.

    Args:
        nodes: positions [mm].
        topology: connectivity.
        water: properties of the water; its kappa makes the exchange.
        encoding: any encoding.
        D: apparent diffusion tensors of the compartments (compartment, 3, 3) [mm²/s];
            ``None``: the water's own.
        steps: time steps in each constant piece of the gradient.

    Returns:
        (compartment,) signals, as shares of all spins.

    Reference:
        Kärger 1985 (Adv. Colloid Interface Sci. 23:129); Fieremans et al. 2010 (NMR
        Biomed. 23:711).

    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> x = torrey.PGSE(q=5e4, direction=[1.0, 0, 0], delta=1e-3, Delta=2e-3)
    >>> made = torrey.karger(*mesh, torrey.Water(D=2e-3), x)
    >>> torch.isclose(made, torch.exp(-2e-3 * torrey.b_value(x)))
    tensor([True])
    """
    wave = profile(encoding)
    check_floats("karger", points=nodes.points, duration=wave.duration, D=D)
    w = spread("karger", water, topology)
    tensors = w.D if D is None else D.expand(topology.compartments, 3, 3)
    rates = exchange_rates(nodes, topology, water)
    if w.T2 is not None:
        rates = rates - torch.diag_embed(1 / w.T2)
    made = pieces(wave)
    durations, vectors = timeline(made)
    still = [k for s in made.play for k in _order(made.segments[s.segment], s.reverse)]
    F = torch.zeros_like(vectors[0])
    state = _amounts(nodes, topology, w)
    state = state / state.sum()
    for k, (tau, g) in enumerate(zip(durations, vectors, strict=True)):
        count = 1 if made.still[still[k]] else steps
        h = tau[None, None] / count
        for j in range(count):
            early, late = (
                F + g * (tau * ((j + 0.5 + s * _GAUSS) / count)) for s in (-1, 1)
            )
            one, two = (
                torch.einsum("a,cab,b->c", f, tensors, f) for f in (early, late)
            )
            near, far = 0.5 + 2 * _GAUSS, 0.5 - 2 * _GAUSS
            for loss in (near * one + far * two, far * one + near * two):
                step = torch.matrix_exp(h / 2 * (rates - torch.diag_embed(loss)))
                state = step @ state
        F = F + tau * g
    return state


def exchange_rates(nodes: Nodes, topology: Topology, water: Water) -> Tensor:
    """Return the rates at which water changes its compartment.

    Rate from i to j: κ |Γᵢⱼ| cⱼᵢ / Vᵢ, with cⱼᵢ = 2ρⱼ/(ρᵢ + ρⱼ); 1/rate is the time of
    residence. Surface relaxivity takes ρₛ |Γ| / V.

    Args:
        nodes: positions [mm].
        topology: connectivity.
        water: its kappa, relaxivity and rho.

    Returns:
        (compartment, compartment) X [1/s] of S' = X S: columns sum to what is lost.

    >>> from mrsim import torrey
    >>> corners = torch.cat([torch.zeros(1, 3), torch.eye(3), torch.ones(1, 3)])
    >>> mesh = torrey.make_mesh(corners / 100, [[0, 1, 2, 3], [1, 2, 3, 4]], [0, 1])
    >>> torrey.exchange_rates(*mesh, torrey.Water(D=2e-3, kappa=0.01))
    tensor([[-5.1962,  2.5981],
            [ 5.1962, -2.5981]])
    """
    w = spread("exchange_rates", water, topology)
    volumes = compartment_volumes(nodes, topology)
    ones = torch.ones_like(volumes)
    rho = ones if w.rho is None else w.rho
    count = topology.compartments
    total = torch.zeros_like(volumes[:, None] * volumes).flatten()
    if w.kappa is not None and len(topology.inner):
        area = _areas(nodes, topology, topology.inner[:, 0])
        flux = w.kappa[topology.inner_marker] * area
        sides = [topology.home[topology.inner[:, k, 0]] for k in (0, 1)]
        for one, two in (sides, sides[::-1]):
            rate = flux * 2 * rho[two] / (rho[one] + rho[two]) / volumes[one]
            total = total.index_add(0, two * count + one, rate)
            total = total.index_add(0, one * count + one, -rate)
    if w.relaxivity is not None and len(topology.outer):
        home = topology.home[topology.outer[:, 0]]
        area = _areas(nodes, topology, topology.outer)
        rate = w.relaxivity[topology.outer_marker] * area / volumes[home]
        total = total.index_add(0, home * count + home, -rate)
    return total.unflatten(0, (count, count))


def free_diffusion(
    nodes: Nodes, topology: Topology, water: Water, encoding: Any
) -> Tensor:
    """Return the signal of compartments without walls, ρᵢVᵢ exp(−B:Dᵢ − TE/T2ᵢ).

    Args:
        nodes: positions [mm]; only volumes count.
        topology: connectivity.
        water: D, T2 and rho.
        encoding: any encoding.

    Returns:
        (compartment,) signals, as shares of all spins.

    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> x = torrey.PGSE(q=0.0, direction=[1.0, 0, 0], delta=1e-3, Delta=2e-3)
    >>> torrey.free_diffusion(*mesh, torrey.Water(D=2e-3), x)
    tensor([1.])
    """
    wave = profile(encoding)
    check_floats("free_diffusion", points=nodes.points, duration=wave.duration)
    w = spread("free_diffusion", water, topology)
    exponent = torch.einsum("ab,cab->c", moments(wave)[1], w.D)
    if w.T2 is not None:
        echo = torch.stack([wave.duration[s.segment] for s in wave.play]).sum()
        exponent = exponent + echo / w.T2
    state = _amounts(nodes, topology, w)
    return state / state.sum() * torch.exp(-exponent)


def _amounts(nodes: Nodes, topology: Topology, w: Water) -> Tensor:
    volumes = compartment_volumes(nodes, topology)
    return volumes if w.rho is None else volumes * w.rho


def _areas(nodes: Nodes, topology: Topology, facets: Tensor) -> Tensor:
    a, b, c = nodes.points[topology.point[facets]].unbind(1)
    n = torch.linalg.cross(b - a, c - a)
    return (n * n).sum(-1).sqrt() / 2


def _order(part: tuple[int, ...], reverse: bool) -> list[int]:
    return list(reversed(part)) if reverse else list(part)
