"""What parts of a model have to do with its classes, and its graph with chance, for the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import numpy as np
import torch

from .._files import printable
from ..analysis import Attribution, Circuit, NullModel
from ..errors import InputError
from .sources import LONGEST, Source


def describe_classes(source: Source, attributions: Mapping[str, tuple[Attribution, ...]], circuits: Mapping[str, Circuit],
                     null_models: Mapping[str, NullModel]) -> dict:
    """Attributions, circuits and null models as the page reads them, of the edges that its history has.

    Raises:
        InputError: for one of another model.
    """
    for name, found in attributions.items():
        if not isinstance(found, tuple) or not all(isinstance(one, Attribution) for one in found):
            raise InputError(f"the attribution {name!r} must be what ng.analysis.attribution returns, got {found!r}.")
        _check(source, f"attribution {name!r}", [one.edges != 0 for one in found], [len(one.nodes) for one in found])
    for name, found in circuits.items():
        if not isinstance(found, Circuit):
            raise InputError(f"the circuit {name!r} must be what ng.analysis.circuit returns, got {found!r}.")
        _check(source, f"circuit {name!r}", found.edges, [wiring.num_nodes for wiring in found.wirings])
    for name, found in null_models.items():
        if not isinstance(found, NullModel):
            raise InputError(f"the null model {name!r} must be what ng.analysis.null_model returns, got {found!r}.")
    return {
        "attributions": [{"name": _name(name), "graphs": [
            {"edges": _coded(one.edges[graph.edges].float()), "nodes": _coded(one.nodes.float())}
            for graph, one in zip(source.graphs, found)]} for name, found in attributions.items()],
        "circuits": [{"name": _name(name), "text": str(found), "number": found.num_edges, "graphs": [
            _coded(mask[graph.edges].nonzero().flatten().int()) for graph, mask in zip(source.graphs, found.edges)]}
            for name, found in circuits.items()],
        "chance": [{"name": _name(name), "text": str(found), "observed": f"{found.observed:.3g}", "mean": f"{found.mean:.3g}",
                    "z": f"{found.z:.1f}", "p": f"{found.p:.2g}"} for name, found in null_models.items()],
        "overlap": [[round(one.overlap(other), 4) for other in circuits.values()] for one in circuits.values()],
    }


def _name(name: str) -> str:
    return printable(str(name))[:LONGEST]


def _check(source: Source, what: str, masks, nodes: list[int]) -> None:
    """That these edges and nodes are the source's."""
    theirs = [(len(mask), number) for mask, number in zip(masks, nodes)]
    own = [(graph.num_candidates, len(graph.label)) for graph in source.graphs]
    if theirs != own or any(int(mask[graph.edges].sum()) != int(mask.sum()) for mask, graph in zip(masks, source.graphs)):
        raise InputError(f"the {what} is of another model: it has graphs of {theirs} (candidate edges, nodes), "
                         f"{source.title} of {own}, or other real edges.")


def _coded(values: torch.Tensor) -> str:
    """Base64 of little-endian numbers of four bytes."""
    array = values.cpu().numpy()
    return base64.b64encode(array.astype(np.dtype(array.dtype).newbyteorder("<")).tobytes()).decode()
