"""Two ways to the lowest eigenvalue of every splitting matrix, and its eigenvector."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ..errors import InputError, whole
from ..networks.network import as_generator
from .probing import Probe
from .units import Units

FAR = 0.5       # of the eigenvalue: an eigenvector that far from one is none
CLOSE = 1e-3    # of the norm of S: that is near enough
NOTHING = 1e-8  # a part of a direction that is but rounding


class Route(ABC):
    """Finds the lowest eigenpair of every splitting matrix S_v."""

    def __init__(self) -> None:
        self.losses: list[float] = []  # of the batches, in one pass

    @abstractmethod
    def solve(self, probe: Probe, units: Units,
              batches: Callable[[], Iterable[Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The lowest eigenvalue of each unit (U,), and its unit eigenvector as numbers for all weights (N,)."""

    def _products(self, probe, units, batches) -> Iterable[Callable[[torch.Tensor], torch.Tensor]]:
        """For each batch, the function from directions v to S v, both (N,)."""
        self.losses = []
        for x, target in batches():
            loss, times = probe.products(x, target)
            self.losses.append(loss)
            yield lambda v: units.gather(times(units.spread(v, probe.leaves)))
        if not self.losses:
            raise InputError("batches gave no batch: expected at least one pair (x, target).")


class Exact(Route):
    """Forms S_v column by column and takes its lowest eigenpair.

    S_v is the mean over the batches (methods: "Splitting Steepest Descent", Wu, Wang, Liu, 2019, section 3);
    it costs as many backward passes through single nodes as the largest in-degree is, and sum of d_v^2 numbers.
    """

    def solve(self, probe: Probe, units: Units, batches: Callable[[], Iterable[Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        owner = units.owner
        degree = torch.bincount(owner, minlength=units.number)
        first = degree.cumsum(0) - degree
        place = torch.arange(len(owner)) - first[owner]
        matrix = torch.zeros(len(owner), int(degree.max()), dtype=torch.float64)  # rows of S_v at v's weights
        for times in self._products(probe, units, batches):
            for column in range(matrix.shape[1]):
                matrix[:, column] += times((place == column).double())
        matrix /= len(self.losses)
        value, vector = torch.zeros(units.number, dtype=torch.float64), torch.zeros(len(owner), dtype=torch.float64)
        for d in degree.unique().tolist():
            those = (degree == d).nonzero().flatten()
            rows = first[those][:, None] + torch.arange(d)
            s = matrix[rows][:, :, :d]
            values, vectors = torch.linalg.eigh((s + s.mT) / 2)
            value[those], vector[rows] = values[:, 0], vectors[:, :, 0]
        return value, vector


class Fast(Route):
    """Minimises v' S v / v' v over a few directions for all nodes at once, without S.

    From some random v on, each pass over the batches gives S v, and its part across all directions so far is a new
    direction. In the space of them all, q_1, ..., q_m, the lowest eigenpair of the m x m matrix (q_i' S q_j) is where
    the quotient is least: a descent along the gradients 2 (S v - v (v' S v)) whose steps have the best length (Lanczos;
    the Krylov space of S). It ends where S v is an eigenvalue times v at every node, and is exact for nodes with no more
    than ``epochs`` times ``vectors`` weights; a pass costs ``vectors`` + 2 backward passes or so.

    Differs from the paper: the public code descends by RMSprop in mini-batches (:class:`MiniBatch`), which takes some
    hundred of them. The batches should be the same in every pass.

    Warns where S v is still far from the eigenvalue times v in the end (more than ``FAR`` of it, for half of the nodes).

    Args:
        epochs: passes over the batches, at most.
        vectors: directions that each pass adds. More need fewer passes.
        seed: of the first directions; an integer or a generator.
    """

    def __init__(self, epochs: int = 10, vectors: int = 2, seed: int | torch.Generator = 0):
        super().__init__()
        self.epochs, self.vectors, self.seed = _count(epochs, "epochs"), _count(vectors, "vectors"), seed

    def solve(self, probe: Probe, units: Units, batches: Callable[[], Iterable[Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        owner = units.owner
        generator = as_generator(self.seed)
        space = torch.zeros(0, len(owner), dtype=torch.float64)  # directions, of length 1 or 0 at each unit
        images = space                                           # S times each
        new = torch.rand(self.vectors, len(owner), generator=generator, dtype=torch.float64) - 0.5
        for _ in range(self.epochs):
            added = _across(new, space, units)
            space, new = torch.cat([space, added]), torch.zeros_like(added)
            for times in self._products(probe, units, batches):
                new += torch.stack([times(v) for v in added])
            new /= len(self.losses)
            images = torch.cat([images, new])
            value, share, size = _ritz(space, images, units)
            v = (share[owner].T * space).sum(0)
            rest = units.total(((share[owner].T * images).sum(0) - value[owner] * v)**2).sqrt()
            if (rest <= CLOSE * size).all():
                break
        _warn_if_far(rest, value)
        return value, v


class MiniBatch(Route):
    """Descends along the gradient of v' S v / v' v for all nodes at once; a step costs about one backward pass.

    Stochastic: each batch gives S v, and RMSprop (smoothing 0.9, momentum 0.9) steps along
    2 (S v |v|^2 - v (v' S v)) / |v|^4, after which v is normalised. The eigenvalue is the mean of the quotients of the
    last epoch, the eigenvector the mean of v there (the author response to "Splitting Steepest Descent", 2019, its
    appendix C.3, and the public code). For many batches: it takes hundreds of steps while the rate is high.

    Warns as :class:`Fast` does.

    Args:
        epochs: passes over the batches.
        lr: learning rate of RMSprop, times ``decay`` after each epoch.
        decay: see there.
        seed: of the first v, uniform in (-0.1, 0.1); an integer or a generator.
    """

    def __init__(self, epochs: int = 10, lr: float = 1e-3, decay: float = 0.2, seed: int | torch.Generator = 0):
        super().__init__()
        for name, value in (("lr", lr), ("decay", decay)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise InputError(f"{name} must be a finite number above 0, got {value!r}.")
        self.epochs, self.lr, self.decay, self.seed = _count(epochs, "epochs"), lr, decay, seed

    def solve(self, probe: Probe, units: Units, batches: Callable[[], Iterable[Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        owner = units.owner

        def total(values):
            return units.total(values)[owner]

        v = torch.rand(len(owner), generator=as_generator(self.seed), dtype=torch.float64).mul_(0.2).sub_(0.1)
        optimizer = torch.optim.RMSprop([v], lr=self.lr, alpha=0.9, momentum=0.9)
        for _ in range(self.epochs):
            quotients, directions, images, steps = *(torch.zeros_like(v) for _ in range(3)), 0
            for times in self._products(probe, units, batches):
                image, square = times(v), total(v * v)
                product = total(v * image)
                quotients += product / square
                directions += v / square.sqrt()
                images += image / square.sqrt()
                steps += 1
                v.grad = 2 * (image * square - v * product) / square**2
                optimizer.step()
                v.div_(total(v * v).sqrt())
            optimizer.param_groups[0]["lr"] *= self.decay
        value = torch.zeros(units.number, dtype=torch.float64).index_put_((owner,), quotients / steps)
        vector = directions / total(directions**2).sqrt()
        _warn_if_far(units.total((images / steps - quotients / steps * vector)**2).sqrt(), value)
        return value, vector


def _count(number: int, name: str) -> int:
    count = whole(number)
    if count is None or count < 1:
        raise InputError(f"{name} must be an integer of at least 1, got {number!r}.")
    return count


def _across(new: torch.Tensor, space: torch.Tensor, units: Units) -> torch.Tensor:
    """The parts of new directions (n, N) across those of a space (m, N) and each other, of length 1 at each unit.

    0 where there is no such part.
    """
    found, owner = list(space), units.owner
    for v in new:
        whole_length = units.total(v * v).sqrt()
        for _ in range(2):  # once more against rounding
            for q in found:
                v = v - q * units.total(q * v)[owner]
        length = units.total(v * v).sqrt()
        v = torch.where((length > NOTHING * whole_length)[owner], v / length[owner], v.new_zeros(()))
        found.append(v)
    return torch.stack(found[len(space):])


def _ritz(space: torch.Tensor, images: torch.Tensor, units: Units) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The lowest eigenpair of S within a space of directions: value (U,), shares of the directions (U, m).

    Also the norm of S there, (U,).
    """
    s = torch.stack([units.total(q * images) for q in space]).permute(2, 0, 1)
    s = (s + s.mT) / 2
    size = torch.linalg.matrix_norm(s)
    missing = (units.total(space**2) < 0.5).T  # what is not there stands above all that is
    values, vectors = torch.linalg.eigh(s + torch.diag_embed(missing * (2 * size[:, None] + 1)))
    return values[:, 0], vectors[:, :, 0], size


def _warn_if_far(rest: torch.Tensor, value: torch.Tensor) -> None:
    """``rest``: the length of S v - lambda v, (U,)."""
    far = float((rest / value.abs()).nan_to_num(0.0).median())  # of a node that S does nothing to: 0
    if far > FAR:
        warnings.warn(f"the lowest eigenvalues have not converged: S v differs from the eigenvalue times v by "
                      f"{100 * far:.0f} % of it at half of the nodes. Give route='exact', or more passes over the batches: "
                      "route=neuralgraph.growing.Fast(epochs=N), whose defaults suffice for most.", stacklevel=4)


ROUTES: dict[str, type[Route]] = {"exact": Exact, "fast": Fast, "mini-batch": MiniBatch}
