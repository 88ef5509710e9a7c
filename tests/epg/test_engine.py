"""The fused engine against the operators, the isochromats and physics."""

import math

import pytest
import replay
import torch
from hypothesis import assume, given, strategies as st
from strategies import programs, tissues
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap

import mrsim
from mrsim import Tissue, bloch, epg
from mrsim.tree import replace
from mrsim.units import deg, ms

VOXELS = tissues(optional=True)


def close(made: Tensor, wanted: Tensor, tolerance: float = 1e-10) -> None:
    assert made.shape == wanted.shape
    assert ((made - wanted).abs() <= tolerance).all()


def with_orders(state: epg.State, K: int) -> epg.State:
    """Return a state with the orders -K … K; those it loses must be empty."""
    lost = len(state.Z) - 1 - K
    if lost > 0:
        assert state.Z[K + 1 :].abs().max() == 0
        assert torch.cat([state.F[:lost], state.F[-lost:]]).abs().max() == 0
        return epg.State(F=state.F[lost:-lost], Z=state.Z[: K + 1])
    more = torch.zeros(-lost, dtype=state.Z.dtype)
    return epg.State(F=torch.cat([more, state.F, more]), Z=torch.cat([state.Z, more]))


def close_states(made: epg.State, wanted: epg.State) -> None:
    K = max(len(made.Z), len(wanted.Z)) - 1
    for a, b in zip(*((x.F, x.Z) for x in (made, wanted)), strict=True):
        assert abs(len(a) - len(b)) <= 2 * K
    made, wanted = with_orders(made, K), with_orders(wanted, K)
    close(made.F, wanted.F)
    close(made.Z, wanted.Z)


def last_state(tissue: Tissue, program: epg.Program) -> epg.State:
    *_, (row, state) = replay.steps(tissue, program)
    return epg.spoil(state) if program.layout[row].spoil else state


def energy(state: epg.State) -> Tensor:
    """Return the mean of |M|² over the positions."""
    squares = state.Z.abs().square()
    return state.F.abs().square().sum() + 2 * squares.sum() - squares[0]


def count(program: epg.Program) -> int:
    return sum(event.read for event in program.layout)


def changed(program: epg.Program, **fields: object) -> epg.Program:
    """Change every event of a program's layout."""
    layout = tuple(
        e._replace(**{n: f(e) for n, f in fields.items()}) for e in program.layout
    )
    return replace(program, layout=layout)


def random_state(K: int) -> epg.State:
    made = torch.Generator().manual_seed(K)
    F = torch.randn(2 * K + 1, dtype=torch.complex128, generator=made)
    Z = torch.randn(K + 1, dtype=torch.complex128, generator=made)
    return epg.State(F=F, Z=torch.cat([Z[:1].real + 0j, Z[1:]]))


# --------------------------------------------------------------- three ways are one


@given(VOXELS, programs())
def test_run_is_operators_is_isochromats(tissue: Tissue, program: epg.Program) -> None:
    signal = epg.run(tissue, program)
    assert signal.shape == (count(program),)
    close(signal, replay.signal(tissue, program))
    close(signal, bloch.run(tissue, program))


@given(tissues(), programs(quadrants=True))
def test_real_path_is_complex_path(tissue: Tissue, program: epg.Program) -> None:
    forced = replace(program, phase=torch.zeros_like(program.flip))
    signal = epg.run(tissue, program)
    close(epg.run(tissue, forced), signal)
    close(epg.run(tissue, replay.phased(program)), signal)
    close(epg.run(replace(tissue, df=torch.zeros(())), program), signal)
    flat = torch.func.vmap(epg.run, in_dims=(0, None))(mrsim.expand(tissue, 2), program)
    close(flat, torch.stack([signal, signal]))


@given(VOXELS, programs())
def test_evolve_ends_where_the_operators_do(
    tissue: Tissue, program: epg.Program
) -> None:
    signal, state = epg.evolve(tissue, program)
    close(signal, epg.run(tissue, program))
    close_states(state, last_state(tissue, program))


@given(VOXELS, programs(), st.integers(1, 7))
def test_evolve_resumes_at_any_cut(
    tissue: Tissue, program: epg.Program, cut: int
) -> None:
    rows = len(program.layout)
    assume(cut < rows)
    whole, end = epg.evolve(tissue, program)
    first, state = epg.evolve(tissue, replay.part(program, 0, cut))
    then, resumed = epg.evolve(tissue, replay.part(program, cut, rows), state)
    close(torch.cat([first, then]), whole)
    close_states(resumed, end)
    close(epg.run(tissue, replay.part(program, cut, rows), state), then)


