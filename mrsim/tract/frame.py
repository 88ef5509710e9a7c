"""Is an FOD image in the scanner frame? Its own coherence tells.

Fibres run on from voxel to voxel: in the right frame and basis, following the largest
peaks one gets far.
"""

import torch
from torch import Tensor

from mrsim._check import warn
from mrsim.tract._rotate import axes
from mrsim.tract.basis import convert, degree, harmonics
from mrsim.tract.sphere import hemisphere

_POINTS = 300  # among which peaks are sought
_STEP = 0.7  # voxels, from which the next one's peak is followed
_REACH = 12  # steps at most, each way
_STRAIGHT = 0.7  # cosine of the largest turn
_VOXELS = 10_000  # at most, of the largest anisotropy
_MARGIN = 1.04  # by which another convention must be more coherent
_LEAST = 500  # voxels without which nothing can be told


def coherence(coefficients: Tensor, affine: Tensor) -> dict[str, float]:
    """Measure how well peaks run on, for each way in which an FOD could be meant.

    Args:
        coefficients: (x, y, z, coefficient), concrete.
        affine: (4, 4) voxel indices to scanner millimetres.

    Returns:
        Convention → how far one gets from a voxel along the largest peaks, both ways,
        before they end or turn by more than 45°, as a share of 12 steps of 0.7 voxels:
        ``"as given"`` (tournier07, scanner frame); ``"image axes"``, ``"scanner axes
        taken twice"`` (frames mistaken for each other); ``"descoteaux07"``;
        ``"x flipped"``, … Empty where fewer than 500 voxels hold a fibre.

    Raises:
        ValueError: the affine is singular or the coefficients fit no even lmax.

    Reference:
        Jeurissen, Leemans and Sijbers 2014, Med Image Anal 18:953 (the idea).

    >>> import torch
    >>> from mrsim import tract
    >>> x = tract.delta_fod(torch.tensor([[1.0, 0, 0]]), torch.ones(1), 4)
    >>> found = coherence(x.expand(9, 9, 9, 15), torch.eye(4))
    >>> max(found, key=found.get)
    'as given'
    """
    degree(coefficients.shape[-1])
    chosen = _fibres(coefficients)
    if len(chosen) < _LEAST:
        return {}
    given = coefficients.reshape(-1, coefficients.shape[-1])[chosen].double()
    frame = axes(affine.double())
    other = convert(given, "descoteaux07", "tournier07")
    turns = {"as given": torch.eye(3, dtype=torch.float64), "image axes": frame}
    turns["scanner axes taken twice"] = frame.mT
    for k, name in enumerate("xyz"):
        flip = [-1.0 if k == j else 1.0 for j in range(3)]
        turns[f"{name} flipped"] = torch.diag(torch.tensor(flip, dtype=torch.float64))
    peaks = _peaks(given)
    grid = coefficients.shape[:3]
    made = {
        name: _running(peaks @ turn.mT, chosen, grid, affine.double())
        for name, turn in turns.items()
    }
    made["descoteaux07"] = _running(_peaks(other), chosen, grid, affine.double())
    return made


def warn_of_frame(coefficients: Tensor, affine: Tensor) -> str | None:
    """Warn when an FOD looks as if it were not tournier07 in the scanner frame.

    Args:
        coefficients: (x, y, z, coefficient), concrete.
        affine: (4, 4) voxel indices to scanner millimetres.

    Returns:
        The convention that fits better, or ``None``.

    Raises:
        ValueError: the affine is singular or the coefficients fit no even lmax.

    >>> import torch
    >>> from mrsim import tract
    >>> x = tract.delta_fod(torch.tensor([[1.0, 0, 0]]), torch.ones(1), 4)
    >>> warn_of_frame(x.expand(9, 9, 9, 15), torch.eye(4)) is None
    True
    """
    scores = coherence(coefficients, affine)
    if not scores:
        return None
    best = max(scores, key=lambda name: scores[name])
    if scores[best] < _MARGIN * scores["as given"]:
        return None
    remedy = {
        "image axes": "tract.to_scanner(fod, affine)",
        "scanner axes taken twice": "tract.to_image(fod, affine)",
        "descoteaux07": "tract.convert(fod, 'descoteaux07', 'tournier07')",
    }.get(best, "the gradient table: a sign of its directions is wrong")
    warn(
        f"the FOD looks wrong: its peaks run on from voxel to voxel better when it is"
        f" read as {best!r} ({scores[best]:.2f}, as given {scores['as given']:.2f})."
        f" FODs are expected in MRtrix's conventions, the tournier07 basis with"
        f" directions in the scanner frame (dipy: descoteaux07, image axes; see"
        f" mrsim.tract.rotate); remedy: {remedy}"
    )
    return best


def _fibres(coefficients: Tensor) -> Tensor:
    """Return the flat indices of the voxels of the largest anisotropic power."""
    power = coefficients[..., 1:].double().square().sum(-1).flatten().nan_to_num(0.0)
    count = int((power > power.mean()).sum())
    return power.topk(min(count, _VOXELS)).indices


def _peaks(coefficients: Tensor) -> Tensor:
    points = hemisphere(_POINTS)
    rows = harmonics(points, degree(coefficients.shape[-1]))
    return points[(coefficients @ rows.mT).argmax(-1)]


def _running(peaks: Tensor, chosen: Tensor, grid: torch.Size, affine: Tensor) -> float:
    """Return how far one gets along the peaks, as a share of the steps allowed."""
    strides = torch.tensor([grid[1] * grid[2], grid[2], 1])
    limit = torch.tensor(list(grid))
    start = chosen.unsqueeze(-1) // strides % limit
    flat = peaks.new_zeros(int(limit.prod()), 3).index_copy(0, chosen, peaks)
    turn = (
        _STEP
        * affine[:3, :3].norm(dim=0).mean()
        * torch.linalg.inv_ex(affine[:3, :3])[0]
    )
    total = peaks.new_zeros(())
    for sign in (1.0, -1.0):
        at, u = start.to(peaks), sign * peaks
        alive = torch.ones(len(peaks), dtype=torch.bool)
        for _ in range(_REACH):
            at = at + u @ turn.mT
            near = at.round().long()
            inside = ((near >= 0) & (near < limit)).all(-1)
            index = (torch.where(inside.unsqueeze(-1), near, 0) * strides).sum(-1)
            cosine = (flat[index] * u).sum(-1)
            alive = alive & inside & (cosine.abs() > _STRAIGHT)
            u = torch.where(cosine.unsqueeze(-1) < 0, -flat[index], flat[index])
            total = total + alive.to(peaks).mean()
    return float(total / (2 * _REACH))
