"""Where nodes are drawn, and pictures that show what is there."""

import itertools
import re
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings, strategies as st

import neuralgraph as ng
from neuralgraph.errors import InputError
from neuralgraph.wiring import layout
from neuralgraph.wiring.drawing import MOST_EDGES


def crossings(wiring, place):
    """How many pairs of edges between the same two columns cross."""
    x, y = place.double().T
    edges = list(zip(wiring.src.tolist(), wiring.dst.tolist()))
    return sum(1 for (a, b), (c, d) in itertools.combinations(edges, 2)
               if x[a] == x[c] and x[b] == x[d] and (y[a] - y[c]) * (y[b] - y[d]) < 0)


def learned(sizes, k, seed=0):
    return ng.StaticNeuralGraph(ng.wirings.blocks(sizes), ng.TopK(k=k), seed=seed).learned_wiring()


def test_many_blocks_of_single_nodes_are_no_line():
    """A small world of 60 levels is laid out by forces: neighbours are near, and no place is another's."""
    wiring = ng.wirings.watts_strogatz(60, 4, 0.1, inputs=1, outputs=1, seed=0)
    assert len(wiring.block.unique()) > 30
    place = layout(wiring)
    apart = torch.cdist(place, place)
    assert place[:, 1].std() > 0.1 and (apart + torch.eye(len(place))).min() > 1e-3
    assert apart[wiring.src, wiring.dst].mean() < 0.4 * apart.mean()
    chain = ng.wirings.chain([1] * 12)
    assert torch.equal(layout(chain)[:, 0], torch.arange(12) / 11)


@given(seed=st.integers(0, 1000), k=st.integers(1, 60))
@settings(max_examples=15)
def test_blocks_are_columns_in_which_no_two_nodes_meet(seed, k):
    wiring = learned([3, 6, 6, 3], k, seed)
    place = layout(wiring)
    assert place.shape == (18, 2) and place.min() >= 0 and place.max() <= 1
    assert torch.equal(place[:, 0], wiring.block / 3)
    for block in range(4):
        heights = place[wiring.block == block, 1]
        assert len(heights.unique()) == len(heights)
    assert torch.equal(place, layout(wiring))
    live = torch.zeros(18, dtype=torch.bool)
    live[wiring.src] = live[wiring.dst] = True
    assert live.all() or place[live, 1].max() < place[~live, 1].min()


def test_a_shuffled_ladder_is_laid_out_without_a_crossing():
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    edges = [(i, 12 + order[i]) for i in range(12)]
    wiring = ng.wirings.from_edges(edges, inputs=list(range(12)), outputs=list(range(12, 24)))
    plain = torch.stack([wiring.block.double(), torch.arange(24) % 12], 1)
    assert crossings(wiring, plain) > 20 and crossings(wiring, layout(wiring)) == 0


def test_order_makes_crossings_fewer():
    wiring = learned([8, 16, 16, 8], 60)
    first = torch.stack([wiring.block.double(), torch.arange(48).double()], 1)
    assert crossings(wiring, layout(wiring)) < 0.6 * crossings(wiring, first)


def test_graphs_with_cycles_are_laid_out_by_forces():
    """Two cliques with one edge between them stand apart; a dead node is aside."""
    cliques = [(s + u, s + v) for s in (0, 6) for u in range(6) for v in range(6)]
    adjacency = torch.zeros(13, 13)
    adjacency[tuple(torch.tensor([*cliques, (0, 6)]).T)] = 1
    net = ng.DiscreteTimeNeuralGraph(ng.wirings.complete(13, inputs=1, outputs=1), ng.TopK(k=73), steps=1)
    with torch.no_grad():
        net.weight.copy_(adjacency[net.wiring.src, net.wiring.dst])
    place = layout(net.learned_wiring())
    near = torch.cdist(place[:12], place[:12])
    inside = torch.stack([near[:6, :6].max(), near[6:, 6:].max()]).mean()
    assert near[:6, 6:].mean() > inside and place[12, 1] > place[:12, 1].max()


def test_edges_of_no_strength_do_not_count():
    wiring = learned([2, 4, 2], 20)
    strength = torch.zeros(wiring.num_edges)
    strength[0] = 1.0
    place = layout(wiring, strength)
    dead = torch.ones(8, dtype=torch.bool)
    dead[torch.stack([wiring.src[0], wiring.dst[0]])] = False
    assert place[dead, 1].min() > place[~dead, 1].max()


