"""Figures: sequences, phase graphs, maps, meshes, streamlines, panels (extra ``plot``).

Each function draws into matplotlib axes that the caller made, and returns what a colour
bar needs where colours mean something; those that end in ``_html`` write an interactive
page (extra ``html``).
"""

import sys as _sys

from mrsim._explained import explain as _explain
from mrsim.plot._maps import (
    QUANTITIES as QUANTITIES,
    Quantity as Quantity,
    maps as maps,
)
from mrsim.plot._mesh import mesh as mesh, mesh_html as mesh_html
from mrsim.plot._phase_graph import phase_graph as phase_graph
from mrsim.plot._sequence import sequence as sequence
from mrsim.plot._streamlines import (
    streamlines as streamlines,
    streamlines_html as streamlines_html,
)
from mrsim.plot.panels import (
    COLOURS as COLOURS,
    STYLE as STYLE,
    bars as bars,
    curves as curves,
    flips as flips,
    histograms as histograms,
    picture as picture,
    point_spreads as point_spreads,
)

_explain(_sys.modules[__name__])
