"""Shared weights: by the written formulas, equal to tied and untied networks, baked, selected, trained."""

import copy

import pytest
import torch
from graphs import random_dag
from shared import PLACES, assign, convolutions, mixing, small, tied_macro, untied
from stopping import StopAfter
from torch import nn
from torch.nn.utils import parametrize

import neuralgraph as ng
from neuralgraph.errors import InputError, UnknownNameError
from neuralgraph.selectors import SELECTORS
from neuralgraph.sharing import bake, fold, is_shared, parameter_groups, share, similarity, tie
from neuralgraph.training import Interrupted

# Layers


def test_layers_of_one_shape_mix_the_same_templates():
    model = share(small(), templates=2)
    templates, _ = mixing(model[2])
    rows = torch.stack([mixing(model[place])[1] for place in PLACES])
    for place, row in zip(PLACES, rows):
        assert mixing(model[place])[0] is templates
        torch.testing.assert_close(model[place].weight, row[0] * templates[0] + row[1] * templates[1])
    assert not is_shared(model[0]) and not is_shared(model[16])
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4))
    assert abs(templates.var() / (2 / 54) - 1) < 0.2  # Kaiming's, of fan-in 6 * 9
    own = sum(p.numel() for p in small().parameters()) - 4 * 324
    assert sum(p.numel() for p in model.parameters()) == own + 2 * 324 + 4 * 2


def test_coefficients_begin_orthogonal():
    for templates in (4, 6):
        model = share(small(), templates, seed=3)
        rows = torch.stack([mixing(model[place])[1] for place in PLACES]).detach()
        torch.testing.assert_close(rows @ rows.T, torch.eye(4), atol=1e-6, rtol=0)


def test_gradients_are_those_of_the_formula():
    """dL/dT_j = sum_i a_ij dL/dV_i and dL/da_ij = <T_j, dL/dV_i>, with dL/dV_i of plain layers."""
    model = share(small(), templates=3).double()
    plain_model, x = bake(model), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    for each in (model, plain_model):
        each(x).square().sum().backward()
    templates, _ = mixing(model[2])
    rows = torch.stack([mixing(model[place])[1] for place in PLACES])
    gradients = torch.stack([plain_model[place].weight.grad for place in PLACES])
    torch.testing.assert_close(templates.grad, torch.einsum("ij,iabcd->jabcd", rows, gradients))
    torch.testing.assert_close(torch.stack([mixing(model[place])[1].grad for place in PLACES]),
                               torch.einsum("jabcd,iabcd->ij", templates, gradients))


def test_baked_equals_shared():
    model = share(small(), templates=2).eval()
    x = torch.randn(3, 3, 8, 8)
    baked = bake(model)
    assert torch.equal(model(x), baked(x))
    assert is_shared(model) and not is_shared(baked)
    assert type(baked[2]) is nn.Conv2d and baked.state_dict().keys() == small().state_dict().keys()


def test_coefficients_have_no_weight_decay():
    model = share(small(), templates=2)
    before = [mixing(model[place])[1].detach().clone() for place in PLACES]
    templates = mixing(model[2])[0].detach().clone()
    optimizer = torch.optim.SGD(parameter_groups(model), lr=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert all(torch.equal(mixing(model[place])[1], row) for place, row in zip(PLACES, before))
    torch.testing.assert_close(mixing(model[2])[0].detach(), templates * 0.95)
    given = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in given} == {id(p) for p in model.parameters()} and len(given) == len(set(given))


def test_states_and_copies():
    model = share(small(), templates=2, seed=1)
    other = share(small(), templates=2, seed=2)
    x = torch.randn(2, 3, 8, 8)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model.eval()(x))
    copied = copy.deepcopy(model)
    assert torch.equal(copied(x), model(x))
    assert mixing(copied[2])[0] is mixing(copied[5])[0] and mixing(copied[2])[0] is not mixing(model[2])[0]
    with torch.no_grad():
        mixing(copied[2])[0].zero_()
    assert not torch.equal(copied(x), model(x))


def test_a_shared_model_trains():
    model = share(small(), templates=2)
    optimizer = torch.optim.Adam(parameter_groups(model), lr=0.02)
    x, target = torch.randn(10, 3, 8, 8), torch.arange(10) % 5
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_what_is_skipped_and_what_stays_as_it_was():
    model = small()
    shared = share(model, 1, skip=["2", "1*"])
    assert [is_shared(shared[place]) for place in PLACES] == [False, True, True, False]
    assert torch.equal(shared[2].weight, model[2].weight) and not is_shared(model)
    assert share(model, 1, inplace=True) is model and is_shared(model)


