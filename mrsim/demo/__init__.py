"""The main job: design a fast-spin-echo train by gradients, prove it on a brain."""

from mrsim.demo.job import compute as compute, run as run
from mrsim.demo.report import table as table
from mrsim.demo.result import Options as Options, Result as Result
