"""What static, discrete-time and continuous-time networks share."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from .. import backends
from .._dgl import is_installed
from .._torch import is_compiling
from ..backends import Backend, Shared
from ..backends.layout import Layout
from ..backends.transforms import has_numbers, is_transformed, untraced, untransformed, without_transforms
from ..errors import InputError, SelectionError, whole
from ..selectors import Edges, Selection, Selector, check_finite, hold, let_go
from ..wiring import Stage, Wiring
from ..wiring.drawing import picture
from ..wiring.wiring import OUTPUT
from .functions import NodeFunctions

if TYPE_CHECKING:
    from .._dgl import DGLGraph

# by the number of dimensions, the sides of a map
SPACES = ((), ("length",), ("height", "width"), ("depth", "height", "width"))


class NeuralGraph(nn.Module, ABC):
    """A network on a wiring: node functions, one weight per candidate edge, a selector, a backend.

    ``weight`` is a Parameter (E,) in the edge order of ``wiring.graph``. Values that the wiring carries
    are taken over; otherwise edge weights start uniform in (-1/sqrt(n), 1/sqrt(n)), where n is the
    number of nodes that can have children (the authors' initialisation: the columns of their stage
    matrix), and kernels as :class:`~neuralgraph.nodes.DepthwiseConv` says. All are of ``dtype``, whatever
    the wiring's values are: give it where they say more than torch's default type can hold. Networks are
    made on the CPU, whatever torch's default device is.

    ``dims`` is the number of dimensions of a node's map: x is (B, inputs, *space) with so many sides. Whatever
    is not finite passes along real edges only. Under autocast x may be of any floating-point type and y has
    that of the weights, with every backend.
    """

    wiring: Wiring
    selector: Selector
    weight: nn.Parameter
    dims: int

    def __init__(self, wiring: Wiring, selector: Selector, backend: str | Backend,
                 seed: int | torch.Generator, dtype: torch.dtype | None, dims: int):
        super().__init__()
        if not isinstance(wiring, Wiring):
            raise InputError(
                f"expected a neuralgraph.Wiring, got {type(wiring).__name__}; make one with "
                "neuralgraph.Wiring(graph), neuralgraph.from_networkx(G) or neuralgraph.wirings."
            )
        if not isinstance(selector, Selector):
            raise InputError(
                f"expected a selector such as neuralgraph.TopK(k=...), got {selector!r}; "
                "neuralgraph.selectors.create makes one from its name."
            )
        number = whole(dims)
        if number is None or number not in range(len(SPACES)):
            raise InputError("dims, the dimensions of a map, must be 0 (numbers), 1 (signals), 2 (images) or 3 "
                             f"(volumes), got {dims!r}.")
        dims = number
        generator = as_generator(seed)
        self.wiring, self.dims = wiring, dims
        dtype = _checked_dtype(dtype)
        self.backend = backend
        self.stages = self._schedule(wiring)
        self.functions = NodeFunctions(wiring, generator, dtype, dims)
        self.weight = nn.Parameter(self._initial_weight(generator, dtype))
        selector.bind(self._candidates(), self.weight, aside(generator))  # last: what fails before leaves it unused
        self.selector = selector
        self._inputs, self._outputs = len(wiring.inputs), len(wiring.outputs)
        self._chosen: _Chosen | None = None

    @abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor: ...

    if TYPE_CHECKING:  # torch says no more of a call than that it is one
        def __call__(self, x: torch.Tensor) -> torch.Tensor: ...

    def _is_fused(self, x: torch.Tensor) -> bool:
        """Whether node functions are compiled; on a GPU torch.compile makes faster ones of the plain operations."""
        by_torch = is_compiling() and x.device.type != "cpu"
        return self.backend.fuses_nodes and not by_torch and not is_transformed(x)

    @property
    def backend(self) -> Backend:
        """How sums over edges are computed; assign a name or a :class:`Backend` at any time."""
        return self._backend

    @backend.setter
    def backend(self, backend: str | Backend) -> None:
        self._backend = backends.create(backend)

    @staticmethod
    @abstractmethod
    def _schedule(wiring: Wiring) -> tuple[Stage, ...]:
        """The order in which nodes are computed; refuses a wiring that this network cannot run."""

    def selection(self) -> Selection:
        """The real edges and their weights as evaluation has them, for the caller to keep.

        Looking changes nothing: the edges that targeted dropout lets in at random while it trains are
        not among them.

        Raises:
            SelectionError: if weights are NaN or infinite.
        """
        return self._weighted(self._evaluation().real.clone(), {})

    @property
    def num_real(self) -> int:
        """How many edges are real in evaluation."""
        number = self.selector.num_real
        return int(self._evaluation().real.sum()) if number is None else number

    def _forward_selection(self) -> Selection:
        """The selection of one forward: made anew in training, kept in evaluation."""
        if is_compiling():  # what is recorded ranks the weights at every call
            choose = self.selector.sample if self.training else self.selector.select
            return self._weighted(choose(self.weight.detach()), {})
        if not has_numbers(self.weight):
            return self._weighted(self._mask_without_numbers(), {})
        with without_transforms():
            if self.training:
                self._chosen = None
                self.selector.check_served(self.weight)
                real, cache = self._mask(self.selector.sample), {}
            else:
                chosen = self._evaluation()
                real, cache = chosen.real, chosen.cache
        return self._weighted(real, cache)

    def _mask_without_numbers(self) -> torch.Tensor:
        """The edges of a forward pass that is about shapes only."""
        if self.weight.is_meta:
            return torch.ones_like(self.weight, dtype=torch.bool)
        raise InputError("torch.export shows a network no weights to choose its edges by: use neuralgraph's own ONNX "
                         "export or ng.compile, or torch.jit.trace.")

    def _evaluation(self) -> _Chosen:
        """The real edges, kept until a weight, the selector or its settings change."""
        fingerprint = type(self.selector), self.selector.fingerprint()
        weight = untransformed(self.weight)
        if self._chosen is None or not self._chosen.still_holds(weight, fingerprint):
            with untraced() if torch.jit.is_tracing() else contextlib.nullcontext():  # kept, and not chosen by the trace
                self._chosen = _Chosen(self._mask(self.selector.select), weight.detach().clone(), fingerprint)
        return self._chosen

    @torch.inference_mode(False)  # what is chosen while evaluating must serve training too
    def _mask(self, choose: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        weight = untransformed(self.weight).detach()
        check_finite(weight)
        real = choose(weight)
        if real.shape != weight.shape or real.dtype != torch.bool:
            raise SelectionError(
                f"{type(self.selector).__name__} must select a bool mask of shape "
                f"{tuple(weight.shape)}, got {real.dtype} of shape {tuple(real.shape)}."
            )
        return real

    def _weighted(self, real: torch.Tensor, cache: dict) -> Selection:
        selection = self.selector.weighted(self.weight, real, cache)
        selection.cut(stage.which for stage in self.stages if isinstance(stage.which, slice))
        return selection

    def freeze(self) -> None:
        """Keeps the real edges of now until :meth:`thaw`: gradients reach them only, and schedules rest.

        The network computes what it did; a frozen one has another state dict: freeze before loading it.

        >>> import neuralgraph as ng
        >>> net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 8, 2]), ng.TopK(k=20))
        >>> net.freeze()
        >>> net.selector
        Held(
          (other): TopK(k=20, gradient='ste')
        )
        >>> net.thaw()
        >>> net.selector
        TopK(k=20, gradient='ste')

        Raises:
            SelectionError: if they are frozen already.
        """
        self.selector = hold(self.selector, self.weight)

    def thaw(self) -> None:
        """The end of :meth:`freeze`: the selector chooses again.

        Raises:
            SelectionError: if the real edges are not frozen.
        """
        self.selector = let_go(self.selector, self.weight)

    def _candidates(self) -> Edges:
        return Edges(self.wiring, self._functions_of_steps)

    def _functions_of_steps(self) -> list[NodeFunctions]:
        """What the nodes compute, once for each of the steps that differ."""
        return [self.functions]

    def __setattr__(self, name, value):
        if name == "selector" and isinstance(value, Selector):
            if value.candidates is None:
                value.bind(self._candidates(), self.weight, as_generator(0))
                value.to(self.weight.device)
            elif value.wiring is not self.wiring:
                raise SelectionError(f"this {type(value).__name__} serves another network, of {value.num_edges} "
                                     "candidate edges; make a new one for each network.")
        super().__setattr__(name, value)

    @property
    def graph(self) -> DGLGraph:
        """The live network as a :class:`dgl.DGLGraph` one can call ``update_all`` on.

        Node data are those of the wiring and the learned values (copies); edge data are ``weight``,
        the parameter itself, and ``real``, the mask of real edges (a copy). The graph is on the CPU; of
        a network on another device all are copies, ``weight`` one that passes gradients on to the
        parameter.

        Raises:
            MissingPackageError: where DGL is not installed.
        """
        graph = self.wiring.graph
        graph.ndata.update({name: value.cpu() for name, value in self._node_values().items()})
        graph.edata["weight"] = self.weight.cpu()
        graph.edata["real"] = self.selection().real.cpu()
        return graph

    def __dir__(self) -> list[str]:
        """Without ``graph`` where there is none: ``torch.jit.trace`` looks at everything that a module names."""
        return [name for name in super().__dir__() if name != "graph" or is_installed()]

    def learned_wiring(self) -> Wiring:
        """A :class:`Wiring` of the real edges only, carrying effective weights and the nodes' learned values."""
        selection = self.selection()
        return self.wiring.subgraph(selection.real, selection.weight, self._node_values())

    def complete_wiring(self) -> Wiring:
        """The :class:`Wiring` of all candidate edges, carrying weights and learned values."""
        every = torch.ones_like(self.weight, dtype=torch.bool)
        return self.wiring.subgraph(every, self.weight, self._node_values())

    def _node_values(self) -> dict[str, torch.Tensor]:
        """The learned values of the nodes as a wiring carries them."""
        return self.functions.export()

    def extra_repr(self) -> str:
        return f"{self.wiring!r}, backend={self.backend!r}" + ("" if self.dims == 2 else f", dims={self.dims}")

    def _repr_html_(self) -> str:
        wiring, kind = self.learned_wiring(), type(self).__name__
        return picture(wiring, f"{kind}: {wiring.num_edges:,} real of {self.wiring.num_edges:,} candidate edges between "
                               f"{wiring.num_nodes:,} nodes, {self.selector}")

    def __getstate__(self):
        # A copy or a pickle chooses its own edges; DGL blocks of the old ones stay behind.
        return {**self.__dict__, "_chosen": None}

    def _aggregate(self, stage: Stage, messages: torch.Tensor, selection: Selection,
                   shared: Shared | None = None) -> torch.Tensor:
        """Sums or products of the weighted messages of the stage's sources, (B, n_dst, *space).

        The factor of an edge that is not real is 1 + w z with its effective weight w = 0 and z a
        constant: 1, with a gradient to w as the gradient rule has it and none through z.
        """
        if stage.aggregate == "sum":
            if shared is None:
                return self.backend.propagate(stage, messages, selection)
            return self.backend.propagate(stage, messages, selection, shared)
        layout = Layout.of(stage)
        real, weight = (values.view(-1, *[1] * self.dims)
                        for values in (layout.values(selection.real), layout.weight(selection)))
        z = messages[:, layout.on("src", messages.device)]
        # not real: what is not finite stays out, for 0 inf is not 0
        z = z.where(real, z.detach().nan_to_num(0.0, 0.0, 0.0))
        factors = weight * z
        factors = factors.where(real, 1 + factors)
        one = factors.new_ones(()).expand_as(factors[:, :1])
        factors = torch.cat([factors, one], dim=1)  # slot -1
        return factors[:, layout.on("slots", messages.device)].prod(dim=2)

    def _expected(self, *more: str) -> str:
        """The shape of x for messages; ``more``: dimensions after the batch."""
        return f"({', '.join(['batch', *more, str(self._inputs), *SPACES[self.dims]])})"

    def _checked(self, x: torch.Tensor) -> torch.Tensor:
        """x, of the weights' type, or an error if it is not (B, inputs, *space)."""
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
            raise InputError(
                f"expected a floating-point tensor {self._expected()}, got {got}; "
                "integer images need x.float() and a normalisation."
            )
        if x.dim() != 2 + self.dims or x.shape[1] != self._inputs:
            raise InputError(
                f"expected x of shape {self._expected()}, one channel for each of "
                f"the {self._inputs} input nodes, got {tuple(x.shape)}."
            )
        if 0 in x.shape:
            raise InputError(f"expected at least one sample{' and one pixel' if self.dims else ''}, got "
                             f"{tuple(x.shape)}.")
        if x.device != self.weight.device:
            raise InputError(f"x is on {x.device} but the network on {self.weight.device}: move one with "
                             ".to(device).")
        if x.dtype != self.weight.dtype and not autocasts(x.device.type):
            raise InputError(
                f"x is {x.dtype} but the network's weights are {self.weight.dtype}: use "
                f"x.to({self.weight.dtype}) or network.to({x.dtype})."
            )
        return x.to(self.weight.dtype)

    def _initial_weight(self, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
        if self.wiring.weight is not None:
            return self.wiring.weight.to(dtype, copy=True)
        bound = self._num_sources() ** -0.5
        return torch.empty(self.wiring.num_edges).uniform_(-bound, bound, generator=generator).to(dtype)

    def _num_sources(self) -> int:
        """How many nodes can have children: in a static graph all but the outputs."""
        return int((self.wiring.role != OUTPUT).sum())


def _checked_dtype(dtype: torch.dtype | None) -> torch.dtype:
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"dtype must be a real floating-point type such as torch.float64, got {dtype!r}.")
    return dtype


