"""Pulseq: .seq files as programs, and programs as Pulseq sequences (extra ``seq``).

A `Program` knows instants: the middles of pulses and of readouts. What a file does
between two of them becomes one row: its duration, and the moment of its gradients in
whole multiples of a unit. What has no such description is refused with the reason.
"""

import sys as _sys

from mrsim._explained import explain as _explain
from mrsim.pulseq._load import load as load
from mrsim.pulseq._write import sequence as sequence

_explain(_sys.modules[__name__])
