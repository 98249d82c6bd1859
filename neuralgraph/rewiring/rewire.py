"""What selectors do beside an optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from ..errors import InputError, SelectionError, listed, whole
from ..layers import choices_of
from ..layers.choice import Choice
from ..networks import NeuralGraph
from ..selectors import Selector, check_finite
from ..selectors.selector import MOST_STEPS
from .recording import Recorder


def rewire(model: nn.Module, optimizer: Optimizer | Sequence[Optimizer], total_steps: int,
           done: int | None = None, history: str | Path | Recorder | None = None) -> Rewiring:
    """Lets the selectors inside a model take part in its training, in whatever loop it is trained.

    Call it once, beside the optimizer. Before every ``optimizer.step()`` the gradients of the selectors'
    penalties are added to those of the loss, and what the first batch decides is chosen; after it, selectors
    hear how far the training is: schedules go on, candidates are dropped and grow. Gradients are those that the
    optimizer sees (unscaled, accumulated, averaged over the processes of DistributedDataParallel); weights and
    the optimizer's momentum of candidates that changed become 0. A step that a gradient scaler leaves out does
    not count.

    How many steps are done is kept in the model's state dict, so that a training goes on exactly from the
    states of model and optimizer: load these, then call this function as before.

    Args:
        model: with neural graphs or sparse layers inside; wrapped (by DistributedDataParallel, say) or not.
        optimizer: of its parameters, or several: those that hold the candidates' weights.
        total_steps: the number of optimizer steps of the whole training.
        done: how many of them are done already, by default as the selectors' state says.
        history: a file to record in which candidates were real when, for :class:`~neuralgraph.rewiring.History` and
            :func:`neuralgraph.explore`; a :class:`~neuralgraph.rewiring.Recorder` to choose how often. What is there
            is gone on with, from the steps that are done.

    Returns:
        The connection, whose :meth:`~Rewiring.remove` ends it.

    Raises:
        InputError: for a model without selectors, an optimizer that does not hold their weights or evaluates the
            loss several times per step (L-BFGS), or a second call.
        SelectionError: from ``optimizer.step()``, when more than ``total_steps`` are made.

    >>> import torch, neuralgraph as ng
    >>> net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 8, 8, 2]), ng.selectors.create("rigl", k=40, every=5))
    >>> optimizer = torch.optim.AdamW(net.parameters())
    >>> rewiring = ng.rewire(net, optimizer, total_steps=20)
    >>> for step in range(20):
    ...     loss = net(torch.randn(4, 3, 8, 8)).square().mean()
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    >>> int(net.selection().real.sum())
    40
    """
    recorder = Recorder(history) if isinstance(history, (str, Path)) else history
    return Rewiring(model, [optimizer] if isinstance(optimizer, Optimizer) else optimizer, total_steps, done, recorder)


@dataclass(eq=False)
class _Site:
    """A selector and the parameters whose entries are its candidates."""

    name: str
    owner: NeuralGraph | Choice  # whose ``selector`` may change, when a network is frozen
    weights: list[nn.Parameter]
    step: int = 0
    gradient: torch.Tensor | None = field(default=None, repr=False)
    held: set[int] = field(default_factory=set, repr=False)  # the parameters that an optimizer trains, by id

    @property
    def selector(self) -> Selector:
        return self.owner.selector

    @property
    def learned(self) -> list[nn.Parameter]:
        """What is trained of it."""
        return [parameter for parameter in (*self.weights, *self.selector.parameters())
                if parameter.requires_grad and isinstance(parameter, nn.Parameter)]

    @property
    def penalised(self) -> list[nn.Parameter]:
        """What else the penalty may depend on, as far as it is trained."""
        return [parameter for parameter in self.selector.penalised()
                if parameter.requires_grad and id(parameter) in self.held]

    def flat(self) -> torch.Tensor:
        """The weights as one vector (W,)."""
        flat = [weight.detach().reshape(-1) for weight in self.weights]
        return flat[0] if len(flat) == 1 else torch.cat(flat)

    def parts(self, values: torch.Tensor) -> Iterator[tuple[nn.Parameter, torch.Tensor]]:
        """Each weight, and its part of a vector (W,) in its shape."""
        split = values.split([weight.numel() for weight in self.weights])
        return ((weight, part.view(weight.shape)) for weight, part in zip(self.weights, split))


class Rewiring:
    """The connection that :func:`rewire` makes."""

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer], total_steps: int, done: int | None,
                 recorder: Recorder | None = None):
        if not isinstance(model, nn.Module):
            raise InputError(f"expected a torch.nn.Module, got {type(model).__name__}.")
        if not optimizers or not all(isinstance(optimizer, Optimizer) for optimizer in optimizers):
            raise InputError("optimizer must be a torch.optim.Optimizer or a list of them, got "
                             f"{optimizers!r}.")
        _check_steps("total_steps", total_steps, 1)
        sites = list(_sites(model))
        if not sites:
            raise InputError("the model has no selectors: there is no neural graph and no sparse layer in it.")
        for site in sites:
            if site.selector.scheduled and not all(isinstance(weight, nn.Parameter) for weight in site.weights):
                raise InputError(f"the weights of {site.name} are computed from others (shared, perhaps), so that a "
                                 f"{type(site.selector).__name__} cannot change single ones: make them plain first, as "
                                 "neuralgraph.sharing.bake does.")
        sites = [site for site in sites if site.learned]  # others are not trained
        self.total_steps = total_steps
        self._by_optimizer = _assigned(sites, optimizers)
        for site in sites:
            if site.selector.is_served:
                raise InputError(f"{site.name} is rewired already: call rewire once per training, or remove() what "
                                 "it returned before.")
            site.step = site.selector.done[0] if done is None else done
            _check_steps("done", site.step, 0)
            if site.step > total_steps:
                raise InputError(f"{site.step} steps are done, more than total_steps={total_steps}: give the steps "
                                 "of the whole training, those before included.")
        for site in sites:
            site.selector.begin(site.step, total_steps)
        self._recorder = recorder
        if recorder is not None:
            recorder.begin(model, min((site.step for site in sites), default=0))
        self._hooks = [hook for optimizer in self._by_optimizer for hook in (
            optimizer.register_step_pre_hook(self._before), optimizer.register_step_post_hook(self._after))]

    def remove(self) -> None:
        """Ends the connection: selectors stay as they are."""
        for hook in self._hooks:
            hook.remove()
        for sites in self._by_optimizer.values():
            for site in sites:
                site.selector.release()
        self._hooks, self._by_optimizer = [], {}

    def _before(self, optimizer: Optimizer, arguments: tuple, options: dict) -> tuple[tuple, dict] | None:
        for site in self._by_optimizer[optimizer]:
            if site.step >= self.total_steps:
                raise SelectionError(f"this is step {site.step + 1} of total_steps={self.total_steps}: give rewire "
                                     "the number of steps of the whole training.")
        closure = arguments[1] if len(arguments) > 1 else options.get("closure")  # 0 is the optimizer itself
        if closure is None:
            self._prepare(optimizer)
            return None

        def prepared():
            loss = closure()
            self._prepare(optimizer)
            return loss
        rest = {name: value for name, value in options.items() if name != "closure"}
        return (optimizer, prepared, *arguments[2:]), rest

    @torch.no_grad()
    def _prepare(self, optimizer: Optimizer) -> None:
        """Once the gradients are there: penalties are added, and those of absent candidates taken away."""
        if _is_left_out(optimizer):
            return
        for site in self._by_optimizer[optimizer]:
            _add_penalty(site, getattr(optimizer, "grad_scale", None))
            site.gradient = None
            if site.selector.dense:
                gradient = _take_dense(site)
                _clear(site, optimizer, site.selector.decide(
                    site.step + 1, self.total_steps, site.flat(), gradient))
                _leave_real(site)

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, arguments: tuple, options: dict) -> None:
        if _is_left_out(optimizer):
            return
        for site in self._by_optimizer[optimizer]:
            site.step += 1
            given = {} if site.gradient is None else {"gradient": site.gradient}
            changed = site.selector.advance(site.step, self.total_steps, site.flat(), **given)
            site.gradient = None
            _clear(site, optimizer, changed)
        if self._recorder is not None:
            step = min(site.step for sites in self._by_optimizer.values() for site in sites)
            self._recorder.stepped(step, always=step == self.total_steps)


def _sites(model: nn.Module) -> Iterator[_Site]:
    for name, module in model.named_modules():
        if isinstance(module, NeuralGraph):
            yield _Site(name or "the network", module, [module.weight])
    for name, choice in choices_of(model):
        yield _Site(name, choice, choice.parameters())


def _assigned(sites: list[_Site], optimizers: Sequence[Optimizer]) -> dict[Optimizer, list[_Site]]:
    """Each optimizer's sites."""
    held = {id(parameter): optimizer for optimizer in optimizers
            for group in optimizer.param_groups for parameter in group["params"]}
    found: dict[Optimizer, list[_Site]] = {}
    for site in sites:
        site.held = set(held)
        owners = [held.get(id(parameter)) for parameter in (*site.learned, *site.penalised)]
        if None in owners or any(owner is not owners[0] for owner in owners):
            held_part = "no weights" if all(owner is None for owner in owners) else "only a part of the weights"
            raise InputError(f"the optimizer holds {held_part} of {site.name}: make one from model.parameters() (after "
                             "selectors are in place), or give all optimizers as a list, each with all weights and "
                             "scores of a selector.")
        assert owners[0] is not None
        found.setdefault(owners[0], []).append(site)
    for optimizer in found:
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise InputError(f"{type(optimizer).__name__} evaluates the loss several times per step, between which "
                             f"{listed(site.name for site in found[optimizer])} cannot be rewired; use another "
                             "optimizer.")
    return found


