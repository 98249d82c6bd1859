"""The contract of selectors."""

from __future__ import annotations

import math
import numbers
import warnings
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from ..errors import SelectionError, lookup, whole
from ..wiring import Wiring
from .candidates import Candidates, Edges
from .competition import check_k
from .groups import is_traced
from .selection import GRADIENTS, GradientRule, Selection

MOST_STEPS = 2**24  # up to here float32 counts exactly


class Selector(nn.Module, ABC):
    """Decides which candidates are real, with which weight, and where gradients go.

    A selector serves the candidates that :meth:`bind` gives it: the edges of one graph, the weights of one
    layer or of several. A subclass says

    - :meth:`prepare`: what state it needs. It registers masks as buffers and what is learned (scores,
      thresholds, gates) as parameters, so that they are saved and trained with the model;
    - :meth:`select` (and :meth:`sample`): which candidates are real;
    - :meth:`effective`: with which weights, and which gradient reaches the weights and its own parameters; by
      default w 1{real} with the gradient rule;
    - :meth:`penalty`: a term of the loss, if there is one;
    - with ``scheduled = True``, :meth:`update`: what changes after a step, or :meth:`decide`: what changes
      before it; and :meth:`wants_gradient`: whether the next step must bring the gradient of every candidate.

    :func:`neuralgraph.rewire` calls the last four in any training loop.

    Args:
        gradient: a key of :data:`GRADIENTS`, or a :class:`GradientRule`.
    """

    # whether k, the number of real candidates, is "needed", "optional" (without it the number follows from
    # what is learned) or "found": it always follows, and there is no k to give
    k_is: ClassVar[str] = "needed"
    scheduled: ClassVar[bool] = False       # it changes with the steps of the training
    freezes_weight: ClassVar[bool] = False  # it learns something else, and the weights stay as they are
    spares_outputs: ClassVar[bool] = False  # it must know which nodes are outputs of the whole network
    part_of_weight: ClassVar[tuple[str, ...]] = ()  # own parameters that go on training while a choice is held
    retired: ClassVar[tuple[str, ...]] = ()  # names in state dicts of before that mean nothing any more
    clock: torch.Tensor
    k: int | Any  # how many candidates were asked for; None where it finds the number itself
    _seen: int | str | None

    def __init__(self, gradient: str | GradientRule = "masked"):
        super().__init__()
        self.gradient = gradient
        self.candidates: Candidates | Any = None  # None until it is bound, before which only a few ask for them
        self.dense = False  # the gradient of every candidate is wanted at the next step
        self.is_served, self._seen = False, None  # by rewire; the version of weights that nobody told of
        if self.scheduled:
            self.register_buffer("clock", torch.zeros(2))  # steps done, of how many
        _ = self.rule  # refuses an unknown name

    # What it serves

    @property
    def num_edges(self) -> int | Any:
        """The number of candidates that this selector serves; None as long as there are none."""
        return None if self.candidates is None else self.candidates.num

    @property
    def wiring(self) -> Wiring | None:
        """The wiring whose edges are the candidates; None for a layer's weights."""
        return None if self.candidates is None else self.candidates.wiring

    def bind(self, candidates: Candidates | Wiring, weight: torch.Tensor, generator: torch.Generator) -> None:
        """Called once by what takes this selector; draws what is random.

        A selector that cannot serve these candidates can still serve others.
        """
        if self.candidates is not None:
            raise SelectionError(
                f"this {type(self).__name__} already serves a network with {self.num_edges} "
                "candidate edges; make a new one for each network."
            )
        self.candidates = Edges(candidates) if isinstance(candidates, Wiring) else candidates
        try:
            with torch.inference_mode(False):  # what it keeps must serve training too
                self.prepare(self.candidates, weight.detach().reshape(-1), generator)
        except BaseException:
            self.candidates = None
            raise
        if self.freezes_weight:
            weight.requires_grad_(False)

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        """Checks the settings against the candidates and makes the state."""

    # Choosing

    @abstractmethod
    def select(self, weight: torch.Tensor) -> torch.Tensor:
        """The real candidates, a new mask (n,) of exactly ``num_real`` ones, from finite weights (W,).

        Changes nothing, in training neither.
        """

    def sample(self, weight: torch.Tensor) -> torch.Tensor:
        """The candidates of one forward in training, a mask (n,): the real ones, or what is drawn.

        Draws come from torch's global generator, as those of dropout do.
        """
        return self.select(weight)

    @property
    def rule(self) -> GradientRule:
        if isinstance(self.gradient, GradientRule):
            return self.gradient
        return lookup("gradient rule", self.gradient, GRADIENTS)

    @property
    def rule_now(self) -> GradientRule:
        """The rule of the next step: "ste" where the gradient of every candidate is wanted once."""
        return GRADIENTS["ste"] if self.dense and not self.rule.reaches_all else self.rule

    @property
    def reaches_all(self) -> bool:
        """Whether the gradient must reach every candidate."""
        return self.dense or self.rule.reaches_all

    def effective(self, weight: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """The effective weights, of the shape of ``weight``: 0 where not real, differentiable."""
        return self.rule_now.effective(weight, self.candidates.spread(real).view(weight.shape))

    def weighted(self, weight: torch.Tensor, real: torch.Tensor, cache: dict[Any, Any] | None = None) -> Selection:
        """These real candidates (n,) with their effective weights, of the shape of ``weight``."""
        return Selection(real, self.effective(weight, real), self.reaches_all, {} if cache is None else cache)

    @property
    @abstractmethod
    def num_real(self) -> int | None:
        """The number of real candidates; None where it depends on the weights: count those of a selection."""

    # What a selection depends on

    def settings(self) -> tuple[Hashable, ...]:
        """The numbers, names and flags among the public attributes."""
        return tuple((name, value) for name, value in vars(self).items()
                     if not name.startswith("_") and name not in ("training", "dense", "is_served")
                     and isinstance(value, (int, float, str, type(None))))

    def fingerprint(self) -> tuple[Hashable, ...]:
        """What the selection depends on beside the weights; equal fingerprints, equal selection."""
        # By value, as the weights are compared: writes through tensor.data leave no trace.
        return (*self.settings(), *(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
                                    for tensor in (*self.parameters(), *self.buffers())))

    # In training

    def penalty(self, weight: torch.Tensor) -> torch.Tensor | None:
        """A term to add to the loss, or None; of the weights (W,) and its own parameters."""
        return None

    def penalised(self) -> Sequence[nn.Parameter]:
        """Parameters among which are all that the penalty depends on, beside the weights and its own."""
        return ()

    def wants_gradient(self, step: int, total_steps: int) -> bool:
        """Whether :meth:`decide` and :meth:`update` of that step, from 1, want the gradient of every candidate."""
        return False

    def decide(self, step: int, total_steps: int, weight: torch.Tensor,
               gradient: torch.Tensor) -> torch.Tensor | None:
        """What changes before ``step``, of those for which :meth:`wants_gradient` said so.

        What it makes real is what the optimizer then trains, by the gradient that is there.

        Args:
            step: from 1.
            total_steps: of the whole training.
            weight: (W,), before the optimizer's step.
            gradient: of every effective weight (W,).

        Returns:
            As :meth:`update`.
        """
        return None

    def update(self, step: int, total_steps: int, weight: torch.Tensor,
               gradient: torch.Tensor | None) -> torch.Tensor | None:
        """What changes when ``step`` of ``total_steps`` are done.

        Args:
            step: from 1.
            total_steps: of the whole training.
            weight: (W,), after the optimizer's step.
            gradient: of every effective weight (W,), where :meth:`wants_gradient` said so.

        Returns:
            A mask (n,) of candidates that were dropped or are new, whose momentum becomes 0 as their weights do, but
            for :meth:`new_weights`; or None.
        """
        return None

    def new_weights(self) -> torch.Tensor | None:
        """With which weights (W,) those begin that became real at this step's change; None for 0."""
        return None

    def begin(self, step: int, total_steps: int) -> None:
        """Called before the first step of a training, or of its continuation: ``step`` are done."""
        self.is_served = True
        if self.scheduled:
            self.clock.copy_(torch.tensor([step, total_steps]))
        self.dense = self.wants_gradient(step + 1, total_steps)

    def advance(self, step: int, total_steps: int, weight: torch.Tensor,
                gradient: torch.Tensor | None = None) -> torch.Tensor | None:
        """Called after each step: :meth:`update`, and what the next step needs."""
        self.begin(step, total_steps)
        return self.update(step, total_steps, weight.detach(), gradient)

    def release(self) -> None:
        """Called when nobody tells it of steps any more."""
        self.is_served = self.dense = False

    @property
    def done(self) -> tuple[int, int]:
        """How many steps are done, of how many; (0, 0) before the first training."""
        if not self.scheduled:
            return 0, 0
        step, total = map(int, self.clock.tolist())
        return step, total

    @property
    def progress(self) -> float:
        """The share of all steps that are done."""
        step, total = self.done
        return step / total if total else 0.0

    @property
    def misses(self) -> str | None:
        """What goes wrong in a training that nobody tells it of; None if nothing does."""
        if self.scheduled:
            return "changes with the steps of the training, but nobody tells it of them, so it stays at its first"
        if type(self).penalty is not Selector.penalty and getattr(self, "strength", True):
            return "adds a penalty to the loss, but nobody asks it for that"
        return None

    def check_served(self, weight: torch.Tensor) -> None:
        """Warns, once, if the weights are trained and nobody tells the selector of it."""
        if self.is_served or self._seen == "warned" or not torch.is_grad_enabled() or is_traced() \
                or self.misses is None:
            return
        if self._seen is not None and weight._version != self._seen:
            self._seen = "warned"
            warnings.warn(f"{type(self).__name__} {self.misses}: call neuralgraph.rewire(model, optimizer, "
                          "total_steps=N) once before the loop.", stacklevel=4)
        else:
            self._seen = weight._version

    # Copies and files

    def __getstate__(self):
        return {**self.__dict__, "is_served": False, "_seen": None, "dense": False}

    def _apply(self, fn, recurse=True):
        exact = {name: value for name, value in self._buffers.items() if name in ("clock", "seed") and value is not None}
        super()._apply(fn, recurse)
        for name, value in exact.items():  # counts exactly, whatever the type of the weights
            self._buffers[name] = value.to(getattr(self, name).device)
        return self

    def upgrade(self, state: dict[str, Any], prefix: str) -> None:
        """Gives a state dict that an earlier version wrote the names of this one."""
        for name in self.retired:
            state.pop(prefix + name, None)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                              error_msgs):
        self.upgrade(state_dict, prefix)
        known = len(missing_keys) + len(unexpected_keys)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                                      error_msgs)
        if strict and len(missing_keys) + len(unexpected_keys) > known:
            error_msgs.append(f"the state of {prefix.rstrip('.') or 'the selector'} is not of a "
                              f"{type(self).__name__}, but of another selector: use the one it was saved with.")


