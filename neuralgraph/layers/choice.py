"""A selection inside ordinary layers, and how long it is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..errors import InputError
from ..selectors import Candidates, Joined, Selector, TopK, check_finite
from ..selectors.groups import is_traced

PROBED = 32  # entries of a weight that are compared by value; each is a cache line to fetch


def parametrizations(module: nn.Module) -> dict[str, parametrize.ParametrizationList]:
    """What makes each of the parameters that are parametrized."""
    made_by: Any = module.parametrizations if parametrize.is_parametrized(module) else {}
    return dict(made_by.items())


class Choice:
    """One selector over the entries of one parameter, or of several that compete.

    In training the selection is made at every forward. In evaluation it is kept until a weight or the
    selector changes: whatever PyTorch counts as a change, and any other write that one of ``PROBED`` entries
    of a weight shows (writes through ``weight.data`` are not counted by PyTorch; after writing single entries so,
    call ``train()`` and ``eval()``).

    Args:
        selector: not bound yet.
        places: modules and the names of their parameters, (out, in, ...) as torch has them.
        candidates: of each.
        generator: for what the selector draws.
    """

    def __init__(self, selector: Selector, places: list[tuple[nn.Module, str]], candidates: list[Candidates],
                 generator: torch.Generator):
        self.selector, self.places = selector, places
        joined = candidates[0] if len(candidates) == 1 else Joined(candidates)
        self._candidates = candidates
        parameters = self.parameters()
        with torch.no_grad():
            flat = self._flat()
            is_meta = flat.is_meta  # values come later
            flat = torch.zeros(flat.shape, dtype=flat.dtype) if is_meta else flat.cpu()
            selector.bind(joined, flat, generator)
            for parameter, values in zip(parameters, flat.split([p.numel() for p in parameters])):
                if not is_meta and not torch.equal(parameter.reshape(-1).cpu(), values):
                    parameter.copy_(values.view(parameter.shape))
        if is_meta and selector.state_dict():
            raise InputError(f"weights on the device 'meta' have no values for a {type(selector).__name__} to "
                             "begin with: make the layers on another device.")
        selector.to(parameters[0].device)
        if selector.freezes_weight:
            for parameter in parameters:
                parameter.requires_grad_(False)
        self.home: tuple[nn.Module, str] | None = None  # the layer with which the selector is saved, and its name
        self._kept: tuple | None = None
        self._weights: dict[int, torch.Tensor] = {}

    def replace(self, selector: Selector) -> None:
        """Lets another selector of the same candidates choose."""
        assert self.home is not None  # see adopt
        layer, name = self.home
        layer.add_module(name, selector)
        self.selector, self._kept, self._weights = selector, None, {}

    def parameters(self) -> list[nn.Parameter]:
        """The weights that are chosen from."""
        return [getattr(module, name) for module, name in self.places]

    def _sources(self) -> list[torch.Tensor]:
        """What the weights depend on: themselves, or what shared ones are made of."""
        sources: list[torch.Tensor] = []
        for module, name in self.places:
            if parametrize.is_parametrized(module, name):
                made_by = parametrizations(module)[name]
                sources += [*made_by.parameters(), *made_by.buffers()]
            else:
                sources.append(getattr(module, name))
        return sources

    def _flat(self) -> torch.Tensor:
        parts = [parameter.detach().reshape(-1) for parameter in self.parameters()]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def real(self, number: int) -> torch.Tensor:
        """The real entries of parameter ``number`` as evaluation has them, a new mask of its shape."""
        return self._part(self._evaluation(), number)

    def weight(self, number: int, training: bool) -> torch.Tensor:
        """The effective weight for parameter ``number``, differentiable."""
        parameter, selector = self.parameters()[number], self.selector
        if isinstance(selector, TopK) and selector.k == selector.num_edges:
            return parameter  # the layer as it is, to the bit
        if training:
            selector.check_served(parameter)
            # several layers share what was chosen for the same weights, unless it is drawn
            anew = len(self.places) == 1 or type(selector).sample is not Selector.sample
            return self._weighted(self._chosen(selector.sample) if anew else self._evaluation(), number)
        real = self._evaluation()
        if is_traced() or torch.is_grad_enabled():
            return self._weighted(real, number)
        if number not in self._weights:
            with torch.inference_mode(False), torch.no_grad():
                self._weights[number] = self._weighted(real, number)
        return self._weights[number]

    def evaluated(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The real candidates as evaluation has them (n,), and their effective weights (n,); of kernels the norms."""
        candidates = self.selector.candidates
        weight = torch.cat([self.evaluation_weight(number).reshape(-1) for number in range(len(self.places))])
        return self._evaluation(), weight if candidates.num == len(weight) else candidates.magnitude(weight)

    def evaluation_weight(self, number: int) -> torch.Tensor:
        """The effective weight for parameter ``number`` as evaluation has it."""
        return self._weighted(self._evaluation(), number).detach()

    @property
    def _is_elementwise(self) -> bool:
        """Whether an effective weight depends on nothing but its own weight and mask."""
        return type(self.selector).effective is Selector.effective

    def _weighted(self, real: torch.Tensor, number: int) -> torch.Tensor:
        parameter, selector = self.parameters()[number], self.selector
        if len(self.places) == 1:
            return selector.weighted(parameter, real).weight
        if self._is_elementwise:
            return selector.rule_now.effective(parameter, self._part(real, number))
        parameters = self.parameters()
        flat = selector.weighted(torch.cat([p.reshape(-1) for p in parameters]), real).weight
        return flat.split([p.numel() for p in parameters])[number].view(parameter.shape)

    def _part(self, real: torch.Tensor, number: int) -> torch.Tensor:
        """A mask of the shape of parameter ``number``, of one over all candidates."""
        own = self._candidates[number]
        part = real.split([candidates.num for candidates in self._candidates])[number]
        return own.spread(part).view(self.parameters()[number].shape)

    def _chosen(self, choose: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        flat = self._flat()
        if is_traced():
            return choose(flat)
        with torch.inference_mode(False):  # what is chosen while evaluating must serve training too
            check_finite(flat)
            return choose(flat)

    def _evaluation(self) -> torch.Tensor:
        """The real candidates of evaluation (n,), kept as long as nothing changes."""
        if is_traced():
            return self._chosen(self.selector.select)
        own = self.selector  # its dicts, as Module.parameters() takes longer than some layers
        tensors = [tensor.detach() for tensor in (*self._sources(), *own._parameters.values(),
                                                  *own._buffers.values()) if tensor is not None]
        versions = (own.settings(), [(tensor.data_ptr(), tensor.dtype,
                                      0 if tensor.is_inference() else tensor._version) for tensor in tensors])
        probes = [tensor.view(-1)[::max(1, tensor.numel() // PROBED)] if tensor.is_contiguous() else tensor
                  for tensor in tensors]
        if self._kept is None or self._kept[0] != versions or not all(map(torch.equal, self._kept[1], probes)):
            self._weights = {}
            self._kept = versions, [probe.clone() for probe in probes], self._chosen(self.selector.select)
        return self._kept[2]

    def __getstate__(self):
        return {**self.__dict__, "_kept": None, "_weights": {}}
