"""Probabilistic streamlines with their noise as an argument: cone and transport.

At every step some candidates are drawn from the noise, and one is taken with a
probability that grows with the FOD along it: the Gumbel-max trick, whose soft form at a
temperature τ > 0 is differentiable in the FOD (Jang, Gu and Poole 2017).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mrsim._check import check_floats
from mrsim.tract._options import Options
from mrsim.tract._stream import Seed, Track, prepared
from mrsim.tract.field import Field, inside, trilinear, voxels
from mrsim.tract.peak import unit
from mrsim.tract.polynomial import amplitudes
from mrsim.tract.rules import GO, IMAGE, LENGTH, MODEL, frame

State = tuple[Tensor, Tensor]  # where (3,), and the frame (3, 3): its rows u, e, f
Draw = Callable[[State, Tensor], tuple[Tensor, Tensor, Tensor]]


def sample_cone(
    seed: Seed,
    noise: Tensor,
    field: Field,
    options: Options,
    temperature: float = 0.0,
) -> Track:
    """Follow a streamline one way by directions drawn in a cone (as iFOD1).

    Of K directions, uniform within the angle around the last, one is taken with a
    probability proportional to the FOD at the point; those below the cutoff never.

    Args:
        seed: position and unit direction to start with.
        noise (steps, K, 3): uniform numbers in (0, 1): two of a direction, one of the
            choice.
        field: the FODs.
        options: step, angle and cutoff; regions are not looked at.
        temperature: 0 takes one direction, and has no derivative by the FOD; above, a
            mean of them, which tends to it.

    Returns:
        The track from the seed on, with T = steps + 1.

    Raises:
        TypeError: a value is no floating tensor, or dtypes differ.
        ValueError: the seed has no direction, or the noise has another shape.

    Reference:
        Tournier et al. 2012, Int J Imaging Syst Technol 22:53 (MRtrix, iFOD1).

    >>> import torch
    >>> from mrsim import tract
    >>> one = torch.tensor([1.0, 0, 0, 1.0, 0, 0]).expand(5, 5, 5, 6)  # along z
    >>> fod = tract.Field(coefficients=one, affine=torch.eye(4))
    >>> at, up = torch.tensor([2.0, 2, 1]), torch.tensor([0.0, 0, 1])
    >>> noise = torch.rand(4, 8, 3, generator=torch.Generator().manual_seed(0))
    >>> seed = Seed(position=at, direction=up)
    >>> sample_cone(seed, noise, fod, tract.options(fod, step=0.5)).points.shape
    torch.Size([5, 3])
    """

    def draw(state: State, some: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p, axes = state
        cosine = 1 - some[:, 0] * (1 - math.cos(options.angle))
        sine, turn = (1 - cosine * cosine).clamp(min=0).sqrt(), math.tau * some[:, 1]
        local = torch.stack([cosine, sine * turn.cos(), sine * turn.sin()], 1)
        ways = local @ axes  # (K, 3)
        return ways, p.expand(len(ways), 1, 3), ways[:, None]

    def onward(state: State, way: Tensor) -> State:
        u = unit(way)
        e, f = frame(u)
        return state[0] + options.step * u, torch.stack([u, e, f])

    where = "tract.sample_cone"
    return _followed(where, seed, noise, field, options, temperature, draw, onward)


def transport(
    seed: Seed,
    noise: Tensor,
    field: Field,
    options: Options,
    temperature: float = 0.0,
    probe: int = 4,
) -> Track:
    """Follow a streamline one way by parallel transport of a frame (PTT).

    The curve has curvatures (k1, k2) along the frame's two normals, |k| at most
    2 sin(angle/2)/step. Of K candidates one is taken with a probability proportional
    to the mean FOD along an arc of ``probe`` steps; the frame goes along the arc.

    Args:
        seed: position and unit direction to start with.
        noise (steps, K, 3): uniform numbers in (0, 1): two of a curvature, one of the
            choice.
        field: the FODs.
        options: step, angle and cutoff; regions are not looked at.
        temperature: as for `sample_cone`.
        probe: steps that a candidate looks ahead.

    Returns:
        The track from the seed on, with T = steps + 1.

    Raises:
        TypeError: a value is no floating tensor, or dtypes differ.
        ValueError: the seed has no direction, or the noise has another shape.

    Reference:
        Aydogan and Shi 2021, IEEE Trans Med Imaging 40:635.

    >>> import torch
    >>> from mrsim import tract
    >>> one = torch.tensor([1.0, 0, 0, 1.0, 0, 0]).expand(5, 5, 5, 6)  # along z
    >>> fod = tract.Field(coefficients=one, affine=torch.eye(4))
    >>> at, up = torch.tensor([2.0, 2, 1]), torch.tensor([0.0, 0, 1])
    >>> noise = torch.rand(4, 8, 3, generator=torch.Generator().manual_seed(0))
    >>> seed = Seed(position=at, direction=up)
    >>> transport(seed, noise, fod, tract.options(fod, step=0.5)).points.shape
    torch.Size([5, 3])
    """
    h = options.step
    most = 2 * math.sin(options.angle / 2)

    def draw(state: State, some: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p, axes = state
        size, turn = most / h * some[:, 0].sqrt(), math.tau * some[:, 1]
        bends = torch.stack([size * turn.cos(), size * turn.sin()], 1)
        ahead = h * torch.arange(1, probe + 1, device=p.device).to(p)
        points, ways = zip(*(_arc(bends, axes, s) for s in ahead), strict=True)
        return bends, p + torch.stack(points, 1), torch.stack(ways, 1)

    def onward(state: State, bend: Tensor) -> State:
        p, axes = state
        move, u = _arc(bend[None], axes, h)
        return p + move[0], _carried(axes, unit(u[0]))

    where = "tract.transport"
    return _followed(where, seed, noise, field, options, temperature, draw, onward)


def _arc(bends: Tensor, axes: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Return where an arc of length s leads (K, 3), and its direction there."""
    square = (bends * bends).sum(1)
    k = torch.where(square > 1e-16, square, 1.0).sqrt()
    tiny = square <= 1e-16
    sine = torch.where(tiny, s, (k * s).sin() / k)
    rest = torch.where(tiny, s * s / 2, (1 - (k * s).cos()) / square.clamp(min=1e-16))
    normal = bends @ axes[1:]
    move = sine[:, None] * axes[0] + rest[:, None] * normal
    turned = (k * s).cos()[:, None] * axes[0] + sine[:, None] * normal
    return move, turned


