"""The segmented fit: D from high b values, then f, then Dp."""

import torch
from torch import Tensor
from torch.func import vmap

from mrsim._check import check_floats, check_positive
from mrsim._convert import as_tensor
from mrsim.fit import Fit
from mrsim.ivim._limits import Bounds, Box, limits, spread
from mrsim.ivim._signal import signal
from mrsim.ivim.acquisition import Acquisition, check_data
from mrsim.ivim.exponential import Biexp
from mrsim.ivim.fits import bound
from mrsim.ivim.voxels import over_voxels
from mrsim.tree import get

CHUNK = 2048
_POINTS = 16
_ZOOMS = 10


def segmented(
    data: Tensor,
    acquisition: Acquisition,
    *,
    threshold: float = 200.0,
    bounds: Bounds | None = None,
    sigma: float | None = None,
    progress: bool = False,
) -> Fit:
    """Fit the bi-exponential model in two steps, as the clinic does.

    Above the threshold blood no longer shows: A exp(−b D) is fitted there, by linear
    regression of log S with weights S². S0 is the mean signal at the smallest b,
    f = 1 − A/S0, and Dp minimises Σ (S − S(b; S0, f, Dp, D))² on a grid, refined.

    Args:
        data: (..., sample) signals; voxels without two positive signals above the
            threshold give NaN.
        acquisition: the b values.
        threshold: smallest b of the first step [s/mm²].
        bounds: name → (lower, upper) [the field's unit]; `limits` for names left out.
        sigma: standard deviation of the noise [units of data], for the covariance;
            estimated from each residual if ``None``.
        progress: show a progress bar (needs tqdm, extra ``demo``).

    Returns:
        The fit, as of `mrsim.fit`; its covariance is the Cramér-Rao bound, which this
        estimate does not reach.

    Raises:
        ValueError: fewer than two different b values lie above the threshold, or sigma
            is not positive.

    Reference:
        Pekar 1992, Magn Reson Med 23:122; Sigmund 2011, Magn Reson Med 65:1437.

    >>> from mrsim import ivim
    >>> q = ivim.Acquisition(b=[0.0, 10.0, 40.0, 150.0, 400.0, 800.0])
    >>> data = ivim.signal(ivim.Biexp(S0=1.0, f=0.2, Dp=0.05, D=0.001), q)
    >>> ivim.segmented(data, q).params.D
    tensor(0.0010)
    """
    check_floats("ivim.segmented", data=data, b=acquisition.b)
    check_data(data, acquisition)
    check_positive("ivim.segmented", sigma=sigma)
    box = limits(bounds, Biexp)
    b = acquisition.b
    high = b >= threshold
    if len(b[high].unique()) < 2:
        raise ValueError(
            f"ivim.segmented: at least two different b values must reach the threshold"
            f" of {threshold:g} s/mm², got b = {b.tolist()}; lower the threshold"
        )

    def run(y: Tensor, _: object) -> Fit:
        D, A = _line(y[:, high], b[high], box["D"])
        S0 = y[:, b == b.amin()].mean(-1).clamp(*box["S0"])
        f = (1 - A / S0).clamp(*box["f"])
        Dp = _fastest(y, b, S0, f, D, box["Dp"])
        return _fit(Biexp(S0=S0, f=f, Dp=Dp, D=D), y, acquisition, box, sigma)

    return over_voxels(run, data, CHUNK, progress)


def _fit(
    params: Biexp, y: Tensor, acquisition: Acquisition, box: Box, sigma: float | None
) -> Fit:
    rest = vmap(signal, in_dims=(0, None))(params, acquisition) - y
    cost = rest.square().sum(-1) / 2
    values = torch.stack([get(params, n) for n in box], -1)
    low, high = as_tensor(list(box.values()), y).unbind(-1)
    return Fit(
        params=params,
        covariance=bound(params, box, acquisition, cost, sigma),
        cost=cost,
        converged=cost.isfinite(),
        at_bound=(values <= low) | (values >= high),
        iterations=torch.ones_like(cost, dtype=torch.long),
    )


def _line(y: Tensor, b: Tensor, bounds: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Fit A exp(−b D) by the weighted regression of log y on b, D within its bounds."""
    positive = y > 0
    weights = torch.where(positive, y, 0.0).square()
    log = torch.where(positive, y, 1.0).log()
    total = weights.sum(-1, keepdim=True)
    mean_b = (weights * b).sum(-1, keepdim=True) / total
    mean_log = (weights * log).sum(-1, keepdim=True) / total
    off = b - mean_b
    spread_b = (weights * off.square()).sum(-1)
    slope = (weights * off * (log - mean_log)).sum(-1) / spread_b
    enough = (positive.sum(-1) >= 2) & y.isfinite().all(-1)
    D = torch.where(enough, -slope, torch.nan).clamp(*bounds)
    return D, (mean_log.squeeze(-1) + D * mean_b.squeeze(-1)).exp()


def _fastest(
    y: Tensor, b: Tensor, S0: Tensor, f: Tensor, D: Tensor, bounds: tuple[float, float]
) -> Tensor:
    """Return the Dp that leaves least of y, all else given, by zooming into a grid."""
    blood = y - (S0 * (1 - f)).unsqueeze(-1) * torch.exp(-b * D.unsqueeze(-1))
    ends = spread("Dp", *bounds, 2).to(y).log().unbind()
    centre = ((ends[0] + ends[1]) / 2).expand_as(D).unsqueeze(-1)
    reach = ends[1] - ends[0]
    places = torch.linspace(-1, 1, _POINTS, dtype=y.dtype, device=y.device)
    for _ in range(_ZOOMS):
        tried = (centre + reach * places).exp().clamp(*bounds)
        model = (S0 * f)[:, None, None] * torch.exp(-b * tried.unsqueeze(-1))
        cost = (blood.unsqueeze(1) - model).square().sum(-1)
        at = cost.argmin(-1, keepdim=True)
        centre = tried.gather(-1, at).log()
        reach = reach * 4 / _POINTS
    return torch.where(f.isnan(), f, tried.gather(-1, at).squeeze(-1))
