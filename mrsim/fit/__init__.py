"""Fits of one voxel, made for `vmap`, and of whole images.

Every voxel of a batch has its own damping, active bounds and stopping test. Under vmap
(nested ones are folded) the whole batch goes to one driver, which drops voxels as they
finish; a voxel that cannot be fitted, NaN or singular, changes no other. Fits are
differentiable by the implicit function theorem.
"""

from mrsim.fit._from_starts import from_starts as from_starts
from mrsim.fit._levenberg_marquardt import (
    levenberg_marquardt as levenberg_marquardt,
)
from mrsim.fit._maps import maps as maps
from mrsim.fit._variable_projection import (
    variable_projection as variable_projection,
)
from mrsim.fit.prior import Prior as Prior
from mrsim.fit.result import Fit as Fit
