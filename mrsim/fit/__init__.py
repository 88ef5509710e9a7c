"""Least-squares fits of one voxel, made for `vmap`.

Every voxel of a batch has its own damping, active bounds and stopping test. Under vmap
(nested ones are folded) the whole batch goes to one driver, which drops voxels as they
finish; a voxel that cannot be fitted, NaN or singular, changes no other.
"""

from mrsim.fit._levenberg_marquardt import (
    Fit as Fit,
    levenberg_marquardt as levenberg_marquardt,
)
