"""The examples in the docstrings, from the package that is installed."""

import doctest
import importlib
import pkgutil

import fusednorm
import pytest

MODULES = sorted(
    m.name for m in pkgutil.walk_packages(fusednorm.__path__, "fusednorm.") if not m.name.endswith(("__main__", "_core"))
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    if name == "fusednorm.dask":
        pytest.importorskip("dask.array")
    module = importlib.import_module(name)
    result = doctest.testmod(module)
    assert result.failed == 0
    if name == "fusednorm.functional.batch":
        assert result.attempted > 0
