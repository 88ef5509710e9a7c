"""Methods of the command: each makes a function from voxels to maps."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mrsim import io, ivim
from mrsim._command import pair
from mrsim.tree import get

MODELS = {
    "biexp": ivim.Biexp,
    "simplified": ivim.Simplified,
    "triexp": ivim.Triexp,
    "diffusive": ivim.Diffusive,
    "ballistic": ivim.Ballistic,
    "dti": ivim.DTI,
}
METHODS = ("varpro", "lsq", "segmented", "rician", "map", "net")

_SUMS = (ivim.Biexp, ivim.Simplified, ivim.Triexp)  # of exponentials
_ELEMENTS = ("Dxx", "Dyy", "Dzz", "Dxy", "Dxz", "Dyz")

Fitter = Callable[[Tensor], dict[str, Tensor]]


def fitter(
    given: argparse.Namespace, acquisition: ivim.Acquisition, some: Tensor
) -> Fitter:
    """Make the function that fits voxels.

    Args:
        given: from the parser.
        acquisition: the samples.
        some: (voxel, sample) voxels from all over the image, to learn the noise and the
            prior from.

    Returns:
        (voxel, sample) signals → name → (voxel,) maps: the parameters under OSIPI's
        names, their ``_sd``, and what else the method tells.

    Raises:
        InputError: options do not fit together.
        ValueError: names, bounds or data do not.
    """
    box = _bounds(given.bounds)
    if given.method == "net":
        return _network(given, acquisition, box)
    model = MODELS[given.model]
    if (given.bvec is None) == (model is ivim.DTI):
        raise io.InputError("--model dti needs --bvec, and other models take none")
    if (given.cval is None) == (model is ivim.Ballistic):
        raise io.InputError("--model ballistic needs --cval, and other models none")
    fit = _method(given, acquisition, model, box, some)
    names = ["Dp" if n == "Dstar" else n for n in ivim.limits(box, model)]

    def run(y: Tensor) -> dict[str, Tensor]:
        found = fit(y, acquisition)
        values, parts, more = ivim.osipi(found.params), names, {}
        if model is ivim.DTI:
            parts, more = [*names[:-1], *_ELEMENTS], _invariants(values["D"])
            values |= dict(zip(_ELEMENTS, values["D"].unbind(-1), strict=True))
        sds = found.covariance.diagonal(dim1=-2, dim2=-1).sqrt().unbind(-1)
        maps = {n: values[n] for n in parts} | more
        maps |= {f"{n}_sd": sd for n, sd in zip(parts, sds, strict=True)}
        return maps | {"cost": found.cost, "converged": found.converged}

    return run


def _method(
    given: argparse.Namespace,
    q: ivim.Acquisition,
    model: type,
    box: dict[str, tuple[float, float]],
    some: Tensor,
) -> Callable[[Tensor, ivim.Acquisition], Any]:
    """Return a fit of data and acquisition; what all voxels share is known by then."""
    method = given.method or ("varpro" if model in _SUMS else "lsq")
    if model is ivim.DTI and method != "lsq":
        raise io.InputError("--model dti is for --method lsq only")
    if method == "segmented":
        if model is not ivim.Biexp:
            raise io.InputError("--method segmented is for --model biexp only")
        options = {"threshold": given.threshold, "sigma": given.sigma, "bounds": box}
        return partial(ivim.segmented, **options)
    known = {"model": model, "bounds": box}
    several = known | {"sigma": given.sigma, "starts": given.starts}
    if method == "lsq":
        return partial(ivim.least_squares, **several)
    if method == "varpro":
        return partial(ivim.varpro, compiled=given.compile, **several)
    coils = int(method == "rician")
    sigma = given.sigma or ivim.noise_level(some, q, coils=coils, **known)
    if coils:
        return partial(ivim.maximum_likelihood, **(several | {"sigma": sigma}))
    prior = ivim.learn_prior(some, q, sigma=sigma, **known)
    return partial(ivim.posterior_mode, prior=prior, sigma=sigma, **known)


def _invariants(tensors: Tensor) -> dict[str, Tensor]:
    """Return the mean diffusivity and the fractional anisotropy of (voxel, 6)."""
    mean = tensors[:, :3].mean(-1)
    twice = torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.0]).to(tensors)
    off = tensors - mean.unsqueeze(-1) * (twice == 1)
    part, whole = ((twice * x.square()).sum(-1) for x in (off, tensors))
    return {"MD": mean, "FA": (1.5 * part / whole).sqrt()}


def _bounds(given: list[str]) -> dict[str, tuple[float, float]]:
    example = "Dp=0.005,0.2"
    return dict(pair("--bounds", text, "LOW,HIGH", example) for text in given)


def _network(given: argparse.Namespace, q: ivim.Acquisition, box: Any) -> Fitter:
    """Return the estimates of a posterior network, of signals divided by b = 0."""
    if given.net is None or given.sigma is None or box:
        raise io.InputError("--method net needs --net and --sigma, and no --bounds")
    net = ivim.load_net(given.net)
    if not isinstance(net, ivim.PosteriorNet):
        raise io.InputError(f"{given.net} holds no network of ivim.train_posterior")
    if len(net.b) != len(q.b) or not torch.allclose(net.b, q.b.to(net.b), atol=0.5):
        raise io.InputError(
            f"{given.net} was trained for b = {net.b.tolist()}, but the series has"
            f" {q.b.tolist()}; train a network for this protocol"
        )
    unweighted = q.b <= q.b.amin() + 0.5

    def run(y: Tensor) -> dict[str, Tensor]:
        tiny = torch.finfo(y.dtype).tiny
        first = y[:, unweighted].mean(-1).clamp_min(tiny)
        told = ivim.posterior_estimate(
            net, y / first.unsqueeze(-1), given.sigma / first
        )
        kinds = {"": told.mean, "_sd": told.sd, "_low": told.low, "_high": told.high}
        return {
            f"{n}{kind}": get(x, n) * (first if n == "S0" else 1)
            for kind, x in kinds.items()
            for n in net.box
        }

    return run
