"""What ``import mrsim`` costs above torch, numpy and optree, as JSON.

Fresh interpreters, the two imports one after the other in each: seconds of CPU with
compiled bytecode, and MiB of resident memory.
Run it with ``python tests/bench/bench_import.py``.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from timing import options, report

CODE = """
import json, sys, time
import torch, numpy, optree
brought = {n.partition(".")[0] for n in sys.modules}
def now():
    pages = int(open("/proc/self/statm").read().split()[1])
    return time.process_time(), pages / 256
torch_s, torch_mib = now()
import mrsim
s, mib = now()
print(json.dumps({"torch_s": torch_s, "mrsim_s": s - torch_s,
                  "torch_mib": torch_mib, "mrsim_mib": mib - torch_mib,
                  "modules": sum(n.startswith("mrsim") for n in sys.modules),
                  "extras": sorted({n.partition(".")[0] for n in sys.modules} & {
                      "scipy", "matplotlib", "nibabel", "nilearn", "pandas", "tqdm",
                      "meshio", "h5py", "zarr", "pypulseq", "sklearn", "blochsim",
                      "jax", "xarray"} - brought)}))
"""


def measure(times: int) -> list[dict[str, Any]]:
    """Return the cost in fresh interpreters."""
    with tempfile.TemporaryDirectory() as bytecode:
        world = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
        world["PYTHONPYCACHEPREFIX"] = bytecode
        run = [sys.executable, "-c", CODE]
        made = [
            subprocess.run(run, capture_output=True, text=True, check=True, env=world)
            for _ in range(times + 1)  # the first one compiles
        ]
    return [json.loads(out.stdout) for out in made[1:]]


def main() -> None:
    """Print medians of seven."""
    given = options(__doc__).parse_args()
    rows = measure(7)
    numbers = [n for n in rows[0] if n != "extras"]
    medians = {n: round(statistics.median(r[n] for r in rows), 3) for n in numbers}
    report(medians | {"extras": rows[0]["extras"]}, given.json)


if __name__ == "__main__":
    main()
