"""Plot the validation KID of runs over images shown, with their yardsticks.

``python benchmarks/kid_curve.py RUN_DIR... --out FILE.png`` draws one panel per run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import matplotlib
import typer

from federation.run_directory import read_lines, written_atomically

matplotlib.use("Agg")
from matplotlib import pyplot as plt

YARDSTICKS = {
    "kid_mean_image": ("mean image", "#7F7F7F"),
    "kid_pca_gaussian": ("PCA Gaussian", "#D55E00"),
    "kid_blurred_16": ("real, blurred to 16 px", "#E69F00"),
    "kid_floor": ("real against real", "#009E73"),
}


def main(run_dirs: list[Path], out: Annotated[Path, typer.Option()]) -> None:
    """Draw a panel for each run."""
    figure, axes = plt.subplots(1, len(run_dirs), figsize=(5 * len(run_dirs), 3.8), squeeze=False)
    for axis, run_dir in zip(axes[0], run_dirs, strict=True):
        summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
        lines = [line for line in read_lines(run_dir / "metrics.jsonl") if line["round"] > 0]
        axis.plot(
            [line["images"] / 1000 for line in lines],
            [line["kid"] for line in lines],
            marker="o",
            color="#0072B2",
            label="generator",
        )
        for key, (label, colour) in YARDSTICKS.items():
            axis.axhline(summary[key], color=colour, linestyle="--", linewidth=1.2, label=label)
        axis.set_yscale("log")
        axis.set_xlabel("training images shown, thousands")
        axis.set_ylabel(f"validation KID ({summary['extractor'].split('@')[0]})")
        axis.set_title(run_dir.name)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    with written_atomically(out) as temporary:
        figure.savefig(temporary, dpi=110)


if __name__ == "__main__":
    typer.run(main)
