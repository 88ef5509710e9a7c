"""Results under the names of OSIPI's IVIM code collection."""

from typing import Any

from torch import Tensor

from mrsim.ivim.flow import DB
from mrsim.tree import get, names


def osipi(params: Any) -> dict[str, Tensor]:
    """Return parameter maps under the names of OSIPI's IVIM code collection.

    Args:
        params: the record of a model.

    Returns:
        ``S0``, ``f``, ``Dp`` (the full pseudo-diffusion exponent, D*), ``D``, as far as
        the model has them; other parameters keep their names.

    >>> from mrsim import ivim
    >>> list(ivim.osipi(ivim.Diffusive(f=0.1, Dstar=0.02, D=0.001, Db=0.00175)))
    ['f', 'D', 'Dp']
    """
    out = {n: get(params, n) for n in names(params) if get(params, n) is not None}
    if "Dstar" in out:
        blood = out.pop("Db", None)
        out["Dp"] = out.pop("Dstar") + (DB if blood is None else blood)
    return out
