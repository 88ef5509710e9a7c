"""Dictionaries: atoms from any simulator, compressed, matched, refined.

Atoms are a pure function of their index, their signals are simulated when they are
needed and compressed at once, and voxels keep a running best: neither a thousand nor
1e9 atoms take more memory than one shard. Take functions, import no simulator.

::

    atoms = match.sobol(mrsim.Tissue(T1=1.0, T2=0.1), 10**6, log=("T1", "T2"),
                        T1=(0.1, 5.0), T2=(0.01, 2.5), keep=lambda t: t.T2 <= t.T1)
    d = match.dictionary(epg.fisp, atoms, train, rank=10)
    store = match.build(d, "dictionary", progress=True)    # on all ranks, resumable
    found = match.match(d, data, mask, store=store)
    maps = match.params(atoms, found.index)                # a Tissue of maps
    better = match.refine(d, found, data, "T1", "T2")      # between the atoms
"""

from mrsim.match._atoms import (
    Atoms as Atoms,
    grid as grid,
    listed as listed,
    params as params,
)
from mrsim.match._basis import Basis as Basis, subspace as subspace
from mrsim.match._dictionary import (
    Dictionary as Dictionary,
    build as build,
    coefs as coefs,
    compress as compress,
    dictionary as dictionary,
)
from mrsim.match._match import Match as Match, match as match
from mrsim.match._random import latin as latin, sobol as sobol
from mrsim.match._refine import Refined as Refined, refine as refine
