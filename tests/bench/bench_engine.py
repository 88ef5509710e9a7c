"""The EPG engine beside its peers and itself. Prints JSON; a table with --markdown.

One thread, float32, CPU time, medians, exact states unless said; contenders take turns
in one process. Peers that are absent or unable are listed with the reason.

    python tests/bench/bench_engine.py                     all studies
    python tests/bench/bench_engine.py figure4 crlb        some of them
    python tests/bench/bench_engine.py growth --plot growth.png
    python tests/bench/bench_engine.py --markdown results.md --json results.json
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peers import Task, contenders
from studies import exchanging, spins, train
from timing import interleaved, peak_bytes, repeated, rounded
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

import mrsim
from mrsim import Tissue, epg
from mrsim.tree import replace, tree_map
from mrsim.units import deg, ms

SIZES = [round(10 ** (k / 4)) for k in range(21)]  # 1 … 100,000
ATOMS, PULSES, STATES = 10_000, 1000, 32
fse = vmap(epg.fse, in_dims=(0, None))


def main() -> None:
    """Run the studies asked for and print what they found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="*", choices=[[], *STUDIES])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each line")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--most", type=int, default=100_000, help="spins (100000)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--plot", type=Path, help="PNG of the study growth")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory:
        print(json.dumps(one_memory(given.memory)))
        return
    found = {"torch": torch.__version__, "machine": platform.processor()}
    found["engine"] = engine()
    for name in given.studies or STUDIES:
        print(name, file=sys.stderr, flush=True)
        found[name] = rounded(STUDIES[name](given))
    text = json.dumps(found, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text)
    if given.markdown:
        given.markdown.write_text(markdown(found))


def engine() -> str:
    """Return which path runs, and why."""
    info = getattr(epg, "engine_info", None)
    return "torch" if info is None else " ".join(info())


def timed(given: argparse.Namespace, runs: dict[str, Any]) -> dict[str, float]:
    return interleaved(runs, given.rounds, given.seconds)


