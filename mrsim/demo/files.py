"""The maps that the main job writes, named and described as BIDS derivatives."""

from pathlib import Path

import mrsim
from mrsim import io
from mrsim.demo.brain import fill
from mrsim.demo.result import Result
from mrsim.units import deg


def write_maps(result: Result) -> list[Path]:
    """Write the true T2 map and, for each train, the fitted one and its CRLB sd.

    Each is a volume on the grid of the input, zero outside the slice's fitted voxels,
    with a JSON sidecar.

    Args:
        result: of the computation; files go to its ``options.out``.

    Returns:
        The NIfTI files.
    """
    subject = f"sub-{result.brain.name}"
    origin = {
        "SoftwareName": "mrsim",
        "SoftwareVersion": mrsim.__version__,
        "Units": "s",
    }
    about = {"Description": "True T2 of the simulation"}
    voxels = len(result.cut.tissue.T2)
    jobs = [(f"{subject}_desc-truth_T2map", result.cut.tissue.T2, about)]
    for name, train in result.trains.items():
        trial = result.trials[name]
        protocol = {
            "EchoTime": [
                round(float(train.esp) * (i + 1), 6) for i in range(len(train.flip))
            ],
            "FlipAngle": 90,
            "RefocusingFlipAngles": [round(f / deg, 3) for f in train.flip.tolist()],
            "EstimationAlgorithm": "Levenberg-Marquardt on extended phase graphs;"
            " unknown M0, T2, B1; T1 known",
            "NoiseSD": result.options.sigma,
        }
        fitted = {"Description": f"T2 fitted to simulated noisy echoes, {name} train"}
        bound = {"Description": f"Cramer-Rao lower bound of the sd of T2, {name} train"}
        stem = f"{subject}_acq-{name}"
        jobs += [
            (f"{stem}_T2map", trial.fitted[:voxels], fitted | protocol),
            (f"{stem}_desc-sd_T2map", trial.bound.sqrt(), bound | protocol),
        ]
    volume = result.brain.like
    return [
        io.save(
            result.options.out / f"{name}.nii.gz",
            fill(result.cut, values.float(), volume.data),
            volume,
            about | origin,
        )
        for name, values, about in jobs
    ]
