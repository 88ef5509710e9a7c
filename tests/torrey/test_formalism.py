"""The matrix formalism against independent integrations and exact relations."""

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, vmap
from torrey import meshes
from torrey.encodings import ENCODINGS

from mrsim import torrey
from mrsim.torrey.assembly import assemble, dense, diffusion_parts
from mrsim.torrey.encoding_profile import pieces, timeline
from mrsim.tree import replace, tree_leaves, tree_map


@pytest.fixture(name="two", scope="module")
def _two() -> torrey.Basis:
    return torrey.laplace(*meshes.pair(), meshes.TWO)


def marched(basis: torrey.Basis, encoding: object, steps: int) -> Tensor:
    """Return the signals of compartments from many small midpoint steps."""
    made = torrey.profile(encoding)
    duration, vector = timeline(pieces(made, steps))
    L = basis.decay if basis.relaxation is None else basis.decay + basis.relaxation
    nu = basis.weight.sum(0).to(torch.complex128)
    for tau, g in zip(duration, vector, strict=True):
        turn = torch.einsum("a,aij->ij", g, basis.position)
        nu = torch.linalg.matrix_exp(torch.complex(-tau * L, -tau * turn)) @ nu
    return basis.weight.to(nu) @ nu


@pytest.mark.parametrize("name", [n for n in ENCODINGS if n != "waveform"])
def test_signals_equal_a_plain_march_in_time(name: str, two: torrey.Basis) -> None:
    encoding = ENCODINGS[name]
    if name == "steps":
        encoding = replace(encoding, vectors=_refocused(encoding))
    exact = marched(two, encoding, 24)
    made = torrey.signal_parts(two, encoding)
    assert (made - exact).abs().max() < (1e-7 if hasattr(encoding, "steps") else 1e-13)
    assert torch.equal(torrey.signal(two, encoding), made.sum())


def _refocused(wave: torrey.Waveform) -> Tensor:
    """Make the net moment of held samples zero by the last of them."""
    h = wave.times.diff()
    others = (h[:-1, None] * wave.vectors[:-2]).sum(0)
    return torch.cat([wave.vectors[:-2], (-others / h[-1])[None], wave.vectors[-1:]])


def test_time_error_is_honest(two: torrey.Basis) -> None:
    for name in ("cos", "sin", "trapezoid", "waveform-balanced"):
        coarse = replace(ENCODINGS[name], steps=4)
        exact = torrey.signal(two, replace(coarse, steps=32))
        error = (torrey.signal(two, coarse) - exact).abs()
        told = torrey.time_error(two, coarse)
        assert 0.5 * error < told < 2 * error
    assert torrey.time_error(two, ENCODINGS["pgse"]) == 0


def test_constants_take_a_quicker_way_to_the_same(two: torrey.Basis) -> None:
    for name in ("pgse", "trapezoid"):
        alone = torrey.signal(two, ENCODINGS[name])
        many = tree_map(lambda x: torch.stack([x, x]), two)
        mapped = vmap(torrey.signal, (0, None))(many, ENCODINGS[name])
        assert (mapped - alone).abs().max() < 1e-13
    mesh, D = torrey.mesh_sphere(5e-3, size=2e-3), torch.tensor([2e-3])
    plain, followed = (
        torrey.laplace(*mesh, torrey.Water(D=d, T2=0.05), modes=9, method="sparse")
        for d in (D, D.clone().requires_grad_())
    )
    for name in ("decay", "position", "weight", "relaxation"):
        a, b = getattr(plain, name), getattr(followed, name)
        assert (a - b).abs().max() <= 1e-12 * a.abs().max()


def test_unequal_densities_equal_the_unsymmetric_system() -> None:
    mesh, water = meshes.pair(), meshes.TWO
    nodes, topology = mesh
    size, home = len(topology.home), topology.home
    plain = replace(water, rho=None)
    blocks = assemble(nodes, topology, plain)
    M = dense([(topology.elements, blocks.mass)], size)
    R = dense([(topology.elements, blocks.relaxation)], size)
    J = dense([(topology.elements, blocks.moment)], size)
    K = dense(diffusion_parts(blocks, topology)[:1], size)
    outer = dense([(topology.outer, blocks.outer)], size)
    Q = dense([(topology.inner.flatten(1), blocks.inner)], size)
    # D∇M_i·n = κ(c_ij M_j − c_ji M_i), c_ij = 2ρ_i/(ρ_i + ρ_j): a column each
    share = (2 * water.rho.flip(0) / water.rho.sum())[home]
    whole = K + outer + R + Q * share
    pair = meshes.PAIR
    turn = 1e-6 * pair.q * torch.einsum("a,aij->ij", pair.direction, J)
    inverse = torch.linalg.inv_ex(M)[0]
    state = water.rho[home].to(torch.complex128)
    for tau, sign in ((4.0, 1), (7.0, 0), (4.0, -1)):
        step = -tau * inverse.to(state) @ torch.complex(whole, sign * turn)
        state = torch.linalg.matrix_exp(step) @ state
    each = M.sum(0).to(state) * state
    wanted = torch.stack([each[home == c].sum() for c in range(2)])
    made = torrey.signal_parts(torrey.laplace(*mesh, water), pair)
    amount = (water.rho * torrey.compartment_volumes(*mesh)).sum() * 1e9
    assert (made - wanted / amount).abs().max() < 1e-12


def test_no_gradient_leaves_relaxation_only() -> None:
    mesh = meshes.box(2, 1, 1, wobble=0.1)
    water = torrey.Water(D=2e-3, T2=0.05)
    still = replace(meshes.PAIR, q=0 * meshes.PAIR.q, TE=torch.tensor(0.03))
    for how in ({}, {"modes": 5}):
        s = torrey.signal(torrey.laplace(*mesh, water, **how), still)
        assert abs(s - torch.exp(torch.tensor(-0.6))) < 1e-12


