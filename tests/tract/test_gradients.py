"""Derivatives of whole tracks: against differences, their memory, their flags."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vmap
from tract.phantoms import along, curved, inside, lobes

import mrsim
from mrsim import tract
from mrsim.tree import replace

COUNT = 40
FIELD = curved(size=9, lmax=6)
POSITIONS = inside(COUNT, size=9, margin=2.6)
SEEDS = tract.Seed(position=POSITIONS, direction=along(COUNT))
EULER = tract.options(FIELD, step=0.2, minlength=0.0, maxlength=3.0)
RK4 = tract.options(FIELD, step=0.4, minlength=0.0, maxlength=1.2, rk4=True)
BOTH = pytest.mark.parametrize("options", [EULER, RK4], ids=["euler", "rk4"])
many = vmap(tract.stream, in_dims=(0, None, None))


def moved(
    options: tract.Options, which: str, way: Tensor, t: Tensor | float
) -> tract.Track:
    seeds, field, opts = SEEDS, FIELD, options
    if which == "seed":
        seeds = replace(SEEDS, position=POSITIONS + t * way)
    elif which == "step":
        opts = replace(options, step=options.step + t * way)
    else:
        field = replace(FIELD, **{which: getattr(FIELD, which) + t * way})
    return many(seeds, field, opts)


def ways(generator: torch.Generator) -> dict[str, Tensor]:
    affine = 0.01 * torch.randn(4, 4, generator=generator)
    affine[3] = 0
    return {
        "seed": torch.randn(COUNT, 3, generator=generator),
        "coefficients": 0.1
        * torch.randn(FIELD.coefficients.shape, generator=generator),
        "affine": affine,
        "step": torch.tensor(0.3),
    }


@BOTH
def test_derivatives_are_central_differences(
    options: tract.Options, generator: torch.Generator
) -> None:
    whole = many(SEEDS, FIELD, options)
    sound = vmap(tract.conditioning, in_dims=(0, None, None))(whole, FIELD, options)
    flagged = sound.amin(1) < 0.02
    zero, h = torch.zeros(()), 2e-6
    for which, way in ways(generator).items():

        def at(t: Any, which: str = which, way: Tensor = way) -> tract.Track:
            return moved(options, which, way, t)

        made = jvp(lambda t: at(t).points, (zero,), (zero + 1,))[1]
        ahead, behind = at(h), at(-h)
        same = (ahead.length == whole.length) & (behind.length == whole.length)
        assert same.float().mean() > 0.9
        differences = (ahead.points - behind.points) / (2 * h)
        error = (made - differences).flatten(1).norm(dim=1)
        error = (error / differences.flatten(1).norm(dim=1))[same & ~flagged]
        print(which, error.median(), error.quantile(0.98), int(flagged.sum()))
        assert error.median() <= 1e-6
        assert error.quantile(0.98) <= 1e-4


@BOTH
def test_reverse_is_forward(options: tract.Options, generator: torch.Generator) -> None:
    weights = torch.randn(COUNT, options.most + 1, 3, generator=generator)
    lengths = ways(generator)

    def loss(seeds: Tensor, field: tract.Field, opts: tract.Options) -> Tensor:
        some = many(replace(SEEDS, position=seeds), field, opts)
        return (weights * some.points).sum()

    seed, field, opts = grad(loss, argnums=(0, 1, 2))(POSITIONS, FIELD, options)
    reverse = {
        "seed": seed,
        "coefficients": field.coefficients,
        "affine": field.affine,
        "step": opts.step,
    }
    zero = torch.zeros(())
    for which, way in lengths.items():
        along_way = jvp(
            lambda t, which=which, way=way: (
                moved(options, which, way, t).points * weights
            ).sum(),
            (zero,),
            (zero + 1,),
        )[1]
        assert torch.allclose((reverse[which] * way).sum(), along_way, rtol=1e-9)


def test_subjects_and_ensembles_compose() -> None:
    """Nested vmap with shared and own fields, and gradients inside and outside."""
    fields = vmap(lambda s: replace(FIELD, coefficients=s * FIELD.coefficients))(
        torch.tensor([1.0, 1.02])
    )
    opts = replace(EULER, most=6)
    some = tract.Seed(position=POSITIONS[:3], direction=SEEDS.direction[:3])
    nested = vmap(vmap(tract.stream, (0, None, None)), (None, 0, None))

    def points(coefficients: Tensor) -> Tensor:
        whole = replace(fields, coefficients=coefficients)
        return nested(some, whole, opts).points

    made = grad(lambda c: points(c).square().sum())(fields.coefficients)
    for i in range(2):
        own = replace(FIELD, coefficients=fields.coefficients[i])
        each = [
            tract.Seed(position=p, direction=some.direction[0]) for p in some.position
        ]
        wanted = sum(
            grad(lambda f, s=s: tract.stream(s, f, opts).points.square().sum())(
                own
            ).coefficients
            for s in each
        )
        assert torch.allclose(made[i], wanted, rtol=1e-10, atol=1e-12)

    def ends(p: Tensor) -> Tensor:
        return tract.stream(
            replace(some, position=p, direction=some.direction[0]), FIELD, opts
        ).points

    forward, reverse = (
        vmap(jacfwd(ends))(some.position),
        vmap(jacrev(ends))(some.position),
    )
    loop = torch.stack([jacrev(ends)(p) for p in some.position])
    assert torch.allclose(forward, loop, atol=1e-12)
    assert torch.allclose(reverse, loop, atol=1e-12)


def test_saved_memory_is_points_and_directions() -> None:
    field, seeds, opts = (mrsim.to(x, torch.float32) for x in (FIELD, SEEDS, EULER))
    opts = replace(opts, most=21)
    field = replace(field, coefficients=field.coefficients.requires_grad_())
    shared = {
        x.untyped_storage().data_ptr() for x in (field.coefficients, seeds.position)
    }
    saved: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in shared:
            saved[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        track = many(seeds, field, opts)
    image = field.coefficients.numel() * 4  # its polynomial form
    steps = COUNT * (opts.most + 1)
    each = (sum(saved.values()) - image) / steps
    print(f"{each:.1f} bytes a streamline-step")
    assert 0 < each <= 32
    track.points.square().sum().backward()
    assert field.coefficients.grad is not None
    assert field.coefficients.grad.isfinite().all()


def test_a_vanishing_peak_is_flagged() -> None:
    """Two lobes that merge: the value falls to nothing where they become one."""
    values = []
    for half in torch.linspace(0.25, 0.8, 40).tolist():
        a, b = math.cos(half), math.sin(half)
        axes = torch.tensor([[a, b, 0.0], [a, -b, 0.0]])
        c = lobes(axes, torch.ones(2), 8).expand(3, 3, 3, 45)
        field = tract.Field(coefficients=c, affine=torch.eye(4))
        seed = tract.Seed(position=torch.ones(3) * 1.1, direction=axes[0])
        opts = tract.options(field, step=0.1, minlength=0.0, maxlength=0.2)
        track = tract.stream(seed, field, opts)
        values.append(tract.conditioning(track, field, opts).amin())
    assert min(values) < 0.2
    assert values[-1] > 0.5
    assert tract.conditioning(track, field, opts)[int(track.length) - 1].isinf()


def test_soft_weights_are_smooth_and_right() -> None:
    one = tract.Seed(position=POSITIONS[0], direction=SEEDS.direction[0])
    track = tract.stream(one, FIELD, EULER)
    n, s = int(track.length), int(track.seed_index)
    weights = tract.soft_weights(track, FIELD, EULER)
    assert weights[s] == 1
    assert (weights[n:] == 0).all()
    assert (weights[s:n].diff() <= 1e-12).all()
    assert (weights[: s + 1].diff() >= -1e-12).all()

    def mass(scale: Tensor) -> Tensor:
        field = replace(FIELD, coefficients=scale * FIELD.coefficients)
        harder = replace(EULER, cutoff=0.3)
        return tract.soft_weights(tract.stream(one, field, harder), field, harder).sum()

    x = torch.tensor(0.35)
    made = grad(mass)(x)
    assert made > 0
    wanted = (mass(x + 1e-6) - mass(x - 1e-6)) / 2e-6
    assert torch.allclose(made, wanted, rtol=1e-5)


def signals() -> tract.Signals:
    """Return noise-free signals of tensors that fan out."""
    axes = torch.nn.functional.normalize(
        torch.stack([torch.ones(6, 6), torch.linspace(0, 0.6, 6).expand(6, 6)], -1),
        dim=-1,
    )
    axes = torch.cat([axes, 0.1 * torch.ones(6, 6, 1)], -1)
    axes = torch.nn.functional.normalize(axes, dim=-1)[:, :, None].expand(6, 6, 6, 3)
    ways = tract.hemisphere(20)
    b = torch.tensor([0.0] * 2 + [1000.0] * 20)
    ways = torch.cat([ways[:2], ways])
    D = 0.3e-3 + 1.4e-3 * (axes @ ways.t()) ** 2
    scheme = tract.Scheme(b=b, directions=ways)
    return tract.Signals(signals=(-b * D).exp(), scheme=scheme, affine=torch.eye(4))


def vectors() -> tract.Vectors:
    grid = torch.cartesian_prod(*[torch.arange(6.0)] * 3)
    first = torch.stack([grid[:, 0] * 0 + 1, 0.1 * grid[:, 1], 0.05 * grid[:, 2]], -1)
    other = torch.tensor([0.0, 0.3, 0.7]).expand(216, 3)
    both = torch.cat([other, first], 1).reshape(6, 6, 6, 6)
    return tract.Vectors(vectors=both, affine=torch.eye(4))


@pytest.mark.parametrize("make", [signals, vectors])
@pytest.mark.parametrize("rk4", [False, True])
def test_other_images_have_derivatives_too(
    make: Any, rk4: bool, generator: torch.Generator
) -> None:
    field = make()
    opts = tract.options(field, step=0.31, minlength=0.0, maxlength=1.2, rk4=rk4)
    p = torch.tensor([2.31, 2.62, 2.83])
    seed = tract.Seed(position=p, direction=torch.tensor([1.0, 0.1, 0.0]))
    leaves, structure = mrsim.tree.tree_flatten((seed, field, opts))
    steps = [
        1e-3 * torch.randn(x.shape, generator=generator) * (x.abs() + 0.1)
        for x in leaves
    ]

    def at(t: Tensor) -> Tensor:
        moved = [x + t * s for x, s in zip(leaves, steps, strict=True)]
        return tract.stream(*mrsim.tree.tree_unflatten(moved, structure)).points

    zero = torch.zeros(())
    made = jvp(at, (zero,), (zero + 1,))[1]
    wanted = (at(zero + 1e-4) - at(zero - 1e-4)) / 2e-4
    assert made.abs().max() > 1e-4
    assert torch.allclose(made, wanted, rtol=1e-5, atol=1e-9)
    weights = torch.randn(made.shape, generator=generator)
    reverse = grad(lambda t: (weights * at(t)).sum())(zero)
    assert torch.allclose(reverse, (weights * made).sum(), rtol=1e-9)
    twice = jvp(lambda t: jvp(at, (t,), (zero + 1,))[1], (zero,), (zero + 1,))[1]
    ahead, behind = (jvp(at, (zero + s,), (zero + 1,))[1] for s in (1e-3, -1e-3))
    assert torch.allclose(twice, (ahead - behind) / 2e-3, rtol=1e-3, atol=1e-8)