# Selection acts on the mixed weights


def test_sparse_layers_choose_among_mixed_weights():
    model = share(ng.sparsify(small(), 0.25, skip=["16"]), templates=2)
    layer, x = model[5], torch.randn(2, 6, 8, 8)
    weight = layer.weight.detach()
    k = layer.k
    kept = weight.abs() >= weight.abs().flatten().topk(k).values[-1]
    assert torch.equal(layer.real(), kept)
    torch.testing.assert_close(layer(x), torch.conv2d(x, weight * kept, layer.bias, padding=1))
    model.eval()
    first, kept = model(torch.ones(1, 3, 8, 8)), layer._choices["weight"][0]._kept
    assert torch.equal(model(torch.ones(1, 3, 8, 8)), first) and layer._choices["weight"][0]._kept is kept
    with torch.no_grad():  # evaluation sees that weights changed
        mixing(layer)[0].view(-1)[7] += 5
    assert not torch.equal(model(torch.ones(1, 3, 8, 8)), first)
    assert layer.real().flatten()[7] != 0
    torch.testing.assert_close(ng.densify(bake(model))(x.new_ones(1, 3, 8, 8)), model(x.new_ones(1, 3, 8, 8)))
    with pytest.raises(InputError, match="sharing.bake"):
        ng.densify(model)


def test_selectors_that_change_single_weights_are_refused():
    model = ng.sparsify(small(), 0.25, selector="rigl")
    with pytest.raises(InputError, match="RigL of '2' changes, freezes or penalises single weights"):
        share(model, 2)
    network = ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 4, 4, 2]), SELECTORS["rigl"](30))
    with pytest.raises(InputError, match="RigL of the network changes"):
        share(network, 2, "blocks")
    assert is_shared(share(network, 2, "kernels"))  # which it does not choose among
    shared = share(ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 4, 4, 2]), ng.TopK(30)), 2, "blocks")
    ng.rewire(shared, torch.optim.SGD(shared.parameters(), lr=0.1), total_steps=3).remove()
    shared.selector = SELECTORS["rigl"](30)
    with pytest.raises(InputError, match="computed from others"):
        ng.rewire(shared, torch.optim.SGD(shared.parameters(), lr=0.1), total_steps=3)


# Networks


@pytest.mark.parametrize("backend", ["dense", "sparse", "dgl"])
def test_kernels_of_nodes_are_mixed(backend, float64):
    wiring = ng.wirings.watts_strogatz(8, 4, 0.75, inputs=2, outputs=2, seed=0)
    network = share(ng.StaticNeuralGraph(wiring, ng.TopK(15), backend), 3, "kernels")
    operation = next(part for part in network.modules() if hasattr(part, "kernel_size"))
    templates, rows = mixing(operation)
    assert templates.shape == (3, 1, 3, 3) and rows.shape == (10, 3)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(10))
    assert torch.linalg.matrix_rank(rows) == 3
    plain_network, x = bake(network), torch.randn(3, 2, 6, 6)
    for each in (network, plain_network):
        each(x).square().sum().backward()
    torch.testing.assert_close(network(x), plain_network(x))
    gradient = next(part for part in plain_network.modules() if hasattr(part, "kernel_size")).weight.grad
    torch.testing.assert_close(templates.grad, torch.einsum("vj,vabc->jabc", rows, gradient))
    torch.testing.assert_close(network.learned_wiring().parameters["kernel"][:10],
                               torch.einsum("vj,jbc->vbc", rows, templates[:, 0]).detach())


