"""Diffusion before walls are far felt: the short-time law of Mitra."""

import math
from typing import Any

import torch
from torch import Tensor

from mrsim._check import check_floats
from mrsim.torrey._plausible import check_moved
from mrsim.torrey._strength import attenuation, check_refocused
from mrsim.torrey.encoding import profile
from mrsim.torrey.encoding_profile import pieces, timeline
from mrsim.torrey.mesh import Nodes, Topology, compartment_volumes, volumes
from mrsim.torrey.water import Water, spread


def short_time(nodes: Nodes, topology: Topology, water: Water, encoding: Any) -> Tensor:
    r"""Return the apparent diffusion of every compartment at short times.

    D = D₀ [1 − 4/(3√π) √(D₀ t*) S_u/V], with the surface seen along the gradient S_u =
    ∫(u·n)² dS and, for any waveform, √t* = (2/35) Σᵢⱼ Δgᵢ·Δgⱼ |tᵢ − tⱼ|^{7/2} / b over
    its jumps Δg. All surfaces reflect; relaxation is left out.

    Args:
        nodes: positions [mm].
        topology: connectivity.
        water: its D; a tensor counts along the gradient.
        encoding: any refocused encoding with b > 0.

    Returns:
        (compartment,) [mm²/s].

    Raises:
        ValueError: the encoding has no gradients, or does not refocus.

    Reference:
        Mitra, Sen and Schwartz 1993 (Phys. Rev. B 47:8565); Li et al. 2019
        (NeuroImage 202:116120), equation 35.

    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> x = torrey.PGSE(q=5e4, direction=[1.0, 0, 0], delta=1e-3, Delta=2e-3)
    >>> torrey.short_time(*mesh, torrey.Water(D=2e-3), x)
    tensor([0.0004])
    """
    check_refocused("short_time", encoding, needed=True)
    b = attenuation("short_time", encoding)
    wave = profile(encoding)
    check_floats("short_time", points=nodes.points, duration=wave.duration)
    w = spread("short_time", water, topology)
    check_moved("short_time", volumes(nodes, topology))
    durations, vectors = timeline(pieces(wave))
    zero = torch.zeros_like(vectors[:1])
    jumps = torch.cat([vectors, zero]) - torch.cat([zero, vectors])
    times = torch.cat([torch.zeros_like(durations[:1]), durations.cumsum(0)])
    apart = (times[:, None] - times).abs() ** 3.5
    seen = 2 / 35 * torch.einsum("ia,ij,jb->ab", jumps, apart, jumps)
    size = b.diagonal().sum()
    D = torch.einsum("ab,cab->c", b, w.D) / size
    surface = torch.einsum("ab,cab->c", seen, surface_tensors(nodes, topology))
    share = surface / (compartment_volumes(nodes, topology) * size)
    return D * (1 - 4 / (3 * math.sqrt(math.pi)) * D.sqrt() * share)


def surface_tensors(nodes: Nodes, topology: Topology) -> Tensor:
    """Return ∫n nᵀ dS over the whole surface of every compartment.

    Args:
        nodes: positions [mm].
        topology: connectivity.

    Returns:
        (compartment, 3, 3) [mm²]; the trace is the area.

    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> torrey.surface_tensors(*mesh)[0].diagonal()
    tensor([7.8868e-05, 7.8868e-05, 7.8868e-05])
    """
    facets = torch.cat([topology.outer, topology.inner[:, 0], topology.inner[:, 1]])
    a, b, c = nodes.points[topology.point[facets]].unbind(1)
    n = torch.linalg.cross(b - a, c - a) / 2
    each = n[:, :, None] * n[:, None] / (n * n).sum(-1).sqrt()[:, None, None]
    whole = each.new_zeros(topology.compartments, 3, 3)
    return whole.index_add(0, topology.home[facets[:, 0]], each)
