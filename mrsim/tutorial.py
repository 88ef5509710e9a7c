"""From one voxel to a cluster, in eight steps that build on each other.

Every line below runs: `python -m pytest --doctest-modules mrsim/tutorial.py`.

## 1. One voxel

A tissue and a sequence are records: frozen, with named fields in SI units and mm. A
simulator is a function of the two; it knows one voxel and one sequence.

>>> import torch, mrsim
>>> from torch.func import grad, vmap
>>> from mrsim import epg, fit, match, noise, shard
>>> from mrsim.units import deg, ms
>>> tissue = mrsim.Tissue(T1=950 * ms, T2=100 * ms)
>>> train = epg.FSE(flip=[150 * deg] * 8, esp=10 * ms)
>>> signal = epg.fse(tissue, train)
>>> signal.shape, signal.dtype
(torch.Size([8]), torch.complex64)

The extended phase graph behind it keeps every state that reaches an echo: no number of
states to choose. float64 in gives complex128 out.

>>> epg.fse(mrsim.to(tissue, torch.float64), mrsim.to(train, torch.float64)).dtype
torch.complex128

## 2. Its derivatives

`mrsim.jac` takes fields by name, of the tissue or of the sequence, and returns a record
of derivatives. A field that is absent is taken at its neutral value (B1 = 1).

>>> slope = mrsim.jac(epg.fse, "T2", "B1")(tissue, train)
>>> slope.T2.shape, slope.B1.shape
(torch.Size([8]), torch.Size([8]))

Every transform of torch.func composes with it: `grad`, `jvp`, `hessian`, `vmap`, in any
order.

## 3. How well can T2 be known?

The Cramér–Rao bound is the least variance of any unbiased estimate, from noise of
standard deviation σ in each channel: var ≥ σ² diag (JᵀJ)⁻¹.

>>> bound = mrsim.crlb(epg.fse, "M0", "T2", sigma=0.01)
>>> float(bound(tissue, train).T2.sqrt()) < 3 * ms
True

## 4. A better sequence

The bound is a function like any other: its gradient with respect to the flip angles
says how to change the train. `mrsim.design` minimises it under constraints.

>>> way = grad(lambda train: bound(tissue, train).T2)(train).flip
>>> better = mrsim.replace(train, flip=train.flip - 0.1 * way / way.norm())
>>> bool(bound(tissue, better).T2 < bound(tissue, train).T2)
True

## 5. Many voxels

`mrsim.grid` gives fields a batch axis and `vmap` maps over it. The engine plays the
whole batch at once.

>>> T2 = torch.linspace(60 * ms, 140 * ms, 50)
>>> voxels = mrsim.grid(tissue, T2=T2)
>>> echoes = vmap(epg.fse, in_dims=(0, None))(voxels, train)
>>> echoes.shape
torch.Size([50, 8])

More voxels than memory holds: `mrsim.batched` is vmap in chunks, with the same result
and the same derivatives.

>>> chunked = mrsim.batched(epg.fse, in_dims=(0, None), memory=2**20)(voxels, train)
>>> torch.allclose(chunked, echoes, atol=1e-6)
True

## 6. Fits

A fit is a function of one voxel too, so that `vmap` fits them all; each has its own
damping and stops on its own.

>>> generator = torch.Generator().manual_seed(0)
>>> sample = torch.randn(2, *echoes.shape, generator=generator)
>>> data = echoes + 0.002 * torch.complex(sample[0], sample[1])
>>> start = mrsim.expand(mrsim.Tissue(T1=950 * ms, T2=80 * ms, M0=1.0), 50)
>>> solve = fit.levenberg_marquardt(epg.fse, "M0", "T2")
>>> found = vmap(solve, in_dims=(0, 0, None))(data, start, train)
>>> bool(found.converged.all())
True
>>> bool((found.params.T2 - T2).abs().max() < 4 * ms)
True

## 7. Dictionaries

Atoms are a pure function of their index: neither a thousand nor a billion of them take
more memory than one shard.

>>> atoms = match.grid(tissue, T2=torch.linspace(50 * ms, 150 * ms, 101))
>>> table = match.dictionary(epg.fse, atoms, train, rank=3)
>>> nearest = match.params(atoms, match.match(table, data).index).T2
>>> bool((nearest - T2).abs().median() < 3 * ms)
True

## 8. A cluster

`mrsim.shard` cuts work into shards whose files do not depend on how many processes
there are. A job that is killed goes on where it was; another number of ranks gives the
same bits.

>>> import tempfile
>>> def work(start, stop):
...     some = mrsim.grid(tissue, T2=T2[start:stop])
...     return {"echoes": vmap(epg.fse, in_dims=(0, None))(some, train)}
>>> with tempfile.TemporaryDirectory() as folder:
...     store = shard.run(work, count=50, folder=folder, size=16, inputs=(T2, train))
...     whole = shard.read(store, "echoes")
>>> torch.allclose(whole, echoes, atol=1e-6)
True

On a cluster the same script runs as `torchrun --nproc-per-node 8 script.py`, under
`srun`, or in a job array: each process sees which rank it is and takes its shards. In
`with shard.join():` they wait for each other at the end; all they share is the folder.

From here: `mrsim.torrey` for diffusion in meshes, `mrsim.ivim` for perfusion,
`mrsim.tract` for streamlines, with the same records, derivatives, bounds and fits.
"""
