"""Properties of streamlines: symmetries, criteria, bad input."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.func import vmap
from tract.phantoms import AFFINE, along, curved, inside, lobes

import mrsim
from mrsim import tract
from mrsim.tree import replace

FIELD = curved(size=8, lmax=6)
SEEDS = tract.Seed(position=inside(12), direction=along(12))
OPTIONS = tract.options(FIELD, step=0.3, minlength=0.0)
many = vmap(tract.stream, in_dims=(0, None, None))
angles = st.floats(-3.0, 3.0)


def rotation(a: float, b: float, c: float) -> Tensor:
    turns = []
    for x, (i, j) in zip((a, b, c), ((0, 1), (1, 2), (0, 1)), strict=True):
        turn = torch.eye(3)
        turn[i, i] = turn[j, j] = math.cos(x)
        turn[i, j], turn[j, i] = -math.sin(x), math.sin(x)
        turns.append(turn)
    return turns[0] @ turns[1] @ turns[2]


def uniform(axis: Tensor, size: int = 6) -> tract.Field:
    c = lobes(axis[None], torch.ones(1), 6)
    return tract.Field(coefficients=c.expand(size, size, size, -1), affine=AFFINE)


@settings(max_examples=8, deadline=None)
@given(angles, angles, angles)
def test_rotating_everything_rotates_the_tracks(a: float, b: float, c: float) -> None:
    R = rotation(a, b, c)
    whole = torch.eye(4)
    whole[:3, :3] = R
    turned = tract.Field(
        coefficients=tract.rotate(FIELD.coefficients, R), affine=whole @ FIELD.affine
    )
    seeds = tract.Seed(
        position=SEEDS.position @ R.t(), direction=SEEDS.direction @ R.t()
    )
    made, wanted = many(seeds, turned, OPTIONS), many(SEEDS, FIELD, OPTIONS)
    same = made.length == wanted.length
    assert same.float().mean() >= 0.9  # an end may lie on a threshold
    assert torch.allclose(made.points[same], wanted.points[same] @ R.t(), atol=1e-6)


def test_the_other_direction_reverses_the_track() -> None:
    made = many(replace(SEEDS, direction=-SEEDS.direction), FIELD, OPTIONS)
    wanted = many(SEEDS, FIELD, OPTIONS)
    assert torch.equal(made.length, wanted.length)
    for a, b, n in zip(made.points, wanted.points, wanted.length.tolist(), strict=True):
        assert torch.allclose(a[:n], b[:n].flip(0), atol=1e-9)
    assert torch.equal(made.seed_index, wanted.length - 1 - wanted.seed_index)
    assert torch.equal(made.reasons, wanted.reasons.flip(1))


@settings(max_examples=10, deadline=None)
@given(angles, angles)
def test_a_uniform_field_gives_straight_lines_to_the_border(a: float, b: float) -> None:
    axis = rotation(a, b, 0.0)[:, 0]
    field = uniform(axis)
    opts = tract.options(field, step=0.25, minlength=0.0)
    p = AFFINE[:3, :3] @ torch.tensor([2.3, 2.6, 2.4]) + AFFINE[:3, 3]
    track = tract.stream(tract.Seed(position=p, direction=axis), field, opts)
    points = track.points[: int(track.length)]
    away = points - p
    assert torch.allclose(
        torch.linalg.cross(away, axis.expand_as(away)), away * 0, atol=1e-9
    )
    assert torch.allclose(
        points.diff(dim=0).norm(dim=1), torch.full((len(points) - 1,), 0.25)
    )
    assert [tract.REASONS[k] for k in track.reasons.tolist()] == ["left the image"] * 2
    v = (
        torch.linalg.inv(AFFINE)
        @ torch.cat([points, torch.ones(len(points), 1)], 1).t()
    )
    outside = (v[:3] <= -0.5) | (v[:3] >= 5.5)
    assert outside.any(0).tolist() == [True] + [False] * (len(points) - 2) + [True]


def test_seeds_do_not_know_of_each_other() -> None:
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    shuffled = tract.Seed(
        position=SEEDS.position[order], direction=SEEDS.direction[order]
    )
    wanted = many(SEEDS, FIELD, OPTIONS)
    for opts in (OPTIONS, replace(OPTIONS, lanes=3)):
        made = many(shuffled, FIELD, opts)
        assert torch.equal(made.length, wanted.length[order])
        assert torch.allclose(made.points, wanted.points[order], atol=1e-11)
    for i in (0, 5):
        seed = tract.Seed(position=SEEDS.position[i], direction=SEEDS.direction[i])
        one = tract.stream(seed, FIELD, OPTIONS)
        assert torch.allclose(one.points, wanted.points[i], atol=1e-11)
        whole = many(mrsim.expand(seed, 1), FIELD, OPTIONS)
        assert torch.equal(whole.points[0], one.points)


def test_ragged_and_padded_tracks_are_the_same() -> None:
    padded, bundle = many(SEEDS, FIELD, OPTIONS), tract.tracks(SEEDS, FIELD, OPTIONS)
    other = tract.ragged(padded)
    assert torch.equal(bundle.points, other.points)
    assert torch.equal(bundle.offsets, other.offsets)
    parts = list(tract.tracks_in_chunks(SEEDS, FIELD, OPTIONS, chunk=5))
    assert torch.allclose(
        torch.cat([x.points for x in parts]), bundle.points, atol=1e-11
    )
    some = tract.selected(bundle, bundle.offsets.diff() > 20)
    assert (some.offsets.diff() > 20).all()
    assert len(some.points) == int(some.offsets[-1])


@pytest.mark.parametrize("ratio", [1, 2, 3, 7])
def test_downsampling_keeps_the_seed_and_both_ends(ratio: int) -> None:
    bundle = tract.tracks(SEEDS, FIELD, OPTIONS)
    thin = tract.downsample(bundle, ratio)
    for k in range(12):
        a, b = bundle.offsets[k : k + 2].tolist()
        c, d = thin.offsets[k : k + 2].tolist()
        whole, kept = bundle.points[a:b], thin.points[c:d]
        s = int(bundle.seed_index[k])
        index = sorted({0, b - a - 1, *range(s, b - a, ratio), *range(s, -1, -ratio)})
        assert torch.equal(kept, whole[index])
        assert torch.equal(kept[thin.seed_index[k]], whole[s])


def test_criteria_end_and_reject() -> None:
    base = many(SEEDS, FIELD, OPTIONS)
    n = int(base.length.max())
    short = tract.options(FIELD, step=0.3, minlength=0.0, maxlength=1.5)
    made = many(SEEDS, FIELD, short)
    assert made.length.max() <= short.most + 1
    assert [tract.REASONS[k] for k in made.reasons[0].tolist()] == [
        "maximum length"
    ] * 2
    long = tract.options(FIELD, step=0.3, minlength=0.3 * n)
    assert torch.equal(many(SEEDS, FIELD, long).accepted, base.length >= long.least)
    ball = tract.Regions(centres=SEEDS.position[:1], radii=torch.tensor([0.8]))
    out = many(SEEDS, FIELD, replace(OPTIONS, exclude=ball))
    assert not out.accepted[0]
    assert out.length[0] == 0  # the seed lies in it
    hit = many(SEEDS, FIELD, replace(OPTIONS, include=ball)).accepted
    near = torch.stack(
        [
            (t[:m] - SEEDS.position[0]).norm(dim=1).min() <= 0.8
            for t, m in zip(base.points, base.length.tolist(), strict=True)
        ]
    )
    # the last vertex after which nothing is looked for counts too
    assert torch.equal(hit, near)
    excluded = (out.reasons == tract.REASONS.index("entered an excluded region")).any(1)
    assert torch.equal(excluded, near)
    stopped = many(SEEDS, FIELD, replace(OPTIONS, include=ball, stop=True))
    assert (stopped.length[near] <= base.length[near]).all()
    assert (stopped.length[near] < base.length[near]).any()
    one_way = many(SEEDS, FIELD, replace(OPTIONS, both=False))
    assert (one_way.seed_index == 0).all()
    assert torch.equal(one_way.length - 1, base.seed_index)
    held = tract.Regions(centres=SEEDS.position[:1], radii=torch.tensor([3.0]))
    masked = many(SEEDS, FIELD, replace(OPTIONS, mask=held))
    for t, m in zip(masked.points, masked.length.tolist(), strict=True):
        assert ((t[:m] - SEEDS.position[0]).norm(dim=1) <= 3.0).all()


def test_without_a_direction_the_strongest_lobe_is_followed() -> None:
    axis = torch.tensor([0.48, 0.6, 0.64])
    c = lobes(
        torch.stack([axis, torch.tensor([0.8, -0.6, 0.0])]), torch.tensor([1.0, 0.5]), 8
    )
    field = tract.Field(coefficients=c.expand(4, 4, 4, -1), affine=torch.eye(4))
    track = tract.stream(
        torch.full((3,), 1.4), field, tract.options(field, minlength=0.0)
    )
    way = track.points[0] - track.points[1]
    assert abs(float(way @ axis)) / float(way.norm()) > 0.99


def test_a_nan_voxel_ends_only_what_enters_it() -> None:
    c = FIELD.coefficients.clone()
    c[6, 4, 4] = torch.nan
    broken = replace(FIELD, coefficients=c)
    made, wanted = many(SEEDS, broken, OPTIONS), many(SEEDS, FIELD, OPTIONS)
    same = torch.tensor(
        [torch.equal(a, b) for a, b in zip(made.points, wanted.points, strict=True)]
    )
    assert same.any()
    assert (~same).any()
    assert made.points.isfinite().all()
    assert (made.length <= wanted.length).all()


def test_bad_input_teaches() -> None:
    p, odd = SEEDS.position[0], replace(FIELD, coefficients=torch.ones(2, 2, 2, 10))
    with pytest.raises(ValueError, match="lmax even"):
        tract.stream(p, odd, OPTIONS)
    with pytest.raises(ValueError, match="singular"):
        tract.options(replace(FIELD, affine=torch.ones(4, 4)))
    with pytest.raises(ValueError, match="vmap"):
        tract.stream(SEEDS.position, FIELD, OPTIONS)
    with pytest.raises(TypeError, match="float32"):
        tract.stream(p.float(), FIELD, OPTIONS)
    with pytest.raises(TypeError, match=r"tract\.Field"):
        tract.stream(p, FIELD.coefficients, OPTIONS)
    nothing = tract.Regions(images=torch.zeros(1, 8, 8, 8), affine=AFFINE)
    with pytest.raises(ValueError, match="empty"):
        tract.options(FIELD, mask=nothing)
    with pytest.raises(ValueError, match=r"tract\.stream"):
        vmap(lambda x: tract.tracks(x[None], FIELD, OPTIONS).points)(SEEDS.position)
    outside = tract.stream(torch.tensor([500.0, 0.0, 0.0]), FIELD, OPTIONS)
    assert outside.length == 0
    assert not outside.accepted
    assert (outside.points == 0).all()


def test_the_kernel_is_refused_where_it_cannot_run() -> None:
    with pytest.raises(ValueError, match="float32"):
        tract.stream(SEEDS.position[0], FIELD, replace(OPTIONS, compiled=True))


def test_the_kernel_follows_several_subjects() -> None:
    field, seeds, opts = (mrsim.to(x, torch.float32) for x in (FIELD, SEEDS, OPTIONS))
    scales = torch.tensor([1.0, 1.1, 0.9])
    fields = vmap(lambda s: replace(field, coefficients=s * field.coefficients))(scales)
    nested = vmap(many, in_dims=(None, 0, None))
    made = nested(seeds, fields, replace(opts, compiled=True))
    wanted = nested(seeds, fields, opts)
    same = made.length == wanted.length
    assert same.float().mean() > 0.9
    assert torch.allclose(made.points[same], wanted.points[same], atol=2e-3)


def test_torch_compile_leaves_tracking_alone() -> None:
    seed = tract.Seed(position=SEEDS.position[0], direction=SEEDS.direction[0])

    def twice(seed: tract.Seed, field: tract.Field) -> Tensor:
        return 2 * tract.stream(seed, field, OPTIONS).points

    made = torch.compile(twice, backend="eager")(seed, FIELD)
    assert torch.equal(made, twice(seed, FIELD))
    assert made.abs().max() > 1
