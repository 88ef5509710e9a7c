"""Files of tractography: tracks, images of FODs and gradient tables, in and out.

Positions are scanner (RAS+) millimetres and directions are in the scanner frame on both
sides; what a file holds otherwise is converted here.
"""

import sys as _sys

from mrsim._explained import explain as _explain
from mrsim.tract_files.gradients import (
    load_gradients as load_gradients,
    load_scheme as load_scheme,
    load_table as load_table,
)
from mrsim.tract_files.images import (
    load_fod as load_fod,
    load_volumes as load_volumes,
    save_fod as save_fod,
)
from mrsim.tract_files.tracks import (
    load_tracks as load_tracks,
    save_tracks as save_tracks,
)

_explain(_sys.modules[__name__])
