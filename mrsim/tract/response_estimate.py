"""Responses estimated from the data: which voxels, and what they say.

The voxels are chosen eagerly and are constants of every derivative; the response of
the voxels chosen is a linear fit, differentiable in their signals.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from mrsim._check import concrete
from mrsim.tract._csd import CSD, csd
from mrsim.tract.basis import degree, harmonics, zonal
from mrsim.tract.dwi_tensor import fa, fit_tensor, principal
from mrsim.tract.scheme import Scheme, check_scheme, shells
from mrsim.tract.sphere import hemisphere

_DENSE = 724  # directions among which peaks are sought
_NEIGHBOURS = 22  # of a direction, itself included: those within about 14°
_CANDIDATES = 10  # times the number that is read: voxels kept after the first round
_SOUND = 1e-10  # of a degree's power: what the lower degrees must leave of it
_ANISOTROPIC = 0.2  # FA above which a voxel is white matter, as in dwi2response


class Response(NamedTuple):
    """A single-fibre response and where it was read."""

    response: Tensor  # (degree,) zonal r(0), r(2), … [signal]
    voxels: Tensor  # (number,) indices of the voxels it is read from
    axes: Tensor  # (number, 3) their fibres' directions


class Responses(NamedTuple):
    """Responses of three tissues, by shell."""

    b: Tensor  # (shell,) mean b [s/mm²]
    shell: Tensor  # (volume,) the shell of each volume
    wm: Tensor  # (shell, degree)
    gm: Tensor  # (shell,) r(0)
    csf: Tensor  # (shell,) r(0)
    voxels: tuple[Tensor, Tensor, Tensor]  # indices of each tissue's voxels


def fit_response(
    signals: Tensor, directions: Tensor, axes: Tensor, lmax: int
) -> Tensor:
    """Fit one zonal response to voxels whose fibre's direction is known.

    Least squares of S(g) = Σ r(l) Y(l, 0, g·u) over all voxels and volumes.

    Args:
        signals: (voxel, volume) of one shell.
        directions: (volume, 3) unit gradient directions.
        axes: (voxel, 3) unit fibre directions.
        lmax: even degree.

    Returns:
        (degree,) [signal].

    Raises:
        ValueError: lmax is odd, or voxels and volumes are too few for it.

    >>> import torch
    >>> from mrsim import tract
    >>> g, fibre = tract.hemisphere(30).float(), torch.tensor([[0.0, 0.6, 0.8]])
    >>> signals = (-3000 * (3e-4 + 1.4e-3 * (g @ fibre[0]) ** 2)).exp()
    >>> fit_response(signals[None], g, fibre, 8)[:3]
    tensor([ 0.6212, -0.4550,  0.1965])
    """
    a = zonal((axes @ directions.mT).double(), lmax).flatten(0, 1)
    y = signals.double().flatten()
    normal = a.mT @ a
    root = torch.linalg.cholesky_ex(normal)[0]
    left = root.diagonal().square() / normal.diagonal()
    if concrete(left) and not (left > _SOUND).all():
        raise ValueError(
            f"fit_response: {len(signals)} voxels and {len(directions)} volumes do not"
            f" tell the degrees up to {lmax} apart; give more, or a smaller lmax"
        )
    fit = torch.cholesky_solve((a.mT @ y).unsqueeze(-1), root).squeeze(-1)
    return fit.to(signals.dtype)


def fibre_response(
    signals: Tensor,
    scheme: Scheme,
    *,
    lmax: int = 8,
    number: int = 300,
    rounds: int = 10,
) -> Response:
    """Estimate the single-fibre response of one shell from all voxels.

    Starts from the ``number`` voxels of highest FA, about their tensors' axes. Then in
    turn: all voxels are deconvolved (`csd`), the ``number`` voxels with the largest
    √p₁ (1 − p₂/p₁)², p₁ and p₂ their two largest peaks, are chosen, and the response is
    fitted about the first peak; until the choice repeats itself.

    Args:
        signals: (voxel, volume) inside the brain: b = 0 and one shell, or more shells,
            of which the highest is used.
        scheme: the volumes' weighting.
        lmax: degree of the response.
        number: voxels that are read.
        rounds: most rounds.

    Returns:
        The response, the voxels and their axes.

    Raises:
        ValueError: there are fewer voxels than 1, shapes do not fit, or voxels and
            volumes are too few for lmax.

    Reference:
        Tournier, Calamante and Connelly 2013, NMR Biomed 26:1775.

    >>> import torch
    >>> from mrsim import tract
    >>> g = tract.hemisphere(61).float()
    >>> b = torch.cat([torch.zeros(1), torch.full((60,), 3000.0)])
    >>> q = tract.Scheme(b=b, directions=g)
    >>> turns = torch.linspace(0, 3, 40)
    >>> axes = torch.stack([turns.cos(), turns.sin(), 0 * turns], -1)  # a fibre a voxel
    >>> signals = (-b * (3e-4 + 1.4e-3 * (axes @ g.T) ** 2)).exp()
    >>> fibre_response(signals, q, lmax=4, number=20).response.shape
    torch.Size([3])
    """
    if signals.ndim != 2 or not len(signals):
        raise ValueError(
            f"fibre_response: signals must have shape (voxel, volume) with voxels, got"
            f" {tuple(signals.shape)}; select the brain with signals[mask]"
        )
    check_scheme("fibre_response", scheme, signals.shape[-1])
    _, shell = shells(scheme.b)
    top = shell == shell.amax()
    data, g = signals.detach()[:, top], scheme.directions.detach()[top]
    tensor = vmap(fit_tensor, in_dims=(0, None))(signals.detach(), scheme).D
    anisotropy = fa(tensor).nan_to_num(-1.0)
    chosen = anisotropy.topk(min(number, len(data))).indices
    axes = principal(tensor)[0][chosen]
    response = fit_response(data[chosen], g, axes, lmax)
    kept = torch.arange(len(data), device=data.device)
    for _ in range(rounds):
        q = CSD(directions=g, response=response)
        first, second, at = _two_peaks(vmap(csd, in_dims=(0, None))(data[kept], q))
        cost = first.clamp_min(0).sqrt() * (1 - second / first).square()
        ranked = cost.nan_to_num(-1.0).argsort(descending=True, stable=True)
        best = ranked[: len(chosen)]
        same = set(kept[best].tolist()) == set(chosen.tolist())
        chosen, axes = kept[best], at[best]
        response = fit_response(data[chosen], g, axes, lmax)
        kept = kept[ranked[: _CANDIDATES * len(chosen)]]
        if same:
            break
    exact = fit_response(signals[chosen][:, top], scheme.directions[top], axes, lmax)
    return Response(exact, chosen, axes)


def tissue_responses(
    signals: Tensor,
    scheme: Scheme,
    *,
    lmax: int = 8,
    share: tuple[float, float, float] = (0.005, 0.02, 0.1),
) -> Responses:
    """Estimate the responses of white matter, grey matter and CSF, unsupervised.

    In the manner of Dhollander 2016: voxels of FA > 0.2 may be white matter. Of the
    others, Otsu's threshold on the signal decay, the mean over shells of log S0/S(b),
    parts CSF from grey matter. CSF is read from those of fastest decay, grey matter
    from those nearest to its median decay, white matter from single fibres as in
    `fibre_response`.

    Args:
        signals: (voxel, volume) inside the brain, b = 0 and shells.
        scheme: the volumes' weighting.
        lmax: degree of the white-matter response.
        share: of the voxels of each candidate class (wm, gm, csf) that is read.

    Returns:
        Responses by shell; ``r.wm[r.shell]`` are those of the volumes, as `MSMT` wants.

    Raises:
        ValueError: there is no b = 0 volume, no weighted shell, a tissue has no
            candidate, or voxels and volumes are too few for lmax.

    >>> import torch
    >>> from mrsim import tract
    >>> b = torch.cat([torch.zeros(1), torch.full((60,), 3000.0)])
    >>> q = tract.Scheme(b=b, directions=tract.hemisphere(61).float())
    >>> turns = torch.linspace(0, 3, 40)
    >>> axes = torch.stack([turns.cos(), turns.sin(), 0 * turns], -1)
    >>> fibre = (-b * (3e-4 + 1.4e-3 * (axes @ q.directions.T) ** 2)).exp()
    >>> D = torch.tensor([8e-4, 3e-3]).repeat_interleave(40)[:, None]  # grey, CSF
    >>> voxels = torch.cat([fibre, (-b * D).exp()])
    >>> found = tract.tissue_responses(voxels, q, lmax=4, share=(0.2, 0.2, 0.3))
    >>> found.wm.shape, found.csf.shape
    (torch.Size([2, 3]), torch.Size([2]))
    """
    check_scheme("tissue_responses", scheme, signals.shape[-1])
    b, shell = shells(scheme.b)
    if len(b) < 2 or b[0] > 100:
        raise ValueError(
            f"tissue_responses: shells with b = 0 and more are needed, got"
            f" {[round(float(x)) for x in b]} s/mm²"
        )
    data = signals.detach()
    wm, gm, csf, decay = _candidates(data, scheme, shell, len(b))
    counts = [
        max(1, round(s * len(v))) for s, v in zip(share, (wm, gm, csf), strict=True)
    ]
    csf = csf[decay[csf].topk(counts[2]).indices]
    middle = (decay[gm] - decay[gm].median()).abs()
    gm = gm[middle.topk(counts[1], largest=False).indices]
    single = fibre_response(data[wm], scheme, lmax=lmax, number=counts[0])
    chosen = wm[single.voxels]
    rows = []
    for k in range(len(b)):
        part, ways = signals[chosen][:, shell == k], scheme.directions[shell == k]
        row = fit_response(part, ways, single.axes, 0 if b[k] <= 100 else lmax)
        rows.append(torch.nn.functional.pad(row, (0, lmax // 2 + 1 - len(row))))
    grey, water = (_isotropic(signals[v], shell, len(b)) for v in (gm, csf))
    return Responses(b, shell, torch.stack(rows), grey, water, (chosen, gm, csf))


def _candidates(
    data: Tensor, scheme: Scheme, shell: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the voxels that may be of each tissue, and all voxels' decay."""
    means = torch.stack([data[:, shell == k].mean(-1) for k in range(count)], -1)
    low = shell <= 1
    inner = Scheme(b=scheme.b[low], directions=scheme.directions[low])
    tensor = vmap(fit_tensor, in_dims=(0, None))(data[:, low], inner).D
    fine = (means > 0).all(-1) & means.isfinite().all(-1)
    decay = (means[:, :1] / means[:, 1:]).log().mean(-1)
    white = fine & (fa(tensor) > _ANISOTROPIC)
    others = (fine & ~white).nonzero()[:, 0]
    cut = _otsu(decay[others]) if len(others) > 1 else math.nan
    csf, gm = others[decay[others] > cut], others[decay[others] <= cut]
    wm = white.nonzero()[:, 0]
    for name, found in (("white matter", wm), ("grey matter", gm), ("CSF", csf)):
        if not len(found):
            raise ValueError(
                f"tissue_responses: no voxel looks like {name}; give voxels of a whole"
                f" brain, or responses from tensor_response"
            )
    return wm, gm, csf, decay