def autocasts(device_type: str) -> bool:
    """Whether torch chooses the types of operations on that device itself."""
    try:
        return torch.is_autocast_enabled(device_type)
    except TypeError:  # before torch 2.4 there was one function per device
        return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()


class _Chosen:
    """Real edges, and what they were chosen from."""

    def __init__(self, real: torch.Tensor, weight: torch.Tensor, fingerprint: object):
        self.real, self.weight, self.fingerprint = real, weight, fingerprint
        self.cache: dict = {}

    def __deepcopy__(self, memo):
        return None  # a copy chooses its own edges; DGL blocks of the old ones stay behind

    def still_holds(self, weight, fingerprint) -> bool:
        # Compared by value: writes through weight.data leave no trace in the version counter.
        return (fingerprint == self.fingerprint
                and weight.device == self.weight.device and weight.dtype == self.weight.dtype
                and torch.equal(weight.detach(), self.weight))


def as_generator(seed: int | torch.Generator) -> torch.Generator:
    """A generator from a seed; a generator is used as it is."""
    if isinstance(seed, torch.Generator):
        return seed
    number = whole(seed)
    if number is None or not -2**63 <= number < 2**64:
        raise InputError(f"expected an integer seed of 64 bits or a torch.Generator, got {seed!r}.")
    return torch.Generator().manual_seed(number)


def aside(generator: torch.Generator) -> torch.Generator:
    """A copy of a generator, to draw from without moving it: what is drawn next is the same for every selector."""
    copied = torch.Generator(generator.device)
    copied.set_state(generator.get_state())
    return copied


def check_bool(**settings: bool) -> None:
    """Refuses what is neither True nor False; any text would count as True."""
    for name, value in settings.items():
        if not isinstance(value, bool):
            raise InputError(f"{name} must be True or False, got {value!r}.")
