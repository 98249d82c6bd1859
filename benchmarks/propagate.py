"""Sums over edges alone: every backend, torch's sparse product and DGL's fused kernel, by density and size.

    python benchmarks/propagate.py [--json FILE]

One stage of N sources and N nodes; features (B, N, 8, 8) with B 64 = D numbers per node. The other
libraries get the layout that suits them, (N, D), made outside the measurement.
"""

import argparse
import warnings

import torch
from common import alternate, report, save

import neuralgraph as ng
from neuralgraph._dgl import dgl
from neuralgraph.backends.layout import Layout
from neuralgraph.selectors import Selection


def measure(nodes, density, batch, side, rounds, out, gradient=False):
    generator = torch.Generator().manual_seed(0)
    wiring = ng.wirings.chain([nodes, nodes])
    network = ng.StaticNeuralGraph(wiring, ng.TopK(round(density * wiring.num_edges)))
    stage, chosen = network.stages[1], network.selection()
    selection = Selection(chosen.real, chosen.weight.detach(), True, {})
    z = torch.randn(batch, nodes, side, side, generator=generator)
    rows = z.transpose(0, 1).reshape(nodes, -1).contiguous()
    backends = {name: ng.backends.create(name) for name in ("dense", "sparse", "auto")}
    contenders = {name: (lambda b=b: b.propagate(stage, z, selection)) for name, b in backends.items()}
    matrix = Layout.of(stage).matrix(selection.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compressed = matrix.to_sparse_csr()
    contenders["torch CSR matrix product"] = lambda: compressed @ rows
    src, dst = wiring.src[chosen.real], wiring.dst[chosen.real] - nodes
    graph = dgl.create_block((src, dst), num_src_nodes=nodes, num_dst_nodes=nodes)
    graph.create_formats_()
    weight = selection.weight[chosen.real].unsqueeze(1)
    contenders["DGL u_mul_e_sum"] = lambda: dgl.ops.u_mul_e_sum(graph, rows, weight)
    with torch.no_grad():
        expected = contenders["dense"]()
        for name, run in contenders.items():
            y = run()
            y = y if y.dim() == 4 else y.view(nodes, batch, side, side).transpose(0, 1)
            torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-4)
        times = alternate(contenders, rounds)
    report(f"{nodes} nodes, {100 * density:g} % real, D = {batch * side * side} ({batch} maps of {side}x"
           f"{side})", times, "sparse", out, nodes=nodes, density=density, batch=batch, side=side)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    results = []
    for density in (0.05, 0.01, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0):
        measure(768, density, 64, 8, arguments.rounds, results)
    for nodes, batch, side in ((16, 1, 8), (64, 1, 8), (64, 64, 8), (256, 1, 8), (256, 64, 4), (512, 64, 2),
                               (1024, 64, 1), (768, 1, 28), (96, 1, 112)):
        for density in (0.05, 0.3, 0.5):
            measure(nodes, density, batch, side, arguments.rounds, results)
    save(arguments.json, results)
