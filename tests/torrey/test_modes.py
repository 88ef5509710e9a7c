"""Modes: which are kept, dense and sparse, and their derivatives."""

import warnings

import pytest
import torch
from golden import folder
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vmap
from torrey import meshes

from mrsim import torrey
from mrsim.torrey import _sparse_modes
from mrsim.tree import replace

METHODS = ["dense", "sparse"]


@pytest.fixture(name="cube", scope="module")
def _cube() -> tuple:
    """Return a cube with the full symmetry of the octahedron: triple eigenvalues."""
    numpy = pytest.importorskip("numpy")
    data = numpy.load(folder("torrey") / "fe_cube24.npz")
    return torrey.make_mesh(data["points"] * 1e-3, data["elements"])


def truncated(mesh: tuple, **how: object):
    """Return the real signal as a function of points and D."""

    def f(points: Tensor, D: Tensor) -> Tensor:
        basis = torrey.laplace(
            torrey.Nodes(points=points), mesh[1], replace(meshes.WATER, D=D), **how
        )
        return torrey.signal(basis, meshes.PAIR).real

    return f


def fourth_order(f, x: Tensor, way: Tensor, step: float) -> Tensor:
    """Return the derivative of f along a way by central differences."""
    near, far = (f(x + s * way) - f(x - s * way) for s in (step, 2 * step))
    return (8 * near - far) / (12 * step)


@pytest.mark.parametrize("method", METHODS)
def test_gradient_of_the_truncated_signal_on_a_degenerate_mesh(
    cube: tuple, method: str
) -> None:
    f = truncated(cube, modes=44, method=method)
    x, D = cube[0].points, meshes.WATER.D
    g = grad(f)(x, D)
    assert g.isfinite().all()
    for k in range(2):
        way = torch.sin(torch.arange(x.numel() * 1.0) * (k + 1.7)).reshape(x.shape)
        wanted = fourth_order(lambda p: f(p, D), x, way, 2e-6)
        made = (g * way).sum()
        assert abs(made - wanted) <= 1e-6 * abs(wanted)
        forward = jvp(lambda p: f(p, D), (x,), (way,))[1]
        assert abs(forward - made) <= 1e-9 * abs(made)


@pytest.mark.parametrize("method", METHODS)
def test_shape_hessian(cube: tuple, method: str) -> None:
    x, D = cube[0].points, meshes.WATER.D
    f = truncated(cube, modes=44, method=method, order=2)

    def shape(t: Tensor) -> Tensor:
        bent = torch.stack([0 * x[:, 0], 0 * x[:, 0], x[:, 0] ** 2], 1) * 30
        return f(x * (1 + t[0]) + bent * t[1], D * (1 + t[2]))

    zero = torch.zeros(3)
    made = jacfwd(jacrev(shape))(zero)
    h = 1e-3
    rows = [
        fourth_order(lambda t: grad(shape)(t), zero, way, h) for way in torch.eye(3)
    ]
    assert (made - torch.stack(rows)).abs().max() <= 1e-6 * made.abs().max()


@pytest.mark.parametrize("method", METHODS)
def test_hessians_by_every_composition(method: str) -> None:
    mesh = meshes.box(2, 2, 2, wobble=0.05)
    x, D = mesh[0].points, meshes.WATER.D
    f = truncated(mesh, modes=9, method=method, order=2)

    def shape(t: Tensor) -> Tensor:
        return f(x * (1 + t[0]) + t[1] * x.square() * 30, D * (1 + t[2]))

    zero = torch.zeros(3)
    made = jacfwd(jacrev(shape))(zero)
    for other in (jacrev(jacrev(shape)), jacfwd(jacfwd(shape))):
        assert torch.allclose(other(zero), made, rtol=1e-8)
    both = vmap(jacfwd(jacrev(shape)))(torch.stack([zero, zero]))
    assert torch.allclose(both[1], made, rtol=1e-9)


@pytest.mark.parametrize(
    ("method", "order", "high"), [("dense", None, 3), ("sparse", None, 2)]
)
def test_higher_orders_are_refused(method: str, order: int | None, high: int) -> None:
    mesh = meshes.box(2, 2, 2, wobble=0.05)
    f = truncated(mesh, modes=9, method=method, order=order)
    x, D = mesh[0].points, meshes.WATER.D

    def line(t: Tensor) -> Tensor:
        return f(x, D * (1 + t))

    for one, two in ((jacfwd, jacrev), (jacrev, jacfwd), (jacfwd, jacfwd)):
        slope = one(two(line)) if high == 2 else one(two(jacrev(line)))
        with pytest.raises(NotImplementedError, match=f"order {high}"):
            slope(torch.zeros(()))


def test_the_encoding_has_every_order_also_with_a_first_order_basis() -> None:
    mesh = meshes.box(2, 2, 2, wobble=0.05)

    def f(points: Tensor, q: Tensor) -> Tensor:
        nodes = torrey.Nodes(points=points)
        basis = torrey.laplace(nodes, mesh[1], meshes.WATER, modes=9, order=1)
        return torrey.signal(basis, replace(meshes.PAIR, q=q)).real

    x, q = mesh[0].points, meshes.PAIR.q
    mixed = jacrev(jacfwd(f, 1))(x, q)
    other = jacfwd(jacrev(f), 1)(x, q)
    assert torch.allclose(mixed, other, rtol=1e-9)
    slope = fourth_order(lambda s: grad(f)(x, s), q, torch.ones(()), 1e-3 * float(q))
    assert (other - slope).abs().max() <= 1e-6 * slope.abs().max()


