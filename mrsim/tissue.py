"""The tissue of one voxel."""

from torch import Tensor

from mrsim.tree import neutral, record


@record
class Tissue:
    """Magnetic properties of one voxel; in a batch every leaf has one more axis."""

    T1: Tensor  # () longitudinal relaxation time [s]
    T2: Tensor  # () transverse relaxation time [s]
    M0: Tensor | None = neutral(1.0)  # () equilibrium magnetisation [signal units]
    B1: Tensor | None = neutral(1.0)  # () transmit field relative to nominal [1]
    df: Tensor | None = neutral(0.0)  # () off-resonance [Hz]; > 0 turns by e^{+i2πt df}
