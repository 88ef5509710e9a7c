"""CPU times of contenders that take turns in one process, and reports of them."""

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Run = Callable[[], Any]


def options(doc: str | None, **more: Any) -> argparse.ArgumentParser:
    """Return a parser that knows ``--json FILE``; hand its answer to `report`."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, **more
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the report")
    return parser


def report(found: Mapping[str, Any], file: Path | None = None) -> None:
    """Print a report as JSON, and keep it.

    Args:
        found: what was measured.
        file: where to keep it; None only prints.
    """
    print(json.dumps(found, indent=1))
    keep(found, file)


def keep(found: Mapping[str, Any], file: Path | None) -> None:
    """Write a report with the command and the machine behind it, if to a file."""
    if file is not None:
        origin = {"command": _command(), "machine": machine()}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(origin | dict(found), indent=1) + "\n")


def _command() -> str:
    words = [f"tests/bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    if "--json" in words:
        at = words.index("--json")
        del words[at : at + 2]
    engine = os.environ.get("MRSIM_ENGINE")
    first = [f"MRSIM_ENGINE={engine}"] if engine else []
    words = [w for w in words if not w.startswith("--json=")]
    return " ".join([*first, "python", *words])


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    return {
        "cores": os.cpu_count(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": rounded(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def interleaved(
    runs: Mapping[str, Run],
    rounds: int = 7,
    seconds: float = 30.0,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Return each contender's median time, after one call that warms it up.

    Args:
        runs: the contenders.
        rounds: how often each runs; fewer where all rounds would take too long.
        seconds: about what all of this may take.
        clock: CPU time by default.
    """
    warm = sum(_timed(run, clock) for run in runs.values())
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(max(1, min(rounds, int(seconds / max(warm, 1e-9))))):
        for name, run in runs.items():
            times[name].append(_timed(run, clock))
    return {name: statistics.median(t) for name, t in times.items()}


def _timed(run: Run, clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


def short(
    runs: Mapping[str, Run], rounds: int = 7, seconds: float = 30.0, most: int = 30
) -> dict[str, float]:
    """Return median times of contenders some of which are too short to be timed.

    Args:
        runs: the contenders.
        rounds: see `interleaved`.
        seconds: see `interleaved`.
        most: calls in a row, of the shortest.
    """
    calls = {n: _calls(run, most) for n, run in runs.items()}
    made = {n: _repeated(run, calls[n]) for n, run in runs.items()}
    found = interleaved(made, rounds, seconds)
    return {n: t / calls[n] for n, t in found.items()}


def _calls(run: Run, most: int, enough: float = 0.02) -> int:
    spent = interleaved({"": run}, 1, 0)[""]
    return max(1, min(most, round(enough / max(spent, 1e-9))))


def _repeated(run: Run, times: int) -> Run:
    def many() -> None:
        for _ in range(times):
            run()

    return many


def table(found: Mapping[str, Any]) -> str:
    """Return every number of a report as a row of a Markdown table."""
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


def rounded(x: Any, digits: int = 3) -> Any:
    """Round all numbers of a report to some significant digits."""
    if isinstance(x, dict):
        return {k: rounded(v, digits) for k, v in x.items()}
    if isinstance(x, list):
        return [rounded(v, digits) for v in x]
    return float(f"{x:.{digits}g}") if isinstance(x, float) else x


def peak_bytes() -> int:
    """Return the largest resident size this program has had."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage tells a child begins with its parent's
        lines = status.read_text().splitlines()
        return 1024 * int(next(x for x in lines if x.startswith("VmHWM")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
