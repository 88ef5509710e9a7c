"""The protocols of the inverse benchmark: 3 shells of q × 30 directions, and pairs."""

import warnings

import torch
from torch import Tensor
from torch.func import vmap

from mrsim import torrey, tract
from mrsim.units import ms, um

SIGMA = 1 / 50  # SNR 50 at b = 0
DELTA = 8 * ms
LONG = 100 * ms
DIFFUSION_TIMES = torch.tensor([12.0, 20, 35, 60, 100], dtype=torch.float64) * ms
SHELLS = torch.tensor([0.4, 0.8, 1.2], dtype=torch.float64) / um / DELTA
DIRECTIONS = tract.hemisphere(30).double()
PHASES = torch.tensor(
    [0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 1.8], dtype=torch.float64
) / (um * DELTA)
PHASE_DIRECTIONS = tract.hemisphere(120).double()
WATER = torrey.Water(D=torch.tensor(2e-3, dtype=torch.float64))


def basis_of(
    nodes, topology, water, modes: int, order: int | None = None
) -> torrey.Basis:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cut that completes a group of modes
        return torrey.laplace(nodes, topology, water, modes=modes, order=order)


def grid(shells: Tensor, directions: Tensor = DIRECTIONS) -> tuple[Tensor, Tensor]:
    """Return q and direction of every measurement."""
    q = shells.repeat_interleave(len(directions))
    return q, directions.repeat(len(shells), 1)


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

    It tends to the Fourier transform of the shape, its phase included, which tells a
    shape from its mirror image (Laun et al. 2011, Phys Rev Lett 107:048102).
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
    """Return the PGSE signals (450), then those with a phase (2160 channels)."""
    made = [vmap(f, (None, 0, 0))(basis, *each).flatten() for f, each in IMAGING]
    return torch.cat(made)


IMAGING = ((pairs, grid(SHELLS)), (phased, grid(PHASES, PHASE_DIRECTIONS)))


def noisy(clean: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return clean + SIGMA * torch.randn(clean.shape, generator=generator)
