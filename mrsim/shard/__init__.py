"""The same map over processes, GPUs and nodes: shards of work that survive a kill.

`run` cuts a range of items into shards. Which items a shard holds depends on nothing
but the range, every rank takes some of the shards, and each goes to files of its own
with a checksum; so the result does not depend on the number of ranks, and after a kill
only unfinished shards are computed again. `value_and_grad` and `total` sum a cost over
many tissues with one all-reduce. A script is the same on a laptop and on a cluster::

    from mrsim import shard

    with shard.join() as world:
        store = shard.run(work, count=10**9, folder="dictionary", progress=True)

Start it as ``python script.py``, as ``torchrun --nproc-per-node 8 script.py``, or by
SLURM, as ranks that talk to each other (gradients need that; see `join`)::

    #!/bin/bash
    #SBATCH --nodes=4 --ntasks-per-node=8 --cpus-per-task=1 --requeue
    export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    export MASTER_PORT=29500 OMP_NUM_THREADS=1
    srun --kill-on-bad-exit=0 python script.py

or as an array of tasks that know nothing of each other, in any order, at any time::

    #SBATCH --array=0-99 --requeue
    python script.py

A job that was killed or ran out of time is submitted again, unchanged.
"""

from mrsim.shard._export import export as export
from mrsim.shard._run import missing as missing, run as run
from mrsim.shard._store import (
    Store as Store,
    StoreError as StoreError,
    open_store as open_store,
)
from mrsim.shard._total import total as total, value_and_grad as value_and_grad
from mrsim.shard._world import World as World, join as join, world as world
from mrsim.shard.files import read as read
