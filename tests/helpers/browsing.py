"""A page of the explorer in a real browser."""

import shutil

import pytest

from neuralgraph.rewiring import History

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install Debian's package chromium")


class Page:
    """A page that must log no error and ask nobody for anything."""

    def __init__(self, browser, address, dark=False):
        self.faults, self.requests = [], []
        self.page = browser.new_page(viewport={"width": 1400, "height": 900},
                                     color_scheme="dark" if dark else "light")
        self.page.on("console", lambda message: message.type == "error" and self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("body[data-ready=yes]", timeout=60_000)

    def js(self, code):
        return self.page.evaluate(code)

    def drawn(self, side=0):
        """The edges that are drawn, as pairs of nodes."""
        self.js("neuralgraph.draw()")
        return {tuple(pair) for pair in self.js(
            f"(() => {{ const {{state, sides}} = neuralgraph, ends = sides[{side}].history.parts[state.part];"
            f"return Array.from(state.drawn[{side}].kept, e => [ends.src[e], ends.dst[e]]); }})()")}

    def close(self):
        self.page.close()
        assert self.faults == []


def edges_at(run, step):
    history = History(run / "wiring.history")
    part, moment = history.parts[0], history.at(step)
    return {(u, v): w for u, v, w in zip(part.src[moment.real].tolist(), part.dst[moment.real].tolist(),
                                         moment.weight[moment.real].tolist())}
