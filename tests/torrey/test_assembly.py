"""Finite elements: exact integrals, symmetries, and products without sparse tensors."""

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, vmap
from torrey import meshes

import mrsim
from mrsim import torrey
from mrsim.torrey import assembly
from mrsim.torrey.assembly import apply, assemble, dense, diffusion_parts, readout
from mrsim.tree import replace, tree_leaves


def matrices(mesh: tuple, water: torrey.Water) -> dict[str, Tensor]:
    """Return mass, K + Q, moments and relaxation as dense matrices."""
    blocks, size = assemble(*mesh, water), len(mesh[1].home)
    elements = mesh[1].elements
    return {
        "M": dense([(elements, blocks.mass)], size),
        "K": dense(diffusion_parts(blocks, mesh[1]), size),
        "J": dense([(elements, blocks.moment)], size),
        "R": dense([(elements, blocks.relaxation)], size)
        if blocks.relaxation is not None
        else torch.zeros(size, size),
    }


def test_integrals_of_linear_functions_are_exact() -> None:
    mesh = meshes.box(2, 1, 3, wobble=0.1)
    x = mesh[0].points[mesh[1].point] * 1e3
    D = torch.tensor([[2.0, 0.3, 0.1], [0.3, 1.5, -0.2], [0.1, -0.2, 1.1]]) * 1e-3
    made = matrices(mesh, torrey.Water(D=D))
    volume = torrey.volumes(*mesh).sum() * 1e9
    one = torch.ones(len(x))
    assert torch.allclose(one @ made["M"] @ one, volume)
    assert (made["K"] @ one).abs().max() < 1e-12
    energy = x.T @ made["K"] @ x
    assert torch.allclose(energy, D * 1e3 * volume)
    # ∫x_a x_b from the mass, and from the moments
    second = x.T @ made["M"] @ x
    assert torch.allclose(torch.einsum("aij,i,jb->ab", made["J"], one, x), second)
    # ∫x³ by an exact rule of third order: −4/5 at the middle, 9/20 at four points
    corners = torrey.corners(*mesh) * 1e3
    rule = torch.full((5, 4), 1 / 6) + torch.cat([torch.zeros(1, 4), torch.eye(4) / 3])
    rule[0] = 0.25
    weights = torch.tensor([-0.8, 0.45, 0.45, 0.45, 0.45])
    at = torch.einsum("pk,mka->pma", rule, corners)
    cubes = torch.einsum("p,pma,pmb,pmc,m->abc", weights, at, at, at,
                         torrey.volumes(*mesh) * 1e9)  # fmt: skip
    assert torch.allclose(torch.einsum("aij,ib,jc->abc", made["J"], x, x), cubes)


def test_surfaces_and_densities() -> None:
    mesh = meshes.pair(wobble=0.0, side=4e-3)
    made = matrices(mesh, meshes.TWO)
    home = mesh[1].home
    rho, one = meshes.TWO.rho, torch.ones(len(home))
    weights = made["M"] @ one
    for c in range(2):
        assert torch.allclose(weights[home == c].sum(), rho[c] * 64)
        inside = torch.where(home == c, one, 0.0)
        R = inside @ made["R"] @ inside
        assert torch.allclose(R, rho[c] * 64 / (meshes.TWO.T2[c] * 1e3))
    step = torch.where(home == 0, one, 0.0)
    loss = (meshes.TWO.relaxivity * rho)[0] * 5 * 16
    flux = 0.06 * 2 * rho[0] * rho[1] / rho.sum() * 16
    assert torch.allclose(step @ made["K"] @ step, loss + flux)
    closed = matrices(mesh, replace(meshes.TWO, relaxivity=None))
    assert (closed["K"] @ one).abs().max() < 1e-12  # what leaves one side enters
    for x in made.values():
        assert torch.allclose(x, x.mT, rtol=1e-13, atol=1e-14)


def test_products_equal_dense_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = meshes.pair(3)
    blocks, size = assemble(*mesh, meshes.TWO), len(mesh[1].home)
    V = torch.sin(torch.arange(size * 5.0)).reshape(size, 5)
    parts = diffusion_parts(blocks, mesh[1])
    stack = [(mesh[1].elements, blocks.moment)]
    for some in (parts, stack):
        assert torch.allclose(apply(some, V), dense(some, size) @ V)
    whole = [apply(some, V) for some in (parts, stack)]

    def energy(v: Tensor) -> Tensor:
        return (apply(stack, v) ** 2).sum()

    slope = grad(energy)(V)
    monkeypatch.setattr(assembly, "_COLUMNS", 1)  # a column at a time
    for some, wanted in zip((parts, stack), whole, strict=True):
        assert torch.allclose(apply(some, V), wanted, rtol=1e-14)
    assert torch.allclose(grad(energy)(V), slope, rtol=1e-12)
    assert torch.allclose(jacfwd(energy)(V), slope, rtol=1e-12)


def test_readout_sums_to_the_amount() -> None:
    mesh = meshes.pair()
    w = readout(assemble(*mesh, meshes.TWO), mesh[1])
    volume = torrey.compartment_volumes(*mesh) * 1e9
    assert torch.allclose(w.sum(1), meshes.TWO.rho * volume)


def test_small_meshes_do_not_underflow_in_single_precision() -> None:
    mesh = meshes.box(1, 1, 1, side=1e-4)  # a tenth of a micrometre
    rates = []
    for dtype in (torch.float64, torch.float32):
        nodes, water = (mrsim.to(x, dtype) for x in (mesh[0], meshes.WATER))
        blocks = assemble(nodes, mesh[1], water)
        assert all((x != 0).any() and x.dtype == dtype for x in tree_leaves(blocks))
        basis = torrey.laplace(nodes, mesh[1], water)
        rates.append(torch.linalg.eigvalsh(basis.decay).double())
    assert rates[0][1] > 1e6
    assert (rates[1] - rates[0]).abs().max() < 1e-5 * rates[0].max()


def test_maps_and_derivatives_of_the_blocks() -> None:
    mesh = meshes.pair()

    def f(points: Tensor, D: Tensor) -> Tensor:
        water = replace(meshes.TWO, D=D)
        blocks = assemble(torrey.Nodes(points=points), mesh[1], water)
        return sum((x**2).sum() for x in tree_leaves(blocks))

    x, D = mesh[0].points, meshes.TWO.D
    both = vmap(grad(f, (0, 1)))(torch.stack([x, 2 * x]), torch.stack([D, D]))
    one = grad(f, (0, 1))(2 * x, D)
    assert torch.allclose(both[0][1], one[0])
    assert torch.allclose(both[1][1], one[1])
    with pytest.raises(TypeError, match="float32"):
        f(x, D.float())
    with pytest.raises(ValueError, match=r"Water.D must have shape"):
        f(x, torch.ones(3))
