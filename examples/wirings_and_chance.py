"""Are discovered wirings other than chance? When are they decided, where are their hubs, are they small worlds?

    python examples/wirings_and_chance.py [--samples N] [--out FIGURE.png] [RUN...]

Every RUN is a folder of ``neuralgraph train``; without one, a wiring of 300 edges is discovered on the digits first. Its
real edges are compared with two kinds of random wirings of the nodes that have edges: as many anywhere from an earlier block
to a later one ("uniform"), and those with the same degrees of every node and numbers of edges between blocks ("blocks"): what
differs from these is who is connected with whom.
"""

import argparse
import tempfile
from pathlib import Path

import torch

import neuralgraph as ng
from neuralgraph.errors import InputError
from neuralgraph.networks import NeuralGraph

STATISTICS = ("feed-forward-loops", "bi-fans", "clustering", "distance", "assortativity", "rich-club", "modularity")


def decided(folder: Path, share: float = 0.5) -> tuple[list[float], list[float], float]:
    """Progress of training, the share of all new edges that had come until then, and when ``share`` of them had."""
    history = ng.training.history(folder)
    births = [0, *(int((history.at(after).real & ~history.at(before).real).sum())
                   for before, after in zip(history.steps, history.steps[1:]))]
    come = (torch.tensor(births).cumsum(0) / max(1, sum(births))).tolist()
    progress = [step / history.steps[-1] for step in history.steps]
    return progress, come, next((x for x, y in zip(progress, come) if y >= share), 0.0)


def hubs(net: NeuralGraph) -> list[float]:
    """Of every block but the last, how many out-edges its nodes have, in terms of those a uniform wiring gives them."""
    wiring, real = net.wiring, net.selection().real
    block, number = wiring.block[wiring.src], int(wiring.block.max())
    has, may = (torch.bincount(edges, minlength=number + 1)[:number].double() for edges in (block[real], block))
    return (has / may / (real.sum() / len(real))).tolist()


def live(net: NeuralGraph) -> ng.Wiring:
    """The learned wiring without the nodes that have no edge."""
    graph = ng.to_networkx(net)
    graph.remove_nodes_from([node for node in graph if not graph.degree(node)])
    for _, attributes in graph.nodes(data=True):
        attributes.pop("channel", None)  # those that are left are numbered anew
    return ng.from_networkx(graph)


def against_chance(wiring: ng.Wiring, samples: int) -> dict[str, dict[str, ng.analysis.NullModel]]:
    """By kind of random wirings and statistic; what has no meaning for these edges is left out."""
    found: dict[str, dict[str, ng.analysis.NullModel]] = {"uniform": {}, "blocks": {}}
    for kind, by_name in found.items():
        for name in STATISTICS:
            try:
                by_name[name] = ng.analysis.null_model(wiring, name, samples, kind=kind)
            except InputError as error:
                print(f"  {name}: {error}")
    return found


def draw(rows: list[dict], path: Path) -> None:
    from matplotlib.figure import Figure

    chance, turnover, hub = (figure := Figure(figsize=(15, 4.6), layout="constrained")).subplots(1, 3, width_ratios=(1.5, 1, 1))
    for number, row in enumerate(rows):
        colour = f"C{number % 10}"
        for (kind, tests), marker in zip(row["chance"].items(), "xo"):
            chance.scatter([tests[name].z for name in tests], [STATISTICS.index(name) + 0.1 * number for name in tests],
                           color=colour, marker=marker)
        turnover.plot(*([100 * share for share in shares] for shares in row["decided"][:2]), color=colour, label=row["name"])
        hub.plot(range(len(row["hubs"])), row["hubs"], "o-", color=colour, label=row["name"])
    chance.set(xlabel="z-score (beyond the grey band: p < 0.05)", xscale="symlog")
    chance.set_title("Statistics against random wirings", loc="left")
    chance.axvspan(-1.96, 1.96, color="0.85", zorder=0)
    chance.set_yticks(range(len(STATISTICS)), STATISTICS)
    chance.invert_yaxis()
    turnover.set(title="When the wiring is decided", xlabel="progress of training (%)", ylabel="new edges so far (%)")
    hub.set(title="Where the hubs are", xlabel="block (0: inputs)", ylabel="out-edges / those of a uniform wiring")
    hub.axhline(1, color="0.6", linestyle="--")
    for marker, kind in (("x", "uniform"), ("o", "blocks")):
        chance.scatter([], [], color="0.3", marker=marker, label=f"against {kind}")
    chance.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    turnover.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--samples", type=int, default=100, help="random wirings of each kind")
    parser.add_argument("--out", type=Path, help="a figure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.runs:
            arguments.runs = [Path(folder) / "digits"]
            ng.training.Run.create(ng.training.RECIPES["tiny-static"], arguments.runs[0]).train()
        rows = []
        for path in arguments.runs:
            recipe, model, _ = ng.training.open_model(path)
            net = model.networks[0]
            name = f"{path.parent.name}/{path.name}"
            print(f"{name}: {recipe.name}, {int(net.selection().real.sum())} of {net.wiring.num_edges} edges")
            chance, turnover, hub = against_chance(live(net), arguments.samples), decided(path), hubs(net)
            for kind, tests in chance.items():
                for test in tests.values():
                    print(f"  {kind:8} {test}")
            clustering, distance = (chance["uniform"][key].observed / (chance["uniform"][key].mean or float("nan"))
                                    for key in ("clustering", "distance"))
            print(f"  small world: clustering {clustering:.2f} and distances {distance:.2f} times those of uniform wirings\n"
                  f"  half of all new edges had come after {100 * turnover[2]:.1f} % of the training\n"
                  f"  out-edges by block, in terms of a uniform wiring: {', '.join(f'{x:.2f}' for x in hub)}")
            rows.append({"name": name, "chance": chance, "decided": turnover, "hubs": hub})
    if arguments.out:
        draw(rows, arguments.out)


if __name__ == "__main__":
    main()
