"""What a release says: one version, and a changelog that starts with it; the site's examples."""

import doctest
import re
from pathlib import Path

import fusednorm as fn
import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / ".docs").glob("*.md"))


def text_of(path):
    """Return a file's text; it is not in the sdist."""
    if not (ROOT / path).exists():
        pytest.skip(f"needs {path}")
    return (ROOT / path).read_text()


def test_the_project_has_one_version():
    """Installed and imported from the same source."""
    (version,) = re.findall(r'(?m)^version = "(.*)"$', text_of("pyproject.toml"))
    assert fn.__version__ == version
    assert version not in text_of(".docs/conf.py") + text_of("CMakeLists.txt")


def test_changelog_starts_with_the_version():
    first = re.search(r"(?m)^## (\S+)", text_of(".github/CHANGELOG.md"))
    assert first is not None
    assert first[1] == fn.__version__


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_examples_of_the_site(page):
    if "fusednorm.dask" in page.read_text():
        pytest.importorskip("dask.array")
    result = doctest.testfile(str(page), module_relative=False)
    assert result.failed == 0


def test_pages_are_in_the_table_of_contents():
    index = text_of(".docs/index.md")
    names = {path.stem for path in (ROOT / ".docs").iterdir() if path.suffix in (".md", ".rst")} - {"index"}
    assert names == set(index.split(":maxdepth: 1")[1].split("```")[0].split())
