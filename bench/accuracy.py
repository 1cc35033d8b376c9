"""The error table of the README: `python bench/accuracy.py --markdown FILE`.

How far the normalized output is from the float64 formula, for data whose mean is 1 to 1,000,000 times its standard
deviation. The formula gets the same float32 array, so the errors are those of the computation, not of the data.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cases import EPS, Array, Case, Input, both_layouts, formula, make_input, view
from peers import FusedNorm
from report import markdown

RATIOS = (1, 100, 10_000, 1_000_000)
CASES = [
    *both_layouts("eval", "batch norm, eval", "batch_eval", (8, 64, 56, 56)),
    *both_layouts("train", "batch norm, training", "batch_train", (8, 64, 56, 56)),
    Case("row", "layer norm", "layer", (1024, 768)),
    *both_layouts("group", "group norm", "group", (2, 320, 64, 64), groups=32),
]


def offset_input(case: Case, ratio: float) -> tuple[Input, Input]:
    """Standard normal data plus `ratio`, with its exact statistics: as float32, and the same values as float64."""
    data = make_input(case)
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(case.shape) + ratio).astype(np.float32)
    exact = x.astype(np.float64).reshape(view(case).shape)
    mean, var = data.mean, data.var
    if case.op == "batch_eval":
        mean, var = (a.astype(np.float32) for a in (exact.mean(view(case).axes), exact.var(view(case).axes)))
    single = Input(x, data.weight, data.bias, mean, var)
    return single, Input(*(a.astype(np.float64) for a in single))


def folded(case: Case, data: Input) -> list[Array]:
    """What frameworks compute in eval mode: x * scale + shift, in float32."""
    shape, axes, parameters = view(case)
    x = data.x.reshape(shape)
    if case.op == "batch_eval":
        mean, var = data.mean.reshape(parameters), data.var.reshape(parameters)
    else:
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    scale = data.weight.reshape(parameters) / np.sqrt(var + EPS)
    shift = data.bias.reshape(parameters) - mean * scale
    return [x * scale + shift]


def own(case: Case, data: Input) -> list[Array]:
    result: Any = FusedNorm(threads=1).prepare(case, data)()
    return [result]


def largest_error(case: Case, got: Array, expected: Array, weight: Array) -> float:
    """The largest difference of the outputs, each divided by its weight."""
    shape, _, parameters = view(case)
    return float((np.abs(got.reshape(shape) - expected.reshape(shape)) / np.abs(weight.reshape(parameters))).max())


COLUMNS: dict[str, Callable[[Case, Input], list[Array]]] = {
    "fusednorm": own,
    "NumPy, textbook": formula,
    "NumPy, folded": folded,
}


def rows() -> list[list[str]]:
    result = []
    for case in CASES:
        errors: dict[str, list[str]] = {name: [] for name in COLUMNS}
        for ratio in RATIOS:
            single, double = offset_input(case, ratio)
            expected = formula(case, double)[0]
            for name, compute in COLUMNS.items():
                errors[name].append(f"{largest_error(case, compute(case, single)[0], expected, double.weight):.0e}")
        layout = "-" if case.by_row else "last" if case.last else "first"
        labels = [[case.layer, layout], ["", ""], ["", ""]]  # once is easier to read
        result += [[*label, name, *values] for label, (name, values) in zip(labels, errors.items(), strict=True)]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python bench/accuracy.py", description="Make the error table of the README.")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, too")
    arguments = parser.parse_args()
    header = ["float32", "channels", "computed by", *(f"mean/std {ratio:,}" for ratio in RATIOS)]
    table = (
        f"{markdown(header, rows(), left=3)}\n"
        "Largest error of the output, relative to the weight, against the float64 formula on the same float32 array.\n"
    )
    print(table, end="")
    if arguments.markdown:
        arguments.markdown.write_text(table)


if __name__ == "__main__":
    main()
