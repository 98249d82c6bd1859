"""What differs between versions of PyTorch."""

from __future__ import annotations

import torch

if hasattr(torch.compiler, "is_compiling"):
    is_compiling = torch.compiler.is_compiling
else:  # before torch 2.3
    is_compiling = torch._utils.is_compiling
