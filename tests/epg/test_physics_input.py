"""Errors of pools, motion and labels teach."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mrsim import Bound, Exchange, Tissue, epg, grid
from mrsim.tree import replace

SLOW = Tissue(T1=1.0, T2=0.1)
ECHO = epg.Program(
    flip=[1.5, 2.5, 0.0],
    duration=[0.01, 0.01, 0.01],
    layout=(
        epg.Event(pulse=True, shift=1),
        epg.Event(pulse=True, shift=1, read=True),
        epg.Event(shift=1),
    ),
)
TWO = {"T1": 0.5, "T2": 0.02, "f": 0.2, "k": 10.0}
SOLID = {"T1": 1.0, "f": 0.1, "k": 4.0}


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def wide(program: epg.Program) -> epg.Program:
    """Return a program with shifts of three integers."""
    layout = tuple(e._replace(shift=(0, e.shift, 0)) for e in program.layout)
    return replace(program, layout=layout)


WRONG: list[tuple[str, Callable[[], Any]]] = [
    ("share of M0", lambda: Exchange(**TWO | {"f": 20.0})),
    ("share of M0", lambda: Bound(**SOLID | {"f": -0.1})),
    ("k must not be negative", lambda: Exchange(**TWO | {"k": -1.0})),
    ("D must not be negative", lambda: replace(SLOW, D=-1.0)),
    ("symmetric", lambda: replace(SLOW, D=[[1e-3, 0, 0], [0, 1e-3, 0], [0, 0, -1e-3]])),
    (
        "symmetric",
        lambda: replace(SLOW, D=[[1e-3, 5e-4, 0], [0, 1e-3, 0], [0, 0, 1e-3]]),
    ),
    (
        "leaves nothing",
        lambda: run(
            exchange=Exchange(**TWO | {"f": 0.6}), bound=Bound(**SOLID | {"f": 0.5})
        ),
    ),
    ("nothing can balance", lambda: run(exchange=Exchange(**TWO | {"f": 0.0}))),
    ("pairs of two different", lambda: run(exchange=Exchange(**TWO, pairs=((0, 2),)))),
    ("one rate for each", lambda: run(exchange=Exchange(**TWO | {"k": [1.0, 2.0]}))),
    ("fields of exchange", lambda: run(exchange=Exchange(**TWO | {"T1": [1.0, 2.0]}))),
    ("free partner", lambda: run(bound=Bound(**SOLID | {"k": [1.0, 2.0]}))),
    ("must name free pools", lambda: run(bound=Bound(**SOLID, partners=(1,)))),
    ("needs bound.T2", lambda: run({"power": tensor(1.0)}, bound=Bound(**SOLID))),
    (
        "program.offset",
        lambda: run(bound=Bound(**SOLID, T2=1e-5, T1D=6e-3)),
    ),
    (
        "lineshape must be",
        lambda: run(bound=Bound(**SOLID, lineshape="lorenzian")),  # pyright: ignore
    ),
    ("give program.moment", lambda: run(D=2e-3)),
    ("give program.moment", lambda: run(v=1.0)),
    ("shape \\(\\) or \\(3, 3\\)", lambda: run({"moment": tensor(9.0)}, D=[1e-3] * 3)),
    (
        "gradients with a direction",
        lambda: run({"moment": tensor(9.0)}, D=torch.eye(3) * 1e-3),
    ),
    ("v must have shape", lambda: run({"moment": torch.ones(1, 3)}, v=1.0)),
    ("ask for program.substeps", lambda: run(MOVING, D=1e-3, exchange=DIFFERENT)),
    ("leave it None with T2p", lambda: run({"states": 2}, T2p=0.03)),
    ("moment changes in row 1", lambda: run({"moment": tensor(1.0, 2.0, 1.0)}, D=1e-3)),
    ("one row for each", lambda: run({"moment": tensor(1.0, 2.0)}, D=1e-3)),
    ("rows of clock class 0", lambda: run({"clock": (0, 0, 0), "duration": UNEVEN})),
    ("clock has 2 entries", lambda: run({"clock": (0, 0)})),
    ("add up to", lambda: shifted(200_000)),
    ("mixes shifts", lambda: mixed()),
    ("states can be handed over", lambda: epg.evolve(SLOW, wide(ECHO))),
]
MOVING = {"moment": tensor(25.0)}
UNEVEN = tensor(0.01, 0.02, 0.01)
DIFFERENT = Exchange(**TWO, D=1e-4)


def run(changes: dict[str, Any] | None = None, **physics: Any) -> Any:
    return epg.run(replace(SLOW, **physics), replace(ECHO, **(changes or {})))


def shifted(n: int) -> Any:
    layout = (ECHO.layout[0]._replace(shift=n), *ECHO.layout[1:])
    return run({"layout": layout})


def mixed() -> Any:
    layout = (ECHO.layout[0]._replace(shift=(1, 0, 0)), *ECHO.layout[1:])
    return run({"layout": layout})


@pytest.mark.parametrize(("message", "wrong"), WRONG)
def test_message(message: str, wrong: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        wrong()
    assert len(str(caught.value)) > 40  # what came, what is expected, how to fix it


def test_states_that_explode_are_counted() -> None:
    events = [
        epg.Event(pulse=True, shift=1),
        *[epg.Event(pulse=True, shift=(-1) ** (i // 3)) for i in range(40)],
        epg.Event(read=True),
    ]
    rows = len(events)
    program = epg.Program(
        flip=torch.ones(rows),
        duration=torch.linspace(0.001, 0.002, rows),
        layout=tuple(events),
    )
    with pytest.raises(ValueError, match=r"Program\.clock"):
        epg.run(replace(SLOW, T2p=torch.tensor(0.03)), program)


def test_grids_reach_into_pools() -> None:
    voxel = replace(SLOW, exchange=Exchange(**TWO))
    atoms = grid(voxel, T2=[0.05, 0.1], **{"exchange.k": [1.0, 5.0, 20.0]})
    made = torch.func.vmap(epg.run, in_dims=(0, None))(atoms, ECHO)
    assert made.shape == (6, 1)
    assert atoms.exchange is not None
    one = replace(voxel, exchange=replace(voxel.exchange, k=torch.tensor(20.0)))
    one = replace(one, T2=torch.tensor(0.05))
    assert (made[2] - epg.run(one, ECHO)).abs().max() < 1e-14
