"""`fusednorm.mpi` on four processes of a real MPI, where one is installed: the checks are in ranks.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import fusednorm.mpi as fm
import pytest
from processes import SECONDS, output_of

# An environment's own MPI is found without it being activated.
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
# Open MPI refuses root and more processes than processors, unless told; MPICH reads none of these.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


@pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec")
@pytest.mark.slow
def test_four_ranks():
    pytest.importorskip("mpi4py")
    command = [MPIEXEC, "-n", "4", sys.executable, str(Path(__file__).parent / "ranks.py")]
    environment = os.environ | OPEN_MPI | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "fine"


def test_import_starts_no_mpi():
    assert output_of("import sys, fusednorm.mpi; print('mpi4py' in sys.modules)") == "False"


WITHOUT_MPI4PY = """
import sys, fusednorm as fn, fusednorm.mpi as fm
sys.modules["mpi4py"] = None
for call in (lambda: fm.allreduce(fn.RunningMoments(), None), lambda: fm.SyncBatchNorm(1)([[1.0], [2.0]])):
    try:
        call()
    except ModuleNotFoundError as error:
        print(error.name, error)
"""


def test_without_mpi4py():
    assert output_of(WITHOUT_MPI4PY).splitlines() == ["mpi4py fusednorm.mpi needs mpi4py: pip install 'fusednorm[mpi]'"] * 2


def test_errors_without_mpi():
    with pytest.raises(TypeError, match="allreduce: stats: expected RunningMoments, got int"):
        fm.allreduce(1, None)


def test_eval_sends_nothing(rng):
    layer = fm.SyncBatchNorm(3, eps=0).eval()
    x = rng.normal(size=(4, 3)).astype("f4")
    assert (layer(x) == x).all()
