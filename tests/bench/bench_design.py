"""Design at scale: time of a fingerprinting design, memory of a gradient.

``schedule``  400 repetitions, 24 spline coefficients, one tissue: seconds of CPU to the
              optimum, and the objective over that of the start (sine lobes)
``gradient``  the gradient of the bound averaged over 100 tissues with respect to flips
              and TRs of 1000 repetitions: CPU time, and the peak memory of a process of
              its own, interpreter and torch included, with ``memory`` of 2 GiB

Run it with ``python tests/bench/bench_design.py``.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import torch
from timing import options, peak_bytes, report
from torch import Tensor
from torch.func import grad_and_value

import mrsim
from mrsim import Tissue, design, epg
from mrsim.units import deg, ms

JOBS = ("schedule", "gradient")


def cost(tissue: Tissue, seq: epg.FISP) -> Tensor:
    bound = mrsim.crlb(epg.fisp, "M0", "T1", "T2", sigma=1.0)(tissue, seq)
    return bound.T1 / tissue.T1**2 + bound.T2 / tissue.T2**2


def lobes(n: int) -> epg.FISP:
    flip = (10 + 50 * (torch.arange(n) * (torch.pi / 100)).sin().abs()) * deg
    return epg.FISP(flip=flip, TR=torch.full((n,), 12 * ms), TE=3 * ms, TI=20 * ms)


def schedule(n: int = 400) -> dict[str, Any]:
    start = lobes(n)
    tissue = Tissue(T1=0.95, T2=0.04)
    knots = mrsim.replace(start, flip=design.spline_fit(start.flip, 24))

    def smooth(q: epg.FISP) -> Tensor:
        return cost(tissue, mrsim.replace(q, flip=design.spline(q.flip, n)))

    before = time.process_time()
    found = design.minimise(
        smooth, knots, "flip", bounds={"flip": (1 * deg, 70 * deg)}, tolerance=1e-6
    )
    return {
        "repetitions": n,
        "cpu_seconds": round(time.process_time() - before, 2),
        "evaluations": found.evaluations,
        "objective_over_start": round(found.value / float(cost(tissue, start)), 4),
    }


def gradient(n: int = 1000, count: int = 100) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    T1, T2 = torch.rand(2, count, generator=g)
    tissues = Tissue(T1=0.5 + 2 * T1, T2=0.03 + 0.12 * T2)
    goal = design.over(cost, tissues, memory=2**31)
    seconds = []
    for _ in range(2):  # the first plans, and probes the memory
        before = time.process_time()
        slope, value = grad_and_value(goal)(lobes(n))
        seconds.append(round(time.process_time() - before, 2))
    assert slope.flip.isfinite().all()
    return {
        "repetitions": n,
        "tissues": count,
        "cpu_seconds_first": seconds[0],
        "cpu_seconds": seconds[1],
        "objective": float(value),
        "peak_GiB": round(peak_bytes() / 2**30, 3),
    }


def main() -> None:
    """Run the job named on the command line, or each in a process of its own."""
    parser = options(__doc__)
    parser.add_argument("job", nargs="?", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    if given.job:
        print(json.dumps(globals()[given.job]()))
        return
    made = {}
    for name in JOBS:
        run = [sys.executable, __file__, name]
        out = subprocess.run(run, check=True, capture_output=True, text=True)
        made[name] = json.loads(out.stdout)
    report(made, given.json)


if __name__ == "__main__":
    main()
