"""What belongs to which class, by the command."""

import json

from click.testing import CliRunner

import neuralgraph as ng
from neuralgraph.cli import main


def test_the_command_tells_classes_apart(run, tmp_path):
    result = CliRunner().invoke(main, ["explore", str(run), "--attributions", "--images", "60", "--null-models", "--out",
                                       str(tmp_path / "a.html")], catch_exceptions=False)
    assert result.exit_code == 0
    content = (tmp_path / "a.html").read_text()
    chance = ng.analysis.null_model(ng.training.open_model(run)[1].networks[0], "bi-fans", 50, kind="blocks")
    assert json.dumps({"name": "bi-fans", "text": str(chance)})[1:-1] in content
    assert '"attributions": [{"name": "0", "graphs": [{"edges": "' in content and '"circuits": []' in content
