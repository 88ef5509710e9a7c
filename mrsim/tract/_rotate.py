"""Rotation of functions on the sphere, and the frame their directions are in.

MRtrix, and this library, give directions in the scanner frame; dipy gives them along
the axes of the image. An FOD that goes from one to the other must be rotated.
"""

import functools

import torch
from torch import Tensor

from mrsim._check import concrete
from mrsim.tract.basis import degree, harmonics
from mrsim.tract.sphere import hemisphere

_SCHULZ = 40  # steps: each multiplies a small singular value by 1.5


def rotate(coefficients: Tensor, rotation: Tensor) -> Tensor:
    """Rotate a function on the sphere: g(R u) = f(u).

    The rotated function is evaluated on fixed points, uᵢ → f(Rᵀ uᵢ), and projected
    on the harmonics; both steps are exact, since a rotation keeps the degree.

    Args:
        coefficients: (..., coefficient), tournier07.
        rotation: (3, 3) orthogonal; a reflection counts as the rotation −R.

    Returns:
        The coefficients of the rotated function, differentiable in both.

    Raises:
        ValueError: the number of coefficients fits no even lmax, or the rotation is
            not (3, 3).

    >>> import torch
    >>> quarter = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    >>> along_z = harmonics(torch.tensor([0.0, 0.0, 1.0]), 4)
    >>> along_x = harmonics(torch.tensor([1.0, 0.0, 0.0]), 4)
    >>> torch.allclose(rotate(along_z, quarter), along_x, atol=1e-6)
    True
    """
    if rotation.shape[-2:] != (3, 3):
        raise ValueError(
            f"rotate: rotation must have shape (3, 3), got {tuple(rotation.shape)}"
        )
    lmax = degree(coefficients.shape[-1])
    points, project = (x.to(coefficients) for x in _points(lmax))
    matrix = project @ harmonics(points @ rotation, lmax)
    return (matrix @ coefficients.unsqueeze(-1)).squeeze(-1)


@functools.cache
def _points(lmax: int) -> tuple[Tensor, Tensor]:
    """Return points and the matrix from amplitudes there to coefficients."""
    points = hemisphere(2 * (lmax + 1) * (lmax + 2) // 2)
    return points, torch.linalg.pinv(harmonics(points, lmax))


def axes(affine: Tensor) -> Tensor:
    """Return the directions of an image's axes in the scanner.

    Args:
        affine: (4, 4) voxel indices to scanner millimetres.

    Returns:
        (3, 3) orthogonal: columns along i, j, k. Where the image is sheared it is the
        nearest orthogonal matrix.

    Raises:
        ValueError: the affine is not (4, 4) or is singular.

    >>> import torch
    >>> axes(torch.diag(torch.tensor([-2.0, 2.0, 2.5, 1.0])))
    tensor([[-1.,  0.,  0.],
            [ 0.,  1.,  0.],
            [ 0.,  0.,  1.]])
    """
    if affine.shape != (4, 4):
        raise ValueError(f"affine must have shape (4, 4), got {tuple(affine.shape)}")
    unit = affine[:3, :3] / affine[:3, :3].norm(dim=0)
    if concrete(unit):
        volume = float(torch.linalg.cross(unit[:, 0], unit[:, 1]) @ unit[:, 2])
        if not abs(volume) > 1e-6:
            raise ValueError(
                f"affine is singular: its axes {affine[:3, :3].tolist()} do not span"
                f" space; read it again from the image, or give one with three"
                f" independent columns"
            )
    # Newton-Schulz converges to the polar factor, as no singular value is above √3,
    # and has derivatives where those of an SVD, whose values coincide, do not exist
    for _ in range(_SCHULZ):
        unit = (3 * unit - unit @ (unit.mT @ unit)) / 2
    return unit + 0.0  # +0: no negative zeros


def to_scanner(coefficients: Tensor, affine: Tensor) -> Tensor:
    """Turn coefficients given along the image's axes (dipy) into the scanner frame.

    Args:
        coefficients: (..., coefficient), tournier07.
        affine: (4, 4) voxel indices to scanner millimetres.

    Returns:
        The coefficients in the scanner frame (MRtrix).

    Raises:
        ValueError: the affine is singular or sizes do not fit.

    >>> import torch
    >>> from mrsim import tract
    >>> turned = torch.eye(4)[[1, 0, 2, 3]] * torch.tensor([1.0, -1, 1, 1])
    >>> x, y = (tract.delta_fod(u[None], torch.ones(1), 4) for u in torch.eye(3)[:2])
    >>> # the image's x is the scanner's y
    >>> torch.allclose(to_scanner(x, turned), y, atol=1e-5)
    True
    """
    return rotate(coefficients, axes(affine).to(coefficients))


def to_image(coefficients: Tensor, affine: Tensor) -> Tensor:
    """Turn coefficients in the scanner frame (MRtrix) to the image's axes (dipy).

    Args:
        coefficients: (..., coefficient), tournier07.
        affine: (4, 4) voxel indices to scanner millimetres.

    Returns:
        The coefficients along the image's axes.

    Raises:
        ValueError: the affine is singular or sizes do not fit.

    >>> import torch
    >>> from mrsim import tract
    >>> turned = torch.eye(4)[[1, 0, 2, 3]] * torch.tensor([1.0, -1, 1, 1])
    >>> x, y = (tract.delta_fod(u[None], torch.ones(1), 4) for u in torch.eye(3)[:2])
    >>> # the scanner's x is the image's y
    >>> torch.allclose(to_image(x, turned), y, atol=1e-5)
    True
    """
    return rotate(coefficients, axes(affine).mT.to(coefficients))