def test_a_cut_through_a_group_is_moved_and_reported(cube: tuple) -> None:
    lam, _ = torrey.laplace_modes(*cube, meshes.WATER)
    wide = (lam[1:] - lam[:-1]) > 1e-6 * lam[1:]
    inside = next(k for k in range(10, 60) if not wide[k - 1])
    above = next(k for k in range(inside, 70) if wide[k - 1])
    for method in METHODS:
        with pytest.warns(UserWarning, match=f"{inside} modes.*{above} modes are kept"):
            basis = torrey.laplace(*cube, meshes.WATER, modes=inside, method=method)
        assert len(basis.decay) == above


def test_dense_and_sparse_agree(cube: tuple) -> None:
    one, two = (
        torrey.laplace(*cube, meshes.WATER, modes=44, method=m) for m in METHODS
    )
    a, b = (torrey.signal(basis, meshes.PAIR) for basis in (one, two))
    assert abs(a - b) < 1e-12
    f, g = (grad(truncated(cube, modes=44, method=m), (0, 1)) for m in METHODS)
    x = (cube[0].points, meshes.WATER.D)
    for made, wanted in zip(f(*x), g(*x), strict=True):
        assert (made - wanted).abs().max() <= 1e-9 * wanted.abs().max()


def test_length_chooses_the_modes_of_spindoctor(cube: tuple) -> None:
    lam, _ = torrey.laplace_modes(*cube, meshes.WATER)
    length = 3e-3
    wanted = int((torch.pi * (2e-3 / lam.clamp_min(1e-9)).sqrt() >= length).sum())
    for method in METHODS:
        basis = torrey.laplace(*cube, meshes.WATER, length=length, method=method)
        assert len(basis.decay) == wanted
    with pytest.raises(ValueError, match="give modes"):
        vmap(lambda p: torrey.laplace(
            torrey.Nodes(points=p), cube[1], meshes.WATER, length=length
        ).amount)(cube[0].points[None])  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_maps_over_meshes_and_water(cube: tuple, method: str) -> None:
    f = truncated(cube, modes=44, method=method)
    x = torch.stack([cube[0].points, 1.05 * cube[0].points])
    D = torch.stack([meshes.WATER.D, 1.1 * meshes.WATER.D])
    both = grad(f, (0, 1))
    for dims in ((0, 0), (0, None), (None, 0)):
        args = [v if d == 0 else v[0] for v, d in zip((x, D), dims, strict=True)]
        made = vmap(both, dims)(*args)
        for k in range(2):
            one = [v[k] if d == 0 else v[0] for v, d in zip((x, D), dims, strict=True)]
            for a, b in zip(made, both(*one), strict=True):
                assert (a[k] - b).abs().max() <= 1e-9 * b.abs().max()
    shape = jacfwd(lambda t: f(x[0] * (1 + t[0]), D[0] * (1 + t[1])))
    back = jacrev(lambda t: f(x[0] * (1 + t[0]), D[0] * (1 + t[1])))
    there = torch.tensor([[0.0, 0.0], [0.02, -0.01]])
    assert torch.allclose(vmap(shape)(there), torch.stack([*map(back, there)]))


def test_a_missed_mode_is_found_out(
    cube: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = _sparse_modes._ritz

    def blind(p: object, V: object) -> tuple:
        lam, W = exact(p, V)
        keep = [k for k in range(len(lam)) if k != 2]
        return lam[keep], W[:, keep]

    monkeypatch.setattr(_sparse_modes, "_ritz", blind)
    with pytest.raises(ArithmeticError, match="missed some"):
        torrey.laplace(*cube, meshes.WATER, modes=44, method="sparse")


def test_bad_requests() -> None:
    mesh = meshes.box(2, 1, 1)
    with pytest.raises(ValueError, match="99 modes were asked of a mesh with 12"):
        torrey.laplace(*mesh, meshes.WATER, modes=99)
    with pytest.raises(ValueError, match="modes or length, not both"):
        torrey.laplace(*mesh, meshes.WATER, modes=3, length=1e-3)
    with pytest.raises(ValueError, match="method must be"):
        torrey.laplace(*mesh, meshes.WATER, modes=3, method="lanczos")
    with pytest.raises(ValueError, match="too many modes for the sparse"):
        torrey.laplace(*mesh, meshes.WATER, modes=11, method="sparse")


def test_too_large_a_dense_basis_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = meshes.box(2, 1, 1)
    monkeypatch.setattr("mrsim.torrey._memory.available", lambda _: 1000)
    with pytest.raises(MemoryError, match=r"12 degrees of freedom needs about 0.0 GiB"):
        torrey.laplace(*mesh, meshes.WATER)


def test_all_modes_are_the_complete_model() -> None:
    mesh = meshes.pair()
    whole = torrey.laplace(*mesh, meshes.TWO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        every = torrey.laplace(*mesh, meshes.TWO, modes=len(mesh[1].home))
    a, b = (torrey.signal_parts(x, meshes.PAIR) for x in (whole, every))
    assert torch.allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_lost_mesh_harms_no_neighbour(method: str) -> None:
    mesh = meshes.box(2, 2, 2, wobble=0.05)
    f = truncated(mesh, modes=5, method=method)
    x = torch.stack([mesh[0].points, torch.full_like(mesh[0].points, torch.nan)])
    D = torch.stack([meshes.WATER.D, 1.1 * meshes.WATER.D])
    for g in (f, grad(f, 1)):
        made = vmap(g)(x, D)
        assert abs(made[0] - g(x[0], D[0])) <= 1e-12 * abs(made[0])
        assert made[1].isnan()
        assert vmap(g)(x[1:], D[1:]).isnan().all()
