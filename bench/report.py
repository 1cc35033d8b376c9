"""What becomes of the figures: the Markdown table, the comparison with an earlier run, the plot, the machine's description."""

import datetime
import math
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cases import SUITES
from peers import PEERS

TITLES = {
    "eval": "Batch norm, inference",
    "train": "Batch norm, training",
    "row": "Layer norm, RMS norm",
    "group": "Group norm, instance norm",
    "moments": "Mean and variance",
}
OWN = ("fusednorm", "fusednorm-out")
MARKERS = {"numpy-tuned": ("o", "#8a8a8a"), "numba": ("s", "#e0a000"), "onnxruntime": ("D", "#b03a5b")}
COLORS = {False: "#1f5fa8", True: "#7fb2e5"}


def describe_machine() -> dict[str, Any]:
    here = Path(__file__).parent
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=10"], cwd=here, capture_output=True, text=True, check=False
    )
    return {
        "cpu": cpu,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or "unknown",
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
    }


def describe(record: dict[str, Any]) -> str:
    """One line: what was measured on what."""
    machine = record["machine"]
    own = machine["fusednorm"]
    versions = ", ".join(f"{name} {machine[key]}" for key, name in versions_of(machine))
    return (
        f"{machine['cpu']}, {own['threads']} thread{'s' * (own['threads'] != 1)}; fusednorm {own['version']} "
        f"({machine['commit']}, {own['isa']}, {own['compiler']}); {versions}; {machine['date']}"
    )


def versions_of(machine: dict[str, Any]) -> list[tuple[str, str]]:
    known = {"numpy": "NumPy", "numba": "Numba", "onnxruntime": "ONNX Runtime", "python": "Python"}
    return [(key, name) for key, name in known.items() if key in machine]


def peers_of(record: dict[str, Any]) -> list[str]:
    return [peer for peer in PEERS if peer not in OWN and any(peer in case["ratio"] for case in record["cases"])]


def markdown(header: list[str], rows: list[list[str]], left: int = 1) -> str:
    """A Markdown table whose columns also line up in a terminal; all but the first `left` to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    rule = ["-" * (width - 1) + ("-" if i < left else ":") for i, width in enumerate(widths)]
    pad = [
        [cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in [header, *rows]
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [pad[0], rule, *pad[1:]]) + "\n"


def microseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    value = seconds * 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def geometric_mean(values: Iterable[float]) -> float | None:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def table(record: dict[str, Any]) -> str:
    """Every case, then the geometric means."""
    peers, cases = peers_of(record), record["cases"]
    names = [PEERS[peer][0] for peer in peers]
    rows = [
        [
            case["label"],
            case["suite"],
            "-" if case["suite"] == "row" else "last" if case["last"] else "first",
            *(microseconds(case["seconds"].get(peer)) for peer in (*OWN, "numpy")),
            *(times(case["ratio"].get(peer)) for peer in peers),
        ]
        for case in cases
    ]
    header = ["layer and shape", "suite", "channels", "µs", "µs, out=", "NumPy µs", *(f"vs. {name}" for name in names)]
    return (
        f"{describe(record)}\n\n{markdown(header, rows, left=3)}\n"
        "vs.: the peer's time divided by fusednorm's (result allocated by the call), the median over the rounds.\n\n"
        f"{summary(cases, peers)}"
    )


def summary(cases: list[dict[str, Any]], peers: list[str]) -> str:
    rows = []
    measured = [suite for suite in SUITES if any(case["suite"] == suite for case in cases)]
    for suite in measured + ["all"] * (len(measured) > 1):
        chosen = [case for case in cases if suite in (case["suite"], "all")]
        cells = []
        for peer in peers:
            ratios = [case["ratio"][peer] for case in chosen if peer in case["ratio"]]
            cells.append(f"{times(geometric_mean(ratios))} ({times(min(ratios))})" if ratios else "-")
        rows.append([suite, *cells])
    return markdown(["geometric mean (worst)", *(f"vs. {PEERS[peer][0]}" for peer in peers)], rows)


def comparison(record: dict[str, Any], earlier: dict[str, Any]) -> str:
    """The earlier time over the present one, case by case. NumPy's shows what the machine contributed."""
    before = {case["name"]: case["seconds"] for case in earlier["cases"]}
    rows, ratios = [], []
    for case in record["cases"]:
        old, new = before.get(case["name"]), case["seconds"]
        if old:
            ratios.append(old["fusednorm"] / new["fusednorm"])
            drift = old["numpy"] / new["numpy"] if "numpy" in old and "numpy" in new else None
            rows.append([case["name"], *(microseconds(t["fusednorm"]) for t in (old, new)), times(ratios[-1]), times(drift)])
    rows.append(["geometric mean", "", "", times(geometric_mean(ratios)), ""])
    header = ["case", "earlier µs", "µs", "earlier / now", "NumPy: earlier / now"]
    return f"earlier: {describe(earlier)}\n\n{markdown(header, rows)}"


