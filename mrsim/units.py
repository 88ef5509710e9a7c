"""Multipliers into mrsim's one unit system: s, rad, mm, T (and Hz, mm2/s, s/mm2).

Write ``80 * ms`` or ``180 * deg``: milliseconds and degrees never enter a signature.
"""

import math

s = 1.0
ms = 1e-3
us = 1e-6

rad = 1.0
deg = math.pi / 180

m = 1e3
cm = 10.0
mm = 1.0
um = 1e-3

T = 1.0
mT = 1e-3
uT = 1e-6

Hz = 1.0
kHz = 1e3

GAMMA = 2.6752218708e8
"""Gyromagnetic ratio of the proton (CODATA 2022) [rad/s/T]."""