@given(VOXELS, programs(), st.integers(0, 3))
def test_any_initial_state(tissue: Tissue, program: epg.Program, K: int) -> None:
    init = random_state(K)
    close(epg.run(tissue, program, init), replay.signal(tissue, program, init))
    rest = epg.equilibrium(torch.ones(()) if tissue.M0 is None else tissue.M0)
    close(epg.run(tissue, program, rest), epg.run(tissue, program))


@given(VOXELS, programs(), st.integers(1, 6))
def test_truncation_drops_what_it_says(
    tissue: Tissue, program: epg.Program, states: int
) -> None:
    cut = replace(program, states=states)
    close(epg.run(tissue, cut), replay.signal(tissue, cut))
    signal, state = epg.evolve(tissue, cut)
    close(signal, epg.run(tissue, cut))
    close_states(state, last_state(tissue, cut))
    init = random_state(4)
    started = replay.signal(tissue, cut, replay.cut(init, states))
    close(epg.run(tissue, cut, init), started)


@given(VOXELS, programs())
def test_many_states_are_exact(tissue: Tissue, program: epg.Program) -> None:
    orders = sum(abs(event.shift) for event in program.layout) + 1
    enough = replace(program, states=orders)
    close(epg.run(tissue, enough), epg.run(tissue, program), 1e-14)


def test_a_large_shift_empties_a_truncated_state() -> None:
    layout = (
        epg.Event(pulse=True, shift=7),
        epg.Event(pulse=True, shift=-7, read=True),
        epg.Event(shift=7, read=True),
    )
    rows = torch.full((3,), 0.7)
    program = epg.Program(flip=rows, duration=rows * ms, layout=layout)
    tissue = Tissue(T1=1.0, T2=0.1)
    for states in range(1, 9):
        cut = replace(program, states=states)
        close(epg.run(tissue, cut), replay.signal(tissue, cut))
        close_states(epg.evolve(tissue, cut)[1], last_state(tissue, cut))


# ---------------------------------------------------------------------- derivatives


@given(VOXELS, programs(max_events=5), st.integers(0, 2))
def test_jacobians_are_those_of_the_operators(
    tissue: Tissue, program: epg.Program, K: int
) -> None:
    init = random_state(K)
    leaves, structure = mrsim.tree.tree_flatten((tissue, program))
    F, Z = (torch.view_as_real(x) for x in (init.F, init.Z))
    once = torch.cat([torch.tensor([[1.0, 0.0]]), torch.ones(K, 2)])  # Z_0 is real

    def given_by(f: object) -> object:
        def real(F: Tensor, Z: Tensor, *xs: Tensor) -> Tensor:
            args = mrsim.tree.tree_unflatten(list(xs), structure)
            start = (torch.view_as_complex(x) for x in (F, Z * once))
            return torch.view_as_real(
                f(*args, epg.State(**dict(zip("FZ", start, strict=True))))
            )

        return real

    every = tuple(range(len(leaves) + 2))
    wanted = jacrev(given_by(replay.signal), every)(F, Z, *leaves)
    for way in (jacfwd, jacrev):
        made = way(given_by(epg.run), every)(F, Z, *leaves)
        for a, b in zip(made, wanted, strict=True):
            close(a, b, 1e-9 * (1 + float(b.abs().max())))


def test_the_state_is_differentiable_forward_and_reverse() -> None:
    layout = (
        epg.Event(pulse=True, shift=1),
        epg.Event(pulse=True, quadrant=1, shift=-2, spoil=True),
        epg.Event(invert=True),
    )
    rows = torch.tensor([0.7, 1.1, 0.0])

    def end(T2: Tensor) -> Tensor:
        program = epg.Program(flip=rows, duration=rows * ms, layout=layout)
        state = epg.evolve(Tissue(T1=torch.ones(()), T2=T2), program)[1]
        return torch.view_as_real(torch.cat([state.F, state.Z]))

    T2 = torch.tensor(0.1)
    close(jacfwd(end)(T2), jacrev(end)(T2), 1e-14)
    many = vmap(jacfwd(end))(torch.tensor([0.1, 0.2]))
    close(many[1], jacrev(end)(torch.tensor(0.2)), 1e-14)