def few(run: Any, size: int) -> tuple[Any, int]:
    """Return a run long enough to be timed, and how many calls it holds."""
    times = max(1, 200 // size)
    return repeated(run, times), times


def figure4(given: argparse.Namespace) -> dict[str, Any]:
    """Spins a CPU-second over batch sizes, with and without exchange."""
    found: dict[str, Any] = {}
    for title, exchange in (("one pool", None), ("exchange", (0.5, 0.02, 0.2, 10.0))):
        rows: dict[str, Any] = {}
        for size in (n for n in SIZES if n <= given.most):
            tissue, seq = spins(size), train()
            if exchange:
                tissue = exchanging(tissue, *exchange)
            task = task_of(seq, tissue, exchange=exchange)
            runs, why = contenders(task)
            runs["mrsim"] = lambda t=tissue, s=seq: fse(t, s)
            made, counts = {}, {}
            for name, run in runs.items():
                made[name], counts[name] = few(run, size)
            times = timed(given, made)
            rows[str(size)] = {n: size * counts[n] / t for n, t in times.items()}
            found.setdefault("peers left out", {}).setdefault(title, {}).update(why)
        found[title] = rows
        found[title + ", mrsim over blochsim"] = {
            n: r["mrsim"] / r["blochsim"] for n, r in rows.items() if "blochsim" in r
        }
    return found


def task_of(seq: epg.FSE, tissue: Tissue, **more: Any) -> Task:
    three = tissue.T1, tissue.T2, tissue.B1
    return Task(
        "fse", seq.flip, float(seq.esp), *three, more.pop("states", None), **more
    )


def slope(given: argparse.Namespace) -> dict[str, Any]:
    """Signal and its derivative by T2."""
    run = vmap(mrsim.value_and_jac(epg.fse, "T2"), in_dims=(0, None))
    found = {}
    for size in (1, 1000, 10_000):
        tissue, seq = spins(size), train()
        runs, why = contenders(task_of(seq, tissue, slope=True))
        runs |= {
            "mrsim": lambda t=tissue, s=seq: run(t, s),
            "mrsim, signal alone": lambda t=tissue, s=seq: fse(t, s),
        }
        found[str(size)] = {n: size / t for n, t in timed(given, runs).items()}
        found["peers left out"] = why
    return found


def ratios(given: argparse.Namespace, size: int = 10_000) -> dict[str, Any]:
    """Derivatives, precision, and paths against the plain forward run."""
    tissue, seq = spins(size), train()
    wide = mrsim.to(tissue, torch.float64), mrsim.to(seq, torch.float64)
    turned = replace(seq, phase=torch.linspace(0, 0.3, len(seq.flip)))
    jacobian = vmap(mrsim.jac(epg.fse, "T1", "T2", "B1"), in_dims=(0, None))
    signal = fse(tissue, seq)
    runs = {
        "forward": lambda: fse(tissue, seq),
        "float64": lambda: fse(*wide),
        "complex path": lambda: fse(tissue, turned),
        "Jacobian of T1, T2, B1": lambda: jacobian(tissue, seq),
        "VJP of everything": lambda: torch.func.vjp(fse, tissue, seq)[1](signal),
    }
    if size == 10_000:
        peers = contenders(task_of(seq, tissue), ("blochsim",))[0]
        exact = contenders(task_of(seq, tissue, states=97), ("blochsim",))[0]
        runs |= {"blochsim, 10 states": peers["blochsim"]} if peers else {}
        runs |= {"blochsim, all states": exact["blochsim"]} if exact else {}
    times = timed(given, runs)
    rates = {"spins/s": size / times["forward"]}
    return rates | {f"{n} / forward": t / times["forward"] for n, t in times.items()}


def crlb(given: argparse.Namespace) -> dict[str, Any]:
    """Bound on T2 with M0 and B1 unknown, and its gradient by 96 flips."""

    def cost(seq: epg.FSE, tissue: Tissue) -> Tensor:
        return mrsim.crlb(epg.fse, "M0", "T2", "B1", sigma=0.01)(tissue, seq).T2

    def costs(seq: epg.FSE, tissue: Tissue) -> Tensor:
        return vmap(cost, in_dims=(None, 0))(seq, tissue).mean()

    found: dict[str, Any] = {}
    seq, many = train(), spins(1000)
    many = replace(many, M0=torch.ones(1000))
    both = grad_and_value(costs)
    runs = {
        "forward": lambda: fse(many, seq),
        "value and gradient": lambda: both(seq, many),
    }
    times = timed(given, runs)
    found["1000 spins, value and gradient / forward"] = (
        times["value and gradient"] / times["forward"]
    )
    one = tree_map(lambda x: x[0], many)
    single, unknown = grad_and_value(cost), grad_and_value(alone)
    runs = {
        "torch.func": lambda: single(seq, one),
        "T2 alone, torch.func": lambda: unknown(seq, one),
        "forward": lambda: epg.fse(one, seq),
    }
    if "fused" in engine():
        quick, quicker = mrsim.compiled(single), mrsim.compiled(unknown)
        runs["compiled"] = lambda: quick(seq, one)
        runs["T2 alone, compiled"] = lambda: quicker(seq, one)
    peers, why = contenders(task_of(seq, tree_map(lambda x: x[:1], many), design=True))
    runs |= {f"{name}, T2 alone": run for name, run in peers.items()}
    times = timed(given, runs)
    found["one spin, ms"] = {n: 1e3 * t for n, t in times.items()}
    return found | {"peers left out": why}


def alone(seq: epg.FSE, tissue: Tissue) -> Tensor:
    return mrsim.crlb(epg.fse, "T2", sigma=0.01)(tissue, seq).T2


def fisp(given: argparse.Namespace) -> dict[str, Any]:
    """A dictionary of MR fingerprinting: 1000 pulses."""
    flip = 0.2 + 0.8 * torch.sin(torch.linspace(0, 20, PULSES)) ** 2
    seq = epg.FISP(flip=flip, TR=12 * ms)
    play = vmap(epg.fisp, in_dims=(0, None))
    atoms = min(ATOMS, given.most)
    tissue, small = spins(atoms), spins(min(500, atoms))
    equal = replace(seq, states=STATES)
    parts = small.T1, small.T2, small.B1
    runs, why = contenders(Task("fisp", flip, 0.012, *parts, STATES))
    runs |= {
        f"mrsim, {STATES} states": lambda: play(small, equal),
        "mrsim, exact": lambda: play(small, seq),
    }
    times = timed(given, runs)
    found: dict[str, Any] = {n: len(small.T1) / t for n, t in times.items()}
    name = f"{atoms} atoms, {STATES} states, CPU-s"
    found[name] = timed(given, {"run": lambda: play(tissue, equal)})["run"]
    return {"atoms/s": found, "peers left out": why}


def latency(given: argparse.Namespace) -> dict[str, Any]:
    """One spin, ms."""
    one, seq = spins(1), train()
    single = tree_map(lambda x: x[0], one)
    runs, why = contenders(task_of(seq, one))
    power = grad(lambda s: epg.fse(single, s).abs().sum())
    runs |= {
        "mrsim": lambda: epg.fse(single, seq),
        "mrsim, Jacobian by T2": lambda: mrsim.jac(epg.fse, "T2")(single, seq),
        "mrsim, gradient by flips": lambda: power(seq),
    }
    quick = mrsim.compiled(epg.fse)
    runs["mrsim, compiled"] = lambda: quick(single, seq)
    made = {n: repeated(run, 10) for n, run in runs.items()}
    found = {n: 100 * t for n, t in timed(given, made).items()}
    return found | {"peers left out": why}


def threads(given: argparse.Namespace) -> dict[str, Any]:
    """Wall time of one thread over that of two; the machine must be quiet."""
    tissue, seq = spins(min(100_000, given.most)), train()
    runs = {}
    for count in (1, 2):

        def run(count: int = count) -> None:
            torch.set_num_threads(count)
            fse(tissue, seq)

        runs[str(count)] = run
    times = interleaved(runs, given.rounds, given.seconds, clock=time.perf_counter)
    torch.set_num_threads(1)
    return {"one thread / two": times["1"] / times["2"]}


MEMORY = ("forward", "jacobian", "vjp")


def memory(given: argparse.Namespace) -> dict[str, Any]:
    """MiB above inputs and outputs: 1e6 spins of 16 echoes, each in a fresh process."""
    found = {}
    for name in MEMORY:
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

    jacobian = vmap(mrsim.jac(epg.fse, "T1", "T2", "B1"), in_dims=(0, None))
    run = {"forward": fse, "jacobian": jacobian, "vjp": pull}[name]
    run(tree_map(lambda x: x[:64], tissue), seq)  # kernels, caches
    before = peak_bytes()
    out = run(tissue, seq)
    held = mrsim.tree.tree_leaves(out)
    parts = [x.untyped_storage() for x in held if isinstance(x, Tensor)]
    made = sum({p.data_ptr(): p.nbytes() for p in parts}.values())  # some are shared
    return (peak_bytes() - before - made) / 2**20


def growth(given: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds over echoes, states, pools, spins and tangents."""
    import studies

    found = studies.growth(lambda runs: timed(given, runs))
    if given.plot:
        studies.plot(found, given.plot)
    return found


STUDIES = {
    f.__name__: f
    for f in (figure4, slope, ratios, crlb, fisp, latency, threads, memory, growth)
}


def markdown(found: dict[str, Any]) -> str:
    """Return every number as a row of a table."""
    lines = ["| study | what | figure |", "|---|---|---|"]

    def add(name: str, path: str, x: Any) -> None:
        if isinstance(x, dict):
            for key, value in x.items():
                add(name, f"{path} · {key}" if path else key, value)
        else:
            lines.append(f"| {name} | {path} | {x} |")

    for name, x in found.items():
        add(name, "", x)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