def _carried(axes: Tensor, u: Tensor) -> Tensor:
    """Turn a frame so that its first axis becomes u, by the smallest rotation."""
    whole = axes[0] + u
    normals = axes[1:] - (axes[1:] @ u)[:, None] * whole / (1 + axes[0] @ u)
    return torch.cat([u[None], normals])


def _followed(
    where: str,
    seed: Seed,
    noise: Tensor,
    field: Field,
    options: Options,
    temperature: float,
    draw: Draw,
    onward: Callable[[State, Tensor], State],
) -> Track:
    """Walk: draw candidates, weigh them by the FOD on their points, go on with one."""
    _check(where, seed, noise)
    plan, leaves = prepared(where, seed, field, options)
    values, turn = leaves[2], leaves[3]
    look = partial(_looked, values, turn, plan.rule.shape)
    u = unit(leaves[1])
    state = (leaves[0], torch.stack([u, *frame(u)]))
    held = inside(voxels(turn[..., None], state[0][:, None]), plan.rule.shape)[0]
    reason = torch.where(held, GO, IMAGE)
    points, ways, length = [state[0]], [], held.long()
    for some in noise:
        chosen, places, along = draw(state, some)
        score, stop = _judged(look, places, along, options.cutoff, some[:, 2])
        weights = _weights(score, temperature)
        further = onward(state, (weights[:, None] * chosen).sum(0))
        reason = torch.where(reason == GO, stop, reason)
        go = reason == GO
        ways.append(torch.where(go, further[1][0], 0.0))
        at, axes = (torch.where(go, x, y) for x, y in zip(further, state, strict=True))
        state = at, axes
        points.append(torch.where(go, state[0], 0.0))
        length = length + go.long()
    full = torch.where(reason == GO, LENGTH, reason)
    return Track(
        points=torch.stack(points) * held.to(leaves[0]),
        directions=torch.stack([*ways, torch.zeros_like(u)]),
        length=length,
        seed_index=torch.zeros_like(length),
        accepted=length >= options.least,
        reasons=torch.stack([full, torch.zeros_like(full)]),
    )


def _judged(
    look: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    places: Tensor,
    along: Tensor,
    cutoff: float,
    luck: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the candidates' scores (K,), and why none can be taken, or `GO`."""
    shape = along.shape[:2]
    ahead = unit(along.flatten(0, 1).t()).t()
    size, within = look(places.expand(along.shape).flatten(0, 1), ahead)
    size, within = size.reshape(shape).mean(1), within.reshape(shape)
    fine = within[:, 0] & (size >= cutoff)
    luck = luck.clamp(min=torch.finfo(luck.dtype).tiny)  # torch.rand does give 0
    score = torch.where(fine, size, 1.0).log() - (-luck.log()).log()
    found = fine.any()
    score = torch.where(found, torch.where(fine, score, -math.inf), 0.0)
    return score, torch.where(found, GO, torch.where(within.any(), MODEL, IMAGE))


def _looked(
    values: Tensor,
    turn: Tensor,
    shape: tuple[int, int, int],
    points: Tensor,
    ways: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return amplitudes (M,) along ways (M, 3) at points (M, 3), and if inside."""
    v = voxels(turn[..., None], points.t())
    corners = trilinear(v, shape, slopes=False)
    rows = values.index_select(0, corners.rows.reshape(-1))
    c = (rows.unflatten(0, (8, -1)) * corners.weights[..., None]).sum(0).t()
    size = torch.func.vmap(
        lambda x, w: amplitudes(x[:, None], w[:, None])[0, 0], in_dims=(1, 0)
    )(c, ways)
    return size, inside(v, shape)


def _weights(score: Tensor, temperature: float) -> Tensor:
    """Return softmax weights of candidates; at temperature 0 the best has all."""
    if temperature > 0:
        return (score / temperature).softmax(0)
    best = torch.arange(len(score), device=score.device) == score.argmax(0)
    return best.to(score)


def _check(where: str, seed: Seed, noise: Tensor) -> None:
    check_floats(where, seed=seed.position, noise=noise)
    if seed.direction is None:
        raise ValueError(f"{where}: a sampled streamline needs a Seed with a direction")
    if noise.ndim != 3 or not noise.shape[1] or noise.shape[2] != 3:
        raise ValueError(
            f"{where}: noise must be (steps, candidates, 3) uniform numbers, as"
            f" torch.rand(steps, candidates, 3), got {tuple(noise.shape)}"
        )
