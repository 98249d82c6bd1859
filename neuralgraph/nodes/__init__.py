"""What nodes compute: channel operations, and the grouping of nodes with equal functions."""

from .functions import NodeFunctions, NodeGroup
from .operations import (Activation, BatchNorm, Bias, DepthwiseConv, InstanceNorm, Operation)

__all__ = ["Activation", "BatchNorm", "Bias", "DepthwiseConv", "InstanceNorm", "NodeFunctions",
           "NodeGroup", "Operation"]
