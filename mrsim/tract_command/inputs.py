"""What a ``track`` command line names: images, regions, criteria and seeds."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrsim import tract
from mrsim.io import InputError
from mrsim.tract_files import (
    load_fod,
    load_gradients,
    load_scheme,
    load_table,
    load_volumes,
)
from mrsim.tree import to
from mrsim.units import deg


def _fod(given: argparse.Namespace, dtype: torch.dtype) -> Any:
    data, affine = load_fod(given.source, check=not given.nocheck)
    field = tract.Field(coefficients=data, affine=affine)
    return to(field, dtype, given.device), affine, data.shape[:3]


def _signals(given: argparse.Namespace, dtype: torch.dtype) -> Any:
    data, affine = _series(given.source)
    if given.grad is not None:
        scheme = load_gradients(given.grad)
    elif given.fslgrad is not None:
        bvecs, bvals = given.fslgrad
        scheme = load_scheme(bvals, bvecs, affine, data.shape[-1])
    else:
        raise InputError("Tensor_Det needs a gradient table: --grad or --fslgrad")
    field = tract.Signals(signals=data, scheme=scheme, affine=affine)
    return to(field, dtype, given.device), affine, data.shape[:3]


def _vectors(given: argparse.Namespace, dtype: torch.dtype) -> Any:
    data, affine = _series(given.source)
    field = tract.Vectors(vectors=data, affine=affine)
    return to(field, dtype, given.device), affine, data.shape[:3]


def _series(path: Path) -> tuple[Tensor, Tensor]:
    data, affine = load_volumes(path)
    if data.ndim != 4:
        raise InputError(f"{path} must be 4-D, got shape {tuple(data.shape)}")
    return data, affine


ALGORITHMS = {"SD_STREAM": _fod, "Tensor_Det": _signals, "FACT": _vectors}


def options(given: argparse.Namespace, field: Any) -> tract.Options:
    """Return the criteria that a command line asks for."""
    like = field.affine
    return tract.options(
        field,
        step=given.step,
        angle=given.angle * deg,
        cutoff=given.cutoff,
        minlength=given.minlength,
        maxlength=given.maxlength,
        rk4=given.rk4,
        unidirectional=given.seed_unidirectional,
        stop=given.stop,
        mask=_regions("--mask", given.mask, like),
        include=_regions("--include", given.include, like),
        exclude=_regions("--exclude", given.exclude, like),
        compiled=given.compile,
    )


def _regions(name: str, given: Sequence[str], like: Tensor) -> tract.Regions | None:
    """Make regions of images on one grid and of spheres, as tckgen reads them."""
    if not given:
        return None
    spheres = [_floats(name, text, 4) for text in given if not Path(text).is_file()]
    images = [load_volumes(text) for text in given if Path(text).is_file()]
    fields: dict[str, Any] = {}
    if images:
        shapes = {tuple(data.shape) for data, _ in images}
        same = all(torch.allclose(a, images[0][1], atol=1e-4) for _, a in images)
        if len(shapes) > 1 or not same or images[0][0].ndim != 3:
            raise InputError(
                f"{name}: all images must be 3-D on one grid, got shapes"
                f" {sorted(shapes)}; regrid them (mrgrid) to the same"
            )
        stack = torch.stack([(data > 0).to(like) for data, _ in images])
        fields = {"images": stack, "affine": images[0][1].to(like)}
    if spheres:
        table = like.new_tensor(spheres)
        fields |= {"centres": table[:, :3], "radii": table[:, 3]}
    return tract.Regions(**fields)


def _floats(name: str, text: str, count: int) -> list[float]:
    try:
        values = [float(x) for x in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        raise InputError(
            f"{name} {text}: neither a file nor {count} numbers with commas between"
        )
    return values


def direction(text: str | None) -> Tensor | None:
    """Return the unit vector of ``--seed_direction``."""
    if text is None:
        return None
    aim = torch.tensor(_floats("--seed_direction", text, 3), dtype=torch.float64)
    if not aim.norm() > 0:
        raise InputError("--seed_direction must not be zero")
    return aim / aim.norm()


def seeds(given: argparse.Namespace) -> Tensor:
    """Return all seed positions (seed, 3) [mm], float64, of a command line."""
    generator = torch.Generator().manual_seed(given.random)
    if given.seeds_count < 1:
        raise InputError("--seeds_count must be positive")
    if given.seed_sphere is not None:
        x, y, z, radius = _floats("--seed_sphere", given.seed_sphere, 4)
        draw = torch.randn(given.seeds_count, 3, generator=generator)
        size = torch.rand(given.seeds_count, 1, generator=generator) ** (1 / 3)
        inside = draw / draw.norm(dim=-1, keepdim=True) * size * radius
        return (torch.tensor([x, y, z]) + inside).double()
    if given.seed_grid_per_voxel is not None:
        path, count = _counted("--seed_grid_per_voxel", given.seed_grid_per_voxel)
        return tract.grid_seeds(*_mask(path), count)
    if given.seed_random_per_voxel is not None:
        path, count = _counted("--seed_random_per_voxel", given.seed_random_per_voxel)
        return _random(path, count, generator)
    if given.seeds.name.endswith((".nii", ".nii.gz", ".mif", ".mif.gz")):
        return tract.grid_seeds(*_mask(given.seeds), 1)
    table = load_table(given.seeds)
    if table.shape[-1] != 3:
        raise InputError(
            f"{given.seeds} must have three columns x y z [mm], got {table.shape[-1]}"
        )
    return table


def _counted(name: str, given: Sequence[str]) -> tuple[Path, int]:
    if not given[1].isdigit() or not int(given[1]):
        raise InputError(f"{name}: the number must be 1, 2, …, got {given[1]}")
    return Path(given[0]), int(given[1])


def _random(path: Path, count: int, generator: torch.Generator) -> Tensor:
    """Return so many random positions in every voxel of a mask."""
    mask, affine = _mask(path)
    voxels = mask.nonzero().double()
    draw = torch.rand(len(voxels), count, 3, generator=generator).double()
    at = (voxels.unsqueeze(1) + draw - 0.5).flatten(0, 1)
    return at @ affine[:3, :3].mT + affine[:3, 3]


def _mask(path: Path) -> tuple[Tensor, Tensor]:
    data, affine = load_volumes(path)
    if data.ndim != 3:
        raise InputError(f"{path} must be 3-D, got shape {tuple(data.shape)}")
    if not (data > 0).any():
        raise InputError(f"{path} is zero everywhere; mark the voxels to seed")
    return data > 0, affine