class TestPictures:
    def svg(self, thing):
        text = thing._repr_html_()
        return ElementTree.fromstring(text), text

    def test_every_edge_and_node_is_there(self):
        wiring = learned([2, 4, 2], 12)
        tree, text = self.svg(wiring)
        tag = "{http://www.w3.org/2000/svg}"
        circles = [(float(c.get("cx")), float(c.get("cy"))) for c in tree.iter(f"{tag}circle")]
        lines = list(tree.iter(f"{tag}line"))
        ends = {((float(line.get("x1")), float(line.get("y1"))), (float(line.get("x2")), float(line.get("y2")))):
                line.get("stroke") for line in lines}
        assert len(lines) == 12 and {(circles[u], circles[v]) for u, v in zip(
            wiring.src.tolist(), wiring.dst.tolist())} == set(ends)
        for u, v, weight in zip(wiring.src.tolist(), wiring.dst.tolist(), wiring.weight.tolist()):
            assert ends[circles[u], circles[v]] == ("#0072B2" if weight > 0 else "#D55E00")
        assert repr(wiring).replace("&", "&amp;") in text

    def test_of_many_edges_the_strongest_are_drawn(self):
        net = ng.StaticNeuralGraph(ng.wirings.blocks([30, 60, 30]), ng.TopK(k=3000))
        _, text = self.svg(net)
        assert text.count("<line") == MOST_EDGES and "3,000 real of 4,500 candidate edges" in text
        assert "the 1,500 strongest edges drawn" in text

    def test_names_are_text(self):
        import networkx as nx
        hostile = "</svg><script>alert(1)</script>"
        wiring = ng.from_networkx(nx.DiGraph([(hostile, "b" * 10_000)]))
        tree, text = self.svg(wiring)
        assert "<script" not in text and len(text) < 5000
        assert {title.text for title in tree.iter("{http://www.w3.org/2000/svg}title")} == {hostile, "b" * 199 + "…"}

    def test_a_wiring_without_edges_has_a_picture(self):
        tree, _ = self.svg(learned([2, 3, 1], 0))
        assert len(list(tree.iter("{http://www.w3.org/2000/svg}circle"))) == 6

    def test_a_figure_of_the_graph(self):
        pytest.importorskip("matplotlib")
        wiring = learned([3, 6, 3], 20)
        figure = ng.plots.graph(wiring)
        axes, = figure.axes
        lines, *nodes = axes.collections
        assert len(lines.get_segments()) == 20
        ends = {tuple(map(tuple, segment[[0, -1]].round(4))) for segment in lines.get_segments()}
        place = layout(wiring).double().numpy().round(4)
        assert ends == {(tuple(place[u]), tuple(place[v])) for u, v in zip(wiring.src.tolist(), wiring.dst.tolist())}
        live = len(set(wiring.src.tolist()) | set(wiring.dst.tolist()))
        assert sum(len(points.get_offsets()) for points in nodes) == live
        assert axes.get_title() == f"20 edges between {live} live of 12 nodes"