def _add_penalty(site: _Site, scale: torch.Tensor | None) -> None:
    with torch.enable_grad():
        weight = site.flat().requires_grad_()
        term = site.selector.penalty(weight)
    if term is None or not term.requires_grad:
        return
    own = [parameter for parameter in site.selector.parameters() if parameter.requires_grad] + site.penalised
    gradients = torch.autograd.grad(term, [weight, *own], allow_unused=True)
    pairs = [*zip(own, gradients[1:])]
    if gradients[0] is not None:
        pairs += [pair for pair in site.parts(gradients[0]) if pair[0].requires_grad]
    for parameter, gradient in pairs:
        if gradient is not None:
            gradient = gradient if scale is None else gradient * scale.to(gradient.device)
            parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad.add_(gradient)


def _take_dense(site: _Site) -> torch.Tensor:
    """The gradient of every candidate, kept for the selector."""
    gradients = [weight.grad.reshape(-1) for weight in site.weights if weight.grad is not None]
    if len(gradients) < len(site.weights):
        raise SelectionError(f"{site.name} changes its real edges at this step and needs gradients for it, but "
                             "there are none: call loss.backward() before optimizer.step().")
    site.gradient = torch.cat(gradients)
    check_finite(site.gradient, "gradients of edge weights")
    return site.gradient


