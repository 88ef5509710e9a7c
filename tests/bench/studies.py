"""The spins and trains of `bench_engine.py`, and how cost grows."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from drawing import finish
from torch.func import vmap

import mrsim
from mrsim import Exchange, Tissue, epg, plot
from mrsim.tree import replace

ECHOES, SPINS = 96, 4000
ROW = 3  # timed calls of a turn


def spins(count: int) -> Tissue:
    g = torch.Generator().manual_seed(count)
    u = torch.rand(3, count, generator=g)
    return Tissue(T1=u[0] + 0.5, T2=u[1] * 0.1 + 0.03, B1=u[2] * 0.2 + 0.9)


def train(echoes: int = ECHOES) -> epg.FSE:
    flip = torch.rand(echoes, generator=torch.Generator().manual_seed(1)) * 2 + 1
    return epg.FSE(flip=flip, esp=torch.tensor(5e-3))


def exchanging(
    tissue: Tissue, T1: float, T2: float, f: float, k: float, pools: int = 2
) -> Tissue:
    """Return the same spins with more pools, all of the same kind."""
    shape = len(tissue.T1), pools - 1
    values = {"T1": T1, "T2": T2, "f": f / (pools - 1), "k": k}
    made: dict[str, Any] = {n: torch.full(shape, v) for n, v in values.items()}
    return replace(tissue, exchange=Exchange(**made, directional=False))


def growth_of(timed: Callable[[dict[str, Any]], dict[str, float]]) -> dict[str, Any]:
    """Return milliseconds of runs that differ in one size each."""
    fse = vmap(epg.fse, in_dims=(0, None))
    tissue, seq = spins(SPINS), train()
    names = "T1", "T2", "B1", "M0", "df"
    tangents = {
        str(n): vmap(mrsim.jac(epg.fse, *names[:n]), in_dims=(0, None))
        for n in range(1, 5)
    }
    lines: dict[str, dict[str, Any]] = {
        "echoes": {
            str(n): (lambda n=n: fse(tissue, train(n)))
            for n in (8, 16, 32, 64, 128, 256)
        },
        "states": {
            str(n): (lambda n=n: fse(tissue, replace(seq, states=n)))
            for n in (4, 8, 16, 32, 64, 96)
        },
        "pools": {str(n): partial(fse, _pooled(tissue, n), seq) for n in (1, 2, 3, 4)},
        "spins": {
            str(n): partial(fse, spins(n), seq) for n in (1, 10, 100, 1000, 10_000)
        },
        "tangents": {
            "0": lambda: fse(tissue, seq),
            **{n: (lambda f=f: f(tissue, seq)) for n, f in tangents.items()},
        },
    }
    return {
        name: {n: 1e3 * t for n, t in timed(runs).items()}
        for name, runs in lines.items()
    }


def _pooled(tissue: Tissue, pools: int) -> Tissue:
    return tissue if pools == 1 else exchanging(tissue, 0.5, 0.02, 0.2, 10.0, pools)


def in_a_row(
    runs: Mapping[str, Callable[[], Any]], rounds: int, seconds: float
) -> dict[str, float]:
    """Return each contender's median CPU time of a call, made call after call.

    A dictionary is made so. The first call of each turn, of every contender, is not
    timed: what it had given back before the others took their seconds has gone from a
    virtual machine to its host, and to fetch 80 MB from there takes longer than the
    call itself. The pages that later calls touch anew are paid for by each.

    Args:
        runs: the contenders.
        rounds: how many turns each has.
        seconds: after which no more rounds begin.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.process_time() + seconds
    for k in range(rounds):
        if k and time.process_time() > end:
            break
        for name, run in runs.items():
            run()
            start = time.process_time()
            for _ in range(ROW):
                run()
            times[name].append((time.process_time() - start) / ROW)
    return {name: statistics.median(t) for name, t in times.items()}


def pictures(found: dict[str, Any], folder: Path) -> None:
    """Draw what there is to draw."""
    folder.mkdir(parents=True, exist_ok=True)
    if "one pool" in found.get("figure4", ()):
        draw_figure4(found["figure4"], folder / "engine_figure4.png")
    if "spins" in found.get("growth", ()):
        draw_growth(found["growth"], folder / "engine_growth.png")


def draw_figure4(found: dict[str, Any], path: Path) -> None:
    """Draw spins a CPU-second over the batch, without and with exchange."""
    plt = _pyplot()
    titles = "one pool", "exchange"
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    names = list(dict.fromkeys(n for t in titles for r in found[t].values() for n in r))
    names.sort(key=lambda n: not n.startswith("mrsim"))
    for panel, title in zip(panels, titles, strict=True):
        for k, name in enumerate(names):
            rows = {int(n): r[name] for n, r in found[title].items() if name in r}
            panel.loglog(*zip(*rows.items(), strict=True) if rows else ((), ()),
                         "o-", color=f"C{k}", markersize=3, label=name)  # fmt: skip
        panel.set(title=title, xlabel="spins")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("spins per CPU-second")
    panels[1].legend(*panels[0].get_legend_handles_labels(), fontsize=7,
                     loc="center left", bbox_to_anchor=(1, 0.5))  # fmt: skip
    _save(figure, path)


def draw_growth(found: dict[str, dict[str, float]], path: Path) -> None:
    """Draw one panel for each size."""
    pyplot = _pyplot()
    pyplot.rcParams.update(plot.STYLE)
    figure, panels = pyplot.subplots(1, len(found), figsize=(23, 5), sharey=True)
    for panel, (name, line) in zip(panels, found.items(), strict=True):
        x, y = [float(n) for n in line], list(line.values())
        panel.loglog(x, y, "o-") if max(x) > 20 else panel.semilogy(x, y, "o-")
        first = panel is panels[0]
        finish(panel, name.capitalize(), "", "CPU time [ms]" if first else "")
        if max(x) <= 20:
            panel.set_xticks(x, labels=list(line))
    _save(figure, path, 80)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path, dpi: int = 150) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=dpi, bbox_inches="tight")
