"""Wirings and networks are made on the CPU, whatever torch's default device is."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch


def on_cpu(make: Callable) -> Callable:
    """A function or constructor that makes its tensors on the CPU; a network is moved afterwards, if at all."""
    @functools.wraps(make)
    def made_on_cpu(*arguments, **options):
        with torch.device("cpu"):
            return make(*arguments, **options)
    return made_on_cpu