@pytest.mark.parametrize("which", ["F", "Z"])
def test_only_a_part_of_the_state_can_be_mapped(which: str) -> None:
    program = epg.fse_program(epg.FSE(flip=[1.0, 2.0], esp=5 * ms))
    tissue, base = Tissue(T1=1.0, T2=0.1), random_state(2)
    batch = torch.stack([getattr(base, which), 2 * getattr(base, which)])

    def f(x: Tensor) -> Tensor:
        return epg.run(tissue, program, replace(base, **{which: x}))

    close(vmap(f)(batch), torch.stack([f(x) for x in batch]), 1e-14)


# --------------------------------------------------------------------------- physics


@given(tissues(), programs())
def test_magnetisation_stays_below_equilibrium(
    tissue: Tissue, program: epg.Program
) -> None:
    assert (epg.run(tissue, program).abs() <= 1 + 1e-12).all()
    for _, state in replay.steps(tissue, program):
        assert energy(state) <= 1 + 1e-12


@given(tissues(), programs(), st.integers(0, 3))
def test_energy_never_grows_without_regrowth(
    tissue: Tissue, program: epg.Program, K: int
) -> None:
    dark = replace(tissue, M0=torch.zeros(()))
    before = energy(random_state(K))
    for row in range(len(program.layout)):
        _, state = epg.evolve(dark, replay.part(program, 0, row + 1), random_state(K))
        assert energy(state) <= before * (1 + 1e-12)
        before = energy(state)


@given(programs())
def test_energy_stays_without_relaxation(program: epg.Program) -> None:
    kept = changed(program, spoil=lambda _: False, invert=lambda _: False)
    tissue = Tissue(T1=torch.tensor(math.inf), T2=torch.tensor(math.inf))
    _, state = epg.evolve(tissue, kept)
    close(energy(state), torch.ones(()), 1e-12)


@given(tissues(), programs(), st.floats(0.1, 10))
def test_signal_is_linear_in_M0(
    tissue: Tissue, program: epg.Program, M0: float
) -> None:
    brighter = replace(tissue, M0=torch.tensor(M0))
    close(epg.run(brighter, program), M0 * epg.run(tissue, program))


@given(tissues(), programs(), st.floats(0.5, 1.5))
def test_B1_scales_flips(tissue: Tissue, program: epg.Program, B1: float) -> None:
    scaled = replace(program, flip=B1 * program.flip)
    strong = replace(tissue, B1=torch.tensor(B1))
    close(epg.run(strong, program), epg.run(tissue, scaled))


@given(VOXELS, programs(), st.floats(0.1, 10))
def test_only_ratios_of_times_matter(
    tissue: Tissue, program: epg.Program, unit: float
) -> None:
    slow = replace(tissue, T1=unit * tissue.T1, T2=unit * tissue.T2)
    slow = replace(slow, df=None if tissue.df is None else tissue.df / unit)
    later = replace(program, duration=unit * program.duration)
    close(epg.run(slow, later), epg.run(tissue, program))


@given(VOXELS, programs())
def test_reversed_phases_conjugate(tissue: Tissue, program: epg.Program) -> None:
    turned = replay.phased(program)
    assert turned.phase is not None
    assert turned.demod is not None
    back = replace(turned, phase=-turned.phase, demod=-turned.demod)
    other = replace(tissue, df=None if tissue.df is None else -tissue.df)
    mirrored = changed(back, shift=lambda e: -e.shift)
    close(epg.run(other, mirrored), -epg.run(tissue, turned).conj())


@given(VOXELS, programs())
def test_the_gradients_sign_does_not_matter(
    tissue: Tissue, program: epg.Program
) -> None:
    mirrored = changed(program, shift=lambda e: -e.shift)
    close(epg.run(tissue, mirrored), epg.run(tissue, program))


@given(VOXELS, programs(), st.floats(-3, 3))
def test_only_the_receiver_sees_a_common_phase(
    tissue: Tissue, program: epg.Program, angle: float
) -> None:
    program = replay.phased(program)
    assert program.phase is not None
    turned = replace(program, phase=program.phase + angle)
    turn = torch.exp(1j * torch.tensor(angle))
    close(epg.run(tissue, turned), turn * epg.run(tissue, program))


