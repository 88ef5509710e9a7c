"""What tracks leave in an image: soft densities and soft connectomes."""

import itertools

import torch
from torch import Tensor

from mrsim.tract.losses import ends
from mrsim.tract.padded import inside, norm


def density(
    points: Tensor, counts: Tensor, affine: Tensor, shape: tuple[int, int, int]
) -> Tensor:
    """Spread the length of tracks over the voxels they pass.

    Each segment's length goes to the eight voxels about its middle with trilinear
    weights, so that the sum is the total length inside the image, and the map has
    derivatives in the points.

    Args:
        points: (track, vertex, 3) padded points [mm].
        counts: (track,) numbers of vertices.
        affine: (4, 4) voxel indices to millimetres.
        shape: of the image.

    Returns:
        (x, y, z) length in each voxel [mm].

    >>> import torch
    >>> line = torch.tensor([[[0.0, 1.0, 1.0], [2.0, 1.0, 1.0]]])
    >>> density(line, torch.tensor([2]), torch.eye(4), (3, 3, 3))[1, 1, 1]
    tensor(2.)
    """
    kept, points = inside(points, counts.unsqueeze(-1))
    size = torch.where(kept[..., 1:], norm(points.diff(dim=-2)), 0.0)
    middle = (points[..., 1:, :] + points[..., :-1, :]) / 2
    where, weights = _corners(_voxels(middle, affine), shape)
    amount = (weights * size.unsqueeze(-1)).flatten()
    total = shape[0] * shape[1] * shape[2]
    flat = amount.new_zeros(total).index_add(0, where.flatten(), amount)
    return flat.reshape(shape)


def parcel_weights(points: Tensor, parcels: Tensor, affine: Tensor) -> Tensor:
    """Look up how much of each parcel lies at points, between voxels trilinearly.

    Args:
        points: (..., 3) [mm].
        parcels: (x, y, z, parcel) share of each parcel in each voxel, 0 … 1: a one-hot
            labelling, smoothed as far as derivatives should reach.
        affine: (4, 4) voxel indices to millimetres.

    Returns:
        (..., parcel); 0 outside the image.

    >>> import torch
    >>> parcels = torch.eye(2).reshape(2, 1, 1, 2)
    >>> parcel_weights(torch.tensor([0.25, 0.0, 0.0]), parcels, torch.eye(4))
    tensor([0.7500, 0.2500])
    """
    shape = parcels.shape[:3]
    where, weights = _corners(_voxels(points, affine), (shape[0], shape[1], shape[2]))
    values = parcels.flatten(0, 2).index_select(0, where.flatten())
    corners = values.reshape(*where.shape, parcels.shape[-1])
    return (weights.unsqueeze(-1) * corners).sum(-2)


def connectome(
    points: Tensor,
    counts: Tensor,
    parcels: Tensor,
    affine: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """Count, softly, the tracks between any two parcels.

    C = ½ Σ w (p qᵀ + q pᵀ), p and q the `parcel_weights` of a track's two ends.

    Args:
        points: (track, vertex, 3) padded points [mm].
        counts: (track,) numbers of vertices.
        parcels: (x, y, z, parcel) share of each parcel in each voxel.
        affine: (4, 4) voxel indices to millimetres.
        weights: (track,) weight of each track; 1 by default.

    Returns:
        (parcel, parcel) symmetric; its sum is the weight of the tracks both of whose
        ends lie in parcels.

    >>> import torch
    >>> parcels = torch.eye(2).reshape(2, 1, 1, 2)
    >>> line = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    >>> connectome(line, torch.tensor([2]), parcels, torch.eye(4))
    tensor([[0.0000, 0.5000],
            [0.5000, 0.0000]])
    """
    if not len(points):  # torch.func cannot map over nothing
        return points.new_zeros(parcels.shape[-1], parcels.shape[-1])
    pair = torch.func.vmap(ends)(points, counts)
    alive = (counts > 0).to(points)
    pair = torch.where((counts > 0).reshape(-1, 1, 1), pair, 0.0)
    shares = parcel_weights(pair, parcels, affine)
    scale = alive if weights is None else alive * weights
    once = (shares[:, 0] * scale.unsqueeze(-1)).mT @ shares[:, 1]
    return (once + once.mT) / 2


def _voxels(points: Tensor, affine: Tensor) -> Tensor:
    """Return voxel coordinates of scanner points."""
    back = torch.linalg.inv_ex(affine)[0]
    return points @ back[:3, :3].mT + back[:3, 3]


def _corners(voxel: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Return the flat index and the trilinear weight of the voxels around points."""
    limit = torch.tensor(shape, device=voxel.device)
    fine = voxel.detach().isfinite().all(-1, keepdim=True)
    low = torch.where(fine, voxel.detach(), -2.0).clamp(-2, max(shape) + 1).floor()
    part = torch.where(fine, voxel, -2.0) - low
    bits = torch.tensor([*itertools.product((0, 1), repeat=3)], device=voxel.device)
    at = low.long().unsqueeze(-2) + bits
    within = ((at >= 0) & (at < limit)).all(-1)
    weight = torch.where(bits.bool(), part.unsqueeze(-2), 1 - part.unsqueeze(-2))
    strides = torch.tensor([shape[1] * shape[2], shape[2], 1], device=voxel.device)
    index = (torch.minimum(at.clamp_min(0), limit - 1) * strides).sum(-1)
    return index, torch.where(within, weight.prod(-1), 0.0)
