"""Which of how many ranks this process is."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist


class World(NamedTuple):
    """The place of one process among all that share the work."""

    rank: int  # 0 … size - 1
    size: int  # number of processes
    local: int  # rank among those of this machine
    joined: bool  # they can talk: torch.distributed is up


def world(environment: Mapping[str, str] | None = None) -> World:
    """Tell which rank this process is.

    From torch.distributed if it is up; else from the variables of, in this order,
    ``torchrun`` (RANK, WORLD_SIZE), ``srun`` with several tasks (SLURM_PROCID,
    SLURM_NTASKS) and SLURM's job arrays (SLURM_ARRAY_TASK_ID and its _MIN and
    _COUNT; the ids must follow each other by one); else rank 0 of 1.

    Args:
        environment: the variables; those of the process by default.

    Returns:
        The place.

    Raises:
        ValueError: the variables contradict each other.

    >>> world({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "10"}).rank
    7
    """
    e = os.environ if environment is None else environment
    if environment is None and dist.is_available() and dist.is_initialized():
        rank, size = dist.get_rank(), dist.get_world_size()
        local = e.get("LOCAL_RANK", e.get("SLURM_LOCALID", rank))
        return World(rank, size, int(local), joined=True)
    if "RANK" in e and "WORLD_SIZE" in e:
        found = e["RANK"], e["WORLD_SIZE"], e.get("LOCAL_RANK", e["RANK"])
    elif "SLURM_STEP_ID" in e and int(e.get("SLURM_NTASKS", 1)) > 1:
        # a batch script has SLURM_NTASKS too, but only srun starts that many processes
        found = e["SLURM_PROCID"], e["SLURM_NTASKS"], e.get("SLURM_LOCALID", "0")
    elif "SLURM_ARRAY_TASK_ID" in e:
        first = int(e.get("SLURM_ARRAY_TASK_MIN", 0))
        count = e.get("SLURM_ARRAY_TASK_COUNT", "1")
        found = int(e["SLURM_ARRAY_TASK_ID"]) - first, count, "0"
    else:
        found = 0, 1, 0
    rank, size, local = map(int, found)
    if not 0 <= rank < size:
        raise ValueError(
            f"shard: rank {rank} of {size} is not possible; check RANK and WORLD_SIZE,"
            f" or use an array without gaps (#SBATCH --array=0-99)"
        )
    return World(rank, size, local, joined=False)


@contextmanager
def join(minutes: float = 30.0) -> Iterator[World]:
    """Let the ranks talk to each other while a ``with`` block lasts.

    NCCL where there are GPUs (each process then takes the GPU of its local rank), gloo
    on CPUs. A single process, or ranks without MASTER_ADDR (a job array), stay apart:
    `run` does without, `value_and_grad` says so.

    Args:
        minutes: how long a rank waits for another before it gives up.

    Yields:
        The place of this process.

    >>> from mrsim import shard
    >>> with shard.join() as place:  # alone here; under torchrun, one of many
    ...     place.rank, place.size
    (0, 1)
    """
    here = world()
    if here.joined or here.size == 1 or "MASTER_ADDR" not in os.environ:
        yield here
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(here.local % torch.cuda.device_count())
    os.environ.setdefault("MASTER_PORT", "29500")
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        rank=here.rank,
        world_size=here.size,
        timeout=timedelta(minutes=minutes),
    )
    try:
        yield here._replace(joined=True)
    finally:
        dist.destroy_process_group()


def device() -> torch.device:
    """Return where collectives of this process take their tensors."""
    nccl = dist.is_initialized() and dist.get_backend() == "nccl"
    return (
        torch.device("cuda", torch.cuda.current_device())
        if nccl
        else torch.device("cpu")
    )