def test_matrices_between_blocks_of_equal_shape_are_mixed(float64):
    """blocks([2, 4, 4, 4]): 1->2, 1->3, 2->3 are 4x4; 0->1, 0->2, 0->3 are 4x2."""
    wiring = ng.wirings.blocks([2, 4, 4, 4])
    network = share(ng.StaticNeuralGraph(wiring, ng.TopK(40)), 2, "blocks")
    parts = network.parametrizations.weight[0].parts
    assert {part.mixed.bank.templates.shape[1:] for part in parts} == {(4, 2), (4, 4)}
    by_pair = {}
    for part in parts:
        for name, row in zip(part.mixed.rows, part.coefficients):
            by_pair[name] = row[0] * part.mixed.bank.templates[0] + row[1] * part.mixed.bank.templates[1]
    start = [0, 2, 6, 10, 14]
    for edge, (u, v) in enumerate(zip(wiring.src.tolist(), wiring.dst.tolist())):
        i, j = int(wiring.block[u]), int(wiring.block[v])
        matrix = by_pair[f"block {i} -> {j}"]  # [dst, src]
        torch.testing.assert_close(network.weight[edge], matrix[v - start[j], u - start[i]])
    x = torch.randn(3, 2, 6, 6)
    plain_network = bake(network)
    for each in (network, plain_network):
        each(x).square().sum().backward()
    part = parts[0]
    edges = [[e for e, (u, v) in enumerate(zip(wiring.block[wiring.src].tolist(), wiring.block[wiring.dst].tolist()))
              if name == f"block {u} -> {v}"] for name in part.mixed.rows]
    gradients = plain_network.weight.grad[torch.tensor(edges)].view(3, *part.mixed.bank.templates.shape[1:])
    torch.testing.assert_close(part.mixed.bank.templates.grad,
                               torch.einsum("ij,iab->jab", part.coefficients, gradients))


def test_selection_of_a_network_acts_on_the_mixed_weights():
    network = share(ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 4, 4]), ng.TopK(20)), 2, "blocks")
    weight = network.weight.detach().abs()
    assert torch.equal(network.selection().real, weight >= weight.topk(20).values[-1])
    network.eval()(torch.zeros(1, 2, 4, 4))
    with torch.no_grad():
        network.parametrizations.weight[0].parts[0].coefficients.mul_(100)
    assert not torch.equal(network.selection().real, weight >= weight.topk(20).values[-1])
    assert torch.equal(network.learned_wiring().weight, network.selection().weight[network.selection().real].detach())


def test_one_template_is_a_tied_network(float64):
    network, x = untied(templates=1), torch.randn(2, 2, 6, 6)
    for operation in convolutions(network):
        assign(operation, [1.0])
    tied = ng.DiscreteTimeNeuralGraph(network.wiring, ng.TopK(30), steps=3)
    with torch.no_grad():
        tied.weight.copy_(network.weight)
        convolutions_of = next(part for part in tied.functions.modules() if hasattr(part, "kernel_size"))
        convolutions_of.weight.copy_(mixing(convolutions(network)[0])[0][0])
    torch.testing.assert_close(network(x), tied(x))
    network(x).square().sum().backward()
    tied(x).square().sum().backward()
    torch.testing.assert_close(mixing(convolutions(network)[0])[0].grad[0], convolutions_of.weight.grad)


def test_as_many_templates_as_steps_are_an_untied_network(float64):
    network, x = untied(templates=3), torch.randn(2, 2, 6, 6)
    plain_network = untied()
    for step, (operation, free) in enumerate(zip(convolutions(network), convolutions(plain_network))):
        assign(operation, torch.eye(3)[step])
        with torch.no_grad():
            mixing(operation)[0][step].copy_(free.weight)
    torch.testing.assert_close(network(x), plain_network(x))
    network(x).square().sum().backward()
    plain_network(x).square().sum().backward()
    for step, free in enumerate(convolutions(plain_network)):
        torch.testing.assert_close(mixing(convolutions(network)[0])[0].grad[step], free.weight.grad)


SHARED = {
    "kernels": lambda: share(ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 4, 3]), ng.TopK(25)), 2, "kernels"),
    "blocks": lambda: share(ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 4, 4]), ng.TopK(25)), 2, "blocks"),
    "steps": lambda: untied(templates=2),
    "folded": lambda: fold(untied(templates=1)),
    "tied": lambda: tied_macro(),
    "both": lambda: share(share(ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 4, 4]), ng.TopK(25)), 2, "blocks"), 2,
                          "kernels"),
}


@pytest.mark.parametrize("name", SHARED)
def test_what_is_made_of_a_shared_network_is_equal(name, tmp_path):
    """Compiled, exported, copied, its learned wiring, its state in a fresh one, its cost."""
    network, x = SHARED[name]().eval(), torch.randn(2, 2, 6, 6)
    with torch.no_grad():
        y = network(x)
        torch.testing.assert_close(ng.compile(network)(x), y, atol=1e-5, rtol=1e-4)
        copied = copy.deepcopy(network)
        assert copied._chosen is None and torch.equal(copied(x), y)
        again = SHARED[name]().eval()
        again.load_state_dict(network.state_dict())
        assert torch.equal(again(x), y)
        if isinstance(network, ng.StaticNeuralGraph):
            learned = ng.StaticNeuralGraph(network.learned_wiring(), ng.Complete()).eval()
            torch.testing.assert_close(learned(x), y, atol=1e-5, rtol=1e-4)
    assert ng.analysis.cost(network, 6, 6) == ng.analysis.cost(bake(network), 6, 6)
    onnxruntime = pytest.importorskip("onnxruntime")
    ng.export_onnx(network, tmp_path / "net.onnx", space=(6, 6))
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), y, atol=1e-5, rtol=1e-4)


