"""Networks that tell the posterior of voxels."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim._convert import as_tensor
from mrsim.ivim._limits import Box
from mrsim.ivim.acquisition import Acquisition, check_data
from mrsim.ivim.layers import Weights, layers

_CHUNK = 16384


class PosteriorNet(NamedTuple):
    """A network from signals and sigma to mean, sd and 68 % interval."""

    weights: Weights
    b: Tensor  # (sample,) [s/mm²]
    model: type  # the record's class
    box: Box  # uniform prior of the unknowns
    fixed: dict[str, float]
    sigma: tuple[float, float]  # the range that it was trained for
    centre: Tensor  # (sample,) mean of the signals
    whitening: Tensor  # (sample, sample)


class Estimate(NamedTuple):
    """What a `PosteriorNet` tells; records with leaves (...)."""

    mean: Any
    sd: Any  # its unknowns; other fields are those of the mean
    low: Any  # 15.87 % quantile
    high: Any  # 84.13 % quantile


def features(net: PosteriorNet, data: Tensor, sigma: Tensor) -> Tensor:
    """Return what the network sees: whitened signals and the logarithm of sigma."""
    low, high = (math.log(s) for s in net.sigma)
    level = (2 * sigma.log() - low - high) / max(high - low, 1e-6)
    return torch.cat([(data - net.centre) @ net.whitening, level.unsqueeze(-1)], -1)


def told(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean, log sd and the interval's ends in sd, in units of the half box."""
    mean, log_sd, low, high = x.chunk(4, -1)
    return mean, log_sd.clamp(-9, 2), low - 1, high + 1


def posterior_estimate(
    net: PosteriorNet, data: Tensor, sigma: float | Tensor
) -> Estimate:
    """Estimate the posterior of voxels: mean, standard deviation, 68 % interval.

    Args:
        net: as of `train_posterior`.
        data: (..., sample) signals at the network's b values, scaled so that S0 is what
            the network was trained for (1, or within its box).
        sigma: standard deviation of the noise [units of data], () or (...).

    Returns:
        Records with leaves (...), of the network's dtype; NaN where a map of sigma
        leaves the range that the network was trained for.

    Raises:
        ValueError: the number of samples is not that of the network, or no sigma lies
            in the range it was trained for.

    >>> import torch
    >>> from mrsim import ivim
    >>> q = ivim.Acquisition(b=[0.0, 20.0, 200.0, 800.0])
    >>> prior = {"f": (0.0, 0.4), "Dp": (0.01, 0.1), "D": (0.0005, 0.003)}
    >>> g = torch.Generator().manual_seed(0)
    >>> net = ivim.train_posterior(q, g, prior=prior, sigma=(0.01, 0.1), steps=3)
    >>> told = ivim.posterior_estimate(net, torch.ones(4), 0.05)
    >>> bool(told.low.D < told.high.D), told.mean.S0
    (True, tensor(1.))
    """
    check_data(data, Acquisition(b=net.b), zero=False)
    width = as_tensor(sigma, net.b).to(net.b).expand(data.shape[:-1])
    known = (width >= net.sigma[0] * 0.999) & (width <= net.sigma[1] * 1.001)
    if known.numel() and not known.any():
        raise ValueError(
            f"ivim.posterior_estimate: the network was trained for sigma in"
            f" {net.sigma}, got {float(width.amin()):g} ... {float(width.amax()):g}"
        )
    width = torch.where(known, width, torch.nan)
    flat = data.reshape(-1, data.shape[-1]).to(net.b)
    pairs = zip(flat.split(_CHUNK), width.reshape(-1).split(_CHUNK), strict=True)
    network = layers(net.weights, "SiLU")
    parts = [torch.stack(told(network(net.weights, features(net, *p)))) for p in pairs]
    mean, log_sd, low, high = torch.cat(parts, 1)
    sd = log_sd.exp()
    ends = as_tensor(list(net.box.values()), net.b)
    middle, half = ends.mean(-1), ends.diff(dim=-1).squeeze(-1) / 2
    values = {
        "mean": middle + half * mean,
        "sd": half * sd,
        "low": middle + half * (mean + low * sd),
        "high": middle + half * (mean + high * sd),
    }
    return Estimate(**{kind: _record(net, x, data) for kind, x in values.items()})


def _record(net: PosteriorNet, values: Tensor, data: Tensor) -> Any:
    shape = data.shape[:-1]
    known = {n: values.new_full(shape, v) for n, v in net.fixed.items()}
    columns = dict(zip(net.box, values.unbind(-1), strict=True))
    return net.model(**{n: x.reshape(shape) for n, x in (known | columns).items()})
