"""What the security page promises: data is not executed, nothing is fetched or written, paths stay inside."""

import json
import os
import pickle
import sys

import fusednorm as fn
import numpy as np
import pytest
from fusednorm.commands import files
from processes import run_python

# Python reports each of these to an audit hook, whatever library does it.
AUDITED = """
import sys
FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class", "urllib.")

def hook(event, arguments):
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3 and arguments[0] != "/dev/null"
    if event.startswith(FORBIDDEN) or writes:
        print("AUDIT", event, arguments, file=sys.stderr)

from fusednorm.__main__ import main
sys.addaudithook(hook)
sys.exit(main())
"""


class Hostile:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def write_hostile(folder, trace):
    array = np.array([Hostile(trace), 1], object)
    np.save(folder / "objects.npy", array, allow_pickle=True)
    np.savez(folder / "objects.npz", array)
    (folder / "plain.npy").write_bytes(pickle.dumps(Hostile(trace)))
    (folder / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) (w) file\nshowpage\n")
    (folder / "page.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    np.save(folder / "good.npy", np.ones((4, 3)))


def test_the_command_executes_fetches_and_writes_nothing(tmp_path):
    pytest.importorskip("PIL")
    folder, trace = tmp_path / "data", str(tmp_path / "trace")
    folder.mkdir()
    write_hostile(folder, trace)
    result = run_python("-B", "-c", AUDITED, "stats", "--json", str(folder))
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert (said["files"], said["skipped"]) == (1, 4)
    assert "AUDIT" not in result.stderr
    assert not os.path.exists(trace)


def test_the_hook_sees_what_is_forbidden(tmp_path):
    """Else the test above could not fail."""
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(Hostile(str(tmp_path / "trace"))))
    code = AUDITED.replace(
        "sys.exit(main())", f"import pickle, socket; pickle.load(open({str(path)!r}, 'rb')); socket.socket()"
    )
    seen = {line.split()[1] for line in run_python("-B", "-c", code).stderr.splitlines() if line.startswith("AUDIT")}
    assert {"pickle.find_class", "open", "socket.__new__"} <= seen


@pytest.mark.parametrize(
    "load", [fn.BatchNorm1d(2).load_state_dict, lambda state: fn.from_state(fn.BatchNorm1d, state, "torch")]
)
def test_states_come_from_mappings_alone(load, tmp_path):
    path = tmp_path / "state.npz"
    np.savez(path, weight=np.ones(2))
    with pytest.raises(TypeError):
        load(str(path))


@pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
@pytest.mark.parametrize("pattern", ["*.npy", "**/*.npy", "*", "*/*.npy"])
def test_patterns_follow_links_when_asked(pattern, tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "sub").mkdir(parents=True)
    outside.mkdir()
    for folder in (inside, inside / "sub", outside):
        np.save(folder / "x.npy", np.ones((2, 3)))
    (inside / "file.npy").symlink_to(outside / "x.npy")
    (inside / "folder").symlink_to(outside)
    found = files.find_files([str(inside / pattern)], follow_symlinks=False)
    own = {str(inside / "x.npy"), str(inside / "sub" / "x.npy")}
    assert set(found) <= own
    assert found
    assert set(files.find_files([str(inside / pattern)], follow_symlinks=True)) - own
    # A link that the pattern spells out is meant.
    assert files.find_files([str(inside / "folder" / "*.npy")], follow_symlinks=False) == [str(inside / "folder" / "x.npy")]