class TestFigures:
    """What ng.plots.graph draws."""

    pytest.importorskip("matplotlib")

    def lines(self, figure):
        lines = next(drawn for drawn in figure.axes[0].collections if type(drawn).__name__ == "LineCollection")
        return [torch.from_numpy(segment) for segment in lines.get_segments()]

    def test_an_edge_bends_around_the_nodes_it_would_run_through(self):
        """A chain whose first node also leads to its last: a straight line would hide it."""
        wiring = ng.wirings.from_edges([(i, i + 1) for i in range(5)] + [(0, 5)], inputs=[0], outputs=[5])
        place = layout(wiring).double()
        assert len(place[:, 1].unique()) == 1
        for u, v, line in zip(wiring.src.tolist(), wiring.dst.tolist(), self.lines(ng.plots.graph(wiring))):
            assert torch.allclose(line[[0, -1]], place[[u, v]])
            others = torch.cdist(line, place[[w for w in range(6) if w not in (u, v)]])
            assert others.min() > 0.02
            assert ((line[:, 1] - place[0, 1]).abs().max() < 1e-9) == ((u, v) != (0, 5))

    def test_directions_and_loops_are_seen_where_edges_lead_back(self):
        wiring = ng.wirings.from_edges([(0, 1), (1, 0), (1, 1), (1, 2)], inputs=[0], outputs=[2])
        figure = ng.plots.graph(wiring)
        there, back, loop, _ = (self.lines(figure)[wiring_edge] for wiring_edge in (
            list(zip(wiring.src.tolist(), wiring.dst.tolist())).index(edge) for edge in [(0, 1), (1, 0), (1, 1), (1, 2)]))
        middle = (there[0] + there[-1]) / 2
        assert torch.allclose(there[0], back[-1]) and torch.allclose(there[-1], back[0])
        assert torch.allclose(there[16] - middle, middle - back[16]) and (there[16] - middle).norm() > 0.02
        assert torch.allclose(loop[0], loop[-1]) and (loop - loop[0]).norm(dim=1).max() > 0.02
        heads = next(drawn for drawn in figure.axes[0].collections if type(drawn).__name__ == "PolyCollection")
        for line, head in zip(self.lines(figure), heads.get_paths()):
            tip, *base = torch.from_numpy(head.vertices[:3])
            assert (tip - line[-1]).norm() < min((corner - line[-1]).norm() for corner in base) < 0.05

    def test_of_many_edges_some_are_drawn_and_the_title_says_so(self):
        net = ng.StaticNeuralGraph(ng.wirings.blocks([40, 40, 40]), ng.TopK(k=3000)).eval()
        figure = ng.plots.graph(net)
        wiring = net.learned_wiring()
        strongest = wiring.weight.abs().argsort(descending=True)[:2000]
        place = layout(wiring).double()
        ends = {tuple(line[[0, -1]].flatten().tolist()) for line in self.lines(figure)}
        assert ends == {(*place[wiring.src[e]].tolist(), *place[wiring.dst[e]].tolist()) for e in strongest.tolist()}
        assert figure.axes[0].get_title().endswith("; the 2,000 strongest edges drawn")
        unweighted = ng.plots.graph(net.wiring)
        ends = {tuple(line[-1].tolist()) for line in self.lines(unweighted)}
        assert len(ends) == 80 and "2,000 of them drawn" in unweighted.axes[0].get_title()

    def test_the_same_pixels_again(self, tmp_path):
        for wiring in (learned([3, 6, 3], 20), ng.wirings.complete(12, inputs=2, outputs=2)):
            first, second = (ng.plots.graph(wiring)._repr_png_() for _ in range(2))
            assert first == second
            ng.plots.graph(wiring, "a_b $x").savefig(tmp_path / "g.pdf")

    @pytest.mark.parametrize("k", [0, 1])
    def test_almost_no_edges(self, k):
        ng.plots.graph(learned([2, 3, 1], k)).canvas.draw()


def test_dot_shows_live_nodes_with_blocks_as_ranks(tmp_path):
    wiring = learned([2, 5, 2], 6)
    live = {str(node) for node in [*wiring.src.tolist(), *wiring.dst.tolist()]}
    assert len(live) < 9
    text = ng.write(wiring, tmp_path / "w.dot", live_only=True).read_text()
    assert set(re.findall(r'^  "(\d+)" \[', text, re.M)) == live
    ranks = [set(re.findall(r'"(\d+)"', line)) for line in re.findall(r"rank=same; (.*?) }", text)]
    assert ranks == [{node for node in live if int(wiring.block[int(node)]) == block} for block in range(3)]
    for u, v, weight in zip(wiring.src.tolist(), wiring.dst.tolist(), wiring.weight.tolist()):
        line = next(line for line in text.splitlines() if line.startswith(f'  "{u}" -> "{v}"'))
        assert ('color="#0072B2"' in line) == (weight > 0)
    everything = ng.write(wiring, tmp_path / "all.dot").read_text()
    assert len(re.findall(r'^  "\d+" \[', everything, re.M)) == 9
    with pytest.raises(InputError, match="live_only is of the format dot"):
        ng.write(wiring, tmp_path / "w.json", live_only=True)
    cyclic = ng.DiscreteTimeNeuralGraph(ng.wirings.complete(6, inputs=1, outputs=1), ng.TopK(k=20), steps=1)
    assert "rank=same" not in ng.write(cyclic.learned_wiring(), tmp_path / "c.dot").read_text()
