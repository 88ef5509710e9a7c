"""Peak memory of a million spins through `mrsim.batched`, nothing tuned.

16 echoes, float32; each job runs in a fresh process, whose largest resident size (the
interpreter, torch, inputs and results included) is printed as JSON in GiB.
Run it with ``python tests/bench/bench_memory.py``.
"""

import argparse
import json
import subprocess
import sys
import time

import torch
from timing import options, peak_bytes, report

import mrsim
from mrsim import Tissue, epg
from mrsim.units import deg, ms

SPINS = 1_000_000
JOBS = {"forward": epg.fse, "jac_T1_T2_B1": mrsim.jac(epg.fse, "T1", "T2", "B1")}


def main() -> None:
    """Run the job named on the command line, or each of them in its own process."""
    parser = options(__doc__)
    parser.add_argument("job", nargs="?", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        print(json.dumps(measure(given.job)))
        return
    found = {}
    for name in JOBS:
        made = subprocess.run(
            [sys.executable, __file__, name], check=True, capture_output=True, text=True
        )
        found[name] = json.loads(made.stdout)
    report(found, given.json)


def measure(name: str) -> dict[str, float]:
    """Simulate a million spins and return the peak memory and the CPU time."""
    torch.set_num_threads(1)
    tissue = Tissue(
        T1=torch.rand(SPINS) + 0.5,
        T2=torch.rand(SPINS) * 0.1 + 0.03,
        B1=torch.rand(SPINS) * 0.2 + 0.9,
    )
    train = epg.FSE(flip=[120 * deg] * 16, esp=8 * ms)
    start = time.process_time()
    mrsim.batched(JOBS[name], in_dims=(0, None))(tissue, train)
    seconds = time.process_time() - start
    return {
        "peak_GiB": round(peak_bytes() / 2**30, 3),
        "cpu_seconds": round(seconds, 2),
    }


if __name__ == "__main__":
    main()
