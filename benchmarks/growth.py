"""How cost grows with nodes, edges, batch and image size: a training step and the compiled network.

    python benchmarks/growth.py [--json FILE]
"""

import argparse

import torch
from common import alternate, report, save

import neuralgraph as ng


def measure(what, out, rounds, nodes=400, edges=16_000, batch=32, side=8):
    sizes = [nodes // 10] + [nodes * 9 // 40] * 4
    network = ng.StaticNeuralGraph(ng.wirings.blocks(sizes), ng.TopK(edges))
    fast = ng.compile(network)
    x = torch.randn(batch, sizes[0], side, side)

    def step():
        network.train()
        network.zero_grad()
        network(x).square().mean().backward()

    def run():
        with torch.no_grad():
            fast(x)

    times = alternate({"compiled": run, "forward and backward": step}, rounds)
    report(f"{what}: {nodes} nodes, {edges} edges, batch {batch}, {side}x{side} pixels", times, "compiled",
           out, varied=what, nodes=nodes, edges=edges, batch=batch, side=side)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    results = []
    for varied, values in dict(nodes=(200, 400, 800, 1600), edges=(2_000, 8_000, 16_000, 32_000),
                               batch=(1, 8, 32, 128), side=(4, 8, 16, 32)).items():
        fixed = {"edges": 8_000} if varied == "nodes" else {}  # so many as the smallest graph has room for
        for value in values:
            measure(varied, results, arguments.rounds, **fixed, **{varied: value})
    save(arguments.json, results)
