"""How the learning rate goes over a training."""

from __future__ import annotations

import math
from collections.abc import Callable

# (finished steps, steps per epoch, epochs) -> what the learning rates are multiplied by
Schedule = Callable[[int, int, int], float]


def cosine(step: int, steps_per_epoch: int, epochs: int) -> float:
    """(1 + cos(pi t / T)) / 2 with t = step + 1 and T all steps, as in the authors' code.

    >>> cosine(0, 1, 2), cosine(1, 1, 2)
    (0.5, 0.0)
    """
    return (1 + math.cos(math.pi * (step + 1) / (steps_per_epoch * epochs))) / 2


def constant(step: int, steps_per_epoch: int, epochs: int) -> float:
    """1."""
    return 1.0


def steps(milestones: tuple[int, ...], factor: float) -> Schedule:
    """``factor`` for every milestone, in epochs, that is passed.

    >>> schedule = steps((1, 2), 0.1)
    >>> schedule(0, 5, 3), schedule(5, 5, 3)
    (1.0, 0.1)
    """
    def schedule(step, steps_per_epoch, epochs):
        return factor**sum(step // steps_per_epoch >= milestone for milestone in milestones)

    return schedule


SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "constant": constant}