def test_a_shared_classifier_is_compiled_and_costs_what_a_plain_one_does():
    model = ng.models.create("tiny-static", image_size=8, k=300)
    model = share(model, 4, "kernels").eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(ng.compile(model)(x), model(x), atol=1e-4, rtol=1e-4)
    assert ng.analysis.cost(model) == ng.analysis.cost(bake(model))


def test_the_library_trains_and_resumes_a_shared_network(tmp_path):
    batches = [(torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(n)), torch.zeros(4, 4, 6, 6))
               for n in range(3)]

    def fit(folder, epochs, **options):
        network = SHARED["both"]()
        ng.training.fit(network, batches, folder=folder, epochs=epochs, loss=nn.functional.mse_loss, **options,
                        optimizer=lambda _: torch.optim.SGD(parameter_groups(network), lr=0.1, momentum=0.9))
        return network
    whole = fit(tmp_path / "whole", 2)
    with pytest.raises(Interrupted):
        fit(tmp_path / "pieces", 2, watcher=StopAfter(4))
    pieces = fit(tmp_path / "pieces", 2, resume=True)
    for a, b in zip(whole.state_dict().values(), pieces.state_dict().values()):
        assert torch.equal(a, b)


def test_mixed_and_untied_kernels_of_any_wiring():
    for seed in range(4):
        network = ng.StaticNeuralGraph(random_dag(seed), ng.Complete())
        if not any(hasattr(part, "kernel_size") and part.weight.requires_grad for part in network.modules()):
            continue
        shared = share(network, 2, "kernels").eval()
        x = torch.randn(2, len(network.wiring.inputs), 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(shared(x), bake(shared)(x))


# What is refused


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: share(small(), 0), InputError, "templates must be an integer of at least 1, got 0"),
    (lambda: share(small(), 1.5), InputError, "templates must be an integer"),
    (lambda: share(small(), 2, "layer"), UnknownNameError, "did you mean 'layers'"),
    (lambda: share(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), 2), InputError,
     r"no two layers have weights of one shape.*Linear \(3, 2\), Linear \(2, 3\)"),
    (lambda: share(nn.ReLU(), 2), InputError, "no convolution or fully connected layer"),
    (lambda: share(small(), 2, skip=["stem"]), UnknownNameError, "stem"),
    (lambda: share(small(), 2, skip="2"), InputError, "skip must be a list"),
    (lambda: share(share(small(), 2), 2), InputError, "parametrized already"),
    (lambda: share(small().requires_grad_(False), 2), InputError, "frozen"),
    (lambda: share(small(), 2, "kernels"), InputError, "no node of the model has a kernel"),
    (lambda: share(small(), 2, "blocks"), InputError, "two matrices of edges of one shape"),
    (lambda: share(ng.StaticNeuralGraph(ng.wirings.blocks([2, 3, 4]), ng.Complete()), 2, "blocks"), InputError,
     "two matrices"),
    (lambda: share(ng.DiscreteTimeNeuralGraph(ng.wirings.complete(4, inputs=1, outputs=1), ng.Complete()), 2, "steps"),
     InputError, "make it with tied=False"),
    (lambda: similarity(small()), InputError, "nothing in the model shares"),
    (lambda: fold(small()), InputError, "no layers or steps"),
    (lambda: fold(share(small(), 2), threshold=0), InputError, "threshold must be above 0"),
    (lambda: tie(small(), torch.zeros(3)), InputError, "expected a neural graph"),
])
def test_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_shared_weights_cannot_be_assigned():
    model = share(small(), 2)
    with pytest.raises(InputError, match="cannot be assigned"):
        model[2].weight = torch.zeros(6, 6, 3, 3)
    network = SHARED["blocks"]()
    with pytest.raises(InputError, match="cannot be assigned"):
        network.weight = torch.zeros(network.wiring.num_edges)


def test_a_weight_of_two_layers_is_refused():
    model = small()
    model[5].weight = model[2].weight
    with pytest.raises(InputError, match="a parameter of 2 modules"):
        share(model, 2)
    assert not any(parametrize.is_parametrized(part) for part in model.modules())
