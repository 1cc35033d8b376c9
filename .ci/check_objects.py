"""Check the compiled objects: what keeps a wheel from crashing on a processor without the instructions it was built with.

Usage: check_objects.py BUILD_FOLDER. Each kernel object exports its table and nothing else, weak symbols included, and needs
nothing but memory functions; no object but those of the instruction sets uses more than the baseline; the module exports
its init function only.
"""

import re
import subprocess
import sys
from pathlib import Path

ALLOWED_UNDEFINED = {"memcpy", "memset", "memmove", "_GLOBAL_OFFSET_TABLE_"}
# AVX and later name their instructions v...; the wide registers and the mask registers say which.
ABOVE_BASELINE = re.compile(r"^\s*[0-9a-f]+:\s+(?:\{\w+\} )?v[a-z]|%[yz]mm|%k[0-7]")
ABOVE_AVX2 = re.compile(r"%zmm|%k[0-7]|%[xy]mm(?:1[6-9]|2\d|3[01])")


def output(*command: str | Path) -> str:
    """Standard output of a command."""
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout


def kernel_symbols(path: Path) -> list[str]:
    """Complaints about the symbols of a kernel object."""
    problems, exported = [], []
    for line in output("nm", "-C", path).splitlines():
        kind, name = line[17:18], line[19:]
        if kind in "VvWwu":
            problems.append(f"{path.name}: weak symbol {name}")
        elif kind == "U":
            if name not in ALLOWED_UNDEFINED:
                problems.append(f"{path.name}: needs {name}")
        elif kind.isupper():
            exported.append(name)
    if len(exported) != 1 or not exported[0].endswith("::table"):
        problems.append(f"{path.name}: expected to export its table alone, exports {exported}")
    return problems


def instructions_above(path: Path, pattern: re.Pattern[str]) -> list[str]:
    """Complaints about instructions that the object must not use; the first one is enough."""
    for line in output("objdump", "-d", "--no-show-raw-insn", path).splitlines():
        if pattern.search(line):
            return [f"{path.name}: instruction above its set: {line.strip()}"]
    return []


def main() -> int:
    """Run every check."""
    build = Path(sys.argv[1])
    problems: list[str] = []
    kernels = sorted(build.glob("**/kernels_*.dir/**/*.o"))
    others = sorted(build.glob("**/_core.dir/**/*.o"))
    modules = sorted(build.glob("**/_core*.so"))
    if not kernels or not others or not modules:
        print(f"check_objects: nothing to check in {build}")
        return 1
    x86 = "x86-64" in output("objdump", "-f", others[0])
    for path in kernels:
        problems += kernel_symbols(path)
        isa = next(part for part in path.parts if part.startswith("kernels_"))[len("kernels_") : -len(".dir")]
        if x86 and isa in ("baseline", "avx2"):
            problems += instructions_above(path, ABOVE_BASELINE if isa == "baseline" else ABOVE_AVX2)
    for path in others if x86 else []:
        problems += instructions_above(path, ABOVE_BASELINE)
    for path in modules:
        exported = [line.split()[-1] for line in output("nm", "-D", "--defined-only", path).splitlines()]
        if exported != ["PyInit__core"]:
            problems.append(f"{path.name}: expected to export PyInit__core alone, exports {exported}")
    for problem in problems:
        print(f"check_objects: {problem}")
    print(
        f"check_objects: {len(kernels)} kernel objects, {len(others)} others, {len(modules)} module: {len(problems)} problems"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
