"""What sharing has found: which layers are alike, and one layer in the place of several."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from .._html import table
from .._modules import Model
from ..errors import InputError
from ..layers import Sparse
from ..layers.choice import parametrizations
from .templates import Mixed, Templates, give_own_class, mixtures, shared


@dataclass(frozen=True, eq=False)
class Similarity:
    """How alike the users of one bank are.

    Args:
        names: of the layers, nodes, matrices or steps.
        matrix: |<a_i, a_j>| / (|a_i| |a_j|) of their coefficients, (n, n), from 0 to 1.
    """

    names: tuple[str, ...]
    matrix: torch.Tensor

    def _repr_html_(self) -> str:
        most = 20
        rows = [(name, *map(float, values[:most])) for name, values in zip(self.names, self.matrix)]
        return table(("", *self.names[:most]), rows, "similarity",
                     [f"the first {most} of {len(self.names)} columns"] if len(self.names) > most else ())


@torch.no_grad()
def similarity(model: nn.Module) -> list[Similarity]:
    """The similarity of all that share, a matrix for each bank ("Learning Implicitly Recurrent CNNs", section 3.2).

    Raises:
        InputError: if nothing in the model shares.

    >>> from neuralgraph.sharing import share
    >>> model = share(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)), templates=3)
    >>> [found] = similarity(model)
    >>> found.names, found.matrix.round(decimals=3).abs().diagonal()
    (('0', '1', '2'), tensor([1., 1., 1.]))
    """
    rows: dict[Templates, list[tuple[tuple[str, ...], torch.Tensor]]] = {}
    for mixed, coefficients in mixtures(model):
        rows.setdefault(mixed.bank, []).append((mixed.rows, coefficients.detach().reshape(len(mixed.rows), -1)))
    if not rows:
        raise InputError("nothing in the model shares templates; neuralgraph.sharing.share makes it so.")
    found = []
    for members in rows.values():
        unit = torch.nn.functional.normalize(torch.cat([values for _, values in members]), dim=1)
        found.append(Similarity(tuple(name for names, _ in members for name in names), (unit @ unit.T).abs()))
    return found


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """The parameters for an optimizer: coefficients of templates without weight decay, then all others.

    >>> from neuralgraph.sharing import share
    >>> model = share(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), templates=1)
    >>> optimizer = torch.optim.SGD(parameter_groups(model), lr=0.1, weight_decay=5e-4)
    >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
    [(2, 0.0), (3, 0.0005)]
    """
    own = {id(coefficients): coefficients for _, coefficients in mixtures(model)}
    groups: list[dict] = [{"params": list(own.values()), "weight_decay": 0.0},
                          {"params": [parameter for parameter in model.parameters() if id(parameter) not in own]}]
    return [group for group in groups if group["params"]]


@torch.no_grad()
def fold(model: Model, threshold: float = 0.999, *, inplace: bool = False) -> Model:
    """One layer in the place of several that are alike: implicit recurrence made explicit.

    Layers (or steps) of one bank whose coefficients have a similarity of at least ``threshold`` to those of an earlier
    one take that one's coefficients, times <a_j, a_i> / <a_i, a_i>: what is computed stays the same where they are
    parallel, and changes the less the nearer to 1 the similarity is. Where the factor is 1 and the layers are equal in
    all else, the later one is replaced by the earlier: one module that is called several times, a loop.

    Args:
        model: whose layers or steps share templates.
        threshold: above 0 and at most 1.
        inplace: change ``model`` itself instead of a copy.

    >>> from neuralgraph.sharing import share
    >>> model = share(nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3))), templates=2)
    >>> with torch.no_grad():
    ...     _ = model[2].parametrizations.weight.original.copy_(model[0].parametrizations.weight.original)
    >>> folded = fold(model)
    >>> folded[2] is folded[0], folded[1] is folded[0]
    (True, False)
    """
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 < threshold <= 1:
        raise InputError(f"threshold must be above 0 and at most 1, got {threshold!r}.")
    if not inplace:
        model = copy.deepcopy(model)
    users: dict[Templates, list[tuple[nn.Module, str, Mixed]]] = {}
    for _, module, own, made_by in shared(model):
        if isinstance(made_by, Mixed) and parametrizations(module)[own].original.dim() == 1:
            members = users.setdefault(made_by.bank, [])
            if all(module is not other for other, _, _ in members):
                members.append((module, own, made_by))
    if not users:
        raise InputError("no layers or steps of the model share templates; neuralgraph.sharing.share makes it so.")
    for members in users.values():
        firsts: list[tuple[nn.Module, str, Mixed]] = []
        for module, own, mixed in members:
            mine = parametrizations(module)[own].original
            first = next((first for first in firsts
                          if _cosine(mine, parametrizations(first[0])[first[1]].original).abs() >= threshold), None)
            if first is None:
                firsts.append((module, own, mixed))
                continue
            theirs = parametrizations(first[0])[first[1]].original
            factor = mine @ theirs / (theirs @ theirs)
            tiny = 8 * torch.finfo(factor.dtype).eps
            mixed.scale.mul_(torch.ones_like(factor) if abs(factor - 1) <= tiny else factor)
            parametrizations(module)[own].original = theirs
            if _are_equal(module, first[0], own):
                _replace(model, module, first[0])
    return model


def _cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    # of a little more than 1 by rounding, so that parallel ones have a similarity of 1
    cosine = torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0)
    return cosine * (1 + 1e-6 if a.dtype != torch.float64 else 1 + 1e-14)


def _are_equal(module: nn.Module, first: nn.Module, own: str) -> bool:
    """Whether two layers with one weight do the same."""
    if isinstance(module, Sparse) or parametrize.type_before_parametrizations(module) is not \
            parametrize.type_before_parametrizations(first) or module.extra_repr() != first.extra_repr():
        return False
    if module.training != first.training or any(
            getattr(part, hooks) for part in (module, first)
            for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")):
        return False
    mine, theirs = module.state_dict(), first.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for part in model.modules():
        for name, child in part._modules.items():
            if child is old:
                part._modules[name] = new


def is_shared(model: nn.Module) -> bool:
    """Whether some weight in the model is made of templates or tied."""
    return next(shared(model), None) is not None


@torch.no_grad()
def bake(model: Model, *, inplace: bool = False) -> Model:
    """Plain weights again, with the values that they have as mixtures.

    Layers that :func:`fold` gave one weight have one parameter.

    Args:
        model: in which weights are shared or tied.
        inplace: change ``model`` itself instead of a copy.

    >>> from neuralgraph.sharing import share
    >>> model = bake(share(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), templates=1))
    >>> sorted(model.state_dict())
    ['0.bias', '0.weight', '1.bias', '1.weight']
    """
    if not inplace:
        model = copy.deepcopy(model)
    made: dict[tuple, nn.Parameter] = {}
    plan = {}
    for _, module, own, made_by in shared(model):
        original = parametrizations(module)[own].original
        key = (id(original), float(made_by.scale)) if isinstance(made_by, Mixed) else (id(original), None)
        if key not in made:
            made[key] = nn.Parameter(getattr(module, own).detach().clone())
        plan[module, own] = made[key]
    for (module, own), weight in plan.items():
        give_own_class(module)
        parametrize.remove_parametrizations(module, own, leave_parametrized=False)
        setattr(module, own, weight)
    return model


def plain(model: Model) -> Model:
    """The model itself, or a baked copy of one in which weights are shared; what is no model stays as it is."""
    return bake(model) if isinstance(model, nn.Module) and is_shared(model) else model
