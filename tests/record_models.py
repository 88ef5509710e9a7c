"""Records that tests of trees share."""

from typing import Any

from torch import Tensor

from mrsim import neutral, record, static


@record
class Pool:
    """A second pool."""

    fraction: Tensor
    k: Tensor | None = neutral(3.0)


@record
class Model:
    """A record with every kind of field."""

    flip: Tensor
    phase: Tensor | None = neutral(0.0, like="flip")
    offset: Tensor | None = None
    pool: Pool | None = None
    order: int = static(2)
    kind: tuple[str, ...] = static(("a",))


def model(**changes: Any) -> Model:
    full = {"flip": [1.0, 2.0], "pool": Pool(fraction=0.2)}
    return Model(**(full | changes))
