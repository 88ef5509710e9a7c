"""One encoding of every kind."""

import torch

from mrsim import torrey

U = torch.tensor([0.6, 0.0, 0.8])
TIMES = {"delta": 0.008, "Delta": 0.021}
LOBES = {"q": 3e4, "direction": U, **TIMES}
WAVE = {  # with a net moment
    "times": [0.0, 0.004, 0.011, 0.013, 0.02],
    "vectors": [
        [1e4, 2e3, 0],
        [3e4, 0, 1e3],
        [-2e4, 1e4, 0],
        [0.0, 3e3, 4e3],
        [0.0, 0, 0],
    ],
}
BALANCED = {
    "times": [0.0, 0.002, 0.006, 0.008, 0.014, 0.016, 0.02, 0.022],
    "vectors": [
        [0.0, 0, 0], [3e5, 1e5, 0], [3e5, -1e5, 2e5], [0.0, 0, 0],
        [0.0, 0, 0], [-3e5, -1e5, 0], [-3e5, 1e5, -2e5], [0.0, 0, 0],
    ],
}  # fmt: skip
ENCODINGS = {
    "pgse": torrey.PGSE(**LOBES),
    "pgse-late": torrey.PGSE(**LOBES, start=0.003, TE=0.04),
    "double": torrey.DoublePGSE(**LOBES, pause=0.002),
    "double-crossed": torrey.DoublePGSE(
        **LOBES, pause=0.002, direction2=[0.0, 1.0, 0.0], TE=0.07
    ),
    "cos": torrey.CosOGSE(**LOBES, periods=2),
    "sin": torrey.SinOGSE(**LOBES, start=0.001),
    "trapezoid": torrey.Trapezoid(**LOBES, rise=0.002, TE=0.05),
    "waveform": torrey.Waveform(**WAVE),
    "waveform-balanced": torrey.Waveform(**BALANCED, TE=0.024),
    "steps": torrey.Waveform(**WAVE, linear=False, TE=0.03),
}
