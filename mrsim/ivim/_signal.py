"""`signal`: one function for all IVIM models; the record of parameters chooses."""

from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from mrsim.ivim.acquisition import Acquisition, needed


def signal(params: Any, acquisition: Acquisition) -> Tensor:
    """Return the IVIM signal of one voxel.

    The record chooses the model, its ``None`` fields switch physics off: `Biexp`,
    `Simplified`, `Triexp`, `Diffusive`, `Ballistic`, `Intermediate`, `DTI`. Their
    docstrings hold the equations. Map over voxels, and over acquisitions that differ
    from voxel to voxel, with ``torch.func.vmap``.

    Args:
        params: parameters of one voxel.
        acquisition: its samples.

    Returns:
        (sample,) real signal [units of S0].

    Raises:
        TypeError: a field is no floating tensor, dtypes differ, or ``params`` is of no
            model.
        ValueError: shapes or devices do not match, or the acquisition lacks a field.

    Reference:
        Le Bihan 1988 (Radiology 168:497).

    >>> from mrsim import ivim
    >>> liver = ivim.Biexp(f=0.2305, Dp=0.07002, D=0.00109)
    >>> ivim.signal(liver, ivim.Acquisition(b=[0.0, 20.0, 800.0]))
    tensor([1.0000, 0.8097, 0.3217])
    """
    return model(params, acquisition)


@singledispatch
def model(params: Any, acquisition: Acquisition) -> Tensor:
    """Return the signal; each model registers itself for its record.

    Raises:
        TypeError: ``params`` is of no model.
    """
    raise TypeError(
        f"ivim.signal: params must be the record of a model, such as ivim.Biexp, got"
        f" {type(params).__name__}{_hint(acquisition)}"
    )


def _hint(acquisition: Any) -> str:
    swapped = not isinstance(acquisition, Acquisition) and hasattr(acquisition, "D")
    return "; the parameters come first, then the acquisition" if swapped else ""


def mixed(params: Any, acquisition: Acquisition, perfusion: Tensor) -> Tensor:
    """Mix the two compartments that almost every model has.

    S = S0 [f Wb perfusion + (1 − f) Wt exp(−bD + (bD)² K/6)], with the relaxation
    weights W = exp(−TE/T2) (1 − exp(−TR/T1)).

    Args:
        params: parameters with S0, f, D, K, T1b, T1t, T2b and T2t.
        acquisition: the samples.
        perfusion: (sample,) attenuation of the blood.

    Returns:
        (sample,) signal.
    """
    bD = acquisition.b * params.D
    tissue = torch.exp(-bD if params.K is None else bD * (bD * params.K / 6 - 1))
    blood = _weighted(perfusion, acquisition, params.T1b, params.T2b)
    tissue = _weighted(tissue, acquisition, params.T1t, params.T2t)
    s = params.f * blood + (1 - params.f) * tissue
    return s if params.S0 is None else params.S0 * s


def _weighted(
    s: Tensor, acquisition: Acquisition, T1: Tensor | None, T2: Tensor | None
) -> Tensor:
    if T2 is not None:
        s = s * torch.exp(-needed("T2 weighting", acquisition, "TE") / T2)
    if T1 is not None:
        s = s * -torch.expm1(-needed("T1 weighting", acquisition, "TR") / T1)
    return s
