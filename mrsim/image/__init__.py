"""From maps to k-space and back: what an echo train makes of an object.

A train's signal in every voxel, read out echo by echo into the lines of k-space,
through coils, off-resonance and a sampling mask: differentiable in the maps, the train
and the fields. Takes the train's signal as a function; imports no simulator.
"""

from mrsim.image._echoes import echoes as echoes
from mrsim.image._order import centric as centric, linear as linear
from mrsim.image._point_spread import point_spread as point_spread
from mrsim.image._readout import (
    Readout as Readout,
    kspace as kspace,
    reconstruct as reconstruct,
)
