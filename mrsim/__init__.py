"""mrsim: functional, differentiable MRI simulation on torch.func."""

import gc
import sys

_collects = gc.isenabled()
try:
    # Nothing imported here is ever garbage; the collection that falls due meanwhile
    # would go through all of torch's objects and take as long as the imports.
    gc.disable()
    from mrsim import (
        bloch as bloch,
        design as design,
        epg as epg,
        fit as fit,
        image as image,
        interop as interop,
        ivim as ivim,
        match as match,
        noise as noise,
        shard as shard,
        torrey as torrey,
        tract as tract,
        units as units,
    )
    from mrsim._batched import batched as batched
    from mrsim._check import check as check
    from mrsim._citation import citation as citation
    from mrsim._compiled import compiled as compiled
    from mrsim._covariance import covariance as covariance, logdet as logdet
    from mrsim._crlb import (
        average as average,
        crlb as crlb,
        fisher as fisher,
        worst as worst,
    )
    from mrsim._explained import explain as _explain
    from mrsim._remat import remat as remat
    from mrsim.tissue import Bound as Bound, Exchange as Exchange, Tissue as Tissue
    from mrsim.transform import (
        jac as jac,
        jvp as jvp,
        value_and_jac as value_and_jac,
    )
    from mrsim.tree import (
        expand as expand,
        grid as grid,
        neutral as neutral,
        record as record,
        replace as replace,
        static as static,
        to as to,
    )
finally:
    if _collects:
        gc.enable()

for _module in (
    *(bloch, design, epg, fit, image, interop, ivim, match, noise, shard, torrey),
    *(tract, sys.modules[__name__]),
):
    _explain(_module)
del _module, _collects

__version__ = "0.1.0"