def plot(record: dict[str, Any], file: Path) -> None:
    """Draw the speed-up over NumPy: a row for each layer, a bar for each layout, a mark for each other peer."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    matplotlib.rcParams.update({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "fusednorm"})
    rows = plot_rows(record["cases"])
    figure = Figure(figsize=(9, 1.5 + 0.25 * len(rows)), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for y, (_, cases) in enumerate(rows):
        for case in cases:
            draw_case(axes, case, y + (0.2 if case["last"] else -0.2) * (len(cases) > 1), 0.38 if len(cases) > 1 else 0.5)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    for text, (_, cases) in zip(axes.get_yticklabels(), rows, strict=True):
        text.set_fontweight("normal" if cases else "bold")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    style(axes)
    title = "Times faster than NumPy's textbook formula"
    key = figure.legend(handles=legend(record), loc="outside upper left", ncols=5, frameon=False, fontsize=8, alignment="left")
    key.set_title(title, prop=FontProperties(weight="bold", size=11))
    figure.supxlabel(describe(record).replace("; ", "\n", 1), fontsize=7, color="#555555")
    figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)


def plot_rows(cases: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The plot's rows from above: a suite's title without cases, then its layers, each with a case for each layout."""
    rows: list[tuple[str, list[dict[str, Any]]]] = []
    for suite in SUITES:
        layers: dict[str, list[dict[str, Any]]] = {}
        for case in cases:
            if case["suite"] == suite:
                layers.setdefault(case["label"], []).append(case)
        rows += [(TITLES[suite], [])] * bool(layers) + list(layers.items())
    return rows


def draw_case(axes: Any, case: dict[str, Any], y: float, height: float) -> None:
    speedup = case["ratio"]["numpy"]
    axes.barh(y, speedup - 1, height, left=1, color=COLORS[case["last"]], zorder=2)
    # The figures stand in a column of their own: at the bars' ends the marks would cover them.
    axes.text(1.01, y, f"{times(speedup)}x", va="center", fontsize=7, transform=axes.get_yaxis_transform())
    for peer, (marker, color) in MARKERS.items():
        if peer in case["ratio"]:
            value = speedup / case["ratio"][peer]
            axes.plot(value, y, marker, color=color, markersize=4.5, markeredgecolor="white", markeredgewidth=0.6, zorder=3)


def style(axes: Any) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.grid(axis="x", which="major", color="#dddddd", zorder=0)
    axes.axvline(1, color="#333333", linewidth=1, zorder=4)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def legend(record: dict[str, Any]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=COLORS[False], label="fusednorm"),
        Patch(color=COLORS[True], label="fusednorm, channels-last"),
    ]
    for peer in peers_of(record):
        if peer in MARKERS:
            marker, color = MARKERS[peer]
            handles.append(Line2D([], [], marker=marker, color=color, linestyle="", markersize=5, label=PEERS[peer][0]))
    return handles