def test_padding_matters_where_it_stands() -> None:
    mesh = meshes.pair()
    water = replace(meshes.TWO, relaxivity=None)
    basis = torrey.laplace(*mesh, water)
    at_end = replace(meshes.PAIR, TE=torch.tensor(0.025))
    before = replace(at_end, start=torch.tensor(0.01))
    one, two = (torrey.signal(basis, x) for x in (at_end, before))
    assert abs(one - two) > 1e-4  # the compartments relax apart before the pulse
    alike = torrey.laplace(*mesh, replace(water, T2=torch.tensor(0.05), rho=None))
    one, two = (torrey.signal(alike, x) for x in (at_end, before))
    assert abs(one - two) < 1e-13


def test_signals_do_not_see_where_the_mesh_is() -> None:
    nodes, topology = meshes.box(2, 2, 1, wobble=0.1)
    far = torrey.Nodes(points=nodes.points + torch.tensor([3.0, -2.0, 5.0]))
    turn = torch.linalg.qr(torch.sin(torch.arange(9.0)).reshape(3, 3))[0]
    turned = torrey.Nodes(points=nodes.points @ turn.T)
    for encoding in (meshes.PAIR, ENCODINGS["waveform-balanced"]):
        one = torrey.simulate(nodes, topology, meshes.WATER, encoding)
        two = torrey.simulate(far, topology, meshes.WATER, encoding)
        assert abs(one - two) < 1e-10
        if encoding is meshes.PAIR:
            rotated = replace(encoding, direction=turn @ encoding.direction)
            two = torrey.simulate(turned, topology, meshes.WATER, rotated)
            assert abs(one - two) < 1e-12


def test_a_net_moment_is_told_and_has_its_phase() -> None:
    nodes, topology = meshes.box(2, 1, 1)
    wave = torrey.Waveform(times=[0.0, 0.001], vectors=[[4e5, 0, 0]] * 2)
    shift = torch.tensor([2e-3, 0.0, 0.0])
    there = torrey.Nodes(points=nodes.points + shift)
    with pytest.warns(UserWarning, match="do not refocus, the net moment is 400"):
        one = torrey.simulate(nodes, topology, meshes.WATER, wave)
    with pytest.warns(UserWarning, match="sign changes with each refocusing"):
        two = torrey.simulate(there, topology, meshes.WATER, wave)
    assert abs(two / one - torch.polar(torch.ones(()), torch.tensor(-0.8))) < 1e-12


def test_batches_in_bounded_memory(two: torrey.Basis) -> None:
    many = torrey.shells(meshes.PAIR, [400.0, 900.0], torrey.directions(4))
    whole = vmap(torrey.signal, (None, 0))(two, many)
    size = torrey.signal_bytes(two, meshes.PAIR)
    for memory in (size, 3 * size, 100 * size):
        assert (torrey.signals(two, many, memory) - whole).abs().max() < 1e-14

    def loss(b: torrey.Basis, e: object, memory: int) -> Tensor:
        return torrey.signals(b, e, memory).abs().sum()

    one, other = (grad(loss, (0, 1))(two, many, m * size) for m in (3, 100))
    for a, b in zip(tree_leaves(one), tree_leaves(other), strict=True):
        assert (a - b).abs().max() <= 1e-12 * b.abs().max() + 1e-20
    with pytest.raises(MemoryError, match=r"one encoding takes about 0\.00 GiB with"):
        torrey.signals(two, many, size - 1)


def test_long_waveforms_act_without_matrices(
    two: torrey.Basis, monkeypatch: pytest.MonkeyPatch
) -> None:
    wave = replace(ENCODINGS["waveform-balanced"], steps=2)

    def f(w: torrey.Waveform, basis: torrey.Basis) -> Tensor:
        return torrey.signal(basis, w).real

    wanted, slope = f(wave, two), grad(f, (0, 1))(wave, two)
    monkeypatch.setattr("mrsim.torrey._playing._AT_ONCE", 0)  # all segments act
    assert abs(f(wave, two) - wanted) < 1e-13
    made = grad(f, (0, 1))(wave, two)
    for a, b in zip(tree_leaves(made), tree_leaves(slope), strict=True):
        assert (a - b).abs().max() <= 1e-11 * b.abs().max() + 1e-20
    forward = jacfwd(lambda v: f(replace(wave, vectors=v), two))(wave.vectors)
    assert (forward - slope[0].vectors).abs().max() <= 1e-11 * forward.abs().max()


def test_short_pulses_see_the_mean_square_displacement() -> None:
    """At small q, 1 − S = q²δ² ⟨(x − x')²⟩/2, from the modes of the same mesh."""
    mesh = meshes.box(3, 1, 1, side=2e-3)
    basis = torrey.laplace(*mesh, meshes.WATER)
    pair = torrey.PGSE(q=1e5, direction=[1.0, 0, 0], delta=1e-6, Delta=1e-3)
    start = basis.weight.sum(0)
    a = basis.position[0] @ start
    left = torch.linalg.matrix_exp(-1e-3 * basis.decay) @ a
    wanted = (0.1**2) * (a @ a - a @ left)
    made = 1 - torrey.signal(basis, pair).real
    assert float(made) == pytest.approx(float(wanted), rel=2e-3)


def test_dtypes_are_checked(two: torrey.Basis) -> None:
    single = tree_map(lambda x: x.float(), meshes.PAIR)
    with pytest.raises(TypeError, match="float32"):
        torrey.signal(two, single)
