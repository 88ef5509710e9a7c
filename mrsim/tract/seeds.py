"""Where streamlines start: grids, random points of a mask, spheres."""

import torch
from torch import Tensor


def grid_seeds(mask: Tensor, affine: Tensor, n: int) -> Tensor:
    """Return n³ seeds in every voxel of a mask (-seed_grid_per_voxel).

    They lie at −1/2 + (k + 1/2)/n along each axis; voxels and seeds in them run with
    the first axis slowest, which is MRtrix's order for an image near to RAS.

    Args:
        mask (X, Y, Z): inside where above 1/2 (or True).
        affine (4, 4): voxel index → scanner position [mm].
        n: seeds along each axis of a voxel.

    Returns:
        (seeds, 3) scanner positions [mm].

    Raises:
        ValueError: the mask is empty or of another shape, or n < 1.

    >>> import torch
    >>> grid_seeds(torch.ones(1, 1, 1), torch.eye(4), 2)[0]
    tensor([-0.2500, -0.2500, -0.2500])
    """
    if n < 1:
        raise ValueError(f"tract.grid_seeds: n must be at least 1, got {n}")
    voxels = _inside("tract.grid_seeds", mask).to(affine)
    offsets = (torch.arange(n, device=affine.device).to(affine) + 0.5) / n - 0.5
    within = torch.cartesian_prod(offsets, offsets, offsets).reshape(-1, 3)
    return _scanner((voxels[:, None] + within).flatten(0, 1), affine)


def random_seeds(mask: Tensor, affine: Tensor, noise: Tensor) -> Tensor:
    """Return seeds that are uniform over a mask (-seed_image).

    Args:
        mask (X, Y, Z): inside where above 1/2 (or True).
        affine (4, 4): voxel index → scanner position [mm].
        noise (S, 4): uniform numbers in [0, 1).

    Returns:
        (S, 3) scanner positions [mm].

    Raises:
        ValueError: the mask is empty or a shape is wrong.

    >>> import torch
    >>> mask = torch.zeros(2, 2, 2).index_fill(0, torch.tensor(1), 1.0)
    >>> noise = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    >>> bool((random_seeds(mask, torch.eye(4), noise)[:, 0] >= 0.5).all())
    True
    """
    voxels = _inside("tract.random_seeds", mask)
    _check_noise("tract.random_seeds", noise, 4)
    which = (noise[:, 0] * len(voxels)).long().clamp(max=len(voxels) - 1)
    return _scanner(voxels[which].to(affine) + noise[:, 1:] - 0.5, affine)


def sphere_seeds(centre: Tensor, radius: float | Tensor, noise: Tensor) -> Tensor:
    """Return seeds that are uniform in a sphere (-seed_sphere).

    Args:
        centre (3,): [mm].
        radius: [mm].
        noise (S, 3): uniform numbers in [0, 1).

    Returns:
        (S, 3) scanner positions [mm].

    Raises:
        ValueError: a shape is wrong.

    >>> import torch
    >>> noise = torch.rand(9, 3, generator=torch.Generator().manual_seed(0))
    >>> bool((sphere_seeds(torch.zeros(3), 2.0, noise).norm(dim=-1) <= 2).all())
    True
    """
    _check_noise("tract.sphere_seeds", noise, 3)
    z, turn = 2 * noise[:, 0] - 1, 2 * torch.pi * noise[:, 1]
    ring = (1 - z * z).clamp(min=0).sqrt()
    u = torch.stack([ring * turn.cos(), ring * turn.sin(), z], 1)
    return centre + radius * noise[:, 2:] ** (1 / 3) * u


def _inside(where: str, mask: Tensor) -> Tensor:
    if mask.ndim != 3:
        raise ValueError(f"{where}: mask must be (X, Y, Z), got {tuple(mask.shape)}")
    voxels = (mask > 0.5).nonzero()
    if not len(voxels):
        raise ValueError(f"{where}: the mask is empty: no voxel is above 1/2")
    return voxels


def _scanner(voxels: Tensor, affine: Tensor) -> Tensor:
    return voxels @ affine[:3, :3].t() + affine[:3, 3]


def _check_noise(where: str, noise: Tensor, count: int) -> None:
    if noise.ndim != 2 or noise.shape[1] != count:
        raise ValueError(
            f"{where}: noise must be (seeds, {count}) uniform numbers, as"
            f" torch.rand(seeds, {count}), got {tuple(noise.shape)}"
        )
