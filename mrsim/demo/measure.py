"""Measures of a train: CRLB of T2, gradient check, signal, point spread."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vmap

from mrsim import epg
from mrsim._crlb import crlb
from mrsim.tissue import Tissue
from mrsim.transform import value_and_jac
from mrsim.tree import expand, replace

UNKNOWN = ("M0", "T2", "B1")

Objective = Callable[[epg.FSE], Tensor]


def variance(tissue: Tissue, train: epg.FSE, sigma: Tensor | float) -> Tensor:
    """Return the CRLB of T2 [s²] of many voxels; M0, T2 and B1 are unknown.

    Args:
        tissue: every leaf (voxel,).
        train: one train.
        sigma: sd of the noise of each real channel [units of M0].

    Returns:
        (voxel,) variances [s²].
    """
    bound = crlb(epg.fse, *UNKNOWN, sigma=1.0)
    return vmap(bound, in_dims=(0, None))(tissue, train).T2 * sigma**2


def told(tissue: Tissue, train: epg.FSE, sigma: float) -> Tensor:
    """Tell which voxels have a T2 that a train shows to 20 % (CRLB).

    In others, such as fluid with a T2 far beyond the last echo, errors are not small
    and no bound on the variance describes a fit.

    Args:
        tissue: every leaf (voxel,).
        train: the train.
        sigma: sd of the noise of each real channel [units of M0].

    Returns:
        (voxel,) bool.
    """
    return variance(tissue, train, sigma).sqrt() <= 0.2 * tissue.T2


def objective(tissue: Tissue, sigma: float) -> Objective:
    """Make the design's objective: the mean over tissues of var(T2)/T2² (CRLB)."""
    return lambda train: (variance(tissue, train, sigma) / tissue.T2**2).mean()


def gradient_error(goal: Objective, train: epg.FSE, step: float = 1e-3) -> float:
    """Compare the objective's gradient over the flips with central differences.

    Two steps are combined (Richardson), so that the differences err by O(step⁴).

    Args:
        goal: the objective.
        train: where to compare.
        step: of the differences [rad].

    Returns:
        The largest difference relative to the largest entry of the gradient.
    """
    exact = grad(goal)(train).flip
    eye = torch.eye(len(train.flip), dtype=train.flip.dtype)

    def slope(h: float) -> Tensor:
        moved = torch.cat([train.flip + h * eye, train.flip - h * eye])
        up, down = vmap(goal)(replace(expand(train, len(moved)), flip=moved)).chunk(2)
        return (up - down) / (2 * h)

    numeric = (4 * slope(step / 2) - slope(step)) / 3
    return float((exact - numeric).abs().max() / numeric.abs().max())


def signal_and_slope(tissue: Tissue, train: epg.FSE) -> tuple[Tensor, Tensor]:
    """Return the echoes and their derivative over T2, for each tissue.

    Args:
        tissue: every leaf (tissue,).
        train: the train.

    Returns:
        Signal [M0] and ∂signal/∂T2 [M0/s], both (tissue, echo) and real.
    """
    both = vmap(value_and_jac(epg.fse, "T2"), in_dims=(0, None))
    signal, slope = both(replace(tissue, M0=None), train)
    return signal.real, slope.T2.real


def point_spread(signal: Tensor, lines: int = 256, zoom: int = 8) -> Tensor:
    """Return how an echo train blurs a point if its echoes fill one k-space.

    Linear ordering: the first of ``lines / echoes`` neighbouring lines come from the
    first echo, and so on; PSF = |FFT of this weighting|, over its largest value.

    Args:
        signal: (echo,) amplitudes [M0].
        lines: number of phase-encoding lines.
        zoom: points in a pixel.

    Returns:
        (lines · zoom,) values [1], the point in the middle.
    """
    order = torch.arange(lines) * len(signal) // lines
    weights = signal[order]
    spread = torch.fft.fftshift(torch.fft.fft(weights, n=lines * zoom).abs())
    return spread / spread.max()