def _isotropic(signals: Tensor, shell: Tensor, count: int) -> Tensor:
    means = [signals[:, shell == k].mean() for k in range(count)]
    return math.sqrt(4 * math.pi) * torch.stack(means)


def _otsu(x: Tensor) -> float:
    """Return the threshold that leaves the least variance within two classes."""
    ordered = x.double().sort().values
    n = torch.arange(1, len(ordered), dtype=torch.float64, device=x.device)
    below = ordered.cumsum(0)[:-1]
    above = ordered.sum() - below
    between = below**2 / n + above**2 / (len(ordered) - n)
    k = int(between.argmax())
    return float((ordered[k] + ordered[k + 1]) / 2)


def _two_peaks(fods: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two largest peaks of each FOD and the direction of the first."""
    points = hemisphere(_DENSE).to(fods)
    values = fods @ harmonics(points, degree(fods.shape[-1])).mT
    first, at = values.max(-1)
    # a direction is a peak when none of its nearest neighbours is larger
    near = (points @ points.mT).abs().topk(_NEIGHBOURS).indices
    highest = torch.stack([values[:, column] for column in near.mT]).amax(0)
    peak = (values >= highest) & (values < first[:, None])
    second = torch.where(peak, values, 0.0).amax(-1)
    return first, second, points[at]
