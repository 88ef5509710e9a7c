"""The EPG engine beside its peers and itself. Prints JSON; a table with --markdown.

One thread, float32, CPU time, medians, exact states unless said; contenders take turns
in one process. Peers that are absent or unable are listed with the reason, the others
with their errors: with all states, as they must agree, and as timed.

    python tests/bench/bench_engine.py                     all studies, 10 minutes
    python tests/bench/bench_engine.py figure4 crlb        some of them
    python tests/bench/bench_engine.py --picture DIR --markdown FILE --json FILE
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peers import PEERS, SERIAL, TI, Task, contenders, in_processes
from studies import exchanging, growth_of, in_a_row, pictures, spins, train
from timing import interleaved, keep, options, peak_bytes, report, rounded, short, table
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

import mrsim
from mrsim import Tissue, epg
from mrsim.tree import replace, tree_leaves, tree_map
from mrsim.units import deg, ms

SIZES = [round(10 ** (k / 4)) for k in range(21)]  # 1 … 100,000
POOL = 0.5, 0.02, 0.2, 10.0  # T1, T2, f, k of a second pool
LONGEST = 1.0  # s a call: slower peers stay out of larger batches
ATOMS, PULSES = 10_000, 1000
STATES = 10, 20, 32  # 10 are what blochsim ships with
fse = vmap(epg.fse, in_dims=(0, None))
jacobian = vmap(mrsim.jac(epg.fse, "T1", "T2", "B1"), in_dims=(0, None))


def main() -> None:
    """Run the studies asked for and print what they found."""
    parser = options(__doc__)
    parser.add_argument("studies", nargs="*", choices=[[], *STUDIES])
    parser.add_argument("--seconds", type=float, default=8.0, help="for each line")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--most", type=int, default=100_000, help="spins (100000)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="keep a table")
    parser.add_argument("--picture", type=Path, metavar="DIR", help="keep the plots")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory:
        print(json.dumps(one_memory(given.memory)))
        return
    engine = " ".join(epg.engine_info()).replace(str(Path.home()), "~")
    found: dict[str, Any] = {"engine": engine}
    for name in given.studies or STUDIES:
        start = time.perf_counter()
        try:
            found[name] = rounded(STUDIES[name](given))
        except Exception as e:  # the other studies still count
            found[name] = {"failed": f"{type(e).__name__}: {e}"}
        spent = time.perf_counter() - start
        print(f"{name}: {spent:.0f} s", file=sys.stderr, flush=True)
        keep(found, given.json)  # also if it is stopped
    report(found, given.json)
    if given.markdown:
        given.markdown.write_text(table(found))
    if given.picture:
        pictures(found, given.picture)
    if any("failed" in found[name] for name in given.studies or STUDIES):
        sys.exit(1)


def timed(
    given: argparse.Namespace,
    runs: dict[str, Any],
    share: float = 1.0,
    how: Callable[..., dict[str, float]] = interleaved,
) -> dict[str, float]:
    return how(runs, given.rounds, share * given.seconds)


def figure4(given: argparse.Namespace) -> dict[str, Any]:
    """Spins a CPU-second over batch sizes, with and without exchange."""
    found: dict[str, Any] = {}
    for title, exchange in (("one pool", None), ("exchange", POOL)):
        rows: dict[str, Any] = {}
        said: dict[str, Any] = {}
        names = tuple(n for n in PEERS if n != "blochsim as shipped")
        for size in (n for n in SIZES if n <= given.most):
            tissue, seq = spins(size), train()
            if exchange:
                tissue = exchanging(tissue, *exchange)
            runs, new = contenders(task_of(seq, tissue, exchange=exchange), names)
            said = new | said
            run = partial(fse, tissue, seq)
            runs |= {"mrsim": run, "mrsim on torch": on_torch(run)}
            how = short if size < 100 else interleaved
            times = timed(given, runs, 0.25, how)
            rows[str(size)] = {n: size / t for n, t in times.items()}
            names = quick(times)
        found[title] = rows
        for other in ("blochsim", "mrsim on torch"):
            found[f"{title}, mrsim over {other}"] = {
                n: r["mrsim"] / r[other] for n, r in rows.items() if other in r
            }
        found[f"{title}, peers"] = said
    return found


def quick(times: dict[str, float]) -> tuple[str, ...]:
    """Return the peers for the next larger batch: blochsim, and those that last."""
    return tuple(
        n for n in times if n == "blochsim" or (n in PEERS and times[n] < LONGEST)
    )


def on_torch(run: Callable[[], Any]) -> Callable[[], Any]:
    def other() -> Any:
        with epg.use_engine("torch"):
            return run()

    return other


def task_of(seq: epg.FSE, tissue: Tissue, **more: Any) -> Task:
    three = tissue.T1, tissue.T2, tissue.B1
    return Task("fse", seq.flip, float(seq.esp), *three, **more)


def slope(given: argparse.Namespace) -> dict[str, Any]:
    """Signal and its derivative by T2."""
    run = vmap(mrsim.value_and_jac(epg.fse, "T2"), in_dims=(0, None))
    found: dict[str, Any] = {}
    for title, exchange in (("one pool", None), ("exchange", POOL)):
        names = "blochsim", "mrpro"
        said: dict[str, Any] = {}
        for size in (n for n in (1, 1000, 10_000) if n <= given.most):
            tissue, seq = spins(size), train()
            if exchange:
                tissue = exchanging(tissue, *exchange)
            task = task_of(seq, tissue, wants="slope", exchange=exchange)
            runs, new = contenders(task, names)
            said = new | said
            runs |= {
                "mrsim": partial(run, tissue, seq),
                "mrsim, signal alone": partial(fse, tissue, seq),
            }
            times = timed(given, runs)
            names = quick(times)
            rates = {n: size / t for n, t in times.items()}
            if "blochsim" in times:
                rates["mrsim over blochsim"] = times["blochsim"] / times["mrsim"]
            found[f"{title}, {size}"] = rates
            found[f"{title}, peers"] = said
    return found


def ratios(given: argparse.Namespace, size: int = 10_000) -> dict[str, Any]:
    """Derivatives, precision, and paths against the plain forward run."""
    tissue, seq = spins(size), train()
    wide = mrsim.to(tissue, torch.float64), mrsim.to(seq, torch.float64)
    turned = replace(seq, phase=torch.linspace(0, 0.3, len(seq.flip)))
    pools = exchanging(tissue, *POOL)
    signal, pull = torch.func.vjp(fse, tissue, seq)
    runs = {
        "forward": lambda: fse(tissue, seq),
        "float64": lambda: fse(*wide),
        "complex path": lambda: fse(tissue, turned),
        "two pools with exchange": lambda: fse(pools, seq),
        "Jacobian of T1, T2, B1": lambda: jacobian(tissue, seq),
        "VJP of everything": lambda: pull(signal),
        "value and VJP": lambda: torch.func.vjp(fse, tissue, seq)[1](signal),
        "torch path": on_torch(lambda: fse(tissue, seq)),
    }
    names = "blochsim", "blochsim as shipped"
    peers, said = contenders(task_of(seq, tissue), names)
    exact, _ = contenders(task_of(seq, tissue, states=97), names[:1])
    runs |= {f"{n}, 10 states": run for n, run in peers.items()}
    runs |= {f"{n}, all states": run for n, run in exact.items()}
    times = interleaved(runs, 5 * given.rounds, 3 * given.seconds)
    rates = {"spins/s": size / times["forward"]}
    rates |= {f"{n} / forward": t / times["forward"] for n, t in times.items()}
    return rates | {"peers": said}


def crlb(given: argparse.Namespace) -> dict[str, Any]:
    """Bound on T2 with M0 and B1 unknown, and its gradient by 96 flips."""

    def cost(seq: epg.FSE, tissue: Tissue) -> Tensor:
        return mrsim.crlb(epg.fse, "M0", "T2", "B1", sigma=0.01)(tissue, seq).T2

    def alone(seq: epg.FSE, tissue: Tissue) -> Tensor:
        return mrsim.crlb(epg.fse, "T2", sigma=0.01)(tissue, seq).T2

    def costs(seq: epg.FSE, tissue: Tissue) -> Tensor:
        return vmap(cost, in_dims=(None, 0))(seq, tissue).mean()

    seq, many = train(), spins(1000)
    many = replace(many, M0=torch.ones(1000))
    one = tree_map(lambda x: x[0], many)
    runs = {
        "forward": partial(fse, many, seq),
        "value and gradient": partial(grad_and_value(costs), seq, many),
    }
    times = interleaved(runs, 5 * given.rounds, given.seconds)
    ratio = times["value and gradient"] / times["forward"]
    single, unknown = grad_and_value(cost), grad_and_value(alone)
    runs = {
        "torch.func": partial(single, seq, one),
        "T2 alone, torch.func": partial(unknown, seq, one),
        "compiled": partial(mrsim.compiled(single), seq, one),
        "T2 alone, compiled": partial(mrsim.compiled(unknown), seq, one),
        "forward": partial(epg.fse, one, seq),
    }
    task = task_of(seq, tree_map(lambda x: x[:1], many), wants="design")
    peers, said = contenders(task, ("blochsim",))
    runs |= {f"{name}, T2 alone": run for name, run in peers.items()}
    times = timed(given, runs, how=short)
    return {
        "1000 spins, value and gradient / forward": ratio,
        "one spin, ms": {n: 1e3 * t for n, t in times.items()},
        "peers": said,
    }


def fisp(given: argparse.Namespace) -> dict[str, Any]:
    """A dictionary of MR fingerprinting: 1000 pulses after an inversion.

    Every contender is called a few times in a row, after a call that is not timed: see
    `in_a_row` for the reason.
    """
    flip = 0.2 + 0.8 * torch.sin(torch.linspace(0, 20, PULSES)) ** 2
    seq = epg.FISP(flip=flip, TR=12 * ms, TI=TI)
    play = vmap(epg.fisp, in_dims=(0, None))
    found: dict[str, Any] = {}
    for states in STATES:
        equal = replace(seq, states=states)
        rates: dict[str, float] = {}
        for count, names, share in (300, ("mrpro",), 1.0), (ATOMS, ("blochsim",), 4.0):
            tissue = spins(min(count, given.most))
            parts = tissue.T1, tissue.T2, tissue.B1
            runs, said = contenders(Task("fisp", flip, 0.012, *parts, states), names)
            peers = found.setdefault(f"peers, {states} states", {})
            peers |= said
            if count == ATOMS:
                runs["mrsim"] = partial(play, tissue, equal)
                runs["mrsim, exact"] = partial(play, tissue, seq)
            times = timed(given, runs, share, in_a_row)
            rates |= {n: len(tissue.T1) / t for n, t in times.items()}
        if "blochsim" in rates:
            rates["mrsim over blochsim"] = rates["mrsim"] / rates["blochsim"]
        found[f"atoms/s, {states} states"] = rates
    return found


def products(x: Tensor) -> None:
    """Tell how fast this machine calls torch: a thousand small products."""
    for _ in range(1000):
        x * x


def latency(given: argparse.Namespace) -> dict[str, Any]:
    """One spin, ms."""
    one, seq = spins(1), train()
    single = tree_map(lambda x: x[0], one)
    runs, said = contenders(task_of(seq, one), tuple(PEERS))
    slopes, _ = contenders(task_of(seq, one, wants="slope"), ("blochsim", "mrpro"))
    forward = partial(epg.fse, single, seq)
    runs |= {f"{n}, and dS/dT2": run for n, run in slopes.items()} | {
        "mrsim": forward,
        "mrsim on torch": on_torch(forward),
        "mrsim, compiled": partial(mrsim.compiled(epg.fse), single, seq),
        "mrsim, Jacobian by T2": partial(mrsim.jac(epg.fse, "T2"), single, seq),
        "mrsim, gradient by flips": partial(
            grad(lambda s: epg.fse(single, s).abs().sum()), seq
        ),
        "1000 products in torch": partial(products, seq.flip),
    }
    found = {n: 1e3 * t for n, t in timed(given, runs, how=short).items()}
    return found | {"peers": said}


def processes(given: argparse.Namespace) -> dict[str, Any]:
    """Spins a second of wall time on two cores; the machine must be quiet."""
    tissue, seq = spins(min(100_000, given.most)), train()
    found: dict[str, Any] = {}
    runs = {f"mrsim, {n} thread(s)": partial(fse, tissue, seq) for n in (1, 2)}
    times = {n: [] for n in runs}
    for _ in range(given.rounds + 1):
        for count, (name, run) in enumerate(runs.items(), 1):
            torch.set_num_threads(count)
            times[name].append(interleaved({name: run}, 1, 0, time.perf_counter)[name])
    torch.set_num_threads(1)
    for name, spent in times.items():
        found[name] = len(tissue.T1) / sorted(spent)[len(spent) // 2]
    one, two = found.values()
    found["two threads over one"] = two / one
    task = task_of(seq, spins(100))
    for name in SERIAL:
        serial, said = contenders(task, (name,))
        if not serial:
            found[name] = said[name]
            continue
        run, end = in_processes(name, task, 2)
        both = serial | {"2": run}
        times = interleaved(both, 3, given.seconds, time.perf_counter)
        end()
        found[f"{name}, serial"] = len(task.T1) / times[name]
        found[f"{name}, 2 processes"] = len(task.T1) / times["2"]
    return found


def memory(given: argparse.Namespace) -> dict[str, Any]:
    """MiB above inputs and outputs: 1e6 spins of 16 echoes, each in a fresh process."""
    found = {}
    for name in ("forward", "jacobian", "vjp"):
        command = [sys.executable, __file__, "--memory", f"{name},{given.most * 10}"]
        made = subprocess.run(command, check=True, capture_output=True, text=True)
        found[name] = json.loads(made.stdout)
    return found


def one_memory(job: str) -> float:
    name, size = job.split(",")
    seq = epg.FSE(flip=torch.full((16,), 120 * deg), esp=torch.tensor(8 * ms))
    tissue = spins(int(size))
    cotangent = torch.ones(int(size), 16, dtype=torch.complex64)

    def pull(t: Tissue, s: epg.FSE) -> Any:
        return torch.func.vjp(fse, t, s)[1](cotangent[: len(t.T1)])

    run = {"forward": fse, "jacobian": jacobian, "vjp": pull}[name]
    run(tree_map(lambda x: x[:64], tissue), seq)  # kernels, caches
    before = peak_bytes()
    out = run(tissue, seq)
    parts = [x.untyped_storage() for x in tree_leaves(out) if isinstance(x, Tensor)]
    made = sum({p.data_ptr(): p.nbytes() for p in parts}.values())  # some are shared
    return max(0, peak_bytes() - before - made) / 2**20


def growth(given: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds over echoes, states, pools, spins and tangents."""
    return growth_of(lambda runs: interleaved(runs, 5 * given.rounds, given.seconds))


STUDIES = {
    f.__name__: f
    for f in (figure4, slope, ratios, crlb, fisp, latency, processes, memory, growth)
}


if __name__ == "__main__":
    main()
