"""Nothing that mrsim does at run time opens a connection or looks up a name."""

import subprocess
import sys
from pathlib import Path

import pytest

GUARD = """
import socket, sys

def refuse(*args, **kwargs):
    raise AssertionError(f"the network is asked for {args}")

def audit(event, args):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname",
                 "socket.sendto", "urllib.Request", "http.client.connect"}:
        refuse(event, *args)

sys.addaudithook(audit)
socket.create_connection = socket.getaddrinfo = refuse
"""
WORK = """
import io, pickle, torch, mrsim
from torch.func import grad, vmap
from mrsim import bloch, design, epg, fit, image, ivim, match, shard, torrey, tract
from mrsim.units import deg, ms

tissue, train = mrsim.Tissue(T1=0.9, T2=0.1), epg.FSE(flip=[2.0] * 4, esp=8e-3)
signal = epg.fse(tissue, train)
mrsim.crlb(epg.fse, "M0", "T2", sigma=0.01)(tissue, train)
vmap(epg.fse, in_dims=(0, None))(mrsim.grid(tissue, T2=[0.05, 0.1]), train)
bloch.run(tissue, epg.fse_program(train))
pickle.loads(pickle.dumps(tissue))
fit.levenberg_marquardt(epg.fse, "T2")(signal, tissue, train)
q = ivim.Acquisition(b=[0.0, 200.0, 400.0, 800.0])
ivim.signal(ivim.Biexp(S0=1.0, f=0.1, Dp=0.02, D=1e-3), q)
nodes, topology = torrey.mesh_box(torch.full((3,), 1e-2), (2, 2, 2))
torrey.volumes(nodes, topology)
tract.harmonics(torch.eye(3), 4)
"""
EXTRAS = """
import importlib.util
if importlib.util.find_spec("nibabel") and importlib.util.find_spec("nilearn"):
    from mrsim import io, plot
    io.load(io.mni152()["gm"])
from mrsim.__main__ import main
main(["--help"])
"""


@pytest.mark.parametrize("work", [WORK, EXTRAS], ids=["library", "extras"])
def test_the_network_stays_untouched(work: str, tmp_path: Path) -> None:
    code = f"{GUARD}\n{work}\nprint('done')"
    run = [sys.executable, "-W", "ignore", "-c", code]
    made = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path)
    wanted = "usage: " if work is EXTRAS else "done"
    assert made.returncode == 0, made.stderr
    assert wanted in made.stdout


def test_the_guard_works() -> None:
    code = f"{GUARD}\nimport urllib.request as r\nr.urlopen('http://example.org')"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "the network is asked for" in made.stderr
