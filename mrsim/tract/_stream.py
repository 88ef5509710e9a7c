"""One streamline: the track from a seed, differentiable at fixed structure."""

import math
from typing import Any

import torch
from torch import Tensor

from mrsim._check import check_floats
from mrsim._eager import eager
from mrsim.tract._driver import drive
from mrsim.tract._options import Options
from mrsim.tract._path import attach
from mrsim.tract._world import Plan, batch_of, folded, world
from mrsim.tract.field import (
    Field,
    Regions,
    Signals,
    Vectors,
    check_field,
    inverse,
)
from mrsim.tract.polynomial import polynomial
from mrsim.tract.rules import Rule
from mrsim.tree import record

Kind = Field | Signals | Vectors
_POLISH = 2  # Newton steps in double precision that bring a peak to rounding


@record
class Seed:
    """Where a streamline starts and which way the first peak is searched."""

    position: Tensor  # (3,) scanner position [mm]
    direction: Tensor | None = None  # (3,) unit vector; None: the strongest direction


@record
class Track:
    """A streamline, padded to the most vertices it could have.

    Its vertices run from the end of the first half (along the seed's direction) over
    the seed to the end of the second; one way only, from the seed.
    """

    points: Tensor  # (T, 3) scanner positions [mm], 0 after the last vertex
    directions: Tensor  # (T, 3) unit vector of every edge, as it was walked
    length: Tensor  # () vertices; 0 where the seed was rejected
    seed_index: Tensor  # () which vertex is the seed
    accepted: Tensor  # () bool: long enough, not excluded, all inclusions visited
    reasons: Tensor  # (2,) how each half ended: an index into `tract.REASONS`


@eager
def stream(seed: Tensor | Seed, field: Kind, options: Options) -> Track:
    """Follow a streamline from a seed both ways.

    Deterministic tracking with MRtrix's rules: p ← p + h u, u the peak of the FOD at p
    (`Field`), the tensor's eigenvector (`Signals`) or the vector of the nearest voxel
    (`Vectors`) that continues the last direction, until a criterion of the options
    ends it. Map over seeds with ``vmap(stream, in_dims=(0, None, None))``: the whole
    batch is one call.

    Derivatives of points with respect to seed, image, affine and step are those at
    fixed structure: which vertices there are, how the halves ended and which peak was
    followed are taken as given. They are exact to any order where the peak is not
    degenerate (see `conditioning`); the directions, criteria and regions carry none.

    Args:
        seed: position (3,) [mm], or a `Seed`.
        field: the image.
        options: the criteria, from `tract.options`.

    Returns:
        The track.

    Raises:
        TypeError: a value is no floating tensor, or dtypes differ.
        ValueError: a shape is wrong.

    Reference:
        Tournier et al. 2019, NeuroImage 202:116137 (MRtrix3: SD_STREAM, Tensor_Det,
        FACT).

    >>> import torch
    >>> from mrsim import tract
    >>> one = torch.tensor([1.0, 0, 0, 1.0, 0, 0]).expand(5, 5, 5, 6)  # along z
    >>> fod = tract.Field(coefficients=one, affine=torch.eye(4))
    >>> track = stream(torch.tensor([2.0, 2, 2]), fod, tract.options(fod, step=0.5))
    >>> track.length, track.points[0]
    (tensor(11), tensor([2.0000, 2.0000, 4.5000]))
    """
    plan, leaves = prepared("tract.stream", seed, field, options)
    fixed = _Walk.apply(plan, *(x.detach() for x in leaves))
    points, directions, length, before, accepted, reasons = fixed
    moving = [leaves[k] for k in (0, 2, 3, 4, 5)]
    points = attach(plan, moving, points, directions, length, before)
    return Track(
        points=points,
        directions=directions,
        length=length,
        seed_index=before,
        accepted=accepted,
        reasons=reasons,
    )


def prepared(
    where: str, seed: Tensor | Seed, field: Kind, options: Options
) -> tuple[Plan, list[Tensor]]:
    """Check the inputs and flatten them to what the driver takes.

    Args:
        where: the function that asks, for the message.
        seed: position or record.
        field: the image.
        options: the criteria.

    Returns:
        The plan and the leaves: seed, direction, values, inverse, step, model, regions.

    Raises:
        TypeError: a value is no floating tensor, or dtypes differ.
        ValueError: a shape is wrong.
    """
    check_field(where, field)
    image = next(iter(vars(field).values()))
    position, direction = _start(where, seed, options.step, image)
    values = image.flatten(0, 2)
    model = image.new_zeros((1, 1))
    kind = "vectors"
    if isinstance(field, Field):
        kind, values = "fod", polynomial(values)
    if isinstance(field, Signals):
        kind, model = "tensor", _fit(field)
    if options.compiled and (kind != "fod" or image.dtype != torch.float32):
        raise ValueError(
            f"{where}: compiled=True is for FODs in float32 on a CPU, got"
            f" {type(field).__name__} in {image.dtype}; leave compiled=False"
        )
    shape = tuple(image.shape[:3])
    polish = options.polish
    if polish is None:
        polish = _POLISH if image.dtype == torch.float64 else 0
    cosine = math.cos(options.angle)
    rule = Rule(kind, shape, values.shape[1], options.cutoff, cosine, polish)
    leaves = [position, direction, values, inverse(field.affine), options.step, model]
    regions = []
    for name in ("mask", "include", "exclude"):
        region = getattr(options, name)
        if region is not None:
            grid, flat = _flat(region, position)
            regions.append((name, grid))
            leaves.extend(flat)
    plan = Plan(
        rule,
        options.order,
        options.both,
        options.stop,
        options.least,
        options.most,
        tuple(regions),
        options.lanes,
        options.compiled,
    )
    return plan, leaves


