"""Memory: what a computation needs, told before it starts."""

import torch

_INFO = "/proc/meminfo"
_ELEMENT = 1024  # bytes an element takes while its faces are sorted


def available(device: torch.device) -> int | None:
    """Return the bytes that a device has left; ``None`` where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        with open(_INFO) as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def demand(what: str, size: int, device: torch.device, remedy: str) -> None:
    """Refuse a computation that would not fit, with the estimate.

    Args:
        what: the computation, for the message.
        size: bytes that it takes.
        device: where.
        remedy: what to do instead.

    Raises:
        MemoryError: the device has less.
    """
    left = available(device)
    if left is not None and size > left:
        raise MemoryError(
            f"{what} needs about {size / 2**30:.1f} GiB, but {device} has"
            f" {left / 2**30:.1f} GiB left; {remedy}"
        )


def demand_elements(where: str, count: float) -> None:
    """Refuse a mesh whose elements would not fit, with their number.

    Args:
        where: the generator, for the message.
        count: of elements.

    Raises:
        MemoryError: there is less memory than that.
    """
    demand(
        f"{where}: a mesh of {count:.3g} elements",
        int(_ELEMENT * count),
        torch.device("cpu"),
        "take larger elements; sizes are in mm: multiply those in µm by mrsim.units.um",
    )
