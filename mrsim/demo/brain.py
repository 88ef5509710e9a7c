"""The brain that the main job works on: maps of T1, T2, M0 and a mask."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mrsim import io, phantom
from mrsim.tissue import Tissue
from mrsim.tree import get, replace, tree_map


class Brain(NamedTuple):
    """Maps of one head, all of shape (x, y, z)."""

    name: str  # of the subject, for BIDS file names and figures
    tissue: Tissue  # T1 [s], T2 [s], M0 relative to its median over the mask
    mask: Tensor  # bool: the voxels that may be fitted
    like: io.Image  # the input whose grid the results take


class Slice(NamedTuple):
    """The voxels of one axial slice, in float64."""

    index: int  # along `axis`
    axis: int  # of the volume, the one nearest to the scanner's z
    mask: Tensor  # bool (row, column)
    tissue: Tissue  # every leaf (voxel,)


def from_files(
    t1: Path | None, t2: Path | None, m0: Path | None, mask: Path | None
) -> Brain:
    """Read the user's own maps.

    Args:
        t1: map of T1 [s].
        t2: map of T2 [s].
        m0: map of the equilibrium magnetisation, any unit; 1 everywhere if absent.
        mask: non-zero where to fit; every voxel with positive, finite maps if absent.

    Returns:
        The maps; those of `mrsim.phantom.mni152` if neither T1 nor T2 is given.

    Raises:
        InputError: a map is missing, has the wrong unit or another shape; or no voxel
            of the mask has a T1, T2 and M0.
    """
    if t1 is None or t2 is None:
        if t1 is t2 is m0 is None:
            return _masked(Brain("mni152", *phantom.mni152()), mask)
        raise io.InputError(
            "--t1 and --t2 must be given together, with or without --m0"
        )
    images = {"T1": io.load_time(t1), "T2": io.load_time(t2)}
    images |= {"M0": io.load(m0)} if m0 else {}
    for name, image in images.items():
        _same_grid(image, name, images["T2"])
    maps = {name: image.data for name, image in images.items()}
    maps.setdefault("M0", torch.ones_like(maps["T2"]))
    known = torch.stack([v.isfinite() & (v > 0) for v in maps.values()]).all(0)
    T1, T2, M0 = (maps[n].where(known, 0.0) for n in ("T1", "T2", "M0"))
    tissue = Tissue(T1=T1, T2=T2, M0=M0)
    subject = images["T2"].path.name.split("_")[0].removeprefix("sub-").split(".")[0]
    name = "".join(c for c in subject if c.isalnum()) or "user"
    return _masked(Brain(name, tissue, known, images["T2"]), mask)


def _masked(brain: Brain, path: Path | None) -> Brain:
    if path is not None:
        image = io.load(path)
        _same_grid(image, "the mask", brain.like)
        brain = brain._replace(mask=brain.mask & (image.data.nan_to_num() != 0))
    if not brain.mask.any():
        raise io.InputError(
            f"the mask is empty: no voxel of {path or brain.like.path} has positive,"
            f" finite T1, T2 and M0; check the files"
        )
    swapped = (brain.tissue.T2 > brain.tissue.T1) & brain.mask
    if swapped.float().sum() > 0.5 * brain.mask.sum():
        raise io.InputError("T2 exceeds T1 in most voxels; are --t1 and --t2 swapped?")
    m0 = get(brain.tissue, "M0")
    return brain._replace(tissue=replace(brain.tissue, M0=m0 / m0[brain.mask].median()))


def _same_grid(image: io.Image, name: str, like: io.Image) -> None:
    if image.data.shape != like.data.shape:
        raise io.InputError(
            f"{name} ({image.path}) has shape {tuple(image.data.shape)}, but"
            f" {like.path} has {tuple(like.data.shape)}; bring all maps to one grid"
        )
    if not np.allclose(image.affine, like.affine, atol=1e-3):
        raise io.InputError(
            f"{name} ({image.path}) and {like.path} have different affines; bring all"
            f" maps to one grid"
        )


def axial(brain: Brain, index: int | None, most: int) -> Slice:
    """Cut an axial slice.

    Args:
        brain: the maps.
        index: position along the axis nearest to the scanner's z, from 0; ``None`` for
            the fullest slice of at most ``most`` voxels.
        most: as above; the emptiest slice is taken where all have more.

    Returns:
        The slice.

    Raises:
        InputError: there is no such slice, or it is empty.
    """
    zooms = np.linalg.norm(brain.like.affine[:3, :3], axis=0)
    axis = int(np.argmax(np.abs(brain.like.affine[2, :3]) / zooms))
    others = [i for i in range(3) if i != axis]
    counts = brain.mask.sum(others)
    if index is None:
        fits = torch.where(counts <= most, counts, -counts)
        index = int(fits.where(counts > 0, -counts.sum()).argmax())
    if not 0 <= index < len(counts):
        raise io.InputError(f"--slice must lie in 0 … {len(counts) - 1}, got {index}")
    if not counts[index]:
        filled = counts.nonzero().ravel()
        raise io.InputError(
            f"slice {index} has no voxel in the mask; slices {int(filled[0])} …"
            f" {int(filled[-1])} do"
        )
    mask = brain.mask.select(axis, index)
    tissue = tree_map(lambda v: v.select(axis, index)[mask].double(), brain.tissue)
    return Slice(index, axis, mask, tissue)


def keep(cut: Slice, good: Tensor) -> Slice:
    """Drop voxels of a slice.

    Args:
        cut: the slice.
        good: (voxel,) bool, which to keep.

    Returns:
        The slice with fewer voxels.

    Raises:
        InputError: none is left.
    """
    if not good.any():
        raise io.InputError(
            f"no voxel of slice {cut.index} has a T2 that these trains can tell; take"
            f" less noise (--sigma), another --slice, or a --mask without fluid"
        )
    mask = cut.mask.masked_scatter(cut.mask, good)
    return cut._replace(mask=mask, tissue=tree_map(lambda v: v[good], cut.tissue))


def fill(cut: Slice, values: Tensor, like: Tensor) -> Tensor:
    """Put the values of a slice's voxels back into a volume of zeros.

    Args:
        cut: the slice.
        values: (voxel,) one value for each voxel of its mask.
        like: (x, y, z) a volume of the right shape.

    Returns:
        (x, y, z) the volume.
    """
    plane = values.new_zeros(cut.mask.shape).masked_scatter(cut.mask, values)
    return torch.zeros_like(like, dtype=values.dtype).select_scatter(
        plane, cut.axis, cut.index
    )


def halves(brain: Brain) -> Tissue:
    """Sum a brain up in two tissues: medians of the lower and of the upper half of T2.

    In a healthy head these are white and grey matter.

    Args:
        brain: the maps.

    Returns:
        A Tissue with leaves of shape (2,).
    """
    voxels = tree_map(lambda v: v[brain.mask], brain.tissue)
    middle = voxels.T2.median()
    upper = torch.gt(voxels.T2, middle)
    parts = [~upper, upper] if upper.any() else [~upper, ~upper]

    def medians(v: Tensor) -> Tensor:
        return torch.stack([v[part].median() for part in parts]).double()

    return tree_map(medians, voxels)
