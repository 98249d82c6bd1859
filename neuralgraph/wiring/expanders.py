"""Sparse random layers that let everything reach everything soon."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import WiringError
from ..nodes import NodeFunction
from .assembling import assemble, generator_of, integer
from .devices import on_cpu
from .ends import Entries
from .layered import chain
from .wiring import Wiring

REPAIRS = 1000  # configurations that are tried until one has no repeated edge


@on_cpu
def expander(sizes: Sequence[int], degree: int | Sequence[int], *, seed: int | torch.Generator,
             biregular: bool = False, function: NodeFunction | Sequence[NodeFunction] | None = None,
             input_stride: int = 1, dims: int = 2) -> Wiring:
    """Blocks of which each is joined to the next one by a random bipartite graph, an X-layer.

    Every node of the smaller of two blocks (of the earlier one, if they are equal) is joined to ``degree`` different
    nodes of the other, drawn uniformly; so D min(a, c) edges join blocks of a and c nodes. The degrees of the other
    side vary, and may be 0: such a node is dead. "Deep Expander Networks" (Prabhu, Varma, Namboodiri, ECCV 2018).

    Edges carry initial weights, normal of mean 0: Kaiming's of the layer with all edges, of its fan-out
    (variance 2 / c), or where ``dims`` is 0 of its fan-in (2 / a). The graph stays as it is drawn; give a network on
    it the selector :class:`~neuralgraph.Complete`.

    Args:
        sizes: nodes per block, at least two blocks of at least one node.
        degree: D, from 1 to the size of the larger block, which joins all; or one for each pair of blocks.
        seed: of the graph and the weights; an integer or a generator.
        biregular: both sides have equal degrees, as nearly as the numbers divide: the other side's differ by at
            most 1 (a configuration model, in which repeated edges exchange ends with others).
        function, input_stride, dims: as for :func:`blocks`.

    Raises:
        WiringError: for a degree above what the blocks can hold.

    >>> expander([16, 32, 32, 10], 4, seed=0)
    Wiring(90 nodes: 16 input, 64 hidden, 10 output; 232 weighted edges)
    """
    dense, generator = chain(sizes, function, input_stride=input_stride, dims=dims), generator_of(seed)
    if not isinstance(biregular, bool):
        raise WiringError(f"biregular must be True or False, got {biregular!r}.")
    sizes = torch.bincount(dense.block).tolist()
    pairs = list(zip(sizes, sizes[1:]))
    degrees = degree if isinstance(degree, Sequence) and not isinstance(degree, str) else [degree] * len(pairs)
    if len(degrees) != len(pairs):
        raise WiringError(f"expected one degree, or one for each of the {len(pairs)} pairs of blocks, got {degree!r}.")
    entries, weights, start, shape = [], [], 0, (dense.num_nodes, dense.num_nodes)
    for (a, c), given in zip(pairs, degrees):
        number = integer("degree", given)
        if not 1 <= number <= max(a, c):
            raise WiringError(f"between blocks of {a} and {c} nodes, each of the smaller side has 1 to {max(a, c)} "
                              f"different neighbours, got a degree of {number}.")
        joined = (_biregular if biregular else _drawn)(min(a, c), max(a, c), number, generator)  # [smaller, larger]
        v, u = (joined.T if a <= c else joined).nonzero().T
        entries.append(Entries(u + start, v + start + a, shape).entries)
        deviation = (2 / (c if dims else a)) ** 0.5
        weights.append(torch.empty(len(u)).normal_(0, deviation, generator=generator))
        start += a
    functions = [dense.function_of(node) for node in range(dense.num_nodes)]
    return assemble(Entries.numbered(torch.cat(entries), shape), dense.role, dense.block, functions,
                    weight=torch.cat(weights), scale=dense.scale)  # which a node without in-edges cannot tell


def _drawn(rows: int, columns: int, degree: int, generator: torch.Generator) -> torch.Tensor:
    """A mask (rows, columns) with ``degree`` entries in every row, drawn uniformly."""
    chosen = torch.rand(rows, columns, generator=generator).topk(degree, dim=1).indices
    return torch.zeros(rows, columns, dtype=torch.bool).scatter_(1, chosen, True)


def _biregular(rows: int, columns: int, degree: int, generator: torch.Generator) -> torch.Tensor:
    """A mask with ``degree`` entries in every row and, within 1, equally many in every column."""
    if 2 * degree > columns:  # repairs are hard to find in a dense graph, and what it lacks is biregular too
        return ~_biregular(rows, columns, columns - degree, generator)
    few, more = divmod(rows * degree, columns)
    for _ in range(REPAIRS):
        in_column = torch.full((columns,), few)
        in_column[torch.randperm(columns, generator=generator)[:more]] += 1
        row = torch.arange(rows).repeat_interleave(degree)
        column = torch.arange(columns).repeat_interleave(in_column)
        column = column[torch.randperm(len(column), generator=generator)]
        if _repair(row, column, rows * columns, columns, generator):
            mask = torch.zeros(rows, columns, dtype=torch.bool)
            mask[row, column] = True
            return mask
    raise WiringError(f"found no graph with {degree} different neighbours for each of {rows} nodes among {columns} "
                      f"in {REPAIRS} draws: use biregular=False.")


def _repair(row: torch.Tensor, column: torch.Tensor, size: int, columns: int, generator: torch.Generator) -> bool:
    """Lets repeated edges exchange ends with edges drawn at random, in place, until none is repeated.

    Where none could be mended in many rounds, False.
    """
    idle = 0
    while idle < 100:
        place = row * columns + column
        order = place.argsort(stable=True)
        repeated = order[1:][place[order][1:] == place[order][:-1]]
        if not len(repeated):
            return True
        taken = torch.zeros(size, dtype=torch.bool).index_fill_(0, place, True).tolist()
        partners = torch.randint(len(row), (len(repeated),), generator=generator)
        mended = False
        ends = column.tolist()
        for edge, u, other, x in zip(repeated.tolist(), row[repeated].tolist(), partners.tolist(),
                                     row[partners].tolist()):
            new, crossed = u * columns + ends[other], x * columns + ends[edge]
            if u != x and not taken[new] and not taken[crossed]:
                ends[edge], ends[other] = ends[other], ends[edge]
                taken[new] = taken[crossed] = mended = True  # the places left stay taken for this round
        column.copy_(torch.tensor(ends))
        idle = 0 if mended else idle + 1
    return False