class MaskSelector(Selector):
    """A selector whose choice is a mask it keeps: the buffer ``real``, made when it is bound.

    Only real candidates receive gradients. The buffer holds numbers, 1 or 0, of which an average of models
    (:class:`torch.optim.swa_utils.AveragedModel`) makes the share of the time that each candidate was real;
    real are then the largest shares, as many as they sum up to. State dicts hold it as bool.

    Args:
        k: number of real edges (in the end), 0 to the number of candidates.
    """

    real: torch.Tensor | Any  # None until it is bound
    _k: int

    def __init__(self, k: int):
        super().__init__("masked")
        self.register_buffer("real", None)
        self.k = k

    @property
    def mask(self) -> torch.Tensor:
        """The real candidates, a new bool mask (n,)."""
        real = self.real > 0.5
        if is_traced() or not torch.equal(self.real, real.to(self.real.dtype)):
            order = self.real.argsort(stable=True)
            number = order.shape[0]
            most = torch.arange(number, device=order.device) >= number - self.real.sum().round()
            return torch.empty_like(real).scatter(0, order, most)
        return real

    def keep(self, mask: torch.Tensor) -> None:
        """Makes these candidates, a bool mask (n,), the real ones."""
        if self.real is None:
            self.real = mask.float()
        else:
            self.real.copy_(mask)

    @property
    def k(self) -> int:
        """The number of real edges (in the end); cannot change once the mask is made."""
        return self._k

    @k.setter
    def k(self, k: int) -> None:
        if self.real is not None:
            raise SelectionError(
                f"this {type(self).__name__} keeps the edges it chose for k={self.k}, so k cannot become "
                f"{k!r}: make a network with a new selector, on network.complete_wiring() to keep what "
                "was learned."
            )
        self._k = check_k(k)

    def select(self, weight: torch.Tensor) -> torch.Tensor:
        return self.mask

    @property
    def num_real(self) -> int:
        return self.k if self.real is None else int(self.mask.sum())

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.real is not None:
            real = self.real > 0.5
            is_average = not torch.equal(self.real, real.to(self.real.dtype))
            destination[prefix + "real"] = self.real if is_average else real


def check_number(what: str, value: float, least: float, most: float = math.inf) -> float:
    """A number within least..most and finite, or an error."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or \
            not least <= value <= most or math.isinf(value):
        bounds = f"{least} to {most}" if most < math.inf else f"at least {least}"
        raise SelectionError(f"{what} must be a number, expected {bounds}, got {value!r}.")
    return value


def check_every(every: int, name: str = "every") -> int:
    """A number of steps, or an error."""
    number = whole(every)
    if number is None or number < 1:
        raise SelectionError(f"expected an integer {name} >= 1, got {every!r}.")
    return number


def check_finite(weight: torch.Tensor, word: str = "edge weights") -> None:
    """Refuses weights, or their gradients, that have no order."""
    if is_traced():
        return
    weight = weight.detach()
    if math.isfinite(weight.sum()):  # so all are: one kernel and one look, where isfinite() has four
        return
    finite = weight.isfinite()
    if not finite.all():
        edge = int((~finite).nonzero()[0])
        raise SelectionError(
            f"{int((~finite).sum())} of {len(weight)} {word} are NaN or infinite (the first is "
            f"edge {edge}: {weight[edge].item()}), so edges cannot be ranked: the training has "
            "diverged; lower the learning rate or resume from an earlier checkpoint."
        )