def _leave_real(site: _Site) -> None:
    """Takes the gradients of absent candidates away from the optimizer."""
    selector = site.selector
    if selector.rule.reaches_all:
        return
    real = selector.candidates.spread(selector.select(site.flat()))
    for weight, part in site.parts(real):
        assert weight.grad is not None  # see _take_dense
        weight.grad.masked_fill_(~part, 0)


def _clear(site: _Site, optimizer: Optimizer, changed: torch.Tensor | None) -> None:
    """Sets weights and momentum of candidates that changed, a mask (n,), to 0, or to what new weights begin with."""
    if changed is None:
        return
    selector = site.selector
    new = selector.new_weights()
    for weight, part in site.parts(selector.candidates.spread(changed)):
        for values in (weight, *optimizer.state.get(weight, {}).values()):
            if isinstance(values, torch.Tensor) and values.shape == weight.shape:
                values.masked_fill_(part, 0)
    if new is not None:
        is_new = selector.candidates.spread(changed & selector.select(site.flat()))
        for (weight, values), (_, part) in zip(site.parts(new), site.parts(is_new)):
            weight.copy_(values.to(weight.dtype).where(part, weight))


def _is_left_out(optimizer: Optimizer) -> bool:
    """Whether a gradient scaler has told a fused optimizer to do nothing at this step."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found.item())


def _check_steps(name: str, steps: int, least: int) -> None:
    number = whole(steps)
    if number is None or not least <= number <= MOST_STEPS:
        raise InputError(f"{name} must be an integer from {least} to {MOST_STEPS}, got {steps!r}.")
