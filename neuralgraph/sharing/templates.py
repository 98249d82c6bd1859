"""How shared weights are made: parametrizations of torch, so that they are read where plain weights were."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize

from .._modules import module_list
from ..errors import InputError
from ..layers.choice import parametrizations
from ..networks import NeuralGraph
from ..selectors import Selector


class Templates(nn.Module):
    """A bank: K tensors of one shape.

    Args:
        values: (K, *shape).
    """

    def __init__(self, values: torch.Tensor):
        super().__init__()
        self.templates = nn.Parameter(values)

    def extra_repr(self) -> str:
        return f"{len(self.templates)} of {tuple(self.templates.shape[1:])}"


class Mixed(nn.Module):
    """weight = scale sum over j of a_j T_j, with coefficients a (..., K) and the templates T of a bank.

    Args:
        bank: which others may use too.
        rows: a name for each row of coefficients; one where they are a vector.
    """

    scale: torch.Tensor

    def __init__(self, bank: Templates, rows: Sequence[str]):
        super().__init__()
        self.bank, self.rows = bank, tuple(rows)
        self.register_buffer("scale", torch.ones((), dtype=bank.templates.dtype, device=bank.templates.device))
        self._first: torch.Tensor | None = None

    def forward(self, coefficients: torch.Tensor) -> torch.Tensor:
        return self.scale * torch.tensordot(coefficients, self.bank.templates, dims=1)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The coefficients it begins with; afterwards nothing can be assigned."""
        return _once(self)

    def mix(self, module: nn.Module, name: str, coefficients: torch.Tensor) -> None:
        """Puts itself in the place of a parameter, which becomes these coefficients."""
        _register(self, module, name, coefficients)


class MixedPart(nn.Module):
    """A mixture that has its coefficients itself, for :class:`Assembled`."""

    def __init__(self, mixed: Mixed, coefficients: torch.Tensor):
        super().__init__()
        self.mixed, self.coefficients = mixed, nn.Parameter(coefficients)

    def forward(self) -> torch.Tensor:
        return self.mixed(self.coefficients)


class Assembled(nn.Module):
    """A vector (n,) of entries of its own and of what some parts compute.

    Args:
        parts: modules that are called without arguments.
        places: the indices of the numbers that each part gives, int64.
        size: n.
    """

    own: torch.Tensor
    order: torch.Tensor

    def __init__(self, parts: Sequence[nn.Module], places: Sequence[torch.Tensor], size: int):
        super().__init__()
        self.parts = module_list(parts)
        taken = torch.zeros(size, dtype=torch.bool)
        taken[torch.cat([place.flatten() for place in places])] = True
        self.register_buffer("own", (~taken).nonzero().flatten(), persistent=False)
        order = torch.cat([self.own, *(place.flatten() for place in places)]).argsort()
        self.register_buffer("order", order, persistent=False)
        self._first: torch.Tensor | None = None

    def forward(self, own: torch.Tensor) -> torch.Tensor:
        return torch.cat([own, *(part().reshape(-1) for part in self.parts)])[self.order]

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The entries of its own that it begins with; afterwards nothing can be assigned."""
        return _once(self)

    def assemble(self, network: NeuralGraph) -> None:
        """Puts itself in the place of the weights of a network."""
        self.to(network.weight.device)
        _register(self, network, "weight", network.weight.detach()[self.own])


def _register(parametrization: Mixed | Assembled, module: nn.Module, name: str, original: torch.Tensor) -> None:
    getattr(module, name).grad = None  # of another shape
    parametrization._first = original
    give_own_class(module)
    parametrize.register_parametrization(module, name, parametrization)


def give_own_class(module: nn.Module) -> None:
    """A parametrized module has properties on a class made for it, which a deep copy of it has too: separates them."""
    kind = type(module)
    if parametrize.is_parametrized(module):
        members = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
        module.__class__ = type(kind.__name__, kind.__bases__, members)


def _once(parametrization: Mixed | Assembled) -> torch.Tensor:
    first, parametrization._first = parametrization._first, None
    if first is None:
        raise InputError("weights that are shared cannot be assigned: change the templates and coefficients they are "
                         "made of, or make them plain again with neuralgraph.sharing.bake(model).")
    return first


def shared(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Mixed | Assembled]]:
    """Every parameter that is shared: name of the module, the module, name in it, and what makes it."""
    for name, module in model.named_modules(remove_duplicate=False):
        for own, (made_by, *_) in parametrizations(module).items():
            if isinstance(made_by, (Mixed, Assembled)):
                yield name, module, own, made_by


def mixtures(model: nn.Module) -> Iterator[tuple[Mixed, torch.Tensor]]:
    """Every mixture and its coefficients."""
    seen: set[nn.Module] = set()
    for _, module, own, made_by in shared(model):
        if made_by in seen:  # of a module that is there twice
            continue
        seen.add(made_by)
        if isinstance(made_by, Mixed):
            yield made_by, parametrizations(module)[own].original
        else:
            yield from ((part.mixed, part.coefficients) for part in made_by.parts if isinstance(part, MixedPart))


def check_can_share(module: nn.Module, own: str, name: str, model: nn.Module) -> None:
    """Refuses a parameter that is not a plain one of this module alone, to be trained."""
    parameter = module._parameters.get(own)
    if parametrize.is_parametrized(module, own):
        raise InputError(f"{name} is parametrized already (shared or tied before, perhaps): name it in skip, or make "
                         "it plain with neuralgraph.sharing.bake first.")
    if not isinstance(parameter, nn.Parameter) or torch.nn.parameter.is_lazy(parameter):
        raise InputError(f"{name} is no plain parameter with a shape: name it in skip.")
    owners = [part for part in model.modules() if any(other is parameter for other in part._parameters.values())]
    if len(owners) > 1:
        raise InputError(f"{name} is a parameter of {len(owners)} modules, which would no longer have it in common: "
                         "name it in skip.")
    if not parameter.requires_grad:
        raise InputError(f"{name} is frozen and cannot be made of templates that are trained: name it in skip.")


def check_only_chooses(selector: Selector, name: str) -> None:
    """Refuses a selector that changes, or penalises, single weights: shared ones cannot be changed apart."""
    if selector.scheduled or selector.freezes_weight or type(selector).penalty is not Selector.penalty:
        raise InputError(f"the {type(selector).__name__} of {name} changes, freezes or penalises single weights, and "
                         "shared ones cannot be changed apart: use a selector that only chooses, such as 'dnw' or "
                         "'random'.")


def kaiming_normal(number: int, shape: Sequence[int], fan_in: int, generator: torch.Generator,
                   like: torch.Tensor) -> Templates:
    """A bank of templates, normal of variance 2 / fan-in (He et al., 2015), of the type and device of ``like``."""
    values = torch.empty(number, *shape).normal_(0, math.sqrt(2 / max(1, fan_in)), generator=generator)
    return Templates(values.to(like))


def orthogonal(rows: int, columns: int, generator: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    """Coefficients (rows, columns) with rows of length 1: orthogonal ones, if there are not too many of them.

    Of more rows than columns the columns are orthogonal, before the rows are scaled.
    """
    drawn = torch.empty(max(rows, columns), min(rows, columns), dtype=torch.float64).normal_(generator=generator)
    q, r = torch.linalg.qr(drawn)
    q = q * r.diagonal().sign()  # so that it is uniform
    q = q if rows >= columns else q.T
    return (q / q.norm(dim=1, keepdim=True)).to(like)
