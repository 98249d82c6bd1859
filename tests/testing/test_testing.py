"""The shipped checks find what is wrong, and say it."""

import pytest
import torch

import neuralgraph as ng
from neuralgraph.backends import Dense, available
from neuralgraph.errors import UnknownNameError
from neuralgraph.nodes import ACTIVATIONS, OPERATIONS, Affine, Operation, array
from neuralgraph.selectors import SELECTORS, RankingSelector, Selector
from neuralgraph.testing import check_backend, check_network, check_operation, check_selector


class Detached(Dense):
    def propagate(self, stage, messages, selection, shared=None):
        return super().propagate(stage, messages, ng.selectors.Selection(
            selection.real, selection.weight.detach(), selection.reaches_all), shared)


class Overwriting(Dense):
    def propagate(self, stage, messages, selection, shared=None):
        sums = super().propagate(stage, messages, selection, shared)
        if not torch.is_grad_enabled() or not messages.requires_grad:
            messages.zero_()
        return sums


class Rounding(Dense):
    def propagate(self, stage, messages, selection, shared=None):
        return super().propagate(stage, messages, selection, shared).float().to(messages.dtype)


@pytest.mark.parametrize("backend, message", [(Detached(), "the gradient of the edges"), (Rounding(), "the output: "),
                                              (Overwriting(), "changes the messages that it is given")])
def test_wrong_backends(backend, message):
    with pytest.raises(AssertionError, match=message):
        check_backend(backend, graphs=0)


def test_a_network_that_is_not_the_equations():
    network = ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 1]), ng.TopK(5), "dense").double()
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    check_network(network, x)
    network.register_forward_hook(lambda module, arguments, y: y + 1e-6)
    with pytest.raises(AssertionError, match=r"Dense\(\): the output"):
        check_network(network, x)


class Fewer(RankingSelector):
    def select(self, weight):
        return super().select(weight) & (torch.arange(len(weight)) > weight.abs().argmax())


class Keeping(RankingSelector):
    def select(self, weight):
        if not hasattr(self, "kept"):
            self.kept = super().select(weight)
        return self.kept


class Drawing(RankingSelector):
    def select(self, weight):
        return super().select(torch.rand(len(weight)))


class Counting(RankingSelector):
    def prepare(self, candidates, weight, generator):
        super().prepare(candidates, weight, generator)
        self.register_buffer("calls", torch.zeros(1))

    def select(self, weight):
        self.calls += 1
        return super().select(weight)


class Leaking(RankingSelector):
    def effective(self, weight, real):
        return weight * (0.1 + self.candidates.spread(real).view(weight.shape).float())


class Reaching(RankingSelector):
    def __init__(self, k):
        super().__init__(k, gradient="masked")

    def effective(self, weight, real):
        return weight - weight.detach() + weight.detach() * self.candidates.spread(real).view(weight.shape)


class Fading(RankingSelector):
    """Its number falls below k as it is trained."""

    scheduled = True

    def select(self, weight):
        real = super().select(weight)
        return real & (real.cumsum(0) <= self.num_real)

    @property
    def num_real(self):
        return self.k - self.done[0] // 10


class Forgetting(RankingSelector):
    """Its running mean is no buffer."""

    scheduled = True

    def prepare(self, candidates, weight, generator):
        super().prepare(candidates, weight, generator)
        self._mean = weight.abs().clone()

    def select(self, weight):
        return super().select(self._mean)

    def update(self, step, total_steps, weight, gradient):
        self._mean = 0.9 * self._mean + 0.1 * weight.abs()


class Restarting(Forgetting):
    """Only a training shows that its sum is none."""

    def prepare(self, candidates, weight, generator):
        super().prepare(candidates, weight, generator)
        self._mean = torch.arange(candidates.num, 0.0, -1)

    def select(self, weight):
        return RankingSelector.select(self, self.candidates.spread(self._mean))

    def update(self, step, total_steps, weight, gradient):
        self._mean = self._mean + self.candidates.magnitude(weight.cumsum(0))


@pytest.mark.parametrize("kind, message", [
    (Fewer, "num_real is 30, but .* candidates are real"), (Keeping, "must give a new mask"),
    (Drawing, "another mask for the same weights"), (Counting, "changes the selector's state"),
    (Leaking, "not 0 where not real"), (Reaching, "reaches_all is False"), (Forgetting, "does not come back"),
    (Fading, "28 candidates are real after training, expected 30"), (Restarting, "after a training that was resumed"),
])
def test_wrong_selectors(kind, message):
    with pytest.raises(AssertionError, match=f"{kind.__name__} on .*{message}"):
        check_selector(kind)


OPTIONS = {"l1-anneal": {"every": 3, "strength": 1e-3},
           **{name: {"every": 3} for name in ("rigl", "gradual", "set", "snfs", "granet", "srigl", "cht", "chts")}}


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_passes(name):
    """Exact k, ties, state, resume: on edges, weights and kernels, whatever the selector."""
    def make(k) -> Selector:
        return ng.selectors.create(name, None if ng.selectors.k_is(name) == "found" else k, **OPTIONS.get(name, {}))
    check_selector(make, exact=name != "targeted-dropout-regular")


class Own(Operation):
    """y = gain x."""

    name, learned = "own", {"own_gain": "gain"}

    def __init__(self, function, channels, dims):
        super().__init__(function, channels, dims)
        self.gain = torch.nn.Parameter(torch.full((channels,), 2.0))

    def forward(self, x, rows):
        return x * self.per_channel(self.gain[rows])

    def lower(self, rows):
        gain = self.gain[rows]
        return [Affine(array(gain), array(torch.zeros_like(gain)))]


class Mixing(Own):
    def forward(self, x, rows):
        return super().forward(x, rows) + x.mean(1, keepdim=True)


class InPlace(Own):
    def forward(self, x, rows):
        x.data.mul_(2)
        return super().forward(x, rows)


class Idle(Own):
    def forward(self, x, rows):
        return x * 2


class Larger(Own):
    @classmethod
    def shrinks(cls, function):
        return 2


class Shifted(Own):
    def lower(self, rows):
        gain = self.gain[rows]
        return [Affine(array(gain), array(torch.ones_like(gain)))]


@pytest.fixture
def registered():
    """Registers an operation as long as the test runs."""
    before = dict(OPERATIONS)
    yield lambda kind: ng.register_operation(kind, replace=True)
    OPERATIONS.clear()
    OPERATIONS.update(before)
    ng.nodes.value_shapes.cache_clear()
    ng.nodes.check_acts.cache_clear()


@pytest.mark.parametrize("kind, message", [
    (Own, None), (Mixing, "channels .* by themselves"), (InPlace, "changes the maps"), (Idle, "no gradient reaches 'gain'"),
    (Larger, "makes .* expected .* method check"), (Shifted, "compiled: "),
])
def test_operations(kind, message, registered):
    registered(kind)
    if message is None:
        return check_operation("own", backends=available())
    with pytest.raises(AssertionError, match=message):
        check_operation("own", backends=["dense"])


@pytest.mark.parametrize("name", [*OPERATIONS, *ACTIVATIONS])
def test_built_in_operations_pass(name):
    check_operation(name, backends=["dense"])


def test_an_operation_that_is_not_registered():
    with pytest.raises(UnknownNameError, match="'blur'.*register_operation"):
        check_operation("blur")
