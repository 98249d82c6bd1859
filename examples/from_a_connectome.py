"""A graph from outside as a network: a table of connections, such as those in which connectomes are published.

Neurons read each other in cycles, so the network is updated several times. Half of the connections are kept, those
that training chooses or as many at random. Without a file, a small world with sensory and motor neurons stands in
for one.

    python examples/from_a_connectome.py [TABLE.csv SOURCE TARGET]     # sensory neurons: nobody feeds them
"""

import csv
import random
import sys
import tempfile
from pathlib import Path

import networkx as nx
import torch
from torch.utils.data import DataLoader, TensorDataset

import neuralgraph as ng


def small_world(path: Path) -> Path:
    """A table with the columns pre, post and synapses: 30 sensory, 120 inner and 20 motor neurons."""
    rng = random.Random(0)
    names = [f"sensory{i}" for i in range(30)] + [f"inner{i}" for i in range(120)] + [f"motor{i}" for i in range(20)]
    rng.shuffle(names)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["pre", "post", "synapses"])
        for ends in nx.connected_watts_strogatz_graph(len(names), k=12, p=0.2, seed=0).edges:
            for pre, post in (map(names.__getitem__, ends), map(names.__getitem__, reversed(ends))):
                if not (post.startswith("sensory") or pre.startswith("motor")):
                    writer.writerow([pre, post, rng.randint(1, 9)])
    return path


def model_on(network: ng.DiscreteTimeNeuralGraph) -> torch.nn.Module:
    """Digits to the sensory neurons, the updates of all neurons, motor neurons to ten classes."""
    wiring = network.wiring
    return torch.nn.Sequential(torch.nn.Linear(64, len(wiring.inputs)), network, torch.nn.Linear(len(wiring.outputs), 10))


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return 100 * (logits.argmax(1) == labels).float().mean().item()


if __name__ == "__main__":
    torch.set_num_threads(1)  # for work as small as this
    folder = Path(tempfile.mkdtemp())
    table, pre, post = sys.argv[1:4] if len(sys.argv) > 3 else ("", "pre", "post")
    path = Path(table) if table else small_world(folder / "connections.csv")
    unit = ng.NodeFunction(receive="norm activation", activation="tanh")
    wiring = ng.wirings.from_table(path, pre, post, functions=unit, dims=0)
    print(f"{path.name}: {wiring}")
    print(f"inputs are the neurons that nobody feeds: {', '.join(str(wiring.label(int(n))) for n in wiring.inputs[:4])}, ...")

    digits = ng.data.load("digits")
    train, test = (TensorDataset(digits.normalise(images).flatten(1), labels) for images, labels in
                   ((digits.train_images, digits.train_labels), (digits.test_images, digits.test_labels)))
    k, networks = wiring.num_edges // 2, {}
    for name, selector in (("learned", ng.TopK(k)), ("random", ng.RandomGraph(k))):
        torch.manual_seed(0)
        networks[name] = ng.DiscreteTimeNeuralGraph(wiring, selector, steps=5, dims=0)
        rows = ng.training.fit(
            model_on(networks[name]), DataLoader(train, batch_size=64, shuffle=True), folder=folder / name, epochs=8,
            loss=torch.nn.functional.cross_entropy, test=DataLoader(test, batch_size=360), metrics={"accuracy": accuracy},
            optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01))
        print(f"{k} of {wiring.num_edges} connections, {name}: {rows[-1]['test_accuracy']:.1f} % of test digits")
    graph = ng.to_networkx(networks["learned"])
    busiest = max(graph, key=lambda neuron: graph.degree(neuron, weight="magnitude"))
    print(f"the busiest neuron of the learned wiring is {busiest}, with {graph.degree(busiest)} connections")