@given(VOXELS, programs())
def test_waits_can_be_split(tissue: Tissue, program: epg.Program) -> None:
    halves, layout = [], []
    for event in program.layout:
        halves += [0.3, 0.7]
        layout += [
            event._replace(read=False, spoil=False, shift=event.shift + 1),
            event._replace(pulse=False, invert=False, shift=-1),
        ]
    twice = {
        n: None if v is None else v.repeat_interleave(2)
        for n in ("flip", "duration", "phase", "demod", "efficiency")
        for v in [getattr(program, n)]
    }
    twice["duration"] = twice["duration"] * torch.tensor(halves)
    split = epg.Program(**twice, layout=tuple(layout))
    close(epg.run(tissue, split), epg.run(tissue, program))


def test_off_resonance_turns_forward() -> None:
    layout = (epg.Event(pulse=True, read=True),)
    one = torch.tensor([math.pi / 2])
    program = epg.Program(flip=one, duration=torch.tensor([0.01]), layout=layout)
    tissue = Tissue(T1=math.inf, T2=math.inf, df=25.0)
    close(epg.run(tissue, program), torch.ones(1) + 0j)


# ------------------------------------------------------------------- corners of shape


def test_no_reading_is_an_empty_signal() -> None:
    layout = (epg.Event(pulse=True, shift=1), epg.Event(pulse=True))
    one = torch.ones(2)
    program = epg.Program(flip=one, duration=one, layout=layout)
    tissue = Tissue(T1=1.0, T2=0.1)
    for f in (epg.run, bloch.run):
        made = f(tissue, program)
        assert made.shape == (0,)
        assert made.dtype == torch.complex128
    assert mrsim.jac(epg.run, "T2", "flip")(tissue, program)[1].flip.shape == (0, 2)


def test_readings_that_nothing_reaches_are_zero() -> None:
    layout = (
        epg.Event(read=True),
        epg.Event(pulse=True, shift=1, read=True),
        epg.Event(spoil=True),
        epg.Event(read=True),
    )
    one = torch.ones(4)
    program = epg.Program(flip=one, duration=one * ms, layout=layout)
    tissue = Tissue(T1=1.0, T2=0.1)
    for init in (None, random_state(0), random_state(3)):
        made = epg.run(tissue, program, init)
        close(made, replay.signal(tissue, program, init), 1e-15)
        assert made[2] == 0
    slope = mrsim.jac(epg.run, "T2", "flip", mode="reverse")(tissue, program)
    assert (slope[1].flip == 0).all()
    many = vmap(epg.run, in_dims=(0, None))(mrsim.expand(tissue, 3), program)
    assert (many == 0).all()


def test_slices_that_fit_the_cache_are_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seq = epg.FSE(flip=[150 * deg, 120 * deg, 95 * deg, 130 * deg], esp=9 * ms)
    tissue = mrsim.grid(Tissue(T1=1.0, T2=0.1), T2=torch.linspace(0.05, 0.2, 101))

    def loss(seq: epg.FSE, tissue: Tissue) -> Tensor:
        return vmap(epg.fse, in_dims=(0, None))(tissue, seq).abs().sum()

    def everything() -> list[Tensor]:
        signal = vmap(epg.fse, in_dims=(0, None))(tissue, seq)
        slope = vmap(mrsim.jac(epg.fse, "T1", "T2"), in_dims=(0, None))(tissue, seq)
        design = torch.func.grad(loss)(seq, tissue)
        flips = torch.stack([seq.flip, 0.9 * seq.flip])
        both = vmap(vmap(epg.fse, in_dims=(0, None)), in_dims=(None, 0))
        square = both(tissue, epg.FSE(flip=flips, esp=seq.esp.expand(2)))
        return [signal, slope.T1, slope.T2, design.flip, design.esp, square]

    whole = everything()
    monkeypatch.setattr(epg.engine, "_CACHE", 1)
    for a, b in zip(everything(), whole, strict=True):
        close(a, b, 1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_relaxation_stays_finite(dtype: torch.dtype) -> None:
    seq = mrsim.to(epg.FSE(flip=[120 * deg] * 6, esp=9 * ms), dtype)
    for T1, T2 in ((1e-6, 1e-7), (1e-3, 1e-5), (1e9, 1e9), (math.inf, math.inf)):
        times = (torch.tensor(T, dtype=dtype) for T in (T1, T2))
        tissue = Tissue(**dict(zip(("T1", "T2"), times, strict=True)))
        for mode in ("forward", "reverse"):
            made = mrsim.jac(epg.fse, "T1", "T2", mode=mode)(tissue, seq)
            assert made.T1.isfinite().all()
            assert made.T2.isfinite().all()
        slope = torch.func.grad(lambda q, t=tissue: epg.fse(t, q).abs().sum())(seq)
        assert slope.flip.isfinite().all()
