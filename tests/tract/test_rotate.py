import pytest
import torch
from torch.func import jacfwd, jacrev, vmap

from mrsim import tract


def turn(generator: torch.Generator) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]


@pytest.mark.parametrize("lmax", [0, 2, 4, 6, 8, 12])
def test_rotation_moves_the_function(lmax: int, generator: torch.Generator) -> None:
    r, c = turn(generator), torch.randn(3, tract.terms(lmax), generator=generator)
    u = tract.hemisphere(40)
    before = c @ tract.harmonics(u, lmax).mT
    after = tract.rotate(c, r) @ tract.harmonics(u @ r.mT, lmax).mT
    assert torch.allclose(before, after, atol=1e-12)


def test_rotations_compose_and_keep_power(generator: torch.Generator) -> None:
    a, b = turn(generator), turn(generator)
    c = torch.randn(45, generator=generator)
    both = tract.rotate(tract.rotate(c, a), b)
    assert torch.allclose(both, tract.rotate(c, b @ a), atol=1e-12)
    assert torch.allclose(both.norm(), c.norm(), atol=1e-12)
    assert torch.allclose(tract.rotate(c, -a), tract.rotate(c, a), atol=1e-12)
    assert torch.allclose(tract.rotate(both, (b @ a).mT), c, atol=1e-12)


def test_rotation_has_derivatives(generator: torch.Generator) -> None:
    r, c = turn(generator), torch.randn(15, generator=generator)
    skew = torch.randn(3, 3, generator=generator)
    skew = skew - skew.mT

    def f(t: torch.Tensor) -> torch.Tensor:
        return tract.rotate(c, torch.linalg.matrix_exp(t * skew) @ r)

    zero, h = torch.zeros(()), 1e-3
    near, far = (f(zero + s) - f(zero - s) for s in (h, 2 * h))
    made = jacfwd(f)(zero)
    assert torch.allclose(made, (8 * near - far) / (12 * h), atol=1e-8)
    assert torch.allclose(made, jacrev(f)(zero), atol=1e-12)
    each = vmap(tract.rotate, in_dims=(None, 0))(c, torch.stack([r, r.mT]))
    assert torch.allclose(each[1], tract.rotate(c, r.mT), atol=1e-13)


def test_frames(generator: torch.Generator) -> None:
    affine = torch.eye(4)
    r = turn(generator)
    affine[:3, :3] = r * torch.tensor([2.0, 1.5, 3.0])
    assert torch.allclose(tract.axes(affine), r, atol=1e-13)
    c = torch.randn(2, 28, generator=generator)
    moved = tract.to_scanner(c, affine)
    assert torch.allclose(tract.to_image(moved, affine), c, atol=1e-12)
    # a fibre along the image's first axis lies along that axis in the scanner
    fibre = tract.harmonics(torch.tensor([1.0, 0.0, 0.0]), 6)
    along = tract.harmonics(r[:, 0], 6)
    assert torch.allclose(tract.to_scanner(fibre, affine), along, atol=1e-12)


def test_sheared_axes_are_the_polar_factor(generator: torch.Generator) -> None:
    affine = torch.eye(4)
    affine[:3, :3] = torch.randn(3, 3, generator=generator)
    unit = affine[:3, :3] / affine[:3, :3].norm(dim=0)
    u, _, v = torch.linalg.svd(unit)
    assert torch.allclose(tract.axes(affine), u @ v, atol=1e-12)
    assert jacrev(tract.axes)(affine).isfinite().all()


def test_bad_affines_are_refused() -> None:
    flat = torch.eye(4)
    flat[1, 1] = 0
    with pytest.raises(ValueError, match="singular"):
        tract.axes(flat)
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        tract.axes(torch.eye(3))
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        tract.rotate(torch.ones(6), torch.eye(4))


def test_conventions_of_dipy_and_mrtrix_meet(generator: torch.Generator) -> None:
    """A tensor's FOD from dipy, in image axes, is MRtrix's after both conversions."""
    affine = torch.eye(4)
    affine[:3, :3] = turn(generator) * 2.0
    fibre = torch.tensor([0.36, 0.48, 0.8])
    scanner = tract.harmonics(fibre, 8)
    image = tract.axes(affine).mT @ fibre
    dipy = tract.harmonics(image, 8, "descoteaux07")
    made = tract.to_scanner(tract.convert(dipy, "descoteaux07", "tournier07"), affine)
    assert torch.allclose(made, scanner, atol=1e-12)


def bundle(affine: torch.Tensor) -> torch.Tensor:
    """Return FODs of arcs about the scanner's origin in the x, y plane."""
    at = torch.stack(torch.meshgrid(*3 * [torch.arange(20.0)], indexing="ij"), -1)
    p = at @ affine[:3, :3].mT + affine[:3, 3]
    r = p[..., :2].norm(dim=-1)
    way = torch.stack([-p[..., 1], p[..., 0], 0.4 * r], -1)
    way = way / way.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    fod = tract.harmonics(way, 6)
    inside = (r > 12) & (r < 30)
    return torch.where(inside[..., None], fod, 0.0)


def oblique() -> torch.Tensor:
    c, s = 0.766044, 0.642788
    affine = torch.eye(4)
    first = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    second = torch.tensor([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
    affine[:3, :3] = 2 * first @ second
    affine[:3, 3] = -affine[:3, :3] @ torch.full((3,), 9.5)
    return affine


def test_a_wrong_frame_is_told() -> None:
    affine = oblique()
    right = bundle(affine)
    assert tract.warn_of_frame(right, affine) is None
    with pytest.warns(UserWarning, match=r"tract\.to_scanner"):
        found = tract.warn_of_frame(tract.to_image(right, affine), affine)
    assert found == "image axes"
    wrong = tract.convert(right, "tournier07", "descoteaux07")
    with pytest.warns(UserWarning, match="descoteaux07"):
        assert tract.warn_of_frame(wrong, affine) == "descoteaux07"
    flip = torch.diag(torch.tensor([1.0, -1.0, 1.0]))
    with pytest.warns(UserWarning, match="gradient table"):
        assert tract.warn_of_frame(tract.rotate(right, flip), affine) is not None


def test_little_is_no_evidence() -> None:
    assert tract.coherence(torch.zeros(4, 4, 4, 6), torch.eye(4)) == {}
