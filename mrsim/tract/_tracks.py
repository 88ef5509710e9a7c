"""Many streamlines at once, without padding."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mrsim._check import traced
from mrsim._eager import eager
from mrsim.tract._driver import drive
from mrsim.tract._options import Options
from mrsim.tract._stream import Kind, Seed, Track, prepared
from mrsim.tract._world import world
from mrsim.tree import record


@record
class Tracks:
    """A ragged bundle: track k has the points ``offsets[k]`` to ``offsets[k + 1]``."""

    points: Tensor  # (vertices, 3) scanner positions [mm]
    offsets: Tensor  # (tracks + 1,)
    seed_index: Tensor  # (tracks,) which vertex of the track is the seed
    accepted: Tensor  # (tracks,) bool
    reasons: Tensor  # (tracks, 2) how each half ended: an index into `tract.REASONS`


@eager
def tracks(seeds: Tensor | Seed, field: Kind, options: Options) -> Tracks:
    """Follow streamlines from many seeds; as `stream`, for files and figures.

    No memory is spent on padding, and no derivatives are kept.

    Args:
        seeds: positions (S, 3) [mm], or a `Seed` of a batch.
        field: the image.
        options: the criteria.

    Returns:
        One track for each seed, empty where the seed was rejected.

    Raises:
        TypeError: a value is no floating tensor, or dtypes differ.
        ValueError: a shape is wrong, or something is differentiated or mapped.

    >>> import torch
    >>> from mrsim import tract
    >>> one = torch.tensor([1.0, 0, 0, 1.0, 0, 0]).expand(5, 5, 5, 6)  # along z
    >>> fod = tract.Field(coefficients=one, affine=torch.eye(4))
    >>> opts = tract.options(fod, step=0.5, minlength=0.0)
    >>> tracks(torch.tensor([[2.0, 2, 2], [9.0, 2, 2]]), fod, opts).offsets
    tensor([ 0, 11, 11])
    """
    start = seeds if isinstance(seeds, Seed) else Seed(position=seeds)
    position, direction = start.position, start.direction
    if position.ndim != 2 or (direction is not None and direction.ndim != 2):
        raise ValueError(
            f"tract.tracks: seeds must have shape (S, 3), got {tuple(position.shape)};"
            f" tract.stream follows a single one"
        )
    blank = position.new_zeros(3)
    one = Seed(position=blank, direction=None if direction is None else blank)
    plan, leaves = prepared("tract.tracks", one, field, options)
    if direction is None:
        direction = torch.full_like(position, torch.nan)
    if position.shape != direction.shape or position.shape[1] != 3:
        raise ValueError(
            f"tract.tracks: seeds and directions must have shape (S, 3), got"
            f" {tuple(position.shape)} and {tuple(direction.shape)}"
        )
    if any(map(traced, (*leaves, position, direction))):
        raise ValueError(
            "tract.tracks has no derivatives and takes no vmap: use"
            " vmap(tract.stream, in_dims=(0, None, None))"
        )
    wide = [position, direction, *(x.unsqueeze(0) for x in leaves[2:])]
    wide = [x.detach() for x in wide]
    found = drive(plan._replace(rank=1), world(plan._replace(rank=1), wide))
    return Tracks(
        points=found.points,
        offsets=torch.cat([found.first.new_zeros(1), found.length.cumsum(0)]),
        seed_index=found.seed_index,
        accepted=found.accepted,
        reasons=found.reasons.t(),
    )


def tracks_in_chunks(
    seeds: Tensor | Seed, field: Kind, options: Options, chunk: int = 50_000
) -> Iterator[Tracks]:
    """Yield `tracks` of some seeds at a time, in memory that does not grow.

    Args:
        seeds: positions (S, 3) [mm], or a `Seed` of a batch.
        field: the image.
        options: the criteria.
        chunk: seeds at a time.

    Yields:
        The tracks of each chunk.

    >>> import torch
    >>> from mrsim import tract
    >>> one = torch.tensor([1.0, 0, 0, 1.0, 0, 0]).expand(5, 5, 5, 6)  # along z
    >>> fod = tract.Field(coefficients=one, affine=torch.eye(4))
    >>> opts = tract.options(fod, step=0.5, minlength=0.0)
    >>> seeds = torch.tensor([[2.0, 2, 2], [2.0, 2, 1], [2.0, 2, 3]])
    >>> [len(bundle.points) for bundle in tracks_in_chunks(seeds, fod, opts, 2)]
    [22, 11]
    """
    start = seeds if isinstance(seeds, Seed) else Seed(position=seeds)
    ways = start.direction
    for k in range(0, len(start.position), chunk):
        part = None if ways is None else ways[k : k + chunk]
        yield tracks(
            Seed(position=start.position[k : k + chunk], direction=part), field, options
        )


def ragged(track: Track) -> Tracks:
    """Return a batch of padded tracks without its padding.

    Args:
        track: from ``vmap(tract.stream, …)``, every leaf with one batch axis.

    Returns:
        The same tracks, differentiable as they are.

    >>> import torch
    >>> from mrsim import tract
    >>> one = torch.tensor([1.0, 0, 0, 1.0, 0, 0]).expand(5, 5, 5, 6)  # along z
    >>> fod = tract.Field(coefficients=one, affine=torch.eye(4))
    >>> opts = tract.options(fod, step=0.5, minlength=0.0)
    >>> seeds = torch.tensor([[2.0, 2, 2], [2.0, 2, 1]])
    >>> ragged(torch.func.vmap(tract.stream, (0, None, None))(seeds, fod, opts)).offsets
    tensor([ 0, 11, 22])
    """
    held = torch.arange(track.points.shape[1], device=track.points.device)
    held = held < track.length[:, None]
    zero = track.length.new_zeros(1)
    return Tracks(
        points=track.points[held],
        offsets=torch.cat([zero, track.length.cumsum(0)]),
        seed_index=track.seed_index,
        accepted=track.accepted,
        reasons=track.reasons,
    )


def selected(bundle: Tracks, which: Tensor | None = None) -> Tracks:
    """Return some tracks of a ragged bundle.

    Args:
        bundle: the tracks.
        which (tracks,): bool; None for those that were accepted.

    Returns:
        Those tracks, in their order.

    >>> import torch
    >>> from mrsim import tract
    >>> one = torch.tensor([1.0, 0, 0, 1.0, 0, 0]).expand(5, 5, 5, 6)  # along z
    >>> fod = tract.Field(coefficients=one, affine=torch.eye(4))
    >>> opts = tract.options(fod, step=0.5, minlength=0.0)
    >>> bundle = tracks(torch.tensor([[2.0, 2, 2], [2.0, 2, 1]]), fod, opts)
    >>> selected(bundle, torch.tensor([False, True])).offsets
    tensor([ 0, 11])
    """
    kept = bundle.accepted if which is None else which
    length = bundle.offsets.diff()
    rows = kept.repeat_interleave(length)
    return Tracks(
        points=bundle.points[rows],
        offsets=torch.cat([bundle.offsets[:1], length[kept].cumsum(0)]),
        seed_index=bundle.seed_index[kept],
        accepted=bundle.accepted[kept],
        reasons=bundle.reasons[kept],
    )


def downsample(bundle: Tracks, ratio: int) -> Tracks:
    """Keep the seed, both ends, and every ratio-th vertex from the seed.

    Args:
        bundle: the tracks.
        ratio: MRtrix's -downsample.

    Returns:
        The thinner tracks.

    Raises:
        ValueError: the ratio is below 1.

    >>> import torch
    >>> from mrsim import tract
    >>> one = torch.tensor([1.0, 0, 0, 1.0, 0, 0]).expand(5, 5, 5, 6)  # along z
    >>> fod = tract.Field(coefficients=one, affine=torch.eye(4))
    >>> opts = tract.options(fod, step=0.5, minlength=0.0)
    >>> downsample(tracks(torch.tensor([[2.0, 2, 2]]), fod, opts), 5).offsets
    tensor([0, 3])
    """
    if ratio < 1:
        raise ValueError(f"tract.downsample: ratio must be at least 1, got {ratio}")
    length = bundle.offsets.diff()
    start = bundle.offsets[:-1].repeat_interleave(length)
    number = torch.arange(len(bundle.points), device=start.device) - start
    seed = bundle.seed_index.repeat_interleave(length)
    last = (length - 1).repeat_interleave(length)
    kept = ((number - seed) % ratio == 0) | (number == 0) | (number == last)
    total = torch.cat([bundle.offsets[:1], kept.long().cumsum(0)])
    offsets = total[bundle.offsets]
    seeds = bundle.offsets[:-1] + bundle.seed_index
    return Tracks(
        points=bundle.points[kept],
        offsets=offsets,
        seed_index=total[seeds] - offsets[:-1],
        accepted=bundle.accepted,
        reasons=bundle.reasons,
    )
