"""Wirings and networks are made on the CPU, whatever torch's default device is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Made = TypeVar("Made")


def on_cpu(make: Callable[Arguments, Made]) -> Callable[Arguments, Made]:
    """A function or constructor that makes its tensors on the CPU; a network is moved afterwards, if at all."""
    @functools.wraps(make)
    def made_on_cpu(*arguments: Arguments.args, **options: Arguments.kwargs) -> Made:
        with torch.device("cpu"):
            return make(*arguments, **options)
    return made_on_cpu
