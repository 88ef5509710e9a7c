"""What finite sub-steps cost where pools do not commute."""

from torch import Tensor

from mrsim.epg.engine import run
from mrsim.epg.program import Program
from mrsim.tissue import Tissue
from mrsim.tree import replace


def substep_error(tissue: Tissue, program: Program) -> Tensor:
    """Estimate the error that ``program.substeps`` leaves in each reading.

    Pools with a D or v of their own do not commute with exchange while a gradient winds
    up wave vectors; m sub-steps of fourth order leave an error ≈ c·m⁻⁴, so that
    |S_m - S_2m|·16/15 estimates it (Richardson). It holds where halving the steps
    divides the error by about 16: ask again with twice the sub-steps to see.

    Args:
        tissue: the voxel.
        program: the sequence, with ``substeps``.

    Returns:
        (reading,) estimate of the error's modulus [units of M0]; zero where pools
        commute.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.

    >>> from mrsim import Exchange, Tissue, epg
    >>> from mrsim.tree import replace
    >>> import torch
    >>> two = Exchange(T1=0.5, T2=0.02, f=0.2, k=100.0, D=1e-4)
    >>> tissue = Tissue(T1=0.8, T2=0.08, D=2e-3, exchange=two)
    >>> echo = epg.fse_program(epg.FSE(flip=[2.0] * 4, esp=0.02))
    >>> echo = replace(echo, moment=torch.tensor([60.0]), substeps=2)
    >>> bool((epg.substep_error(tissue, echo) < 1e-3).all())
    True
    """
    steps = program.substeps or 1
    fine = run(tissue, replace(program, substeps=2 * steps))
    return (run(tissue, program) - fine).abs() * 16 / 15
