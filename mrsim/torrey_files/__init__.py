"""Files and pictures of meshes: volumes, surfaces, neurons, in and out.

Meshes are in millimetres here; files carry no unit, so that loading asks for it.
"""

import sys as _sys

from mrsim._explained import explain as _explain
from mrsim.torrey_files.pictures import (
    draw_history as draw_history,
    draw_quality as draw_quality,
)
from mrsim.torrey_files.surfaces import (
    Surface as Surface,
    fill_surface as fill_surface,
    load_surface as load_surface,
    save_surface as save_surface,
)
from mrsim.torrey_files.swc import (
    Neuron as Neuron,
    label_elements as label_elements,
    load_swc as load_swc,
)
from mrsim.torrey_files.tetrahedra import load_mesh as load_mesh, save_mesh as save_mesh

_explain(_sys.modules[__name__])
