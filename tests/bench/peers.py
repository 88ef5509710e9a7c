"""Other simulators at the tasks of `bench_engine.py`; none is a dependency.

A maker returns one run of a task, or raises `Unable` (or ImportError) with the reason.
All get the same physics: T1, T2, B1 of each spin, a CPMG train or an inversion-recovery
FISP train. Before a peer is timed, its answer is compared to ours with all states, on
a few spins and a short train; then what it leaves out as timed is measured.

blochsim resolves a sequence's structure when a simulator first plays it, 50 to 70 ms
for 96 echoes, and keeps it in the simulator: its functions (`fse_sim`) make a new one
at each call, so here one simulator is made and called, and plays the train once
(`fse_sim` plays it twice). "blochsim as shipped" is `fse_sim` itself.

pip has blochsim==0.0.14, mrpro, MRzeroCore and sycomore (built with CMake, pybind11 and
xsimd); mri-sim-py is a folder: PYTHONPATH=mri-sim-py/epg.
"""

import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vmap

import mrsim
from mrsim import Exchange, Tissue, epg

_CHECKED, _TRAIN, _TOLERANCE = 4, 24, 1e-4  # spins, pulses, of the largest answer


class Unable(Exception):  # noqa: N818
    """A peer cannot do a task."""


class Task(NamedTuple):
    """A train, the spins, and what is asked for."""

    kind: str  # "fse" or "fisp"
    flip: Tensor  # (pulse,) [rad]
    time: float  # echo spacing or TR [s]
    T1: Tensor  # (spin,) [s]
    T2: Tensor
    B1: Tensor
    states: int | None = None  # orders kept; None: what the peer ships with
    exchange: tuple[float, float, float, float] | None = None  # T1, T2, f, k of pool B
    wants: str = "signal"  # or "slope" (and dS/dT2), or "design" (dΣ1/|dS/dT2|²/dflip)


TI = 0.02  # s, of FISP trains
Run = Callable[[], Any]


def ours(task: Task) -> Tensor:
    """Return what a task asks for, exactly, as a peer should."""
    wide = [x.double() for x in (task.T1, task.T2, task.B1)]
    tissue = Tissue(**dict(zip(("T1", "T2", "B1"), wide, strict=True)))
    flip, time = task.flip.double(), torch.tensor(task.time, dtype=torch.float64)
    if task.kind == "fse":
        f, seq = epg.fse, epg.FSE(flip=flip, esp=time)
    else:
        inversion = torch.tensor(TI, dtype=torch.float64)
        f, seq = epg.fisp, epg.FISP(flip=flip, TR=time, TI=inversion)
    if task.exchange:
        made = [torch.full((len(wide[0]), 1), x).double() for x in task.exchange]
        pool = dict(zip(("T1", "T2", "f", "k"), made, strict=True))
        tissue = mrsim.tree.replace(
            tissue, exchange=Exchange(**pool, directional=False)
        )
    slope = vmap(mrsim.jac(f, "T2"), in_dims=(0, None))
    if task.wants == "slope":
        return slope(tissue, seq).T2
    if task.wants == "design":
        return grad(lambda s: (1 / slope(tissue, s).T2.abs().square().sum(-1)).sum())(
            seq
        ).flip[None]
    return vmap(f, in_dims=(0, None))(tissue, seq)


def contenders(task: Task, names: tuple[str, ...]) -> tuple[dict[str, Run], dict]:
    """Return runs of the peers that can do a task, and what there is to say of each."""
    runs, said = {}, {}
    for name in names:
        try:
            with warnings.catch_warnings(), _silence():
                warnings.simplefilter("ignore")
                said[name] = _errors(name, task)
                runs[name] = PEERS[name].make(task)
        except ImportError as e:
            said[name] = f"not installed ({e.name or e})"
        except Unable as e:
            said[name] = str(e)
    return runs, said


