"""Where the time of a compiled wiring goes, instruction by instruction, against what the machine allows.

    python benchmarks/account.py [--cases CASE...] [--json FILE]

One thread. Each instruction of the program (nodes of one level with one function) is run alone, with its edges and
without, so that sums (of a stem, its convolution) are told from what follows them: activation, convolution, copies. Beside
it stand the rates of this machine: a dense product (PyTorch's), and the library's own sums from rows that stay in the first
cache and in the second.
"""

import argparse
import math
import statistics
import time

import numpy as np
import torch
from common import save
from inference import CASES, kill_half

import neuralgraph as ng
from neuralgraph.inference.ends import ends_of
from neuralgraph.kernels.sums import weighted_sums


def median(run, rounds=9):
    """Seconds."""
    run()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def rates():
    """GFLOP/s of a dense product, and of sums of 32 of so many rows of 64 numbers."""
    a, b = torch.randn(768, 768), torch.randn(768, 768)
    found = {"dense product": 2e-9 * 768**3 / median(lambda: a @ b)}
    generator = torch.Generator().manual_seed(0)
    for name, rows in (("sums, rows in the first cache", 96), ("sums, rows in the second cache", 4096)):
        x, targets, degree = torch.randn(1, rows, 64), 2048, 32
        index = torch.randint(rows, (targets * degree,), generator=generator, dtype=torch.int32)
        first = torch.arange(0, targets * degree + 1, degree, dtype=torch.int32)
        weight = torch.randn(targets * degree)
        found[name] = 2e-9 * 64 * targets * degree / median(lambda: weighted_sums(x, first, index, weight))
    return found


def instructions(fast, x):
    """A row for each instruction: its level, nodes and edges, millions of operations, milliseconds in all and without edges."""
    ends = ends_of(fast.stem, fast.head)
    layout, rows = fast.network._laid_out(x.shape, ends), []
    out = x.new_empty(layout.output_shape(len(x)))
    tiles = -(-len(x) // layout.samples)
    space, private = layout._workspace()
    plan = layout.plan
    degree = np.bincount(plan.dst, minlength=int(max(group.nodes.max() for group in plan.groups)) + 1)

    def seconds(code):
        return median(lambda: layout._launch(code, 1, tiles, x, out, space, private))

    def alone(number):
        code = layout.code[number:number + 1].copy()
        code["waits"] = 0
        return code

    taps = 0
    if ends.stem is not None:
        ms = 1e3 * seconds(alone(0))
        rows.append({"level": 0, "kind": "border", "nodes": ends.stem.in_channels, "edges": 0, "in_fours": False,
                     "pixels": math.prod(layout.data), "stride": 1, "sums_mflop": 0.0, "convolutions_mflop": 0.0, "ms": ms,
                     "ms_without_edges": ms})
        taps = ends.stem.in_channels * ends.side**2
    pieces = [piece for group in plan.groups for piece in layout._in_fours(group, layout.team)]
    for number, (group, in_fours) in enumerate(pieces, len(rows)):
        code = alone(number)
        without = code.copy()
        nothing = np.zeros(len(group.nodes) + 1, np.int32)
        without["first"] = nothing.ctypes.data
        pixels = math.prod(layout._map(group.scale))
        edges = taps * len(group.nodes) if group.kind == "input" else int(degree[group.nodes].sum())
        kernel = sum(3**plan.dims for step in group.steps if type(step).__name__ == "Convolve")
        rows.append({
            "level": group.level, "kind": "stem" if group.kind == "input" and taps else group.kind, "nodes": len(group.nodes),
            "edges": edges, "in_fours": in_fours, "pixels": pixels, "stride": group.stride,
            "sums_mflop": 2e-6 * edges * pixels * len(x),
            "convolutions_mflop": 2e-6 * kernel * len(group.nodes) * pixels / group.stride**plan.dims * len(x),
            "ms": 1e3 * seconds(code), "ms_without_edges": 1e3 * seconds(without)})
    return layout.samples, rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=["mobilenet-32", "mobilenet-224"], choices=list(CASES))
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine = rates()
    for name, rate in machine.items():
        print(f"{rate:7.1f} GFLOP/s  {name}")
    results = [{"title": "rates of the machine", "rows": [{"what": name, "gflops": rate} for name, rate in machine.items()]}]
    for case in arguments.cases:
        name, options, pixels, classes, batch = CASES[case]
        model = ng.models.create(name, num_classes=classes, image_size=pixels, **options).eval()
        if pixels == 224 and "selector_options" not in options:
            kill_half(model)
        fast, images = ng.compile(model), torch.randn(batch, 3, pixels, pixels)
        with torch.no_grad():
            whole = median(lambda: fast(images))
            network = median(lambda: fast.network._computed(images, ends_of(fast.stem, fast.head)))
            samples, rows = instructions(fast, images)
        title = f"{case}, batch {batch}: {1e3 * whole:.2f} ms, of which the network {1e3 * network:.2f}; tiles of {samples}"
        print(f"\n{title}")
        print("level kind    nodes   edges pixels stride |  MFLOP: sums  conv. |  ms: sums   rest | GFLOP/s: sums  rest")
        for row in rows:
            rest = row["ms_without_edges"]
            sums = max(1e-6, row["ms"] - rest)
            kind = row["kind"] + (" x4" if row["in_fours"] else "")
            print(f"{row['level']:5} {kind:7} {row['nodes']:5} {row['edges']:7} {row['pixels']:6} {row['stride']:6} |"
                  f" {row['sums_mflop']:12.1f} {row['convolutions_mflop']:6.1f} | {sums:9.2f} {rest:6.2f} |"
                  f" {row['sums_mflop'] / sums:13.0f} {row['convolutions_mflop'] / rest:5.0f}")
        sums = sum(row["ms"] - row["ms_without_edges"] for row in rows)
        rest = sum(row["ms_without_edges"] for row in rows)
        print(f"in all: sums {sums:.2f} ms, at {sum(row['sums_mflop'] for row in rows) / sums:.0f} GFLOP/s; the rest "
              f"{rest:.2f} ms, its convolutions at {sum(row['convolutions_mflop'] for row in rows) / rest:.0f}")
        results.append({"title": title, "rows": rows})
    save(arguments.json, results)
