"""Plans of networks of which each takes the outputs of the one before, as one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .plan import Group, Plan
from .steps import by_dst, simplified


def joined(first: Plan, second: Plan) -> Plan:
    """One plan for a network that takes the outputs of another.

    What an output of the first and the input of the second that reads it compute is one function of
    one node, so that the maps between them are never written; an output that several inputs read is
    computed for each.
    """
    shift = 1 + max((int(group.nodes.max()) for group in (*first.before, *first.groups)), default=-1)
    height = max((group.level for group in first.groups), default=0)
    level_before = 1 + max((group.level for group in first.before), default=0)

    def moved(group: Group, level: int) -> Group:
        return replace(group, nodes=group.nodes + shift, level=group.level + level,
                       scale=group.scale * first.output_scale)

    groups = [group for group in first.groups if group.outputs is None]
    producer, consumer = [], []  # nodes of the first and of the joined plan
    for group in second.groups:
        if group.kind != "input":
            groups.append(moved(group, height))
            continue
        assert group.channels is not None  # it reads the data
        for maker in first.groups:
            if maker.outputs is None:
                continue
            order = np.argsort(maker.outputs)
            place = order[np.searchsorted(maker.outputs, group.channels, sorter=order) % len(order)]
            reads = maker.outputs[place] == group.channels
            if reads.any():
                made, read = maker.of(place[reads]), group.of(reads)
                groups.append(replace(made, nodes=read.nodes + shift, outputs=read.outputs,
                                      steps=simplified([*made.steps, *read.steps])))
                producer.append(made.nodes)
                consumer.append(groups[-1].nodes)
    producer, consumer = (np.concatenate([np.zeros(0, int), *nodes]) for nodes in (producer, consumer))
    is_output = np.zeros(shift, bool)
    for group in first.groups:
        is_output[group.nodes] = group.outputs is not None
    inner = ~is_output[first.dst]
    begin, end = np.searchsorted(first.dst, producer), np.searchsorted(first.dst, producer + 1)
    count = end - begin
    edges = np.arange(count.sum()) + (begin - count.cumsum() + count).repeat(count)
    src, dst, weight = by_dst(
        np.concatenate([first.src[inner], first.src[edges], second.src + shift]),
        np.concatenate([first.dst[inner], consumer.repeat(count), second.dst + shift]),
        np.concatenate([first.weight[inner], first.weight[edges], second.weight]))
    groups.sort(key=lambda group: group.level)
    return Plan(first.dtype, first.num_inputs, second.num_outputs, first.output_scale * second.output_scale,
                groups, src, dst, weight, [*first.before, *(moved(g, level_before) for g in second.before)], first.dims)
