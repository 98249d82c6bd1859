"""Whether a selector keeps its contract, on the edges of a graph and on the weights of a layer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ..layers import SparseConv2d, SparseLinear
from ..layers.choice import Choice
from ..layers.sparse import adopt
from ..networks import StaticNeuralGraph
from ..nodes import NodeFunction
from ..rewiring.rewire import rewire
from ..selectors import Selection, Selector, Weights
from ..wiring import generators as wirings
from .comparing import require

K, STEPS = 30, 24
UNIT = NodeFunction(receive="bias activation", activation="tanh")
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


def check_selector(make: Callable[[int], Selector], *, exact: bool = True, seed: int = 0) -> None:
    """A selector keeps its contract on the edges of a graph, the weights of a layer, and whole kernels.

    - :meth:`~neuralgraph.selectors.Selector.select` gives a new mask of exactly ``num_real`` candidates, the same for
      the same weights, also where all weights are equal, and changes nothing: neither the selector nor what it is given,
      in training neither, nor PyTorch's random numbers;
    - effective weights are finite, 0 where not real, and no gradient reaches candidates that are not real unless
      ``reaches_all`` says so;
    - copies and state dicts make the same selection;
    - a training that :func:`~neuralgraph.rewire` serves goes on from the states of model and optimizer, bit for bit,
      with SGD and AdamW; at its end exactly k are real, unless ``k_is`` "found".

    Args:
        make: k to a new selector with k real candidates (it may ignore k where it finds the number itself).
        exact: False for a selector that may end with another number than k, because it rounds it (within nodes, say)
            or finds it: then ``num_real`` alone is what it must meet.
        seed: of what is random.

    Raises:
        AssertionError: says what differs.

    >>> import neuralgraph as ng
    >>> ng.testing.check_selector(ng.TopK)
    """
    for word, build in PLACES.items():
        _check_choice(f"on {word}", lambda s: build(make(K), s), seed)
    for word in ("a graph", "a layer"):
        for name in OPTIMIZERS:
            _check_resume(f"on {word}, with {name}", lambda s: PLACES[word](make(K), s), name, exact, seed)


@dataclass(eq=False)
class _Place:
    """A model with one selector."""

    model: nn.Module
    owner: StaticNeuralGraph | Choice  # of the selector, which may exchange it
    weight: nn.Parameter
    inputs: int

    @property
    def selector(self) -> Selector:
        return self.owner.selector

    def weighted(self, real: torch.Tensor) -> Selection:
        return self.selector.weighted(self.weight, real)

    def select(self) -> torch.Tensor:
        return self.selector.select(self.weight.detach().reshape(-1))


def _graph(selector: Selector, seed: int) -> _Place:
    network = StaticNeuralGraph(wirings.blocks([4, 8, 8, 3], UNIT), selector, "dense", seed, dims=0)
    return _Place(network, network, network.weight, 4)


def _layer(selector: Selector, seed: int) -> _Place:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = SparseLinear(12, 10)
    return _chosen(layer, selector, Weights(layer.weight.shape), seed, 12)


def _kernels(selector: Selector, seed: int) -> _Place:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = SparseConv2d(8, 10, 3, padding=1)
    return _chosen(layer, selector, Weights(layer.weight.shape, "kernel"), seed, 8)


def _chosen(layer: SparseConv2d | SparseLinear, selector: Selector, candidates: Weights, seed: int, inputs: int) -> _Place:
    choice = Choice(selector, [(layer, "weight")], [candidates], torch.Generator().manual_seed(seed))
    adopt(choice, [(layer, "weight")])
    return _Place(layer, choice, choice.parameters()[0], inputs)


PLACES: dict[str, Callable[[Selector, int], _Place]] = {"a graph": _graph, "a layer": _layer, "kernels": _kernels}


def _check_choice(what: str, build: Callable[[int], _Place], seed: int) -> None:
    place = build(seed)
    selector, what = place.selector, f"{type(place.selector).__name__} {what}"
    number = selector.candidates.num
    random, before, weight = torch.get_rng_state(), _state(selector), place.weight.detach().clone()
    for training in (True, False):
        selector.train(training)
        real = place.select().clone()
        require(real.dtype == torch.bool and tuple(real.shape) == (number,),
                f"{what}: select must give a bool mask ({number},), got {real.dtype} of shape {tuple(real.shape)}")
        require(selector.num_real in (None, int(real.sum())),
                f"{what}: num_real is {selector.num_real}, but {int(real.sum())} candidates are real")
        again = place.select()
        require(torch.equal(real, again), f"{what}: select gives another mask for the same weights")
        again.logical_not_()
        require(torch.equal(real, place.select()), f"{what}: select must give a new mask, not the one that it keeps")
    require(torch.equal(place.weight, weight), f"{what}: select changes the weights")
    require(_same(before, _state(selector)), f"{what}: select changes the selector's state")
    require(torch.equal(random, torch.get_rng_state()), f"{what}: select draws from PyTorch's global generator")

    selection = place.weighted(real)
    spread = selector.candidates.spread(real).view(place.weight.shape)
    require(bool(selection.weight.isfinite().all()), f"{what}: effective weights are not finite")
    require(not bool(selection.weight.detach()[~spread].any()), f"{what}: effective weights are not 0 where not real")
    if selection.weight.requires_grad and place.weight.requires_grad:
        gradient, = torch.autograd.grad(selection.weight.sum(), place.weight, allow_unused=True)
        require(selector.reaches_all or gradient is None or not bool(gradient[~spread].any()),
                f"{what}: reaches_all is False, but a gradient reaches candidates that are not real")

    copied = copy.deepcopy(place)
    require(torch.equal(copied.select(), real), f"{what}: a copy makes another selection")
    other = build(seed + 1)
    other.model.load_state_dict(place.model.state_dict())
    require(torch.equal(other.select(), real), f"{what}: the selection does not come back from the state dict")

    ties = [build(seed) for _ in range(2)]
    for tied in ties:
        with torch.no_grad():
            tied.weight.fill_(0.5)
    one, two = (tied.select() for tied in ties)
    require(torch.equal(one, two), f"{what}: equal weights are not chosen among in one order")
    require(selector.num_real is None or selector.k_is != "needed" or int(one.sum()) == int(real.sum()),
            f"{what}: of equal weights {int(one.sum())} are real instead of {int(real.sum())}")


def _check_resume(what: str, build: Callable[[int], _Place], optimizer: str, exact: bool, seed: int) -> None:
    whole, first, second = build(seed), build(seed), build(seed + 1)
    what = f"{type(whole.selector).__name__} {what}"
    _train(whole, optimizer, 0, STEPS, None)
    states = _train(first, optimizer, 0, 10, None)
    _train(second, optimizer, 10, STEPS, copy.deepcopy(states))
    expected, got = whole.model.state_dict(), second.model.state_dict()
    require(list(expected) == list(got), f"{what}: a resumed training has other state: {list(got)}, not {list(expected)}")
    for name, value in expected.items():
        require(torch.equal(value, got[name]), f"{what}: after a training that was resumed, {name} is not what it is "
                "after one in one go")
    real, selector = int(whole.select().sum()), whole.selector
    wanted = K if exact and selector.k_is != "found" else selector.num_real
    require(wanted in (None, real), f"{what}: {real} candidates are real after training, expected {wanted}")


def _train(place: _Place, optimizer: str, first: int, last: int, states: tuple[dict, dict] | None) -> tuple[dict, dict]:
    steps = OPTIMIZERS[optimizer](place.model.parameters())
    if states is not None:
        place.model.load_state_dict(states[0])
        steps.load_state_dict(states[1])
    with torch.random.fork_rng(devices=[]):
        rewiring = rewire(place.model, steps, total_steps=STEPS)
        for step in range(first, last):
            torch.manual_seed(step)  # of what selectors draw in training
            x = torch.randn(16, place.inputs)
            steps.zero_grad()
            y = place.model(x)
            (y - x[:, :1] * x[:, 1:2]).square().mean().backward()
            steps.step()
        rewiring.remove()
    return place.model.state_dict(), steps.state_dict()


def _state(selector: Selector) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in selector.state_dict().items()}


def _same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(two) and all(torch.equal(value, two[name]) for name, value in one.items())