@contextmanager
def _silence() -> Iterator[None]:
    """Keep compiled code from writing into the report."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


_seen: dict[Any, dict[str, float]] = {}


def _errors(name: str, task: Task) -> dict[str, float]:
    """Return a peer's error relative to the largest answer, with all states and as is.

    Raises:
        ValueError: it computes something else.
    """
    key = name, task.kind, task.exchange, task.wants, task.states, len(task.flip)
    if key not in _seen:
        few = task._replace(
            **{n: getattr(task, n)[:_CHECKED] for n in ("T1", "T2", "B1")}
        )
        if not PEERS[name].excites:
            few = few._replace(B1=torch.ones_like(few.B1))
        short = few._replace(flip=task.flip[:_TRAIN], states=2 * _TRAIN + 2)
        found = {
            k: _error(name, t)
            for k, t in (("all states, 24 pulses", short), ("as timed", few))
        }
        if not found["all states, 24 pulses"] < _TOLERANCE:
            raise ValueError(f"{name} is at other physics than ours: {found}")
        _seen[key] = found
    return _seen[key]


def _error(name: str, task: Task) -> float:
    peer = PEERS[name]
    theirs = peer.read(peer.make(task)(), task)
    true = ours(task)
    if peer.adds:
        true = true.sum(0, keepdim=True)
    gap = theirs.detach().abs().double() - true.abs()
    return float(gap.abs().max() / true.abs().max())


def _rows(answer: Any, _: Task) -> Tensor:
    return torch.as_tensor(np.asarray(answer)).reshape(len(answer), -1)


def _held(task: Task) -> tuple[Any, dict[str, Any]]:
    """Return one simulator of blochsim, and what it is called with."""
    from blochsim import simulators as peer

    named = {"T1": 1e3 * task.T1, "T2": 1e3 * task.T2, "B1": task.B1}
    if task.exchange:
        T1, T2, f, k = task.exchange
        named |= {"poolB_T1": 1e3 * T1, "poolB_T2": 1e3 * T2}
        named |= {"poolB_fraction": f, "poolB_exchange": k}
    settings: dict[str, Any] = {"repetitions": 1, "execution": "cpu"}
    if task.states:
        settings["states"] = task.states
    flip, time = torch.rad2deg(task.flip), 1e3 * task.time
    if task.kind == "fse":
        return peer.FSESimulator(**settings), named | {"flip": flip, "ESP": time}
    given = named | {"flip": flip, "TR": time, "TI": 1e3 * TI}
    return peer.MRFSimulator(**settings), given


def blochsim(task: Task) -> Run:
    sim, given = _held(task)
    if task.wants == "signal":
        return lambda: sim.simulate(**given)
    if task.wants == "slope":
        return lambda: sim.jacobian("T2", **given)

    def design() -> Tensor:
        flip = given["flip"].clone().requires_grad_()
        _, slope = sim.jacobian("T2", **{**given, "flip": flip})
        (1 / slope.abs().square().sum(-1)).sum().backward()
        return flip.grad

    return design


def _of_blochsim(answer: Any, task: Task) -> Tensor:
    """Per s and rad; a function of all flips of two variables of its own units."""
    if task.wants == "slope":
        return 1e3 * answer[1]
    return 1e-6 * torch.rad2deg(answer)[None] if task.wants == "design" else answer


def blochsim_shipped(task: Task) -> Run:
    from blochsim import fse_sim

    if task.kind != "fse" or task.exchange or task.wants != "signal":
        raise Unable("beside signals of one pool only")
    more = {"states": task.states} if task.states else {}
    flip, named = torch.rad2deg(task.flip), (1e3 * task.T1, 1e3 * task.T2)
    return lambda: fse_sim(flip, 1e3 * task.time, *named, B1=task.B1, **more)


def mrpro(task: Task) -> Run:
    from mrpro.operators.models import EPG

    if task.exchange or task.wants == "design":
        raise Unable("no exchange" if task.exchange else "no bound")
    phase = torch.zeros_like(task.flip)
    if task.kind == "fse":
        blocks = (EPG.TseBlock(task.flip, phase, te=task.time),)
    else:
        pulses = EPG.FispBlock(task.flip, phase, te=0.0, tr=task.time)
        blocks = (EPG.InversionBlock(TI), pulses)
    play = EPG.EPGSequence(blocks)
    M0 = torch.ones_like(task.T1)

    def run(T2: Tensor) -> Tensor:
        tissue = EPG.Parameters(M0, task.T1, T2, task.B1)
        return torch.stack(play(tissue, states=task.states or 20)[1], -1)

    if task.wants == "slope":
        ones = torch.ones_like(task.T2)
        return lambda: torch.func.jvp(run, (task.T2,), (ones,))
    return lambda: run(task.T2)


def _of_mrpro(answer: Any, task: Task) -> Tensor:
    return answer[1] if task.wants == "slope" else answer


def _only_signals(task: Task) -> None:
    if task.kind != "fse" or task.exchange or task.wants != "signal":
        raise Unable("signals of FSE trains of one pool only are set up")


def _one_by_one(task: Task, one: Callable[..., Any], mapped: Any = map) -> Run:
    _only_signals(task)
    rows = zip(*(x.tolist() for x in (task.T1, task.T2, task.B1)), strict=True)
    train = task.flip.double().numpy(), task.time
    given = [(*train, *row) for row in rows]
    return lambda: list(mapped(one, given))


def sycomore_one(given: tuple[np.ndarray, float, float, float, float]) -> list[complex]:
    """Simulate one spin."""
    import sycomore
    from sycomore.units import ms, rad

    flip, time, T1, T2, B1 = given
    model = sycomore.epg.Regular(sycomore.Species(T1 * 1e3 * ms, T2 * 1e3 * ms))
    model.apply_pulse(B1 * np.pi / 2 * rad, np.pi / 2 * rad)
    half, found = time / 2 * 1e3 * ms, []
    for angle in flip:
        model.relaxation(half)
        model.shift()
        model.apply_pulse(B1 * angle * rad)
        model.relaxation(half)
        model.shift()
        found.append(model.echo)
    return found


def mri_sim_py_one(given: tuple[np.ndarray, float, float, float, float]) -> Any:
    """Simulate one spin."""
    import epgcpmg

    flip, time, T1, T2, B1 = given
    return epgcpmg.FSE_signal_ex(B1 * np.pi / 2, B1 * flip, time, T1, T2)


def sycomore(task: Task, mapped: Any = map) -> Run:
    import sycomore as _  # noqa: F401

    return _one_by_one(task, sycomore_one, mapped)


def mri_sim_py(task: Task, mapped: Any = map) -> Run:
    import epgcpmg as _  # noqa: F401

    return _one_by_one(task, mri_sim_py_one, mapped)


def mri_sim_py_batched(task: Task) -> Run:
    import epg_parallel as peer

    _only_signals(task)
    flip = task.B1[:, None] * task.flip
    time = torch.tensor(task.time)
    return lambda: peer.FSE_signal(flip, time, task.T1, task.T2)[..., 0]


def mrzero(task: Task) -> Run:
    import MRzeroCore as mr0  # noqa: N813

    _only_signals(task)
    seq = mr0.Sequence(normalized_grads=False)
    for k, angle in enumerate([torch.tensor(torch.pi / 2), *task.flip]):
        rep = seq.new_rep(2 if k else 1)
        rep.pulse.angle = angle
        rep.pulse.phase = torch.tensor(0.0 if k else torch.pi / 2)
        rep.pulse.usage = mr0.PulseUsage.REFOC if k else mr0.PulseUsage.EXCIT
        rep.event_time[:] = task.time / 2
        rep.gradm[:, 0] = 100.0  # ten turns across the voxel
        if k:
            rep.adc_usage[0] = 1
    n = len(task.T1)
    tissue = {"T1": task.T1, "T2": task.T2, "B1": task.B1[None], "PD": torch.ones(n)}
    none = {"D": torch.zeros(n), "T2dash": torch.full((n,), 1e9)}
    data = mr0.CustomVoxelPhantom(
        pos=torch.zeros(n, 3), voxel_size=0.1, **tissue, **none
    ).build()
    most, kept = ((10**5, 0.0), (0.0, 0.0)) if task.states else ((), ())
    graph = mr0.compute_graph(seq, data, *most)  # states, magnitudes kept
    return lambda: mr0.execute_graph(graph, seq, data, *kept, print_progress=False).mT


class Peer(NamedTuple):
    """How a peer is run and read."""

    make: Callable[[Task], Run]
    read: Callable[[Any, Task], Tensor]  # → (spin, pulse), or what was asked for
    excites: bool = True  # B1 scales the excitation too
    adds: bool = False  # one signal of all spins


PEERS = {
    "blochsim": Peer(blochsim, _of_blochsim),
    "blochsim as shipped": Peer(blochsim_shipped, _of_blochsim),
    "mrpro": Peer(mrpro, _of_mrpro),
    "sycomore": Peer(sycomore, _rows),
    "mri-sim-py": Peer(mri_sim_py, _rows),
    "mri-sim-py, batched": Peer(mri_sim_py_batched, lambda x, _: x, excites=False),
    "MRzeroCore": Peer(mrzero, lambda x, _: x, adds=True),
}
SERIAL = {"sycomore": sycomore, "mri-sim-py": mri_sim_py}


def in_processes(name: str, task: Task, count: int) -> tuple[Run, Callable[[], None]]:
    """Return a run of a serial peer in some processes, and what ends those."""
    pool = get_context("spawn").Pool(count)
    mapped = functools.partial(pool.map, chunksize=-(-len(task.T1) // (4 * count)))
    return SERIAL[name](task, mapped), pool.terminate
