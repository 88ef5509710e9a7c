"""Extended phase graphs: any sequence as a Program, exact and differentiable."""

from mrsim.epg._bssfp import (
    BSSFP as BSSFP,
    bssfp as bssfp,
    bssfp_steady as bssfp_steady,
)
from mrsim.epg._fisp import FISP as FISP, fisp as fisp, fisp_program as fisp_program
from mrsim.epg._fse import FSE as FSE, fse as fse, fse_program as fse_program
from mrsim.epg._mprage import MPRAGE as MPRAGE, mprage as mprage
from mrsim.epg._spgr import SPGR as SPGR, spgr as spgr, spgr_spoiled as spgr_spoiled
from mrsim.epg.engine import evolve as evolve, run as run
from mrsim.epg.operators import (
    precess as precess,
    relax as relax,
    rf as rf,
    shift as shift,
    spoil as spoil,
)
from mrsim.epg.program import Event as Event, Layout as Layout, Program as Program
from mrsim.epg.state import State as State, equilibrium as equilibrium
from mrsim.epg.truncation import truncation_error as truncation_error
