"""Compartments of Gaussian diffusion that exchange: the model of Kärger."""

from typing import Any

import torch
from torch import Tensor

from mrsim._check import check_floats
from mrsim.torrey._plausible import check_moved
from mrsim.torrey._strength import check_refocused
from mrsim.torrey.assembly import areas
from mrsim.torrey.encoding import profile
from mrsim.torrey.encoding_profile import (
    Pieces,
    echo_time,
    moments,
    order,
    pieces,
    timeline,
)
from mrsim.torrey.mesh import (
    Nodes,
    Topology,
    compartment_volumes,
    volumes as element_volumes,
)
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

    Raises:
        ValueError: there are no steps, or elements are inverted.

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
    if steps < 1:
        raise ValueError(f"karger: steps must be at least 1, got {steps}")
    check_refocused("karger", encoding)
    wave = profile(encoding)
    check_floats("karger", points=nodes.points, duration=wave.duration, D=D)
    w = spread("karger", water, topology)
    tensors = w.D if D is None else D.expand(topology.compartments, 3, 3)
    rates = exchange_rates(nodes, topology, water)
    if w.T2 is not None:
        rates = rates - torch.diag_embed(1 / w.T2)
    state = _amounts(nodes, topology, w)
    state = state / state.sum()
    for propagator in _propagators(pieces(wave), tensors, rates, steps):
        state = propagator @ state
    return state


def _propagators(made: Pieces, tensors: Tensor, rates: Tensor, steps: int) -> Tensor:
    """Return the propagators (step, compartment, compartment) in the order of time."""
    durations, vectors = timeline(made)
    moved = (durations[:, None] * vectors).cumsum(0)
    before = torch.cat([torch.zeros_like(moved[:1]), moved[:-1]])
    counts = [1 if made.still[k] else steps for k, _ in order(made)]
    half, states = [], []
    for tau, g, F, count in zip(durations, vectors, before, counts, strict=True):
        half.append((tau[None] / (2 * count)).expand(2 * count))
        for j in range(count):
            early, late = (j + 0.5 - _GAUSS) / count, (j + 0.5 + _GAUSS) / count
            states += [F + g * (tau * early), F + g * (tau * late)]
    F = torch.stack(states)
    loss = torch.einsum("sa,cab,sb->sc", F, tensors, F).unflatten(0, (-1, 2))
    one, two = loss.unbind(1)
    near, far = 0.5 + 2 * _GAUSS, 0.5 - 2 * _GAUSS
    mixed = torch.stack([near * one + far * two, far * one + near * two], 1)
    each = rates - torch.diag_embed(mixed.flatten(0, 1))
    return torch.matrix_exp(torch.cat(half)[:, None, None] * each)


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
    check_moved("exchange_rates", element_volumes(nodes, topology))
    volumes = compartment_volumes(nodes, topology)
    ones = torch.ones_like(volumes)
    rho = ones if w.rho is None else w.rho
    count = topology.compartments
    total = torch.zeros_like(volumes[:, None] * volumes).flatten()
    if w.kappa is not None and len(topology.inner):
        area = areas(nodes.points, topology.point[topology.inner[:, 0]])
        flux = w.kappa[topology.inner_marker] * area
        sides = [topology.home[topology.inner[:, k, 0]] for k in (0, 1)]
        for one, two in (sides, sides[::-1]):
            rate = flux * 2 * rho[two] / (rho[one] + rho[two]) / volumes[one]
            total = total.index_add(0, two * count + one, rate)
            total = total.index_add(0, one * count + one, -rate)
    if w.relaxivity is not None and len(topology.outer):
        home = topology.home[topology.outer[:, 0]]
        area = areas(nodes.points, topology.point[topology.outer])
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
    check_refocused("free_diffusion", encoding)
    wave = profile(encoding)
    check_floats("free_diffusion", points=nodes.points, duration=wave.duration)
    w = spread("free_diffusion", water, topology)
    check_moved("free_diffusion", element_volumes(nodes, topology))
    exponent = torch.einsum("ab,cab->c", moments(wave)[1], w.D)
    if w.T2 is not None:
        exponent = exponent + echo_time(wave) / w.T2
    state = _amounts(nodes, topology, w)
    return state / state.sum() * torch.exp(-exponent)


def _amounts(nodes: Nodes, topology: Topology, w: Water) -> Tensor:
    volumes = compartment_volumes(nodes, topology)
    return volumes if w.rho is None else volumes * w.rho
