"""How streamlines step and when they end: tckgen's criteria, in mm and rad."""

import math

import torch
from torch import Tensor

from mrsim._check import check_floats, check_positive, concrete
from mrsim._convert import as_tensor
from mrsim.tract.field import Field, Regions, Signals, Vectors, check_field
from mrsim.tree import record, static


@record
class Options:
    """Criteria of tracking; `options` fills in MRtrix's defaults for an image."""

    step: Tensor  # () [mm]
    mask: Regions | None = None  # a step that leaves all of these ends there
    include: Regions | None = None  # a track must visit every one of these
    exclude: Regions | None = None  # a track that enters any of these is rejected
    cutoff: float = static(0.1)  # least amplitude (FOD, vector), or anisotropy (tensor)
    angle: float = static(math.pi / 3)  # most between steps [rad]
    least: int = static(51)  # vertices of an accepted track
    most: int = static(1003)  # vertices, at which it ends
    order: int = static(1)  # 1 (Euler) or 4 (Runge-Kutta)
    both: bool = static(default=True)  # from the seed both ways
    stop: bool = static(default=False)  # end once all included regions are visited
    polish: int | None = static(None)  # Newton steps at a peak; 2 in float64, else 0
    lanes: int = static(4096)  # streamlines that step at once
    compiled: bool = static(default=False)  # search for peaks in a C++ kernel


def options(
    field: Field | Signals | Vectors,
    *,
    step: float | Tensor | None = None,
    angle: float = math.pi / 3,
    cutoff: float = 0.1,
    minlength: float | None = None,
    maxlength: float | None = None,
    rk4: bool = False,
    unidirectional: bool = False,
    stop: bool = False,
    mask: Regions | None = None,
    include: Regions | None = None,
    exclude: Regions | None = None,
    polish: int | None = None,
    lanes: int = 4096,
    compiled: bool = False,
) -> Options:
    """Return criteria with tckgen's names and defaults for an image.

    Lengths become numbers of vertices as in MRtrix: at least 1 + ⌈minlength/step⌉, and
    the end at 3 + ⌈maxlength/step⌉. A voxel is the cube root of a voxel's volume.

    Args:
        field: the image, for the size of its voxels.
        step: [mm], by default 0.1 voxel, with ``rk4`` 0.25 voxel.
        angle: most between steps [rad].
        cutoff: least FOD amplitude, fractional anisotropy or length of a vector.
        minlength: [mm], by default 5 voxels.
        maxlength: [mm], by default 100 voxels.
        rk4: step by the fourth-order Runge-Kutta rule.
        unidirectional: from the seed one way only.
        stop: end a track once it visited all included regions.
        mask: where tracks may be.
        include: regions that a track must visit.
        exclude: regions that reject a track.
        polish: Newton steps that refine a peak where MRtrix's search ends, within 1e-4
            rad of it. By default none in single precision, which gives MRtrix's tracks,
            and 2 in double, which give the peak to rounding, so that derivatives
            (always those of the exact peak) are the slopes of the points.
        lanes: streamlines that step at once.
        compiled: look up and search in a C++ kernel made at the first call (needs a
            compiler; float32 FODs on a CPU).

    Returns:
        The criteria.

    Raises:
        TypeError: the field is none, or dtypes differ.
        ValueError: the affine is singular, or a criterion is out of its range.

    >>> import torch
    >>> from mrsim import tract
    >>> fod = tract.Field(coefficients=torch.ones(2, 2, 2, 6), affine=torch.eye(4))
    >>> tract.options(fod).step, tract.options(fod).least
    (tensor(0.1000), 51)
    """
    check_field("tract.options", field)
    check_positive("tract.options", lanes=lanes)
    size = voxel_size("tract.options", field.affine)
    way = (0.25 if rk4 else 0.1) * size if step is None else step
    made = as_tensor(way, field.affine).to(field.affine)
    length = float(made.detach())
    lengths = {"step": length, "angle": angle, "cutoff": cutoff}
    lengths["minlength"] = 5 * size if minlength is None else minlength
    lengths["maxlength"] = 100 * size if maxlength is None else maxlength
    for name, value in lengths.items():
        if not value >= 0 or not math.isfinite(value):
            raise ValueError(
                f"tract.options: {name} must not be negative or infinite, got {value}"
            )
    if not 0 < angle <= math.pi or length <= 0:
        raise ValueError(
            f"tract.options: the step must be positive, got {length} mm, and the angle"
            f" within (0, π], got {angle} rad; write 60 * mrsim.units.deg"
        )
    for name, region in (("mask", mask), ("include", include), ("exclude", exclude)):
        if region is not None:
            check_regions(f"tract.options: {name}", region)
    given = (minlength, maxlength, None if step is None else length)
    few, many = _counts(size, 0.25 if rk4 else 0.1, *given)
    return Options(
        step=made,
        mask=mask,
        include=include,
        exclude=exclude,
        cutoff=cutoff,
        angle=angle,
        least=1 + few,
        most=3 + many,
        order=4 if rk4 else 1,
        both=not unidirectional,
        stop=stop,
        polish=polish,
        lanes=lanes,
        compiled=compiled,
    )


