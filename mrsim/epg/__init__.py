"""Extended phase graphs: any sequence as a Program, exact and differentiable."""

from mrsim.epg._bssfp import (
    BSSFP as BSSFP,
    bssfp as bssfp,
    bssfp_program as bssfp_program,
    bssfp_steady as bssfp_steady,
)
from mrsim.epg._cest import CEST as CEST, cest as cest
from mrsim.epg._dess import DESS as DESS, dess as dess, dess_program as dess_program
from mrsim.epg._dwssfp import (
    DWSSFP as DWSSFP,
    dwssfp as dwssfp,
    dwssfp_program as dwssfp_program,
)
from mrsim.epg._fisp import FISP as FISP, fisp as fisp, fisp_program as fisp_program
from mrsim.epg._fse import FSE as FSE, fse as fse, fse_program as fse_program
from mrsim.epg._looklocker import (
    LookLocker as LookLocker,
    look_locker as look_locker,
    look_locker_program as look_locker_program,
)
from mrsim.epg._memprage import (
    MEMPRAGE as MEMPRAGE,
    memprage as memprage,
    memprage_program as memprage_program,
)
from mrsim.epg._mgre import MGRE as MGRE, mgre as mgre, mgre_program as mgre_program
from mrsim.epg._mp2rage import (
    MP2RAGE as MP2RAGE,
    mp2rage as mp2rage,
    mp2rage_program as mp2rage_program,
    mp2rage_uniform as mp2rage_uniform,
)
from mrsim.epg._mprage import (
    MPRAGE as MPRAGE,
    mprage as mprage,
    mprage_program as mprage_program,
)
from mrsim.epg._mtr import MTR as MTR, mtr as mtr, mtr_program as mtr_program
from mrsim.epg._preparations import (
    diffusion_preparation as diffusion_preparation,
    inversion as inversion,
    mt_preparation as mt_preparation,
    saturation as saturation,
    t2_preparation as t2_preparation,
)
from mrsim.epg._readouts import fse_readout as fse_readout, gre_readout as gre_readout
from mrsim.epg._shuffling import (
    Shuffling as Shuffling,
    shuffling as shuffling,
    shuffling_program as shuffling_program,
)
from mrsim.epg._spgr import (
    SPGR as SPGR,
    spgr as spgr,
    spgr_program as spgr_program,
    spgr_spoiled as spgr_spoiled,
)
from mrsim.epg._steam import (
    STEAM as STEAM,
    steam as steam,
    steam_program as steam_program,
)
from mrsim.epg.blocks import (
    Train as Train,
    concat as concat,
    silent as silent,
    wait as wait,
)
from mrsim.epg.engine import (
    engine_info as engine_info,
    evolve as evolve,
    run as run,
)
from mrsim.epg.kernels.choice import EngineInfo as EngineInfo, use_engine as use_engine
from mrsim.epg.lineshape import absorption as absorption
from mrsim.epg.mixing import exchange as exchange, rest as rest, saturate as saturate
from mrsim.epg.operators import (
    invert as invert,
    precess as precess,
    relax as relax,
    rf as rf,
    shift as shift,
    spoil as spoil,
)
from mrsim.epg.program import Event as Event, Layout as Layout, Program as Program
from mrsim.epg.pulses import (
    Profile as Profile,
    Pulse as Pulse,
    inversion_efficiency as inversion_efficiency,
    nominal_flip as nominal_flip,
    power as power,
    profile as profile,
    spinor as spinor,
)
from mrsim.epg.slices import shaped as shaped, slice_average as slice_average
from mrsim.epg.splitting import substep_error as substep_error
from mrsim.epg.state import State as State, equilibrium as equilibrium
from mrsim.epg.steady import steady as steady
from mrsim.epg.transport import (
    diffuse as diffuse,
    flow as flow,
    wash_out as wash_out,
)
from mrsim.epg.truncation import truncation_error as truncation_error
from mrsim.epg.waveforms import (
    gauss_pulse as gauss_pulse,
    hard_pulse as hard_pulse,
    hs_pulse as hs_pulse,
    shim as shim,
    sinc_pulse as sinc_pulse,
)
