"""A run, its page, and a browser, once for all files of this folder."""

import pytest
from browsing import CHROMIUM, Page
from click.testing import CliRunner

from neuralgraph.cli import main


@pytest.fixture(scope="session", autouse=True)
def bokeh():
    pytest.importorskip("bokeh")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explorer") / "run"
    result = CliRunner().invoke(main, ["train", "tiny-static", "--epochs", "2", "--out", str(folder)],
                                catch_exceptions=False)
    assert result.exit_code == 0
    return folder


@pytest.fixture(scope="session")
def html(run):
    path = run.parent / "run.html"
    result = CliRunner().invoke(main, ["explore", str(run), "--out", str(path)], catch_exceptions=False)
    assert result.exit_code == 0 and "open it in a browser" in result.output
    return path


@pytest.fixture
def page(browser, html):
    page = Page(browser, html.as_uri())
    yield page
    page.close()
