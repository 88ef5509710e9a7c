"""Streamlines that are drawn: cone sampling and parallel transport."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp, vmap
from tract.phantoms import along, curved, inside, lobes

from mrsim import tract
from mrsim.tree import replace

FIELD = curved(size=8, lmax=6)
OPTIONS = tract.options(FIELD, step=0.3, angle=0.3, minlength=0.0)
KINDS = pytest.mark.parametrize("kind", [tract.sample_cone, tract.transport])


def uniform(size: int = 9) -> tract.Field:
    c = lobes(torch.tensor([[0.0, 0.0, 1.0]]), torch.ones(1), 6)
    return tract.Field(coefficients=c.expand(size, size, size, -1), affine=torch.eye(4))


@KINDS
def test_steps_and_turns_keep_their_limits(
    kind: Callable[..., tract.Track], generator: torch.Generator
) -> None:
    noise = torch.rand(6, 20, 40, 3, generator=generator)
    seeds = tract.Seed(position=inside(6), direction=along(6))
    made = vmap(kind, in_dims=(0, 0, None, None))(seeds, noise, FIELD, OPTIONS)
    assert made.points.isfinite().all()
    assert made.length.max() > 5
    for track, n in zip(made.points, made.length.tolist(), strict=True):
        steps = track[:n].diff(dim=0)
        assert (steps.norm(dim=1) <= 0.3 + 1e-12).all()
        assert (steps.norm(dim=1) > 0.29).all()
        u = torch.nn.functional.normalize(steps)
        cosine = (u[1:] * u[:-1]).sum(1).clamp(-1, 1)
        assert (cosine.acos() <= 0.31).all()
        assert (track[n:] == 0).all()


def test_the_cone_is_sampled_as_the_fod_is(generator: torch.Generator) -> None:
    """First steps follow the FOD within the cone: the mean cosine to its axis."""
    field = uniform()
    opts = tract.options(field, step=0.1, angle=1.0, cutoff=0.0, minlength=0.0)
    start = torch.nn.functional.normalize(torch.tensor([0.3, 0.0, 1.0]), dim=0)
    seed = tract.Seed(position=torch.full((3,), 4.2), direction=start)
    noise = torch.rand(3000, 1, 60, 3, generator=generator)
    made = vmap(tract.sample_cone, in_dims=(None, 0, None, None))(
        seed, noise, field, opts
    )
    taken = made.directions[:, 0]
    # by quadrature over the same cone
    ways = tract.hemisphere(200_000)
    ways = torch.cat([ways, -ways])
    held = ways[(ways @ start) > torch.tensor(1.0).cos()]
    size = (tract.harmonics(held, 6) @ field.coefficients[0, 0, 0]).clamp(min=0)
    mean = (held * size[:, None]).sum(0) / size.sum()
    spread = taken.std(0) / 3000**0.5
    assert ((taken.mean(0) - mean).abs() < 4 * spread + 0.003).all()


@KINDS
def test_soft_choices_have_derivatives(
    kind: Callable[..., tract.Track], generator: torch.Generator
) -> None:
    noise = torch.rand(5, 12, 3, generator=generator)
    p = inside(1)[0]
    way = 0.1 * torch.randn(FIELD.coefficients.shape, generator=generator)

    def end(t: Tensor, p: Tensor) -> Tensor:
        field = replace(FIELD, coefficients=FIELD.coefficients + t * way)
        seed = tract.Seed(position=p, direction=along(1)[0])
        return kind(seed, noise, field, OPTIONS, 0.5).points[-1].square().sum()

    zero, h = torch.zeros(()), 1e-6
    made = grad(end)(zero, p)
    assert made != 0
    assert torch.allclose(
        made, (end(zero + h, p) - end(zero - h, p)) / (2 * h), rtol=1e-6
    )
    assert torch.allclose(jvp(lambda t: end(t, p), (zero,), (zero + 1,))[1], made)
    slope, step = grad(end, 1)(zero, p), torch.tensor([h, 0.0, 0.0])
    wanted = (end(zero, p + step) - end(zero, p - step)) / (2 * h)
    assert torch.allclose(slope[0], wanted, rtol=1e-6)


@KINDS
def test_bad_noise_teaches(kind: Callable[..., tract.Track]) -> None:
    seed = tract.Seed(position=inside(1)[0])
    with pytest.raises(ValueError, match="direction"):
        kind(seed, torch.rand(3, 4, 3), FIELD, OPTIONS)
    seed = replace(seed, direction=along(1)[0])
    with pytest.raises(ValueError, match="candidates"):
        kind(seed, torch.rand(3, 4), FIELD, OPTIONS)
    with pytest.raises(ValueError, match="candidates"):
        kind(seed, torch.rand(3, 0, 3), FIELD, OPTIONS)
    with pytest.raises(TypeError, match=r"noise is torch\.float32"):
        kind(seed, torch.rand(3, 4, 3).float(), FIELD, OPTIONS)


@pytest.mark.parametrize("temperature", [0.0, 0.5])
@KINDS
def test_a_choice_by_the_number_0_is_a_choice(
    kind: Callable[..., tract.Track], temperature: float
) -> None:
    seed = tract.Seed(position=inside(1)[0], direction=along(1)[0])
    noise = torch.full((3, 1, 3), 0.01)
    made = [
        kind(seed, noise * scale, FIELD, OPTIONS, temperature).points
        for scale in (torch.ones(3), torch.tensor([1.0, 1.0, 0.0]))
    ]
    assert torch.equal(*made)