def _start(
    where: str, seed: Tensor | Seed, step: Tensor, image: Tensor
) -> tuple[Tensor, Tensor]:
    """Check a seed and return its position and direction, NaN where it has none."""
    start = seed if isinstance(seed, Seed) else Seed(position=seed)
    given = {"seed": start.position, "direction": start.direction, "step": step}
    check_floats(where, **given, image=image)
    for name, wanted in (("seed", (3,)), ("direction", (3,)), ("step", ())):
        x = given[name]
        if x is not None and x.shape != wanted:
            raise ValueError(
                f"{where}: {name} must have shape {wanted}, got {tuple(x.shape)}; map"
                f" over seeds with vmap({where}, in_dims=(0, None, None))"
            )
    if start.direction is None:
        return start.position, torch.full_like(start.position, math.nan)
    return start.position, start.direction


def _fit(field: Signals) -> Tensor:
    """Return the matrix (7, n) from −log S to the tensor and log S0, MRtrix's OLS."""
    b = field.scheme.b
    x, y, z = field.scheme.directions.unbind(1)
    scale = 1000.0
    w = b / scale
    columns = [x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z]
    design = torch.stack([*(w * c for c in columns), -torch.ones_like(b)], 1)
    unit = torch.tensor([1 / scale] * 6 + [1.0], dtype=b.dtype).to(b.device)
    return unit[:, None] * torch.linalg.pinv(design)


def _flat(region: Regions, like: Tensor) -> tuple[Any, list[Tensor]]:
    """Return the image grid and the leaves images, inverse, spheres of regions."""
    grid, images = (1, 1, 1), like.new_zeros((0, 1))
    turn, spheres = torch.eye(3, 4).to(like), like.new_zeros((4, 0))
    if region.images is not None and region.affine is not None:
        grid, images = tuple(region.images.shape[1:]), region.images.flatten(1)
        turn = inverse(region.affine)
    if region.centres is not None and region.radii is not None:
        spheres = torch.cat([region.centres.t(), region.radii[None]])
    return grid, [images, turn, spheres]


class _Walk(torch.autograd.Function):
    """(plan, *leaves) → points, directions, length, seed index, accepted, reasons."""

    @staticmethod
    def forward(plan: Plan, *leaves: Tensor) -> tuple[Tensor, ...]:
        batch = batch_of(leaves, plan.rank)
        if leaves[0].is_meta:
            return _blank(plan, batch, leaves[0])
        walked = drive(plan, world(plan, leaves))
        slot = torch.arange(plan.capacity, device=leaves[0].device)
        row = walked.first[:, None] + slot
        held = slot < walked.length[:, None]
        row = torch.where(held, row, 0)
        wide = (
            [
                torch.where(held[..., None], x[row], 0.0).unflatten(0, batch or (1,))
                for x in (walked.points, walked.directions)
            ]
            if len(walked.points)
            else _blank(plan, batch or (1,), leaves[0])[:2]
        )
        rest = (walked.length, walked.seed_index, walked.accepted, walked.reasons.t())
        out = (*wide, *(x.unflatten(0, batch or (1,)) for x in rest))
        return out if batch else tuple(x[0] for x in out)

    @staticmethod
    def setup_context(ctx: Any, _inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(_ctx: Any, *cotangents: Tensor) -> Any:
        raise AssertionError(cotangents)  # nothing that comes out can be differentiated

    @staticmethod
    def vmap(_info: Any, in_dims: Any, plan: Plan, *leaves: Tensor) -> Any:
        out = _Walk.apply(
            plan._replace(rank=plan.rank + 1), *folded(leaves, in_dims[1:])
        )
        return out, (0,) * len(out)


def _blank(plan: Plan, batch: tuple[int, ...], like: Tensor) -> tuple[Tensor, ...]:
    wide = like.new_zeros((*batch, plan.capacity, 3))
    count = torch.zeros(batch, dtype=torch.long, device=like.device)
    reasons = torch.zeros((*batch, 2), dtype=torch.long, device=like.device)
    return wide, wide.clone(), count, count.clone(), count > 0, reasons
