"""The pictures of the explorer in the gallery, taken in a headless Chromium; committed, for not every build has one.

    python docs/screenshots.py [NAME...] [--runs FOLDER]

Trainings that are finished in FOLDER are used again.
"""

import argparse
import dataclasses
import runpy
import shutil
import tempfile
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

import neuralgraph as ng

DOCS = Path(__file__).resolve().parent
SIZE = {"width": 1280, "height": 760}


def trained(folder: Path, recipe: str, enlarged: int = 1, **changes) -> Path:
    """The run of a recipe on the digits, made if it is not there."""
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        data = ng.data.load("digits")
        larger = {name: getattr(data, name).repeat_interleave(enlarged, 2).repeat_interleave(enlarged, 3)
                  for name in ("train_images", "test_images")}
        recipe = dataclasses.replace(ng.training.RECIPES[recipe], **changes)
        ng.training.Run.create(recipe, folder, dataclasses.replace(data, **larger)).train()
        (folder / "done").touch()
    return folder


def connectome(folder: Path) -> Path:
    """The history of the example's neurons, half of whose connections training chooses."""
    if not (folder / "learned" / "wiring.history").exists():
        folder.mkdir(parents=True, exist_ok=True)
        example = runpy.run_path(str(DOCS.parent / "examples" / "from_a_connectome.py"))
        unit = ng.NodeFunction(receive="norm activation", activation="tanh")
        table = example["small_world"](folder / "connections.csv")
        wiring = ng.wirings.from_table(table, "pre", "post", functions=unit, dims=0)
        torch.manual_seed(0)
        model = example["model_on"](wiring, ng.TopK(wiring.num_edges // 2))
        digits = ng.data.load("digits")
        rows, labels = digits.normalise(digits.train_images).flatten(1), digits.train_labels
        ng.training.fit(model, list(zip(rows.split(64), labels.split(64))), folder=folder / "learned", epochs=4,
                        loss=torch.nn.functional.cross_entropy,
                        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01))
    return folder / "learned"


SCENES = {  # name: what is shown, of the folder of runs; what is done before the picture is taken
    "tiny-static-early": (lambda runs: trained(runs / "tiny-static", "tiny-static", epochs=8),
                          "neuralgraph.seek(neuralgraph.sides[0].history.steps.findIndex(step => step >= 8))"),
    "tiny-static-late": (lambda runs: trained(runs / "tiny-static", "tiny-static", epochs=8),
                         "neuralgraph.pin(neuralgraph.state.drawn[0].inward.reduce((best, degree, node, all) => "
                         "neuralgraph.sides[0].graphs[0].role[node] === 0 && degree > all[best] ? node : best, 0))"),
    "tiny-discrete": (lambda runs: trained(runs / "tiny-discrete", "tiny-discrete", epochs=4), ""),
    "mobilenet-dnw": (lambda runs: trained(runs / "mobilenet", "mobilenet-dnw-small", enlarged=4, data="digits", epochs=2),
                      "neuralgraph.choosePart(2); document.getElementById('top').value = 1000"),
    "watts-strogatz": (lambda runs: ng.wirings.watts_strogatz(300, 6, 0.1, inputs=4, outputs=4, seed=0), ""),
    "connectome": (lambda runs: connectome(runs / "connectome"), "neuralgraph.theme(true)"),
}


def take(browser, name: str, runs: Path) -> None:
    make, act = SCENES[name]
    page_file = runs / f"{name}.html"
    ng.explore(make(runs), out=page_file)
    page = browser.new_page(viewport=SIZE)
    page.goto(page_file.as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    page.evaluate("document.querySelectorAll('.side h2').forEach(title => {"
                  " title.textContent = title.textContent.replace(/ \\(.*/, '').split('/').pop(); })")
    page.evaluate(f"() => {{ {act} }}")
    page.wait_for_timeout(1500)
    page.screenshot(path=DOCS / "_static" / f"explorer-{name}.png")
    page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[], metavar="NAME", help=", ".join(SCENES))
    parser.add_argument("--runs", type=Path)
    arguments = parser.parse_args()
    runs = arguments.runs or Path(tempfile.mkdtemp())
    runs.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name in arguments.names or SCENES:
            take(browser, name, runs)
            print(name, flush=True)
        browser.close()


if __name__ == "__main__":
    main()
