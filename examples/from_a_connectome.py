"""A graph from outside as a network: a table of connections, such as those in which connectomes are published.

Without a file, a small-world graph stands in for one. Two thirds of its connections are kept, first those that training
chooses, then as many at random. Networks on real tables: neuron names, synapse counts and all.

    python examples/from_a_connectome.py [TABLE.csv SOURCE TARGET]
"""

import csv
import sys
import tempfile
from pathlib import Path

import networkx as nx
import torch
from torch.utils.data import DataLoader, TensorDataset

import neuralgraph as ng


def small_world(path: Path) -> Path:
    """A table with the columns pre, post and synapses, of 120 neurons, without cycles."""
    graph = nx.connected_watts_strogatz_graph(120, k=8, p=0.3, seed=0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["pre", "post", "synapses"])
        writer.writerows([f"n{min(u, v):03}", f"n{max(u, v):03}", 1 + (u * v) % 7] for u, v in graph.edges)
    return path


def network_on(wiring: ng.Wiring, inputs: int, selector: ng.selectors.Selector) -> torch.nn.Module:
    """Data on the graph's inputs, its outputs to ten classes."""
    network = ng.StaticNeuralGraph(wiring, selector, dims=0)
    return torch.nn.Sequential(torch.nn.Linear(inputs, len(wiring.inputs)), network,
                               torch.nn.Linear(len(wiring.outputs), 10))


if __name__ == "__main__":
    torch.set_num_threads(1)  # for work as small as this
    folder = Path(tempfile.mkdtemp())
    if len(sys.argv) > 3:
        path, source, target = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    else:
        path, source, target = small_world(folder / "connections.csv"), "pre", "post"
    wiring = ng.wirings.from_table(path, source, target, dims=0)
    print(f"{path.name}: {wiring}")
    print(f"inputs are neurons that nobody feeds: {[wiring.label(int(n)) for n in wiring.inputs[:4]]}, ...")

    digits = ng.data.load("digits")
    train, test = (TensorDataset(digits.normalise(images).flatten(1), labels) for images, labels in
                   ((digits.train_images, digits.train_labels), (digits.test_images, digits.test_labels)))
    k = 2 * wiring.num_edges // 3
    for name, selector in (("learned", ng.TopK(k)), ("random", ng.RandomGraph(k))):
        torch.manual_seed(0)
        model = network_on(wiring, 64, selector)
        rows = ng.training.fit(
            model, DataLoader(train, batch_size=64, shuffle=True), folder=folder / name, epochs=8,
            loss=torch.nn.functional.cross_entropy, test=DataLoader(test, batch_size=360),
            metrics={"accuracy": lambda y, label: 100 * (y.argmax(1) == label).float().mean().item()},
            optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01))
        print(f"{k} of {wiring.num_edges} connections, {name}: {rows[-1]['test_accuracy']:.1f} % of test digits")

    learned = ng.to_networkx(model[1])
    busiest = max(learned, key=lambda neuron: learned.degree(neuron, weight="magnitude"))
    print(f"the busiest neuron is {busiest}, with {learned.degree(busiest)} connections")
