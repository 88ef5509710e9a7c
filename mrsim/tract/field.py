"""What streamlines run through: images in scanner space and where a point lies in them.

Points are scanner (RAS+) millimetres; an image's affine takes voxel indices, whole at
voxel centres, to them.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim._check import check_floats
from mrsim.tract.polynomial import degree
from mrsim.tract.scheme import Scheme, check_scheme
from mrsim.tree import record


@record
class Field:
    """An image of fibre orientation distributions, tournier07, scanner frame."""

    coefficients: Tensor  # (X, Y, Z, N) of real even harmonics, N = 6, 15, 28, 45, …
    affine: Tensor  # (4, 4) voxel index → scanner position [mm]


@record
class Signals:
    """An image of diffusion signals to which a tensor is fitted at every point."""

    signals: Tensor  # (X, Y, Z, n)
    scheme: Scheme  # of the n volumes, directions in the scanner frame
    affine: Tensor  # (4, 4) voxel index → scanner position [mm]


@record
class Vectors:
    """An image of up to K fibre directions in each voxel."""

    vectors: Tensor  # (X, Y, Z, 3K) in the scanner frame; their lengths are amplitudes
    affine: Tensor  # (4, 4) voxel index → scanner position [mm]


@record
class Regions:
    """Regions of interest: images on one grid and spheres; each is one region."""

    images: Tensor | None = None  # (n, X, Y, Z) inside where above 1/2
    affine: Tensor | None = None  # (4, 4) voxel index → scanner position [mm]
    centres: Tensor | None = None  # (m, 3) of spheres [mm]
    radii: Tensor | None = None  # (m,) [mm]


def inverse(affine: Tensor) -> Tensor:
    """Invert an affine.

    Args:
        affine (4, 4): voxel index → scanner position [mm].

    Returns:
        (3, 4) scanner position → voxel index; not finite if the affine is singular.
    """
    a, b, c = affine[:3, 0], affine[:3, 1], affine[:3, 2]
    rows = torch.stack([torch.linalg.cross(*x) for x in ((b, c), (c, a), (a, b))])
    turn = rows / (rows[0] * a).sum()
    return torch.cat([turn, -(turn * affine[:3, 3]).sum(1, keepdim=True)], 1)


def voxels(inverses: Tensor, points: Tensor) -> Tensor:
    """Return the voxel positions (3, ...) of points (3, ...); inverses (3, 4, ...)."""
    x, y, z = points
    m = inverses
    return m[:, 0] * x + m[:, 1] * y + m[:, 2] * z + m[:, 3]


class Corners(NamedTuple):
    """The neighbours of points and their weights."""

    rows: Tensor  # (8, B) of the flattened image
    weights: Tensor  # (8, B)
    slopes: Tensor  # (3, 8, B) derivatives by the voxel position; or none, (0, 8, B)


def inside(v: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Tell which voxel positions (3, B) lie in the image."""
    top = _column(v, shape) - 0.5
    return ((v > -0.5) & (v < top)).all(0)


def nearest(v: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return the row (B,) of the nearest voxel, half away from zero, clamped."""
    near = torch.where(v < 0, (v - 0.5).ceil(), (v + 0.5).floor())
    return _row(near, shape)


def trilinear(v: Tensor, shape: tuple[int, int, int], slopes: bool) -> Corners:
    """Return the eight neighbours of voxel positions, clamped at the edges.

    Args:
        v (3, B): voxel positions.
        shape: of the image.
        slopes: whether derivatives are wanted.

    Returns:
        Rows, weights and the weights' derivatives.
    """
    top = _column(v, shape) - 1
    floor = v.floor()
    within = (v >= 0) & (v <= top)
    f = torch.where(within, v - floor, 0.0)
    pairs = torch.stack([1 - f, f])  # (2, 3, B)
    ends = torch.stack([floor, floor + 1])
    x, y, z = (pairs[:, i] for i in range(3))
    weights = x[:, None, None] * y[None, :, None] * z[None, None]
    strides = (shape[1] * shape[2], shape[2], 1)
    last = top.nan_to_num()
    i, j, k = (
        ends[:, a].nan_to_num().clamp(min=0).minimum(last[a]).long() * strides[a]
        for a in range(3)
    )
    rows = i[:, None, None] + j[None, :, None] + k[None, None]
    n = v.shape[1]
    made = weights.new_zeros((0, 8, n))
    if slopes:
        one = within.to(v)
        dx, dy, dz = (torch.stack([-one[a], one[a]]) for a in range(3))
        made = torch.stack(
            [
                dx[:, None, None] * y[None, :, None] * z[None, None],
                x[:, None, None] * dy[None, :, None] * z[None, None],
                x[:, None, None] * y[None, :, None] * dz[None, None],
            ]
        ).reshape(3, 8, n)
    return Corners(rows.reshape(8, n), weights.reshape(8, n), made)


def _column(v: Tensor, shape: tuple[int, int, int]) -> Tensor:
    return torch.tensor(shape, dtype=v.dtype, device=v.device)[:, None]


def _row(index: Tensor, shape: tuple[int, int, int]) -> Tensor:
    top = _column(index, shape) - 1
    i, j, k = index.nan_to_num().clamp(min=0).minimum(top).long()
    return (i * shape[1] + j) * shape[2] + k


def sample(values: Tensor, corners: Corners, weights: Tensor) -> Tensor:
    """Sum image rows over the corners; the fast form, that no transform follows.

    Args:
        values (V, N): the rows.
        corners: which of them.
        weights (8, B): how much of each.

    Returns:
        (N, B).
    """
    return torch.nn.functional.embedding_bag(
        corners.rows.t(), values, mode="sum", per_sample_weights=weights.t()
    ).t()


def check_field(where: str, field: Any) -> None:
    """Require the shapes of a field.

    Args:
        where: the function that asks, for the message.
        field: `Field`, `Signals` or `Vectors`.

    Raises:
        TypeError: it is another thing, or dtypes differ.
        ValueError: a shape is wrong.
    """
    if not isinstance(field, Field | Signals | Vectors):
        raise TypeError(
            f"{where}: the field must be a tract.Field (FODs), Signals (tensor) or"
            f" Vectors (FACT), got a {type(field).__name__}"
        )
    name = next(iter(vars(field)))
    image = getattr(field, name)
    check_floats(where, **{name: image, "affine": field.affine})
    if image.ndim != 4 or 0 in image.shape:
        raise ValueError(
            f"{where}: {name} must have shape (X, Y, Z, numbers), got"
            f" {tuple(image.shape)}; map over subjects with"
            f" vmap({where}, in_dims=(None, 0, None))"
        )
    if field.affine.shape != (4, 4):
        raise ValueError(
            f"{where}: affine must have shape (4, 4), got {tuple(field.affine.shape)}"
        )
    if isinstance(field, Signals):
        check_scheme(where, field.scheme, image.shape[3])
    if isinstance(field, Field):
        degree(image.shape[3])
    if isinstance(field, Vectors) and image.shape[3] % 3:
        raise ValueError(
            f"{where}: vectors must hold 3 numbers for each direction on the last axis,"
            f" got {image.shape[3]}"
        )
