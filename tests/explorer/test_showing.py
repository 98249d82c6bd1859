"""What cannot be shown is refused with the reason."""

import pytest
import torch
from click.testing import CliRunner

import neuralgraph as ng
from neuralgraph.analysis import Attribution
from neuralgraph.cli import main
from neuralgraph.errors import InputError


def test_what_cannot_be_explored_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="neither a run nor a history"):
        ng.explore(tmp_path / "absent")
    with pytest.raises(InputError, match="expected the folder of a run"):
        ng.explore(3)
    with pytest.raises(InputError, match="no neural graph inside"):
        ng.explore(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="two side by side, got 3"):
        ng.explore(run, run, run)
    with pytest.raises(InputError, match="no folder"):
        ng.explore(run, out=tmp_path / "absent" / "x.html")
    edges, nodes = 325_760, 900
    for foreign in (Attribution(torch.ones(edges - 1), torch.ones(nodes)), Attribution(torch.ones(edges), torch.ones(nodes))):
        with pytest.raises(InputError, match="of another model"):
            ng.explore(run, attributions={"1": (foreign,)})
    with pytest.raises(InputError, match="what ng.analysis.attribution returns"):
        ng.explore(run, attributions={"1": foreign})
    with pytest.raises(InputError, match="what ng.analysis.circuit returns"):
        ng.explore(run, circuits={"1": (foreign,)})
    with pytest.raises(InputError, match="what ng.analysis.null_model returns"):
        ng.explore(run, null_models={"1": foreign})
    with pytest.raises(InputError, match="belong to one model"):
        ng.explore(run, run, attributions={"1": (foreign,)})
    for arguments, message in ((["--port", "1"], "--port belongs to --live"), (["--images", "9"], "--images belongs to"),
                               (["--live", "--circuits"], "--live follows"), ([str(run), "--circuits"], "belong to one model"),
                               (["--live", "--null-models"], "--live follows"), (["--live", "--out", "x"], "--live follows"),
                               ([str(run), "--live"], "--live follows")):
        result = CliRunner().invoke(main, ["explore", str(run), *arguments])
        assert result.exit_code == 2 and message in result.output
