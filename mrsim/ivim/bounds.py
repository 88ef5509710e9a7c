"""Fisher information and Cramér-Rao bounds of IVIM parameters under any noise."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mrsim import _crlb
from mrsim._check import check_positive
from mrsim.ivim._signal import signal
from mrsim.ivim.acquisition import Acquisition
from mrsim.ivim.expectation import information
from mrsim.tree import record


@record
class _Measured:
    params: Any
    sigma: Tensor


def fisher(
    *unknowns: str,
    sigma: float | Tensor,
    coils: int = 0,
    nuisance: Sequence[str] = (),
) -> Callable[..., Tensor]:
    """Make a function that returns the Fisher information of IVIM parameters.

    Args:
        *unknowns: fields of the parameters; ``"sigma"`` where it is fitted too. No
            name: every present field.
        sigma: standard deviation of the noise [signal units], (); (sample,) if known.
        coils: 0 Gaussian, 1 Rician, more: non-central chi.
        nuisance: names of further unknowns, also ``"sigma"``.

    Returns:
        A function of parameters, acquisition and, if samples are repeated, of weights
        (sample,): the information, of shape (p, p), in the order of the names.

    Raises:
        ValueError: sigma is not positive.

    >>> from mrsim import ivim
    >>> liver = ivim.Biexp(f=0.2305, Dp=0.07002, D=0.00109)
    >>> q = ivim.Acquisition(b=[0.0, 13.5, 83.8, 800.0])
    >>> ivim.fisher("S0", "f", "Dp", "D", sigma=0.02, coils=1)(liver, q).shape
    torch.Size([4, 4])
    """
    return _bound(_crlb.fisher, unknowns, sigma, coils, nuisance)


def crlb(
    *unknowns: str,
    sigma: float | Tensor,
    coils: int = 0,
    nuisance: Sequence[str] = (),
) -> Callable[..., Any]:
    """Make a function that returns the smallest variance of IVIM parameters.

    Args:
        *unknowns: fields of the parameters. No name: every present field.
        sigma: standard deviation of the noise [signal units], (); (sample,) if known.
        coils: 0 Gaussian, 1 Rician, more: non-central chi.
        nuisance: names of further unknowns; ``"sigma"`` where it is fitted too.

    Returns:
        A function of parameters, acquisition and, if samples are repeated, of weights
        (sample,): a record of variances, see `mrsim.crlb`.

    Raises:
        ValueError: sigma is asked for, or is not positive.

    >>> from mrsim import ivim
    >>> liver = ivim.Biexp(f=0.2305, Dp=0.07002, D=0.00109)
    >>> q = ivim.Acquisition(b=[0.0, 13.5, 83.8, 800.0])
    >>> ivim.crlb("f", "Dp", "D", nuisance=["S0"], sigma=0.02)(liver, q).f.sqrt()
    tensor(0.0301)
    """
    if "sigma" in unknowns:
        raise ValueError(
            "ivim.crlb: sigma is no field of the parameters; name it as a nuisance,"
            " or invert ivim.fisher with mrsim.covariance"
        )
    return _bound(_crlb.crlb, unknowns, sigma, coils, nuisance)


def _bound(
    kind: Callable[..., Any],
    unknowns: tuple[str, ...],
    sigma: float | Tensor,
    coils: int,
    nuisance: Sequence[str],
) -> Callable[..., Any]:
    def known(params: Any, acquisition: Acquisition, weights: Tensor | None) -> Any:
        each = information(signal(params, acquisition), sigma, coils)[..., 0, 0]
        share = each if weights is None else each * weights
        make = kind(signal, *unknowns, nuisance=nuisance, sigma=1.0, weights=share)
        return make(params, acquisition)

    def fitted(params: Any, acquisition: Acquisition, weights: Tensor | None) -> Any:
        s = signal(params, acquisition)
        width = torch.as_tensor(sigma, dtype=s.dtype, device=s.device)
        root = _root(information(s, width, coils))

        def pairs(x: _Measured) -> Tensor:
            both = signal(x.params, acquisition), x.sigma.expand(s.shape)
            return (root.mT @ torch.stack(both, -1).unsqueeze(-1)).squeeze(-1)

        share = None if weights is None else weights.unsqueeze(-1).expand(*s.shape, 2)
        inside = [n if n == "sigma" else f"params.{n}" for n in unknowns]
        others = [n if n == "sigma" else f"params.{n}" for n in nuisance]
        make = kind(pairs, *inside, nuisance=others, sigma=1.0, weights=share)
        found = make(_Measured(params=params, sigma=width))
        return found.params if isinstance(found, _Measured) else found

    check_positive(f"ivim.{kind.__name__}", sigma=sigma)
    run = fitted if "sigma" in {*unknowns, *nuisance} else known
    return lambda params, acquisition, weights=None: run(params, acquisition, weights)


def _root(x: Tensor) -> Tensor:
    """Return lower triangular L with L Lᵀ = x, for 2 x 2 matrices, 0 where they are."""
    full = x[..., 0, 0] > 0
    first = torch.where(full, x[..., 0, 0], 1.0).sqrt()
    cross = torch.where(full, x[..., 1, 0] / first, 0.0)
    rest = x[..., 1, 1] - cross.square()
    last = torch.where(rest > 0, torch.where(rest > 0, rest, 1.0).sqrt(), 0.0)
    top = torch.stack([torch.where(full, first, 0.0), torch.zeros_like(first)], -1)
    return torch.stack([top, torch.stack([cross, last], -1)], -2)
