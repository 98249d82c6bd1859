"""The pictures and explorer pages of the documentation, drawn from a small training of its own.

    python docs/_ext/figures.py [FOLDER]

Everything lies in docs/_made afterwards; it is drawn anew when the package or this file has changed.
"""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import packages
import torch

import neuralgraph as ng

DOCS = Path(__file__).resolve().parents[1]
MADE = DOCS / "_made"
EPOCHS = 4
HERO_BLOCKS, HERO_EDGES, HERO_EPOCHS = [12, 16, 16, 16, 16, 10], 160, 6


def draw(folder: Path = MADE) -> None:
    stamp, sources = folder / "drawn", [*Path(ng.__file__).parent.rglob("*.py"), *Path(__file__).parent.glob("*.py")]
    if stamp.exists() and stamp.stat().st_mtime > max(path.stat().st_mtime for path in sources):
        return
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "site").mkdir(parents=True)
    save = Saver(folder)
    save.text("packages.svg", packages.svg())
    hero(save)
    training_pictures(save)
    small_pictures(save)
    stamp.touch()


class Saver:
    def __init__(self, folder: Path):
        self.folder = folder

    def text(self, name: str, content: str) -> None:
        (self.folder / name).write_text(content)

    def figure(self, name: str, figure) -> None:
        figure.savefig(self.folder / name, dpi=110)


def hero(save: Saver) -> None:
    """A small wiring that reads digits: few enough edges to see each."""
    torch.manual_seed(0)
    data = ng.data.load("digits")
    images, labels = data.normalise(data.train_images), data.train_labels
    unit = ng.NodeFunction("norm activation conv", norm="instance")
    network = ng.StaticNeuralGraph(ng.wirings.blocks(HERO_BLOCKS, unit), ng.TopK(k=HERO_EDGES))
    model = torch.nn.Sequential(torch.nn.Conv2d(1, HERO_BLOCKS[0], 3, padding=1), network,
                                torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(HERO_EPOCHS):
        for batch in ng.data.training_order(len(labels), seed=0, epoch=epoch).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(10 * model(images[batch]), labels[batch]).backward()
            optimizer.step()
    save.figure("hero.png", ng.plots.graph(network))


def training_pictures(save: Saver) -> None:
    """Of the recipe of the five-minute start, with discovered and with random edges."""
    rows = {}
    for selector in ("dnw", "random"):
        recipe = dataclasses.replace(ng.training.RECIPES["tiny-static"], epochs=EPOCHS, selector=selector)
        folder = save.folder / "runs" / selector
        run = ng.training.Run.create(recipe, folder)
        rows[selector] = run.train()
        if selector == "random":
            break
        network, = run.model.networks
        learned = network.learned_wiring()
        for name, picture in {"graph": ng.plots.graph(learned), "adjacency": ng.plots.adjacency(learned),
                              "degrees": ng.plots.degree_histograms(learned),
                              "weights": ng.plots.weight_histogram(network),
                              "rewiring": ng.plots.rewiring(rows[selector])}.items():
            save.figure(f"{name}.png", picture)
        explore(save, folder, run)
    save.figure("curves.png", ng.plots.learning_curves({"discovered (dnw)": rows["dnw"], "random": rows["random"]}))


def explore(save: Saver, folder: Path, run) -> None:
    """The explorer's page, with attributions of all classes and the circuit of one, which is drawn too."""
    data = run.data
    images, labels = data.normalise(data.test_images[:200]), data.test_labels[:200]
    attributions = {name: ng.analysis.attribution(run.model, images, labels, label=label)
                    for label, name in enumerate(map(str, data.classes))}
    three = ng.analysis.circuit(run.model, images, labels, label=3, one_by_one=0)
    save.figure("circuit.png", ng.plots.graph(three.wiring))
    before = Path.cwd()
    os.chdir(folder.parent)  # the page's title has the folder as it is given
    try:
        page = ng.explore(folder.name, attributions=attributions, circuits={str(data.classes[3]): three})
    finally:
        os.chdir(before)
    save.text("site/explorer.html", page.html)


def small_pictures(save: Saver) -> None:
    """Wirings to start from, and the arenas that stand in the benchmarks."""
    for name, wiring in {"blocks": ng.wirings.blocks([3, 8, 8, 4]),
                         "watts-strogatz": ng.wirings.watts_strogatz(24, 4, 0.3, inputs=2, outputs=2, seed=0),
                         }.items():
        save.figure(f"wiring-{name}.png", ng.plots.graph(wiring))
    for path in (DOCS.parent / "benchmarks" / "results").glob("arena_*.json"):
        save.figure(f"{path.stem}.png", ng.plots.arena(json.loads(path.read_text())))


if __name__ == "__main__":
    torch.set_num_threads(1)
    draw(*map(Path, sys.argv[1:2]))
