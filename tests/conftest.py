"""The report header, and the fixtures that more than one file uses."""

import os
import platform
from importlib import metadata
from pathlib import Path

import fusednorm as fn
import numpy as np
import pytest


def cpu_model():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def version_of(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def pytest_report_header():
    config = fn.show_config("dicts")
    versions = {
        "fusednorm": config["version"],
        "numpy": np.__version__,
        "torch": version_of("torch"),
        "python": platform.python_version(),
    }
    return [
        f"cpu: {cpu_model()}, {os.cpu_count()} CPUs; isa: {config['isa']} of {', '.join(config['isas_available'])}",
        f"threads: {config['threads']}, {config['openmp']}; compiler: {config['compiler']}",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)


@pytest.fixture
def restore_threads():
    """Whatever a test sets, the next one starts with the number of threads that this one started with."""
    before = fn.get_num_threads()
    yield
    fn.set_num_threads(before)


@pytest.fixture
def four_threads(restore_threads):
    fn.set_num_threads(4)
