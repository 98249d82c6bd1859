"""Discover a wiring and study it with networkx: degrees, paths, communities.

    python examples/study_a_wiring.py [STEPS]
"""

import sys

import networkx as nx
import torch

import neuralgraph as ng

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 60

generator = torch.Generator().manual_seed(0)


def error(net):
    """The task: output i is input i, blurred. Only edges that keep the channels apart help."""
    x = torch.randn(16, 4, 8, 8, generator=generator)
    target = torch.nn.functional.avg_pool2d(x, 3, stride=1, padding=1)
    return (net(x) - target).square().mean()


wiring = ng.wirings.blocks([4, 12, 12, 4], ng.NodeFunction("conv"))
net = ng.StaticNeuralGraph(wiring, selector=ng.TopK(k=60))
optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
start = net.selection().real
for step in range(steps):
    optimizer.zero_grad()
    error(net).backward()
    optimizer.step()
print(f"loss {error(net).item():.4f}; {(net.selection().real & ~start).sum()} of 60 edges are not those "
      "it started with")

graph = ng.to_networkx(net)
inputs = [node for node, role in graph.nodes(data="role") if role == "input"]
outputs = [node for node, role in graph.nodes(data="role") if role == "output"]

busiest = sorted(graph.out_degree(weight=None), key=lambda pair: -pair[1])[:3]
print("largest out-degrees (node, edges):", busiest)
print("longest path:", nx.dag_longest_path(graph, weight=None))
for source, target in zip(inputs, outputs):
    strength = sum(
        torch.tensor([graph.edges[edge]["magnitude"] for edge in zip(path, path[1:])]).prod().item()
        for path in nx.all_simple_paths(graph, source, target, cutoff=3))
    print(f"input {source} -> output {target}: product of |weights| summed over paths {strength:.3f}")

live = graph.subgraph(node for node in graph if graph.degree(node)).to_undirected()
communities = nx.community.louvain_communities(live, weight="magnitude", seed=0)  # weights may be negative
print("communities:", sorted(sorted(group) for group in communities))
dead = ng.analysis.dead_nodes(net.learned_wiring())
print("dead nodes:", dead.count, "of", wiring.num_nodes)
