"""Which layers meet the input, and which give the output."""


import pytest
import torch
from branches import IMAGES, Branches, Looping
from loops import Net
from torch import nn

import neuralgraph as ng


def test_the_last_layers_are_found():
    from neuralgraph.layers.order import last_layers

    model, names = Net(), ("stem", "body", "head")
    layers = {name: model.get_submodule(name) for name in names}
    assert last_layers(model, layers) == last_layers(model, layers, torch.randn(1, 2, 7, 7)) == ["head"]

    class Heads(Net):
        def forward(self, x):
            y = self.stem(x)
            return (self.body(y), self.head(y.mean(1, keepdim=True).flatten(1)[:, :8])) if x.sum() else None

    model = Heads()
    layers = {name: model.get_submodule(name) for name in names}
    assert last_layers(model, layers, torch.ones(1, 2, 7, 7)) == ["body", "head"]
    with pytest.warns(UserWarning, match="'head', the layer that was registered last"):
        assert last_layers(model, layers) == ["head"]
    sparse = ng.sparsify(Net(), 0.2, selector="srigl")
    assert sparse.head.selector.candidates.is_output().all() and not sparse.body.selector.candidates.is_output().any()


def test_the_first_layers_are_those_that_the_input_meets():
    sparse = ng.sparsify(Branches(), 0.5)
    assert [name for name, layer in sparse.named_modules() if isinstance(layer, ng.layers.Sparse)] == \
        ["head", "body", "up"]
    run = ng.sparsify(Looping(), 0.5, example=IMAGES)
    assert [type(layer) for layer in run.children()] == [type(layer) for layer in sparse.children()]
    with pytest.warns(UserWarning, match="cannot follow the data.*'head'"):
        assert type(ng.sparsify(Looping(), 0.5).left) is ng.SparseConv2d
    embedded = ng.sparsify(nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4)), 0.5, example=torch.arange(5))
    assert type(embedded[0]) is nn.Embedding
