"""The proof: noisy echoes of every voxel of the slice, fitted, against the CRLB."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from mrsim import epg, fit, noise
from mrsim.demo.measure import UNKNOWN, variance
from mrsim.tissue import Tissue
from mrsim.tree import grid, replace, to, tree_map

_CHUNK = 10_000
_TOLERANCE = 1e-4  # leaves 1e-3 of a standard deviation

BOUNDS = {"M0": (0.0, 100.0), "T2": (0.002, 10.0), "B1": (0.2, 1.8)}


class Trial(NamedTuple):
    """One train tried on the voxels, each at least once."""

    bound: Tensor  # (voxel,) CRLB of T2 [s²]
    which: Tensor  # (fit,) the voxel; the first fits are of all voxels in order
    fitted: Tensor  # (fit,) fitted T2 [s]
    at_bound: Tensor  # (fit,) bool: a parameter stopped at its bound
    converged: Tensor  # (fit,) bool


class Ratio(NamedTuple):
    """Variance of T2 of one train relative to another, averaged over voxels."""

    predicted: float  # by the CRLB
    measured: float  # by the fits
    error: float  # standard error of `measured`


def drawn(voxels: int, fits: int, generator: torch.Generator) -> Tensor:
    """Choose what to fit: every voxel once, then random ones.

    Args:
        voxels: how many there are.
        fits: how many fits there shall be at least.
        generator: source of randomness.

    Returns:
        (fit,) positions of voxels.
    """
    more = torch.randint(voxels, (max(0, fits - voxels),), generator=generator)
    return torch.cat([torch.arange(voxels), more])


def tried(
    tissue: Tissue,
    which: Tensor,
    train: epg.FSE,
    sigma: float,
    unit: Tensor,
) -> Trial:
    """Simulate noisy echoes of voxels and fit M0, T2 and B1, with T1 at its truth.

    Args:
        tissue: every leaf (voxel,).
        which: (fit,) the voxel of each fit.
        train: the train.
        sigma: sd of the noise of each real channel [units of M0].
        unit: (fit, echo, 2) standard normal numbers, the noise before scaling; the same
            for all trains makes their comparison a paired one.

    Returns:
        The fits and their bound, on the CPU.
    """
    many = tree_map(lambda v: v[which], tissue)
    clean = vmap(epg.fse, in_dims=(0, None), chunk_size=_CHUNK)(many, train)
    data = noise.gaussian(clean, unit, sigma)
    one = fit.levenberg_marquardt(
        epg.fse, *UNKNOWN, bounds=BOUNDS, tolerance=_TOLERANCE
    )
    solve = vmap(one, in_dims=(0, 0, None), chunk_size=_CHUNK)
    found = solve(data, guess(data, many.T1, train), train)
    trial = Trial(
        variance(tissue, train, sigma),
        which,
        found.params.T2,
        found.at_bound.any(-1),
        found.converged,
    )
    return to(trial, device="cpu")


def guess(data: Tensor, t1: Tensor, train: epg.FSE) -> Tissue:
    """Start the fits from the nearest atom of a small dictionary over T2 and B1.

    Args:
        data: (voxel, echo) complex signals.
        t1: (voxel,) known T1 [s]; the dictionary has their median.
        train: the train.

    Returns:
        Where to start, leaves (voxel,); M0 by projection on the atom.
    """
    middle = Tissue(T1=t1.median(), T2=t1.new_tensor(0.1), B1=t1.new_tensor(1.0))
    atoms = grid(
        middle,
        T2=torch.logspace(-2, 0.5, 26),
        B1=torch.linspace(0.6, 1.4, 9),
    )
    signals = vmap(epg.fse, in_dims=(0, None))(atoms, train).real
    norms = signals.square().sum(1)
    products = data.real @ signals.T
    best = (products.square() / norms).argmax(1)
    m0 = products.gather(1, best[:, None])[:, 0] / norms[best]
    chosen = tree_map(lambda v: v[best], atoms)
    return replace(chosen, T1=t1, M0=m0.clamp(min=1e-3))


def ratio(one: Trial, other: Trial, truth: Tensor) -> Ratio:
    """Compare the T2 variances of two trains, as predicted and as measured.

    Both use the same weights, 1/CRLB of the other train, so that every fit counts the
    same: predicted = ⟨bound₁/bound₂⟩, measured = ⟨err₁²/bound₂⟩ / ⟨err₂²/bound₂⟩.

    Args:
        one: the train in the numerator.
        other: the train in the denominator.
        truth: (voxel,) true T2 [s].

    Returns:
        The ratio of ``one`` to ``other``.
    """
    top = errors(one, truth).square() / other.bound[one.which]
    low = errors(other, truth).square() / other.bound[other.which]
    measured = float(top.mean() / low.mean())
    spread = (top / top.mean() - low / low.mean()).std()
    return Ratio(
        predicted=float((one.bound / other.bound)[one.which].mean()),
        measured=measured,
        error=measured * float(spread) / len(top) ** 0.5,
    )


def errors(trial: Trial, truth: Tensor) -> Tensor:
    """Return (fit,) fitted minus true T2 [s]; ``truth`` is (voxel,)."""
    return trial.fitted - truth[trial.which]


def summary(trial: Trial, truth: Tensor) -> dict[str, float | int]:
    """Describe the fits of one train in numbers for the report.

    Args:
        trial: the fits.
        truth: (voxel,) true T2 [s].

    Returns:
        Counts, means over voxels, and RMS values [ms].
    """
    wrong, bound = errors(trial, truth), trial.bound[trial.which]
    z = wrong / bound.sqrt()
    return {
        "fits": z.numel(),
        "bound_hits": int(trial.at_bound.sum()),
        "bound_hit_fraction": float(trial.at_bound.double().mean()),
        "not_converged": int((~trial.converged).sum()),
        "mean_error_over_crlb_sd": float(z.mean()),
        "mean_squared_error_over_crlb": float(z.square().mean()),
        "rms_error_ms": 1e3 * float(wrong.square().mean().sqrt()),
        "rms_crlb_sd_ms": 1e3 * float(bound.mean().sqrt()),
        "mean_crlb_relative_sd": float((bound.sqrt() / truth[trial.which]).mean()),
    }
