"""Running code in a process of its own, with a time limit, so that what hangs fails."""

import os
import subprocess
import sys

SECONDS = 120


def run_python(*arguments, **environment):
    """Run this Python; returns what `subprocess.run` does. A variable set to None is taken out of the environment."""
    variables = {name: value for name, value in (os.environ | environment).items() if value is not None}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=SECONDS, check=False)


def output_of(code, **environment):
    """Return what the code prints; its failure is the test's."""
    result = run_python("-W", "error", "-c", code, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
