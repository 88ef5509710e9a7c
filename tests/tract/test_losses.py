import math

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap

from mrsim import tract


def n(k: int) -> Tensor:
    return torch.tensor(k)


def circle(vertices: int, radius: float = 5.0, padded: int = 0) -> Tensor:
    t = torch.linspace(0, 2, vertices)
    points = radius * torch.stack([t.cos(), t.sin(), 0 * t], -1)
    return torch.cat([points, torch.full((padded, 3), torch.nan)])


def test_length_and_curvature_of_a_circle() -> None:
    arc = circle(41, padded=5)
    chord = 2 * 5.0 * math.sin(2 / 40 / 2)
    assert torch.allclose(tract.length(arc, n(41)), torch.tensor(40 * chord))
    bent = tract.curvature(arc, n(41))
    assert torch.allclose(bent[:39], torch.tensor(0.2))
    assert bool((bent[39:] == 0).all())
    line = torch.linspace(0, 1, 5)[:, None] * torch.ones(3)
    assert tract.curvature(line, n(5)).abs().max() < 1e-6
    assert tract.length(arc, n(0)) == 0
    assert tract.length(arc, n(1)) == 0


def test_resampling(generator: torch.Generator) -> None:
    points = torch.randn(30, 3, generator=generator)
    padded = torch.cat([points, torch.full((4, 3), torch.nan)])
    made = tract.resample(padded, n(30), 17)
    assert torch.equal(made[0], points[0])
    assert torch.allclose(made[-1], points[-1])
    steps = points.diff(dim=0).norm(dim=-1)
    run = torch.cat([torch.zeros(1), steps.cumsum(0)])
    for k in range(17):
        s = run[-1] * k / 16
        i = min(int((run <= s).sum()) - 1, 28)
        wanted = points[i] + (s - run[i]) / steps[i] * (points[i + 1] - points[i])
        assert torch.allclose(made[k], wanted)
    still = tract.resample(points[:1].expand(4, 3), n(4), 5)
    assert torch.equal(still, points[:1].expand(5, 3))
    assert torch.equal(tract.resample(padded, n(1), 3), points[:1].expand(3, 3))
    # equal arcs stay equal: resampling twice changes nothing on a circle
    arc = circle(31)
    assert torch.allclose(tract.resample(arc, n(31), 31), arc, atol=1e-12)
    with pytest.raises(ValueError, match="at least 2"):
        tract.resample(arc, n(31), 1)


def test_distances_of_parallel_lines() -> None:
    a = torch.linspace(0, 10, 11)[:, None] * torch.tensor([1.0, 0, 0])
    b = (a + torch.tensor([0.0, 3.0, 4.0])).flip(0)
    pad = torch.full((2, 3), torch.nan)
    wide = torch.cat([b, pad])
    five = torch.tensor(5.0)
    assert torch.allclose(tract.mdf(a, b), five)
    assert torch.allclose(tract.average_minimum(a, n(11), wide, n(11)), five)
    assert torch.allclose(tract.hausdorff(a, n(11), wide, n(11)), five)
    assert torch.allclose(tract.endpoint_distance(a, n(11), wide, n(11)), five)
    half = a[:6]
    assert torch.allclose(tract.hausdorff(a, n(11), half, n(6)), five)
    assert torch.allclose(
        tract.average_minimum(a, n(11), half, n(6)), torch.tensor(15 / 11 / 2)
    )
    with pytest.raises(ValueError, match="resample"):
        tract.mdf(a, half)


def test_distances_are_those_of_dipy(generator: torch.Generator) -> None:
    tracks = pytest.importorskip("dipy.tracking.distances", reason="needs dipy")
    a, b = torch.randn(2, 12, 3, generator=generator).cumsum(1)
    x, y = a.float().numpy(), b.float().numpy()
    made = float(tract.mdf(a, b))
    assert abs(made - float(tracks.bundles_distances_mdf([x], [y])[0, 0])) < 1e-5
    made = float(tract.average_minimum(a, n(12), b, n(12)))
    wanted = float(tracks.bundles_distances_mam([x], [y], metric="avg")[0, 0])
    assert abs(made - wanted) < 1e-5


def test_direction_and_padding_do_not_matter(generator: torch.Generator) -> None:
    a, b = torch.randn(2, 9, 3, generator=generator).cumsum(1)
    for f in (tract.average_minimum, tract.hausdorff, tract.endpoint_distance):
        wanted = f(a, n(9), b, n(9))
        assert torch.allclose(f(a.flip(0), n(9), b, n(9)), wanted)
        assert torch.allclose(f(b, n(9), a, n(9)), wanted)
        wide = torch.cat([a, torch.full((3, 3), torch.nan)])
        assert torch.allclose(f(wide, n(9), b, n(9)), wanted)
        slope = grad(f)(wide, n(9), b, n(9))
        assert torch.allclose(slope[:9], grad(f)(a, n(9), b, n(9)))
        assert bool((slope[9:] == 0).all())


