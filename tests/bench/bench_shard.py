"""Two ranks against one: the same shards, the same bits, how much sooner.

Each round runs one rank alone and two at once on a small dictionary. A loaded machine
spoils wall times, so the CPU seconds of the busiest rank are given too: their ratio is
the speed-up on two idle cores. Prints JSON; run ``python tests/bench/bench_shard.py``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from timing import options, report

ATOMS, PULSES, SIZE = 131_072, 400, 4096


def main() -> None:
    """Measure and print, or work as a rank."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank_of:
        return work(args.rank_of)
    rounds = []
    for k in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            one, two = (ranks(n, Path(folder) / str(n), 29600 + k) for n in (1, 2))
            rounds.append((one, two, same(Path(folder) / "1", Path(folder) / "2")))
    wall = [one["wall"] / two["wall"] for one, two, _ in rounds]
    cpu = [one["cpu"] / two["cpu"] for one, two, _ in rounds]
    found = {
        "one_rank": [one for one, *_ in rounds],
        "two_ranks": [two for _, two, _ in rounds],
        "wall_speed_up": [round(x, 2) for x in wall],
        "cpu_speed_up_median": round(statistics.median(cpu), 3),
        "files_equal": all(equal for *_, equal in rounds),
        "load": os.getloadavg(),
    }
    report(found, args.json)
    return None


def work(folder: Path) -> None:
    """Make the dictionary, as one of the ranks."""
    from mrsim import Tissue, epg, match, shard
    from mrsim.units import deg, ms

    torch.set_num_threads(1)
    train = epg.FISP(flip=[30 * deg] * PULSES, TR=12 * ms, TI=20 * ms)
    ranges = {"T1": (0.3, 5.0), "T2": (0.02, 0.3)}
    atoms = match.sobol(Tissue(T1=1.0, T2=0.1), ATOMS, **ranges)
    with shard.join() as world:
        d = match.dictionary(epg.fisp, atoms, train, rank=10, samples=64)
        match.coefs(d, torch.arange(SIZE))  # what is planned and compiled once
        wall, cpu = time.perf_counter(), time.process_time()
        match.build(d, folder, SIZE)
        spent = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"rank": world.rank, "wall": spent[0], "cpu": spent[1]}))


def ranks(count: int, folder: Path, port: int) -> dict[str, float]:
    """Start ranks; return the wall and CPU seconds of the slowest."""
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--rank-of", str(folder)],
            env={**os.environ, **shared, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    said = [json.loads(p.communicate()[0].splitlines()[-1]) for p in started]
    return {key: round(max(x[key] for x in said), 3) for key in ("wall", "cpu")}


def same(a: Path, b: Path) -> bool:
    """Tell whether two folders hold the same files."""
    left, right = ({p.name: p.read_bytes() for p in f.iterdir()} for f in (a, b))
    return left == right


if __name__ == "__main__":
    main()
