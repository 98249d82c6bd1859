"""Layers that became alike are one that is called again."""

import torch
from shared import PLACES, assign, convolutions, mixing, small, untied

from neuralgraph.sharing import bake, fold, parameter_groups, share, similarity


def test_similarity_is_the_absolute_cosine():
    model = share(small(), templates=2)
    rows = [[1.0, 0.0], [3.0, 4.0], [-2.0, 0.0], [0.0, 1.0]]
    for place, row in zip(PLACES, rows):
        assign(model[place], row)
    [found] = similarity(model)
    assert found.names == ("2", "5", "8", "11")
    expected = torch.tensor([[1, 0.6, 1, 0], [0.6, 1, 0.6, 0.8], [1, 0.6, 1, 0], [0, 0.8, 0, 1]])
    torch.testing.assert_close(found.matrix, expected)


def test_folded_equals_unfolded_where_layers_are_parallel():
    model = share(small(), templates=3).eval()
    for place, row in zip(PLACES, [[1.0, 2.0, 0.0], [1.0, 2.0, 0.0], [-0.5, -1.0, 0.0], [0.0, 0.0, 1.0]]):
        assign(model[place], row)
    folded, x = fold(model), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(folded(x), model(x))
    assert mixing(folded[5])[1] is mixing(folded[2])[1] and mixing(folded[8])[1] is mixing(folded[2])[1]
    assert mixing(folded[11])[1] is not mixing(folded[2])[1]
    assert folded[5] is not folded[2]  # their biases differ
    baked = bake(folded)
    assert baked[5].weight is baked[2].weight and baked[8].weight is not baked[2].weight
    torch.testing.assert_close(baked(x), model(x))
    assert torch.equal(fold(folded)(x), folded(x))


def test_equal_layers_become_one_that_is_called_again():
    model = share(small(), templates=2).eval()
    for place in PLACES:
        assign(model[place], [1.0, 0.5])
        with torch.no_grad():
            model[place].bias.copy_(model[2].bias)
    folded, x = fold(model), torch.randn(2, 3, 8, 8)
    assert all(folded[place] is folded[2] for place in PLACES)
    assert torch.equal(folded(x), model(x))
    before = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in folded.parameters()) == before - 3 * (2 + 6)
    optimizer = torch.optim.SGD(parameter_groups(folded), lr=0.1)
    folded(x).square().sum().backward()
    optimizer.step()
    baked = bake(folded)
    assert baked[5] is baked[2] and torch.equal(baked.eval()(x), folded.eval()(x))


def test_a_threshold_folds_what_is_nearly_alike():
    model = share(small(), templates=2)
    for place, row in zip(PLACES, [[1.0, 0.0], [1.0, 0.2], [1.0, 1.0], [0.0, 1.0]]):
        assign(model[place], row)
    folded = fold(model, threshold=0.95)
    assert mixing(folded[5])[1] is mixing(folded[2])[1]
    assert mixing(folded[8])[1] is not mixing(folded[2])[1]
    torch.testing.assert_close(folded[5].weight, mixing(model[2])[0][0])  # <a_j, a_i> / <a_i, a_i> = 1


def test_folded_steps_are_one_operation():
    network = untied(templates=2).eval()
    for operation in convolutions(network):
        assign(operation, [1.0, -1.0])
    folded, x = fold(network), torch.randn(2, 2, 6, 6)
    assert len({id(operation) for operation in convolutions(folded)}) == 1
    assert torch.equal(folded(x), network(x))
