"""How smoothly the explorer moves: pages of 3,000, 32,000 and 300,000 edges in a headless Chromium.

    python benchmarks/explorer_frames.py [--edges N,N...] [--moments N] [--frames N] [--json FILE]

A network of five blocks learns nothing, but its edges change: at each of the recorded moments a share of the weights is
drawn anew. Measured are the size of the page, the time until it has drawn the last moment, and the time from one moment
to the next: of the page's own work (``draw``), and until the browser has painted. The same for edges drawn singly where
they would be bundled, and for zooming in. Chromium draws in software here unless it finds a GPU.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import save

import neuralgraph as ng
from neuralgraph.rewiring import Recorder

NODES = {3_000: 60, 32_000: 200, 300_000: 600}  # in each of five blocks, at most so many edges


def history(edges: int, moments: int, path: Path) -> Path:
    """The history of a network whose edges change."""
    nodes = next((nodes for most, nodes in NODES.items() if edges <= most), 1500)
    torch.manual_seed(0)
    net = ng.StaticNeuralGraph(ng.wirings.blocks([nodes] * 5), ng.TopK(k=edges))
    recorder = Recorder(path, every=1)
    for step in range(moments):
        recorder.begin(net, 0) if step == 0 else recorder.stepped(step, always=True)
        with torch.no_grad():
            chosen = torch.rand(len(net.weight)) < 0.02
            net.weight[chosen] = net.weight[chosen].flip(0)
    return path


FRAMES = """async ([number, change]) => {
  const own = [], painted = [], next = () => new Promise(done => requestAnimationFrame(done));
  const {state, sides, draw} = neuralgraph, last = sides[0].history.steps.length - 1;
  await next();
  for (let i = 0; i < number; i++) {
    const before = performance.now();
    if (change === "time") state.index = i % (last + 1);
    else {
      const range = Bokeh.documents[0].get_model_by_name("graph-0").x_range, by = 0.9 ** (i % 10);
      range.setv({start: 0.5 - 0.5 * by, end: 0.5 + 0.5 * by});
    }
    draw();
    own.push(performance.now() - before);
    await next(); await next();
    painted.push(performance.now() - before);
  }
  return [own, painted];
}"""


def measured(browser, path: Path, frames: int) -> dict:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    began = time.perf_counter()
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready=yes]", timeout=120_000)
    row = {"megabytes": path.stat().st_size / 1e6, "seconds_to_open": time.perf_counter() - began}
    for change in ("time", "zoom"):
        own, painted = page.evaluate(FRAMES, [frames, change])
        row[f"{change}_draw_ms"], row[f"{change}_painted_ms"] = statistics.median(own), statistics.median(painted)
    page.close()
    return row


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", default="3000,32000,300000")
    parser.add_argument("--moments", type=int, default=30)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        version = browser.version
        for edges in map(int, arguments.edges.split(",")):
            page = Path(folder) / f"{edges}.html"
            ng.explore(history(edges, arguments.moments, page.with_suffix(".history")), out=page)
            rows.append({"edges": edges, **measured(browser, page, arguments.frames)})
            print(", ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()), flush=True)
        browser.close()
    save(arguments.json, [{"title": f"the explorer in headless Chromium {version}, no GPU", "rows": rows}])


if __name__ == "__main__":
    main()
