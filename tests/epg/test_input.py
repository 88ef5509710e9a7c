"""What is wrong with the input is said in one sentence that helps."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import vmap

import mrsim
from mrsim import Tissue, bloch, epg
from mrsim.tree import put, replace
from mrsim.units import deg, ms

GREY = Tissue(T1=0.95, T2=0.09)
FSE = epg.FSE(flip=[150 * deg, 120 * deg], esp=9 * ms)
FISP = epg.FISP(flip=[20 * deg, 35 * deg], TR=12 * ms)
SPGR = epg.SPGR(flip=15 * deg, TR=10 * ms)
BSSFP = epg.BSSFP(flip=[20 * deg, 35 * deg], TR=6 * ms)
STEADY = epg.BSSFP(flip=20 * deg, TR=6 * ms)
MPRAGE = epg.MPRAGE(flip=[8 * deg, 9 * deg], TR=8 * ms, TI=300 * ms)
PROGRAM = epg.fse_program(FSE)

SIMULATORS = [
    (epg.fse, FSE),
    (epg.fisp, FISP),
    (epg.spgr, SPGR),
    (epg.spgr_spoiled, SPGR),
    (epg.bssfp, BSSFP),
    (epg.bssfp_steady, STEADY),
    (epg.mprage, MPRAGE),
    (epg.run, PROGRAM),
    (epg.evolve, PROGRAM),
    (epg.truncation_error, PROGRAM),
    (bloch.run, PROGRAM),
]
every = pytest.mark.parametrize(
    ("f", "seq"),
    SIMULATORS,
    ids=[f"{f.__module__}.{f.__name__}" for f, _ in SIMULATORS],
)


def refuses(
    kind: type[Exception], message: str, f: Callable[..., Any], *args: Any
) -> None:
    with pytest.raises(kind, match=message) as caught:
        f(*args)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 260
    assert re.match(r"(epg|bloch)\.\w+: ", text)


@every
def test_integer_tensors(f: Callable[..., Any], seq: Any) -> None:
    ones = put(GREY, "T1", torch.tensor(1))
    refuses(
        TypeError, r"T1 must be a floating-point tensor, got torch.int64", f, ones, seq
    )
    flat = put(seq, "flip", seq.flip.long())
    refuses(
        TypeError,
        r"flip must be a floating-point tensor, got torch.int64",
        f,
        GREY,
        flat,
    )


@every
def test_numbers_and_arrays_put_past_the_constructor(
    f: Callable[..., Any], seq: Any
) -> None:
    refuses(TypeError, "T2 must be .* got the int 1", f, put(GREY, "T2", 1), seq)
    array = put(GREY, "T2", np.float64(0.1))
    refuses(TypeError, "T2 must be .* torch.as_tensor", f, array, seq)


@every
def test_batches_without_vmap(f: Callable[..., Any], seq: Any) -> None:
    many = mrsim.expand(GREY, 3)
    refuses(ValueError, r"T1 must have shape \(\), got \(3,\); map", f, many, seq)
    made = vmap(f, in_dims=(0, None))(many, seq)
    assert mrsim.tree.tree_leaves(made)[0].shape[0] == 3
    batch = put(seq, "flip", torch.stack([seq.flip] * 3))
    refuses(ValueError, r"flip must have shape .* got \(3,", f, GREY, batch)


@every
def test_mixed_precision(f: Callable[..., Any], seq: Any) -> None:
    small = mrsim.to(seq, torch.float32)
    refuses(TypeError, "float32 but|float64 but", f, GREY, small)
    half = put(GREY, "T2", GREY.T2.float())
    refuses(TypeError, "mrsim.to", f, half, seq)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_precisions_without_complex_numbers(dtype: torch.dtype) -> None:
    args = (mrsim.to(x, dtype) for x in (GREY, FSE))
    refuses(TypeError, "needs float32 or float64", epg.fse, *args)


@every
def test_mixed_devices(f: Callable[..., Any], seq: Any) -> None:
    away = mrsim.to(GREY, device="meta")
    refuses(ValueError, "is on .* but .* is on", f, away, seq)


LENGTHS = [
    (epg.fse, FSE, {"phase": 3}),
    (epg.fisp, FISP, {"TR": 3}),
    (epg.fisp, FISP, {"TE": 1}),
    (epg.fisp, FISP, {"phase": 1}),
    (epg.bssfp, BSSFP, {"TR": 3}),
    (epg.bssfp, BSSFP, {"phase": 3}),
    (epg.run, PROGRAM, {"duration": 5}),
    (epg.run, PROGRAM, {"demod": 3}),
    (bloch.run, PROGRAM, {"demod": 3}),
]


@pytest.mark.parametrize(("f", "seq", "wrong"), LENGTHS)
def test_lengths_that_disagree(
    f: Callable[..., Any], seq: Any, wrong: dict[str, int]
) -> None:
    fields = {n: torch.ones(size) for n, size in wrong.items()}
    refuses(ValueError, "give them the same length", f, GREY, replace(seq, **fields))


@pytest.mark.parametrize("f", [epg.run, epg.evolve, epg.truncation_error, bloch.run])
def test_structure_that_makes_no_sense(f: Callable[..., Any]) -> None:
    one = torch.ones(2)
    pulse = epg.Event(pulse=True, read=True)

    def program(*layout: Any, **static: Any) -> epg.Program:
        return epg.Program(flip=one, duration=one, layout=layout, **static)

    refuses(ValueError, "2 rows .* 1 events", f, GREY, program(pulse))
    refuses(ValueError, "2 rows .* 3 events", f, GREY, program(*[pulse] * 3))
    empty = epg.Program(flip=one[:0], duration=one[:0], layout=())
    refuses(ValueError, "at least one", f, GREY, empty)
    listed = replace(program(pulse, pulse), layout=[pulse, pulse])
    refuses(TypeError, r"tuple\(layout\)", f, GREY, listed)
    bare = program(pulse, (True, 0, 1))
    refuses(TypeError, "got a tuple in row 1", f, GREY, bare)
    both = program(pulse, epg.Event(pulse=True, invert=True))
    refuses(ValueError, "row 1 has a pulse and an inversion", f, GREY, both)
    for name in ("shift", "quadrant", "receiver"):
        broken = program(pulse, pulse._replace(**{name: 1.5}))
        refuses(TypeError, "must be whole numbers", f, GREY, broken)
    for states in (0, -1, 2.0, "all"):
        cut = program(pulse, pulse, states=states)
        refuses(ValueError, "whole number of at least 1", f, GREY, cut)


def test_no_pulses() -> None:
    for f, seq in ((epg.fse, FSE), (epg.fisp, FISP), (epg.bssfp, BSSFP)):
        empty = replace(seq, flip=torch.zeros(0))
        refuses(ValueError, "flip holds no", f, GREY, empty)
    empty = replace(MPRAGE, flip=torch.zeros(0))
    refuses(ValueError, "flip holds no", epg.mprage, GREY, empty)


def test_states_of_other_shapes() -> None:
    F, Z = (
        torch.zeros(3, dtype=torch.complex128),
        torch.zeros(2, dtype=torch.complex128),
    )
    for wrong in (
        epg.State(F=F, Z=F),
        epg.State(F=F[0], Z=Z[0]),
        epg.State(F=F[:0], Z=Z[:0]),
        epg.State(F=F[None], Z=Z[None]),
    ):
        refuses(ValueError, "take it from epg.evolve", epg.run, GREY, PROGRAM, wrong)
    small = epg.State(F=F.to(torch.complex64), Z=Z.to(torch.complex64))
    refuses(TypeError, "same precision", epg.run, GREY, PROGRAM, small)
    real = epg.State(F=F.real, Z=Z.real)
    refuses(TypeError, "must be torch.complex128", epg.run, GREY, PROGRAM, real)
    ready = epg.State(F=F, Z=Z)
    assert epg.run(GREY, PROGRAM, ready).shape == (2,)


@pytest.mark.parametrize("increment", [117.0, torch.tensor(117), "117"])
def test_rf_spoiling_needs_whole_degrees(increment: Any) -> None:
    seq = replace(SPGR, increment=increment)
    refuses(TypeError, "whole number of degrees", epg.spgr_spoiled, GREY, seq)


@pytest.mark.parametrize("pulses", [0, -1, 10.0])
def test_pulses_are_counted(pulses: Any) -> None:
    seq = replace(SPGR, pulses=pulses)
    refuses(ValueError, "whole number of at least 1", epg.spgr_spoiled, GREY, seq)


def test_negative_durations_are_found_outside_transforms() -> None:
    with pytest.raises(ValueError, match=r"esp must not be negative, got -0\.009 s"):
        epg.FSE(flip=[1.0], esp=-9 * ms)
    late = replace(FISP, TE=torch.tensor(20 * ms))
    with pytest.raises(
        ValueError, match=r"duration must not be negative, got -0\.008 s"
    ):
        mrsim.check(epg.fisp_program(late))


def test_milliseconds_and_degrees_are_suspected() -> None:
    with pytest.warns(UserWarning, match="TR = 12 s|looks like"):
        epg.FISP(flip=[20.0], TR=12.0)
    with pytest.warns(UserWarning, match="T1 = 950 s looks like milliseconds"):
        Tissue(T1=950.0, T2=0.09)


def test_voxels_without_a_number_stay_silent() -> None:
    gone = put(GREY, "T2", torch.tensor(torch.nan))
    assert epg.fse(gone, FSE).isnan().all()
