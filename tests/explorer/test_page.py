"""The explorer in a real browser: what it draws is what the history says."""

import shutil
import threading
import time

import networkx as nx
import numpy as np
import pytest
import torch
from browsing import Page, edges_at, in_browser
from click.testing import CliRunner

import neuralgraph as ng
from neuralgraph.cli import main
from neuralgraph.explorer.serving import serve
from neuralgraph.rewiring import History


@in_browser
class TestPage:
    def test_the_slider_shows_exactly_what_was_real_then(self, page, run, html):
        steps = History(run / "wiring.history").steps
        assert page.js("neuralgraph.sides[0].history.steps") == steps and len(steps) > 12
        assert page.page.get_attribute("#head", "max") == str(len(steps) - 1)
        for index in (0, 3, len(steps) - 1):
            page.page.locator("#head").fill(str(index))
            page.page.wait_for_function(f"neuralgraph.state.index === {index}")
            assert page.drawn() == set(edges_at(run, steps[index]))
            assert f"step {steps[index]}" in page.page.inner_text("#moment")
        assert page.requests == [html.as_uri()]

    def test_the_lines_on_the_canvas_are_these_edges(self, page, run):
        lines = page.js("""(() => { neuralgraph.seek(2); neuralgraph.draw();
            const {state, sides} = neuralgraph, found = [];
            for (const doc of Bokeh.documents) for (const sign of "pn") for (let s = 0; s < 6; s++) {
                const data = doc.get_model_by_name(`edges-0-${sign}${s}`)?.data; if (!data) continue;
                for (let i = 0; i < data.x.length; i += 3) found.push([sign, data.x[i], data.y[i], data.x[i+1], data.y[i+1]]); }
            const g = sides[0].graphs[0]; return [found, g.x, g.y]; })()""")
        drawn, x, y = lines
        step = History(run / "wiring.history").steps[2]
        expected = sorted(["p" if w > 0 else "n", x[u], y[u], x[v], y[v]] for (u, v), w in edges_at(run, step).items())
        assert sorted(drawn) == expected

    def test_weights_survive_the_way_into_the_page(self, page, run):
        step = History(run / "wiring.history").steps[-1]
        weights = page.js("(() => { const h = neuralgraph.sides[0].history; return [...h.weights(h.steps.length - 1, 0)]; })()")
        np.testing.assert_allclose(sorted(weights), sorted(edges_at(run, step).values()), rtol=1e-6)

    def test_filters_count_right(self, page, run):
        now = edges_at(run, History(run / "wiring.history").steps[-1])
        most = max(map(abs, now.values()))
        page.page.locator("#least").fill("0.2")
        assert page.drawn() == {edge for edge, w in now.items() if abs(w) >= 0.2 * most}
        page.page.locator("#least").fill("0")
        page.page.locator("#top").fill("7")
        strongest = sorted(now, key=lambda edge: -abs(now[edge]))[:7]
        assert page.drawn() == set(strongest) and page.page.inner_text("#counts").startswith("7 of 300 real edges")
        page.page.locator("#top").fill("")
        page.page.select_option("#from", "0")
        page.page.select_option("#to", "5")
        assert page.drawn() == {(u, v) for u, v in now if u < 32 and v >= 800}
        page.page.select_option("#from", "")
        page.page.select_option("#to", "")
        history = History(run / "wiring.history")
        ages, part = history.ages(), history.parts[0]
        page.page.locator("#age").fill("60")
        old = ages >= 60
        assert page.drawn() == set(zip(part.src[old].tolist(), part.dst[old].tolist()))

    def test_hovering_and_clicking_find_the_node(self, page, run):
        now = edges_at(run, History(run / "wiring.history").steps[-1])
        node = max(range(900), key=lambda v: sum(v in edge for edge in now))
        spot = page.js(f"""(() => {{ const view = Object.values(Bokeh.index)[0], all = [...Bokeh.index];
            for (const root of all) if (root.model.name === "graph-0") {{
                const g = neuralgraph.sides[0].graphs[0], box = root.canvas_view.el.getBoundingClientRect(), f = root.frame;
                return [box.x + f.x_scale.compute(g.x[{node}]), box.y + f.y_scale.compute(g.y[{node}])]; }} }})()""")
        page.page.mouse.move(*spot)
        page.page.wait_for_timeout(400)
        seen = page.js("""(() => { const texts = []; const walk = root => { for (const e of root.querySelectorAll("*")) {
            if (e.shadowRoot) walk(e.shadowRoot); if (e.classList && e.classList.contains("bk-tooltip-row-value")) texts.push(e.textContent); } };
            walk(document); return texts.join(" "); })()""")
        inward, outward = (sum(edge[end] == node for edge in now) for end in (1, 0))
        assert str(node) in seen and f"{inward} in, {outward} out" in seen
        page.page.mouse.click(*spot)
        page.page.wait_for_function(f"neuralgraph.state.pinned === {node}")
        page.js("neuralgraph.draw()")
        detail = page.page.inner_text("#detail")
        assert f"node {node}" in detail and f"{inward} in-edges, {outward} out-edges now" in detail
        kernel = ng.training.open_model(run)[1].networks[0].learned_wiring().parameters["kernel"][node].flatten()
        titles = [float(cell.get_attribute("title")) for cell in page.page.query_selector_all("#detail .kernel td")]
        if titles:
            np.testing.assert_allclose(titles, kernel, rtol=1e-3)
        page.page.keyboard.press("Escape")
        page.page.wait_for_function("neuralgraph.state.pinned === null")

    def test_paths_through_a_node_are_those_of_networkx(self, page, run):
        now = edges_at(run, History(run / "wiring.history").steps[-1])
        graph = nx.DiGraph(list(now))
        node = max((v for v in graph if graph.in_degree(v) and graph.out_degree(v)), key=graph.degree)
        around = nx.ancestors(graph, node) | {node}, nx.descendants(graph, node) | {node}
        expected = {(u, v) for nodes in around for u, v in graph.subgraph(nodes).edges}
        lit, x, y = page.js(f"""(() => {{ neuralgraph.pin({node}); neuralgraph.draw(); const g = neuralgraph.sides[0].graphs[0];
            for (const doc of Bokeh.documents) {{ const m = doc.get_model_by_name("lit-0"); if (m) return [m.data, g.x, g.y]; }} }})()""")
        drawn = {(lit["x"][i], lit["y"][i], lit["x"][i + 1], lit["y"][i + 1]) for i in range(0, len(lit["x"]), 3)}
        assert drawn == {(x[u], y[u], x[v], y[v]) for u, v in expected}

    def test_the_panel_of_a_node_is_made_anew_only_where_it_says_something_else(self, page):
        same = """(() => { const {state, sides} = neuralgraph, first = document.querySelector("#detail h3");
            %s; neuralgraph.draw(); return document.querySelector("#detail h3") === first; })()"""
        page.js("neuralgraph.pin(40); neuralgraph.draw()")
        assert page.js(same % "neuralgraph.fit(); document.getElementById('top').value = 7; neuralgraph.theme(true)")
        assert not page.js(same % "neuralgraph.seek(2)") and page.js(same % "neuralgraph.seek(2)")
        assert not page.js(same % "neuralgraph.pin(41)")
        assert page.page.inner_text("#detail h3").endswith("node 41")

    def test_keys_play_and_step(self, page):
        last = page.js("neuralgraph.sides[0].history.steps.length") - 1
        for key, index in (("Home", 0), ("ArrowRight", 1), ("ArrowLeft", 0), ("End", last)):
            page.page.keyboard.press(key)
            page.page.wait_for_function(f"neuralgraph.state.index === {index}")
        page.page.select_option("#speed", "30")
        page.page.keyboard.press(" ")
        page.page.wait_for_function("neuralgraph.state.playing")
        page.page.wait_for_function(f"!neuralgraph.state.playing && neuralgraph.state.index === {last}", timeout=20_000)

    def test_what_is_drawn_is_saved_as_svg(self, page, run):
        text = page.js("neuralgraph.svg()")
        assert text.count("M") == len(edges_at(run, None)) and text.count("<circle") == 900

    def test_dark_and_light(self, browser, html):
        page = Page(browser, html.as_uri(), dark=True)
        background = "getComputedStyle(document.body).backgroundColor"
        assert page.js(background) == "rgb(20, 23, 28)"
        page.page.keyboard.press("d")
        assert page.js(background) == "rgb(255, 255, 255)"
        page.close()

    def test_weights_are_counted_from_the_threshold_on(self, page, run):
        page.js("neuralgraph.seek(9); neuralgraph.draw()")
        weights = np.array(list(edges_at(run, History(run / "wiring.history").steps[9]).values()))
        bars = page.js("""(() => { for (const doc of Bokeh.documents) { const m = doc.get_model_by_name("weights");
            if (m) return [Array.from(m.data.left), Array.from(m.data.right), Array.from(m.data.top)]; } })()""")
        left, right, top = map(np.array, bars)
        assert top.sum() == len(weights) and min(abs(np.append(left, right))) == pytest.approx(abs(weights).min())
        inside = right[:-1].max() - 1e-6
        assert [int(((weights > l) & (weights < r)).sum()) for l, r in zip(left, right)][1:-1] == pytest.approx(top[1:-1], abs=1)
        assert inside < abs(weights).max()

    def test_the_matrix_is_that_of_the_graph(self, browser, tmp_path):
        wiring = ng.wirings.watts_strogatz(20, 4, 0.2, inputs=2, outputs=2, seed=0)
        ng.explore(wiring, out=tmp_path / "small.html")
        page = Page(browser, (tmp_path / "small.html").as_uri())
        pixels, order = page.js("""(() => { const {sides} = neuralgraph, order = Array.from(sides[0].graphs[0].order);
            for (const doc of Bokeh.documents) { const m = doc.get_model_by_name("matrix-image-0");
            if (m) return [Array.from(m.data.image[0]), order]; } })()""")
        number = wiring.num_nodes
        marked = {(order.index(at % number), order.index(at // number)) for at, pixel in enumerate(pixels) if pixel}
        assert marked == set(zip(wiring.src.tolist(), wiring.dst.tolist()))
        page.close()

    def test_classes_have_their_edges_and_nodes(self, browser, run, tmp_path):
        model = ng.training.open_model(run)[1]
        data = ng.data.load("digits")
        pixels, labels = next(iter(data.test_batches([torch.arange(60)])))
        samples = data.normalise(pixels), labels.long()
        attributions = {f"<b>{label}</b>": ng.analysis.attribution(model, *samples, label=label) for label in (0, 3)}
        circuits = {str(label): ng.analysis.circuit(model, *samples, label=label, keep=0.5, one_by_one=0) for label in (0, 3)}
        chance = ng.analysis.null_model(model.networks[0], "clustering", 3)
        ng.explore(run, out=tmp_path / "classes.html", attributions=attributions, circuits=circuits, null_models={"<i>": chance})
        page = Page(browser, (tmp_path / "classes.html").as_uri())
        choose = "(([id, value]) => {{ document.getElementById(id).value = value; neuralgraph.draw(); }})({})"
        found = attributions["<b>3</b>"][0]
        page.js(choose.format('["view", "1"]'))
        assert page.js("document.getElementById('view').selectedOptions[0].text") == "<b>3</b>"
        shown = page.js("""(() => { const {edges, shown} = neuralgraph.state.drawn[0].seen, {src, dst} = neuralgraph.sides[0].history.parts[0];
            return Array.from(edges, (e, i) => [src[e], dst[e], shown[i]]); })()""")
        wiring = model.networks[0].wiring
        real = found.edges.nonzero().flatten()
        expected = {(int(wiring.src[e]), int(wiring.dst[e])): float(found.edges[e]) for e in real}
        assert {(u, v): w for u, v, w in shown if w} == pytest.approx(expected, rel=1e-5) and len(real) > 50
        node = int(found.nodes.abs().argmax())
        page.js(f"neuralgraph.pin({node}); neuralgraph.draw()")
        assert f"attribution {float(found.nodes[node]):.3g}"[:14] in page.page.inner_text("#detail")
        page.js("neuralgraph.pin(null)")
        page.js(choose.format('["circuit", "0"]'))
        part = circuits["0"].edges[0].nonzero().flatten()
        assert page.drawn() == set(zip(wiring.src[part].tolist(), wiring.dst[part].tolist())) and 0 < len(part) < 300
        assert page.js("Array.from(document.querySelectorAll('#detail table:first-of-type tr:last-child td'), c => c.textContent)") == [
            "<i>", f"{chance.observed:.3g}", f"{chance.mean:.3g}", f"{chance.z:.1f}", f"{chance.p:.2g}"]
        share = 100 * circuits["0"].overlap(circuits["3"])
        assert page.js("document.querySelector('.overlap td[title]:nth-child(4)').title") == f"0 and 3: {share:.1f} %"
        page.close()

    def test_two_runs_side_by_side(self, browser, run, tmp_path):
        other = run.parent / "other"
        if not other.exists():
            CliRunner().invoke(main, ["train", "tiny-static", "--epochs", "1", "--set", "seed=1", "--out", str(other)],
                               catch_exceptions=False)
        ng.explore(run, other, out=tmp_path / "two.html")
        page = Page(browser, (tmp_path / "two.html").as_uri())
        assert page.drawn(1) == set(edges_at(other, None)) != page.drawn(0) == set(edges_at(run, None))
        page.js("neuralgraph.seek(4)")
        step = History(run / "wiring.history").steps[4]
        assert page.drawn(1) == set(edges_at(other, step))
        page.close()

    def test_hostile_names_are_text(self, browser, tmp_path):
        hostile = ["</script><script>window.hacked = 1</script>", "<img src=x onerror='window.hacked=1'>", "x" * 10_000, "NaN & \u2028"]
        graph = nx.DiGraph([(hostile[0], hostile[1]), (hostile[1], hostile[2]), (hostile[0], hostile[3])])
        ng.explore(ng.from_networkx(graph), out=tmp_path / "h.html")
        page = Page(browser, (tmp_path / "h.html").as_uri())
        assert page.js("neuralgraph.sides[0].graphs[0].label") == [label[:200].replace("\u2028", "\u2028") for label in graph]
        for node in range(4):
            page.js(f"neuralgraph.pin({node}); neuralgraph.draw()")
            assert list(graph)[node][:20] in page.page.inner_text("#detail")
        assert page.js("window.hacked") is None
        page.close()

    def test_many_edges_are_bundled_and_open_soon(self, browser, tmp_path):
        net = ng.StaticNeuralGraph(ng.wirings.blocks([32, 192, 192, 192, 192, 100]), ng.TopK(k=300_000))
        ng.explore(net, out=tmp_path / "many.html")
        began = time.monotonic()
        page = Page(browser, (tmp_path / "many.html").as_uri())
        assert time.monotonic() - began < 60  # 15 s on a machine that does nothing else
        drawn = page.js("(() => { const d = neuralgraph.state.drawn[0]; return [d.real, d.inSight, d.bundles]; })()")
        assert drawn[:2] == [300_000, 300_000] and 100 < drawn[2] < 20_000
        assert "bundles; zoom in" in page.page.inner_text("#counts")
        zoomed = page.js("""(() => { for (const doc of Bokeh.documents) { const m = doc.get_model_by_name("graph-0"); if (!m) continue;
            m.x_range.setv({start: 0.19, end: 0.21}); m.y_range.setv({start: 0.02, end: 0.0}); }
            neuralgraph.draw(); const d = neuralgraph.state.drawn[0]; return [d.inSight, d.bundles]; })()""")
        assert 0 < zoomed[0] < 300_000
        page.close()

    def test_a_run_is_followed_while_it_trains(self, browser, tmp_path, run):
        folder = tmp_path / "growing"
        shutil.copytree(run, folder)
        whole = (folder / "wiring.history").read_bytes()
        steps = History(folder / "wiring.history").steps
        (folder / "wiring.history").write_bytes(whole[:-len(whole) // 4])
        server = serve(folder)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            page = Page(browser, f"http://127.0.0.1:{server.server_port}/")
            before = page.js("neuralgraph.sides[0].history.steps.length")
            assert 1 < before < len(steps) and page.page.is_visible("#live")
            (folder / "wiring.history").write_bytes(whole)
            page.page.wait_for_function(f"neuralgraph.state.index === {len(steps) - 1}", timeout=20_000)  # it was at the end
            assert page.drawn() == set(edges_at(run, None))
            page.close()
        finally:
            server.shutdown()