def _counts(
    size: float,
    share: float,
    least: float | None,
    most: float | None,
    step: float | None,
) -> tuple[int, int]:
    """Return the steps in the two lengths: 5 and 100 voxels, steps a share of one."""
    # MRtrix counts in single precision, from the size of a voxel
    single = torch.tensor([size, 5, 100, share], dtype=torch.float32)
    unit = single[0] * single[3] if step is None else single.new_tensor(step)
    few = single[0] * single[1] if least is None else single.new_tensor(least)
    many = single[0] * single[2] if most is None else single.new_tensor(most)
    return int(few.div(unit).ceil()), int(many.div(unit).ceil())


def voxel_size(where: str, affine: Tensor) -> float:
    """Return the cube root of a voxel's volume [mm].

    Args:
        where: the function that asks, for the message.
        affine (4, 4): voxel index → scanner position.

    Returns:
        The size.

    Raises:
        ValueError: the affine is singular or not finite.
    """
    if not concrete(affine):
        raise ValueError(
            f"{where}: make the options outside transforms and pass them in: they"
            f" count vertices from the size of a voxel"
        )
    axes = affine.detach()[:3, :3].double()
    sizes = axes.norm(dim=0)
    volume = float(sizes.prod())
    turn = abs(float((torch.linalg.cross(axes[:, 0], axes[:, 1]) * axes[:, 2]).sum()))
    if not math.isfinite(volume) or turn <= 1e-6 * volume:
        raise ValueError(
            f"{where}: the affine is singular, its columns are {axes.t().tolist()};"
            f" each voxel axis needs a direction of its own [mm]"
        )
    return volume ** (1 / 3)


def check_regions(where: str, regions: Regions) -> None:
    """Require regions of sound shapes that are not empty.

    Args:
        where: the function that asks, for the message.
        regions: images on a grid, spheres, or both.

    Raises:
        ValueError: a shape is wrong, or there is nothing inside.
    """
    check_floats(where, **vars(regions))
    images, affine, centres = regions.images, regions.affine, regions.centres
    if (images is None) != (affine is None) or (centres is None) != (
        regions.radii is None
    ):
        raise ValueError(f"{where}: images need an affine, and centres need radii")
    if images is None and centres is None:
        raise ValueError(f"{where}: give images with an affine, spheres, or both")
    if images is not None:
        if images.ndim != 4:
            raise ValueError(
                f"{where}: images must have shape (n, X, Y, Z), got"
                f" {tuple(images.shape)}; one mask is mask.to(dtype)[None]"
            )
        if concrete(images) and not (images > 0.5).flatten(1).any(1).all():
            raise ValueError(f"{where}: an image is empty: no voxel is above 1/2")
        if affine is not None and concrete(affine):
            voxel_size(where, affine)
    radii = regions.radii
    if centres is None or radii is None:
        return
    if centres.shape != (*radii.shape, 3) or radii.ndim != 1:
        raise ValueError(
            f"{where}: spheres need centres (m, 3) and radii (m,), got"
            f" {tuple(centres.shape)} and {tuple(radii.shape)}"
        )
