"""The words of compiled networks: what an instruction, a pass over maps and a run are, as records in memory."""

from __future__ import annotations

import numpy as np

from .record import record

LANES = 16  # rows start and end at multiples of so many numbers

# One run; its units of work are tiles, or the threads of a team.
JOB = record("team tiles samples batch code length space space_size x x_sample x_row out out_sample private "
             "private_size barrier too_large")
# FOUR_SUMS: of four nodes over all parents that they have. A STEM's nodes are convolutions of the data's channels, which
# BORDER copies with zeros around them.
SUM, PRODUCT, INPUT, FOUR_SUMS, BORDER, STEM = range(6)
PLAIN, AFFINE, INSTANCE = range(3)

INSTRUCTION = np.dtype([(name, np.int64) for name in (
    "kind", "first", "index", "weight", "bias", "pixels", "passes", "passes_at", "to_output", "targets", "out_pixels",
    "channels", "bounds", "frame", "band", "pooled", "waits")] + [("slope", np.float64)])  # the slope of sums and stems below 0
# One pass of what nodes compute: a norm, an activation, a convolution, each optional.
PASS = np.dtype(
    [(name, np.int64) for name in ("norm", "scale", "shift")] + [("epsilon", np.float64)]
    # the activation: x from 0 on and slope x below, or the function at an address, with values of each node
    + [("slope", np.float64)] + [(name, np.int64) for name in ("function", "values", "num_values")]
    + [(name, np.int64) for name in (
        "depth", "height", "width", "side", "depth_side", "stride", "kernel", "out_depth", "out_height",
        "out_width", "padded", "pitch")]
    # places in private memory: a bordered map, the argument of a convolution, its result, a term of it
    + [(name, np.int64) for name in ("scratch", "between", "small", "term")])
INSTRUCTION_BYTES, PASS_BYTES = INSTRUCTION.itemsize, PASS.itemsize
