"""Other simulators at the tasks of `bench_engine.py`; none is a dependency.

A maker returns one run of a task, or raises `Unable` (or ImportError) with the reason.
All get the same physics: T1, T2, B1 of each spin, a CPMG train or a FISP train.
"""

import contextlib
import importlib
import io
import multiprocessing
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


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
    states: int | None  # orders kept; None: what the peer ships with
    exchange: tuple[float, float, float, float] | None = None  # T1, T2, f, k·f of B
    plays: int | None = None  # of the train; None: what the peer ships with
    slope: bool = False  # also the derivative by T2
    design: bool = False  # gradient of the bound on T2 by all flips


def contenders(task: Task, names: tuple[str, ...] = ()) -> tuple[dict, dict]:
    """Return the runs of the peers that can do a task, and why the others cannot."""
    runs, reasons = {}, {}
    for name, make in PEERS.items():
        if names and name not in names:
            continue
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                run = make(task)
                run()
            runs[name] = run
        except ImportError as e:
            reasons[name] = f"not installed ({e.name})"
        except Unable as e:
            reasons[name] = str(e)
    return runs, reasons


def blochsim(task: Task) -> Callable[[], Any]:
    import blochsim as peer

    more: dict[str, Any] = {"B1": task.B1}
    if task.states:
        more["states"] = task.states
    if task.exchange:
        T1, T2, f, k = task.exchange
        # one play: its default of two gives NaN derivatives with a second pool
        more |= {"poolB_T1": 1e3 * T1, "poolB_T2": 1e3 * T2, "poolB_fraction": f}
        more |= {"poolB_exchange": k, "repetitions": 1}
    if task.plays:
        more["repetitions"] = task.plays
    if task.slope:
        more["diff"] = "T2"
    T1, T2 = 1e3 * task.T1, 1e3 * task.T2
    sim = peer.fse_sim if task.kind == "fse" else peer.mrf_sim
    degrees = torch.rad2deg(task.flip)
    if not task.design:
        return lambda: sim(degrees, 1e3 * task.time, T1, T2, **more)

    def design() -> Tensor:
        flip = degrees.clone().requires_grad_()
        _, slope = sim(flip, 1e3 * task.time, T1, T2, diff="T2", **more)
        (1 / slope.abs().square().sum(-1)).sum().backward()
        return flip.grad

    return design


def mrpro(task: Task) -> Callable[[], Any]:
    from mrpro.operators.models import EPG

    if task.exchange or task.design:
        raise Unable("no exchange" if task.exchange else "no bound")
    phase = torch.zeros_like(task.flip)
    if task.kind == "fse":
        block = EPG.TseBlock(task.flip, phase, te=task.time)
    else:
        block = EPG.FispBlock(task.flip, phase, te=0.0, tr=task.time)
    play = EPG.EPGSequence((block,))
    M0 = torch.ones_like(task.T1)

    def run(T2: Tensor) -> Tensor:
        tissue = EPG.Parameters(M0, task.T1, T2, task.B1)
        return torch.stack(play(tissue, states=task.states or 20)[1])

    if task.slope:
        ones = torch.ones_like(task.T2)
        return lambda: torch.func.jvp(run, (task.T2,), (ones,))
    return lambda: run(task.T2)


_LARGEST = 200  # spins of peers that take them one by one


def _sycomore_one(given: tuple[np.ndarray, float, float, float, float]) -> list:
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


def sycomore(task: Task) -> Callable[[], Any]:
    return _one_by_one(task, map)


def sycomore_processes(task: Task) -> Callable[[], Any]:
    pool = multiprocessing.get_context("spawn").Pool(2)
    return _one_by_one(task, pool.map)


def _one_by_one(task: Task, mapped: Callable[..., Any]) -> Callable[[], Any]:
    importlib.import_module("sycomore")

    if task.kind != "fse" or task.exchange or task.slope or task.design:
        raise Unable("only signals of FSE trains are set up")
    if len(task.T1) > _LARGEST:
        raise Unable(f"one spin at a time: up to {_LARGEST}")
    flip = task.flip.double().numpy()
    rows = zip(*(x.tolist() for x in (task.T1, task.T2, task.B1)), strict=True)
    given = [(flip, task.time, *row) for row in rows]
    return lambda: list(mapped(_sycomore_one, given))


def mri_sim_py(task: Task) -> Callable[[], Any]:
    import epgcpmg

    if task.kind != "fse" or task.exchange or task.slope or task.design:
        raise Unable("only signals of FSE trains are set up")
    if len(task.T1) > _LARGEST:
        raise Unable(f"one spin at a time: up to {_LARGEST}")
    flip = np.concatenate([[np.pi / 2], task.flip.double().numpy()])
    rows = list(zip(task.T1.tolist(), task.T2.tolist(), task.B1.tolist(), strict=True))
    return lambda: [
        epgcpmg.FSE_signal_ex(B1 * flip, 1e3 * task.time, 1e3 * T1, 1e3 * T2)
        for T1, T2, B1 in rows
    ]


def mrzero(task: Task) -> Callable[[], Any]:
    import MRzeroCore as mr0  # noqa: N813

    if task.kind != "fse" or task.exchange or task.design:
        raise Unable("no exchange" if task.exchange else "only FSE is set up")
    if len(task.T1) > _LARGEST:
        raise Unable(f"its graph is compiled for one voxel's data: up to {_LARGEST}")
    seq = mr0.Sequence()
    half = task.time / 2
    for k, angle in enumerate([torch.tensor(torch.pi / 2), *task.flip]):
        rep = seq.new_rep(2 if k else 1)
        rep.pulse.angle = angle
        rep.pulse.phase = torch.tensor(0.0 if k else torch.pi / 2)
        rep.pulse.usage = mr0.PulseUsage.REFOC if k else mr0.PulseUsage.EXCIT
        rep.event_time[:] = half
        rep.gradm[:, 0] = 1.0
        if k:
            rep.adc_usage[0] = 1
    # one voxel a spin, read without a gradient of position
    n = len(task.T1)
    data = mr0.CustomVoxelPhantom(
        pos=torch.zeros(n, 3),
        PD=torch.ones(n),
        T1=task.T1,
        T2=task.T2,
        B1=task.B1[None],
        voxel_size=0.1,
    ).build()
    graph = mr0.compute_graph(seq, data)
    if task.slope:
        raise Unable("reverse mode only: no derivative of many echoes by T2")
    return lambda: mr0.execute_graph(graph, seq, data, print_progress=False)


PEERS = {
    "blochsim": blochsim,
    "mrpro": mrpro,
    "sycomore": sycomore,
    "sycomore, 2 processes": sycomore_processes,
    "mri-sim-py": mri_sim_py,
    "MRzeroCore": mrzero,
}
