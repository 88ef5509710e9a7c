"""Sequence design: minimise any objective over any fields of a record, under limits."""

from mrsim.design._minimise import (
    Design as Design,
    History as History,
    minimise as minimise,
)
from mrsim.design._multistart import multistart as multistart
from mrsim.design._over import over as over
from mrsim.design._random_starts import random_starts as random_starts
from mrsim.design._spline import spline as spline, spline_fit as spline_fit
from mrsim.design._tissues import tissues as tissues
from mrsim.design.constraints import (
    Constraint as Constraint,
    at_most as at_most,
    rms as rms,
    slew as slew,
    total as total,
)
