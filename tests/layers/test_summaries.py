"""What a summary says of each layer."""

from branches import Branches

import neuralgraph as ng


def test_the_summary_says_what_stayed_dense_and_why():
    table = ng.layers.summary(ng.sparsify(Branches(), 0.25, skip=["up"]))
    assert [(row.name, row.weights, row.real, row.reason) for row in table.layers] == [
        ("head", 40, 10, ""), ("left", 216, None, "the first layer"), ("right", 24, None, "the first layer"),
        ("body", 576, 144, ""), ("up", 128, None, "in skip")]
    assert (table.weights, table.real) == (616, 154)
    assert table.density == (154 + 216 + 24 + 128) / 984
    assert "together" in str(table) and "dense: in skip" in str(table)
