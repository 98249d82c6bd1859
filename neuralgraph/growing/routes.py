"""Two ways to the lowest eigenvalue of every splitting matrix, and its eigenvector."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch

from ..errors import InputError, whole
from ..networks.network import as_generator
from .probing import Probe
from .units import Units


FAR = 0.5  # of the eigenvalue: an eigenvector that far from one is none


class Route(ABC):
    """Finds the lowest eigenpair of every splitting matrix S_v."""

    def __init__(self):
        self.losses: list[float] = []  # of the batches, in one pass

    @abstractmethod
    def solve(self, probe: Probe, units: Units,
              batches: Callable[[], Iterable]) -> tuple[torch.Tensor, torch.Tensor]:
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

    def solve(self, probe, units, batches):
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
    """Minimises v' S v / v' v for all nodes at once, without S; a step costs about one backward pass.

    Stochastic: each batch gives S v by two dummies in the network, and RMSprop (smoothing 0.9, momentum 0.9)
    steps along 2 (S v |v|^2 - v (v' S v)) / |v|^4, after which v is normalised. The eigenvalue is the mean
    of the quotients of the last epoch, the eigenvector the mean of v there (the author response to
    "Splitting Steepest Descent", 2019, its appendix C.3, and the public code).

    Warns where S v is still far from the eigenvalue times v in the end (more than ``FAR`` of it, for half of the nodes).

    Args:
        epochs: passes over the batches. It takes some hundred steps to converge: give more where there are
            few batches.
        lr: learning rate of RMSprop, times ``decay`` after each epoch.
        decay: see there.
        seed: of the first v, uniform in (-0.1, 0.1); an integer or a generator.
    """

    def __init__(self, epochs: int = 10, lr: float = 1e-3, decay: float = 0.2, seed: int | torch.Generator = 0):
        super().__init__()
        if (whole(epochs) or 0) < 1:
            raise InputError(f"epochs must be an integer of at least 1, got {epochs!r}.")
        for name, value in (("lr", lr), ("decay", decay)):
            if not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise InputError(f"{name} must be a finite number above 0, got {value!r}.")
        self.epochs, self.lr, self.decay, self.seed = whole(epochs), lr, decay, seed

    def solve(self, probe, units, batches):
        owner = units.owner

        def total(values):
            return torch.zeros(units.number, dtype=torch.float64).index_add_(0, owner, values)[owner]

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
        far = total((images / steps - quotients / steps * vector)**2).sqrt() / (quotients / steps).abs()
        rest = float(far.nan_to_num(0.0).median()) if len(far) else 0.0  # of a node that S does nothing to: 0
        if rest > FAR:
            warnings.warn(f"the fast route has not converged: S v differs from the eigenvalue times v by {100 * rest:.0f} % of "
                          "it at half of the weights. Give route=neuralgraph.growing.Fast(epochs=N, lr=LR) more steps, or "
                          "route='exact'.", stacklevel=2)
        return value, vector


ROUTES: dict[str, type[Route]] = {"exact": Exact, "fast": Fast}
