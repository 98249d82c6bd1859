"""What candidate edges cost, up to a hundred million of them: to build, to run, to train, in seconds and bytes.

    python benchmarks/scale.py [--edges N...] [--wirings NAME...] [--json FILE]

Every size in a process of its own, on one thread: a wiring, a network on it that keeps one edge in a hundred, a forward
pass and a training step (SGD) with eight samples of numbers. Bytes are of the resident set beyond what it was before the
wiring, by edge: the most there were at any time, and what is left after the step, of which eight are weight and gradient.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import torch
from common import save

import neuralgraph as ng

BATCH = 8
WARM_UP = 4e6  # edges from which on all kernels are used
# what is freed goes back to the system, so that the resident set is what is in use
ENVIRONMENT = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}


def blocks(edges):
    """Six blocks of as many nodes, every edge forward."""
    size = round((edges / 15) ** 0.5)
    return lambda: ng.wirings.blocks([size] * 6, dims=0), ng.StaticNeuralGraph, {}


def complete(edges):
    """Every ordered pair of nodes, updated twice."""
    nodes = round(edges ** 0.5)
    return (lambda: ng.wirings.complete(nodes, inputs=nodes // 10, outputs=10, dims=0), ng.DiscreteTimeNeuralGraph,
            {"steps": 2})


def random(edges):
    """Half of the edges of six blocks, at random: a list."""
    size = round((2 * edges / 15) ** 0.5)
    block = torch.arange(6).repeat_interleave(size)
    matrix = torch.rand(6 * size, 6 * size).lt_(0.5).bool().logical_and_(block[:, None] < block)
    return (lambda: ng.wirings.from_adjacency(matrix, inputs=range(size), outputs=range(5 * size, 6 * size), dims=0),
            ng.StaticNeuralGraph, {})


def shuffled(edges):
    """The same with nodes in any order, as a list of pairs in any order."""
    size = round((2 * edges / 15) ** 0.5)
    node = torch.randperm(6 * size)
    block = torch.arange(6).repeat_interleave(size)
    pairs = (torch.rand(6 * size, 6 * size).lt_(0.5).bool().logical_and_(block[:, None] < block)).nonzero()
    pairs = node[pairs[torch.randperm(len(pairs))]]
    return (lambda: ng.wirings.from_edges(pairs, inputs=node[:size].tolist(), outputs=node[5 * size:].tolist(), dims=0),
            ng.StaticNeuralGraph, {})


WIRINGS = {"blocks": blocks, "complete": complete, "random": random, "shuffled": shuffled}


def resident(what="VmRSS"):
    """Bytes in memory now, or with "VmHWM" the most there were."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(what)) * 1024


def live(kind, edges):
    """Builds, runs and trains one network."""
    make, network_kind, options = WIRINGS[kind](edges)
    seconds = {}

    def timed(what, run):
        start = time.perf_counter()
        made = run()
        seconds[what + " s"] = time.perf_counter() - start
        return made

    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the most there were is counted from here on
    before = resident()
    wiring = timed("wiring", make)
    network = timed("network", lambda: network_kind(wiring, ng.TopK(wiring.num_edges // 100), dims=0, **options))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    x = torch.randn(BATCH, len(wiring.inputs))

    def forward():
        with torch.no_grad():
            network(x)

    def step():
        network(x).square().mean().backward()
        optimizer.step()

    timed("forward", forward)
    timed("step", step)
    number = wiring.num_edges
    return {"wiring": kind, "edges": number, "nodes": wiring.num_nodes, **seconds,
            "peak bytes an edge": (resident("VmHWM") - before) / number, "kept bytes an edge": (resident() - before) / number}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", type=float, nargs="+", default=[1e6, 1e7, 3e7, 1e8])
    parser.add_argument("--wirings", nargs="+", choices=WIRINGS, default=list(WIRINGS))
    parser.add_argument("--json")
    parser.add_argument("--only", action="store_true", help=argparse.SUPPRESS)  # in the process of one size
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only:
        (kind,), (edges,) = arguments.wirings, arguments.edges
        live(kind, min(edges, WARM_UP))  # kernels are compiled, libraries loaded
        print(json.dumps(live(kind, edges)))
        raise SystemExit

    measurements = []
    for kind in arguments.wirings:
        rows = []
        for edges in arguments.edges:
            done = subprocess.run([sys.executable, __file__, "--wirings", kind, "--edges", str(edges), "--only"],
                                  stdout=subprocess.PIPE, check=True, env=ENVIRONMENT)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(", ".join(f"{name} {value:,.2f}" if isinstance(value, float) else f"{name} {value}"
                            for name, value in rows[-1].items()), flush=True)
        measurements.append({"title": f"what candidate edges of {kind} cost", "rows": rows})
    save(arguments.json, measurements)
