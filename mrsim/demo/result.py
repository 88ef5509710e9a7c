"""What goes into the main job and what comes out of its computation."""

from pathlib import Path
from typing import NamedTuple

from mrsim import epg
from mrsim.demo.brain import Brain, Slice
from mrsim.demo.trains import Ramp
from mrsim.demo.trial import Trial
from mrsim.tissue import Tissue
from mrsim.units import deg, ms


class Options(NamedTuple):
    """What the user can choose; see ``python -m mrsim --help``."""

    out: Path = Path("mrsim-demo")
    t1: Path | None = None  # map [s]
    t2: Path | None = None  # map [s]
    m0: Path | None = None  # map, any unit
    mask: Path | None = None
    slice: int | None = None  # axial index; None: the fullest of at most `fits` voxels
    echoes: int = 16
    esp: float = 8 * ms  # echo spacing [s]
    rms: float = 60 * deg  # limit on the RMS flip angle [rad]
    sigma: float = 0.005  # sd of the noise of each channel [median M0 of the brain]
    fits: int = 30_000  # at least this many fits for each train
    starts: int = 256  # random trains that descend together
    steps: int = 60  # of their descent
    polish: int = 4  # of these, how many are optimised in turn
    seed: int = 0
    device: str = "cpu"  # of the simulations and fits
    progress: bool = True


class Result(NamedTuple):
    """What the report, the figure and the maps are made of."""

    options: Options
    brain: Brain
    cut: Slice
    left_out: int  # voxels of the slice whose T2 the constant train does not tell
    tissues: Tissue  # leaves (2,): what the train was designed for
    trains: dict[str, epg.FSE]  # constant, ramp, optimised
    ramp: Ramp
    objective: dict[str, float]  # mean var(T2)/T2² over the tissues
    gradient_error: float
    trials: dict[str, Trial]
    seconds: dict[str, float]  # of each stage
