"""CPU times of contenders that take turns in one process, and what they need."""

import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Run = Callable[[], Any]


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


def repeated(run: Run, times: int) -> Run:
    """Return a run of many short calls; divide its time by their number."""

    def many() -> None:
        for _ in range(times):
            run()

    return many


def rounded(x: Any, digits: int = 3) -> Any:
    """Round all numbers of a report to some significant digits."""
    if isinstance(x, dict):
        return {k: rounded(v, digits) for k, v in x.items()}
    if isinstance(x, list):
        return [rounded(v, digits) for v in x]
    return float(f"{x:.{digits}g}") if isinstance(x, float) else x


def peak_bytes() -> int:
    """Return the largest resident size this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
