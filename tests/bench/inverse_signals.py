"""The protocol of the inverse benchmark: 3 shells of q × 30 directions."""

import warnings

import torch
from torch import Tensor
from torch.func import vmap

from mrsim import torrey, tract
from mrsim.units import ms, um

SIGMA = 1 / 50  # SNR 50 at b = 0
DELTA = 8 * ms
LONG = 80 * ms
DIFFUSION_TIMES = torch.tensor([12.0, 20, 35, 60, 100], dtype=torch.float64) * ms
SHELLS = torch.tensor([0.4, 0.8, 1.2], dtype=torch.float64) / um / DELTA
DIRECTIONS = tract.hemisphere(30).double()
WATER = torrey.Water(D=torch.tensor(2e-3, dtype=torch.float64))


def basis_of(nodes, topology, water, modes: int) -> torrey.Basis:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cut that completes a group of modes
        return torrey.laplace(nodes, topology, water, modes=modes)


def grid(shells: Tensor) -> tuple[Tensor, Tensor]:
    """Return q and direction of every measurement."""
    q = shells.repeat_interleave(len(DIRECTIONS))
    return q, DIRECTIONS.repeat(len(shells), 1)


def pairs(basis: torrey.Basis, q: Tensor, u: Tensor) -> Tensor:
    """Return PGSE signals at all diffusion times (time,).

    The propagators of the pulses depend on q alone: one each for all times.
    """

    def wait(t: Tensor) -> Tensor:
        delta = torch.tensor(DELTA)
        pair = torrey.PGSE(q=q, direction=u, delta=delta, Delta=t)
        return torrey.signal(basis, pair).real

    return vmap(wait)(DIFFUSION_TIMES)


def phased(basis: torrey.Basis, q: Tensor, u: Tensor) -> Tensor:
    """Return the signal of a long weak with a short strong pulse: two real channels.

    Its phase tells a shape from its mirror image (Laun et al. 2011, Phys Rev Lett
    107:048102), weakly for a rod whose length is near √15 radii, as here.
    """
    times = torch.tensor([0, LONG, LONG + DELTA])
    vectors = torch.stack([DELTA / LONG * q * u, -q * u, 0 * u])
    pulses = torrey.Waveform(times=times, vectors=vectors, linear=False, steps=1)
    made = torrey.signal(basis, pulses)
    return torch.stack([made.real, made.imag])


def signals(nodes, topology, water, modes: int, shells: Tensor = SHELLS) -> Tensor:
    """Return the PGSE signals of the protocol (450,)."""
    basis = basis_of(nodes, topology, water, modes)
    return vmap(pairs, (None, 0, 0))(basis, *grid(shells)).flatten()


def imaging(basis: torrey.Basis) -> Tensor:
    """Return PGSE signals and those with a phase (630,)."""
    every = vmap(both, (None, 0, 0))(basis, *grid(SHELLS))
    return every.flatten()


def both(basis: torrey.Basis, q: Tensor, u: Tensor) -> Tensor:
    return torch.cat([pairs(basis, q, u), phased(basis, q, u)])


def noisy(clean: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return clean + SIGMA * torch.randn(clean.shape, generator=generator)
