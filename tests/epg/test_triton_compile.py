"""Triton's kernels compile for cards that are not there, to machine code.

What the interpreter cannot show: that the compiler accepts every variant, that each
lane stays in one thread (no shared memory), and what a thread needs. All variants take
minutes, and are compiled where MRSIM_ALL_KERNELS is set.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

if find_spec("triton") is None:
    pytest.skip("triton comes with torch's CUDA builds", allow_module_level=True)
if sys.platform != "linux":
    pytest.skip("the assembler runs on Linux", allow_module_level=True)

PROGRAM = """
import json, subprocess, sys, tempfile
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mrsim.epg.kernels import triton_walk as walk
from mrsim.epg.kernels.call import Physics
from mrsim.epg.kernels.triton_coefs import form_of

name, physics, tangents, card = json.loads(sys.argv[1])
physics = Physics(*physics, own=False)
kernel, form = getattr(walk, name), form_of(physics, tangents, 128)
real = "*fp64" if physics.double else "*fp32"
kinds = dict.fromkeys(kernel.arg_names, real)
kinds |= dict.fromkeys(("knots", "clears", "looks"), "*i32")
kinds |= {p.name: "i32" for p in kernel.params if p.do_not_specialize}
kinds["form"] = "constexpr"
aligned = {
    (i,): [["tt.divisibility", 16]]
    for i, n in enumerate(kernel.arg_names)
    if kinds[n].startswith("*")
}
source = ASTSource(kernel, kinds, {(kernel.arg_names.index("form"),): form}, aligned)
options = {"num_warps": 4, "enable_fp_fusion": True}
made = triton.compile(source, target=GPUTarget("cuda", card, 32), options=options)
tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
with tempfile.TemporaryDirectory() as folder:
    code = Path(folder) / "kernel.cubin"
    code.write_bytes(made.asm["cubin"])
    command = [tool, "-res-usage", code]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
words = next(x for x in shown.stdout.splitlines() if "REG:" in x).split()
found = dict(w.split(":") for w in words if w.startswith(("REG", "STACK", "SHARED")))
print(json.dumps({n: int(x) for n, x in found.items()}))
"""
# double, parts, free, pools, bound, shifted, motion
PHYSICS = {
    "real": (False, 1, 1, 1, 0, False, False),
    "complex": (False, 2, 1, 1, 0, False, False),
    "real in double": (True, 1, 1, 1, 0, False, False),
    "complex in double": (True, 2, 1, 1, 0, False, False),
    "two pools": (False, 2, 2, 2, 0, True, False),
    "three pools": (False, 1, 3, 3, 0, False, False),
    "bound": (False, 1, 1, 2, 1, False, False),
    "dipolar": (False, 2, 1, 3, 2, False, False),
    "diffusion": (False, 1, 1, 1, 0, False, True),
    "flow": (False, 2, 1, 1, 0, False, True),
}
EVERYTHING = (True, 2, 2, 4, 2, True, True)
ALL = pytest.mark.skipif(
    "MRSIM_ALL_KERNELS" not in os.environ, reason="minutes: set MRSIM_ALL_KERNELS"
)
KERNELS = [(name, t) for name in ("there", "there_and_back") for t in (0, 1)]


def compiled(
    name: str, physics: tuple[Any, ...], tangents: int, card: int
) -> dict[str, int]:
    """Return a kernel's registers and bytes a thread keeps beside them, and shares."""
    clean = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    asked = json.dumps([name, physics, tangents, card])
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, asked]
    made = subprocess.run(command, env=clean, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    return json.loads(made.stdout.splitlines()[-1])


@pytest.mark.parametrize("card", [80, 90])
def test_compiles_for_a_card(card: int) -> None:
    name, physics = ("there", "two pools") if card == 80 else ("there_and_back", "real")
    needs = compiled(name, PHYSICS[physics], 0, card)
    assert needs["SHARED"] == needs["STACK"] == 0
    assert needs["REG"] <= 128


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("card", [80, 90])
@pytest.mark.parametrize(("name", "tangents"), KERNELS)
@pytest.mark.parametrize("physics", PHYSICS)
def test_every_variant_compiles(
    physics: str, name: str, tangents: int, card: int
) -> None:
    needs = compiled(name, PHYSICS[physics], tangents, card)
    assert needs["SHARED"] == 0
    assert needs["STACK"] <= 512  # spilled where pools exchange and tangents go back


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("pools", [4, 8])
def test_many_pools_compile(pools: int) -> None:
    some = EVERYTHING if pools == 4 else (False, 1, 8, 8, 0, False, False)
    assert compiled("there", some, 1, 90)["SHARED"] == 0