@pytest.mark.parametrize(
    "f",
    [
        lambda a, b: tract.mdf(a, b),
        lambda a, b: tract.average_minimum(a, n(7), b, n(8)),
        lambda a, b: tract.hausdorff(a, n(7), b, n(8)),
        lambda a, b: tract.endpoint_distance(a, n(7), b, n(8)),
        lambda a, b: tract.length(a, n(7)) * tract.length(b, n(8)),
        lambda a, b: tract.curvature(a, n(7)).sum() + tract.curvature(b, n(8)).sum(),
        lambda a, b: (tract.resample(a, n(7), 5) * tract.resample(b, n(8), 5)).sum(),
    ],
)
def test_derivatives_are_differences(f, generator: torch.Generator) -> None:
    a, b = torch.randn(2, 8, 3, generator=generator).cumsum(1)
    way = torch.randn(8, 3, generator=generator)
    h = 1e-4
    at = [f(a + t * h * way, b) for t in (-2, -1, 1, 2)]
    wanted = (8 * (at[2] - at[1]) - at[3] + at[0]) / (12 * h)
    slope = jacrev(f)(a, b)
    assert torch.allclose((slope * way).sum(), wanted, rtol=1e-7, atol=1e-9)
    assert torch.allclose(slope, jacfwd(f)(a, b), atol=1e-12)
    assert hessian(f)(a, b).isfinite().all()
    many = torch.stack([a, b])
    each = vmap(jacfwd(f), in_dims=(0, None))(many, b)
    assert torch.allclose(each[0], slope, atol=1e-12)


def test_coinciding_tracks_have_zero_gradients() -> None:
    arc = circle(9)
    assert tract.mdf(arc, arc) == 0
    assert bool((grad(tract.mdf)(arc, arc) == 0).all())
    slope = grad(tract.average_minimum)(arc, n(9), arc, n(9))
    assert bool((slope == 0).all())


def test_bundles(generator: torch.Generator) -> None:
    a = torch.randn(4, 15, 3, generator=generator).cumsum(1)
    counts = torch.tensor([15, 9, 12, 0])
    b = a[[2, 0, 1]] + torch.tensor([0.0, 0.0, 0.01])
    other = counts[[2, 0, 1]]
    kept = torch.arange(15) < counts[:, None]
    a = torch.where(kept[..., None], a, torch.nan)
    near = tract.bundle_distance(a, counts, b, other)
    assert torch.allclose(near, torch.tensor(0.01))
    for distance in (tract.average_minimum, tract.endpoint_distance):
        made = tract.bundle_distance(a, counts, b, other, distance)
        assert 0 < made <= 0.01 + 1e-12
    slope = grad(tract.bundle_distance)(a, counts, b, other)
    assert slope.isfinite().all()
    assert bool((slope[~kept] == 0).all())
    assert torch.allclose(slope[..., 2].sum(), torch.tensor(-1.0))
    none = tract.bundle_distance(a, 0 * counts, b, other)
    assert none.isnan()
    assert tract.bundle_distance(a, counts, b[:0], other[:0]).isnan()


def test_fibres_and_their_signal() -> None:
    g = tract.hemisphere(20)
    scheme = tract.Scheme(
        b=torch.cat([torch.zeros(4), torch.full((16,), 2e3)]), directions=g
    )
    one = {"axial": 1.7e-3, "radial": 3e-4}
    x = tract.Fibres(
        orientations=[[1.0, 0, 0], [0.0, 2.0, 0]], fractions=[0.5, 0.2], **one
    )
    made = tract.multi_tensor(x, scheme)
    decay = 3e-4 + 1.4e-3 * g[:, :2] ** 2
    parts = (-scheme.b[:, None] * decay).exp() @ torch.tensor([0.5, 0.2])
    wanted = parts + 0.3 * (-scheme.b * 3e-3).exp()
    assert torch.allclose(made, wanted, atol=1e-15)
    assert torch.allclose(made[:4], torch.ones(4))
    fod = tract.delta_fod(x.orientations, x.fractions, 8)
    response = tract.tensor_response(scheme.b, *(torch.tensor(v) for v in one.values()))
    close = tract.convolution(g, response, 8) @ fod + 0.3 * (-scheme.b * 3e-3).exp()
    assert torch.allclose(close, made, atol=4e-4)
    with pytest.raises(ValueError, match="directions"):
        tract.multi_tensor(x, tract.Scheme(b=scheme.b[:3], directions=g))
