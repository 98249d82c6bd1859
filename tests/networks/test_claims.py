"""What the paper claims, as properties; where its wording is too strong, the rate."""

import copy

import pytest
import torch
from hypothesis import given, strategies as st
from precision import double_precision

import neuralgraph as ng
from neuralgraph import NodeFunction

SOURCES, PIXELS, K = 8, 12, 4


def one_target(seed, rate):
    """One node fed by some of 8 fixed states; a quadratic loss; weights before and after a step."""
    generator = torch.Generator().manual_seed(seed)
    network = ng.StaticNeuralGraph(ng.wirings.chain([SOURCES, 1], NodeFunction()), ng.TopK(K), seed=generator)
    z = torch.randn(1, SOURCES, PIXELS, 1, generator=generator)
    target = torch.randn(PIXELS, generator=generator)

    def loss(total):
        return 0.5 * (total - target).square().sum()

    before, real = network.weight.detach().clone(), network.selection().real
    total = network(z).flatten()
    loss(total).backward()
    with torch.no_grad():
        network.weight -= rate * network.weight.grad
    return z[0, :, :, 0], total.detach(), loss, before, network.weight.detach(), real, network.selection().real


def swaps(seeds, rate):
    """(states, input, loss, g, input A with i, input B with j) of each swap that meets the hypotheses."""
    for seed in seeds:
        z, total, loss, before, after, old, new = one_target(seed, rate)
        entered, left = (new & ~old).nonzero().flatten(), (old & ~new).nonzero().flatten()
        if len(entered) != 1 or not torch.equal(before.sign(), after.sign()):
            continue
        i, j = int(entered), int(left)
        if after[i].abs() * before[i].abs() > after[j].abs() * before[j].abs():
            continue  # the rate is above alpha*
        others = (old & new).nonzero().flatten()
        rest = (after[others, None] * z[others]).sum(0)
        position = total.clone().requires_grad_()
        gradient, = torch.autograd.grad(loss(position), position)
        yield total, loss, -rate * gradient, rest + after[i] * z[i], rest + after[j] * z[j]


def test_swapping_one_edge_decreases_the_loss_to_first_order():
    """P1 and P3 always; the full step (the paper's wording) only usually: 74 % in methods 15.1."""
    with double_precision():
        p1 = p3 = full = count = 0
        for rate in (0.01, 0.02, 0.04):
            for total, loss, g, a, b in swaps(range(240), rate):
                count += 1
                p1 += (a - total) @ g >= (b - total) @ g
                t = 1e-5
                p3 += loss(total + t * (a - total)) <= loss(total + t * (b - total))
                full += loss(a) < loss(b)
                # P2: a loss linear in the input, with the same gradient
                assert -(a @ g) <= -(b @ g)
        assert count > 50
        assert p1 == p3 == count
        assert 0.5 < full / count < 1


@given(seed=st.integers(0, 10**6))
def test_swapping_two_targets(seed):
    """Appendix C: edge (i, l) for (j, k); aligned iff w~(w~ - w) of the one exceeds the other's."""
    generator = torch.Generator().manual_seed(seed)
    z_i, z_j, g_l, g_k = torch.randn(4, PIXELS, dtype=torch.float64, generator=generator)
    w_il, w_jk = torch.randn(2, dtype=torch.float64, generator=generator)
    new_il, new_jk = w_il + z_i @ g_l, w_jk + z_j @ g_k
    with_i = (new_il * z_i) @ g_l - (w_jk * z_j) @ g_k   # l gains the edge, k loses what it had
    with_j = ((new_jk - w_jk) * z_j) @ g_k
    condition = new_il * (new_il - w_il) >= new_jk * (new_jk - w_jk)
    assert (with_i >= with_j) == condition or abs(with_i - with_j) < 1e-9


def normed(norm, seed=0, epsilon_free=True):
    wiring = ng.wirings.blocks([3, 5, 4, 2], NodeFunction("norm activation conv", norm=norm))
    network = ng.StaticNeuralGraph(wiring, ng.Complete(), seed=seed)
    for group in network.functions.groups:
        for name, operation, attribute in group.learned():
            if name in ("norm_weight", "norm_bias"):
                with torch.no_grad():
                    getattr(operation, attribute).uniform_(0.5, 1.5)
    with torch.no_grad():
        network.weight.mul_(100)  # variances far above the norm's 1e-5
    return network


X = torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def parameter(network, name):
    return next(getattr(op, attribute) for key, op, attribute in network.functions.groups[0].learned()
                if key == name)


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("change", ["S1", "S3", "S4"])
def test_scalings_that_change_nothing(norm, change, float64):
    """S1 in-weights of a node by c; S3 its kernel by c and its out-edges by 1/c; S4 norm against kernel."""
    network = normed(norm)
    other, node, c = copy.deepcopy(network), 5, 3.0  # node 5 is hidden
    wiring = network.wiring
    with torch.no_grad():
        if change == "S1":
            other.weight[wiring.dst == node] *= c
        elif change == "S3":
            parameter(other, "kernel")[node] *= c
            other.weight[wiring.src == node] /= c
        else:
            parameter(other, "norm_weight")[node] *= c
            parameter(other, "norm_bias")[node] *= c
            parameter(other, "kernel")[node] /= c
    tolerance = 1e-5 if change == "S1" else 1e-11  # S1 holds up to the norm's epsilon
    torch.testing.assert_close(other(X), network(X), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_real_in_weights_are_orthogonal_to_their_gradient(norm, float64):
    """S2: sum over real edges into a normed node of w dL/dw = 0, but not with the hallucinated ones."""
    wiring = ng.wirings.blocks([3, 5, 4, 2], NodeFunction("norm activation conv", norm=norm))
    network = ng.StaticNeuralGraph(wiring, ng.TopK(40))
    with torch.no_grad():
        network.weight.mul_(100)
    network(X).sin().sum().backward()
    real = network.selection().real
    leak, scale = 0, (network.weight * network.weight.grad).abs().max().item()
    for node in range(3, 12):
        mine = (wiring.dst == node) & real
        products = network.weight.detach()[mine] * network.weight.grad[mine]
        assert abs(products.sum()) < 1e-6 * scale
        every = wiring.dst == node
        leak += abs((network.weight.detach()[every] * network.weight.grad[every]).sum())
    assert leak > 1e-2 * scale


def test_magnitude_selection_is_not_invariant(float64):
    """S5: scaling a node's in-weights by 0.1 changes nothing it computes, but drops its edges."""
    network = normed("instance")
    k = network.wiring.num_edges // 2
    chosen = ng.StaticNeuralGraph(network.wiring, ng.TopK(k))
    into = network.wiring.dst == 5
    before = int((chosen.selection().real & into).sum())
    with torch.no_grad():
        chosen.weight[into] *= 1e-3
    assert before > 0 and int((chosen.selection().real & into).sum()) == 0


def test_without_learning_rate_dnw_is_a_fixed_random_graph(float64):
    """Structure: with lr = 0 on w the wiring never changes, and it is acyclic of at most L - 1 edges."""
    network = ng.StaticNeuralGraph(ng.wirings.blocks([3, 5, 4, 2]), ng.TopK(20))
    start = network.selection().real
    optimizer = torch.optim.SGD(network.functions.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        network(X).square().sum().backward()
        optimizer.step()
        assert torch.equal(network.selection().real, start)
    assert ng.analysis.longest_path(network.learned_wiring()) <= 3
