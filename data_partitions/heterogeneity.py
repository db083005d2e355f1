"""How unlike the hospitals of a partition are: divergences, a table, a picture.

Every measure is on the label histogram of a hospital's training images. "The whole" is all hospitals'
training images together, the hospital's own among them: a hospital that holds nearly everything is near it.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich import box
from rich.cells import cell_len, set_cell_size
from rich.table import Table
from scipy.special import entr, rel_entr

from data_partitions.fonts import font_families
from data_partitions.partition import Partition
from federation.run_directory import written_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Okabe & Ito 2008, https://jfly.uni-koeln.de/color/, told apart in every common colour blindness.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#7F7F7F")
_HATCHES = ("", "////", "....", "xxxx")
_MOST_NAMED_HOSPITALS = 100


# A name longer than this leaves no room for the bars.
_MOST_CELLS = 40
_LEGEND_CELLS, _LEGEND_MARK_CELLS = 120, 6


def _short(name: str) -> str:
    """Return a name on one line, cut where it is too long for the picture; an ideograph is as wide as two letters."""
    line = " ".join(name.split())
    return line if cell_len(line) <= _MOST_CELLS else set_cell_size(line, _MOST_CELLS - 1).rstrip() + "…"


def _histograms(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return counts / counts.sum(axis=1, keepdims=True)


def jensen_shannon_divergence(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Jensen-Shannon divergence, to base 2, of each hospital's label histogram from the whole's.

    Parameters
    ----------
    counts
        Images of shape (n_hospitals, n_classes); no hospital is empty.

    Returns
    -------
    Of shape (n_hospitals,), in [0, 1] bit: 0 is the whole's own mixture. It is the square of what
    ``scipy.spatial.distance.jensenshannon`` returns, the distance.

    References
    ----------
    Lin 1991, Divergence measures based on the Shannon entropy, Eq. 4.1 with weights 1/2.
    """
    hospital, whole = _histograms(counts), _histograms(counts.sum(axis=0, keepdims=True))
    middle = (hospital + whole) / 2
    nats = (rel_entr(hospital, middle) + rel_entr(whole, middle)).sum(axis=1) / 2
    return np.clip(nats / np.log(2), 0, 1)  # Rounding alone leaves the interval.


def total_variation(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Total variation distance of each hospital's label histogram from the whole's, in [0, 1].

    It is the share of a hospital's images whose class would have to change to give the whole's mixture.
    `counts` is of shape (n_hospitals, n_classes).
    """
    whole = _histograms(counts.sum(axis=0, keepdims=True))
    return np.abs(_histograms(counts) - whole).sum(axis=1) / 2


def effective_classes(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Exponential of the entropy of each hospital's label histogram, in [1, n_classes].

    As many equally frequent classes would have the same entropy. `counts` is of shape (n_hospitals, n_classes).

    References
    ----------
    Hill 1973, Diversity and evenness, of order 1.
    """
    return np.exp(entr(_histograms(counts)).sum(axis=1))


def measure_heterogeneity(partition: Partition) -> pd.DataFrame:
    """Return all measures, a row per hospital.

    Returns
    -------
    Indexed by hospital, with columns ``images``, ``share`` of all training images in (0, 1],
    ``jensen_shannon`` in [0, 1], ``total_variation`` in [0, 1], ``effective_classes`` in [1, n_classes].
    """
    images = partition.counts.sum(axis=1)
    return pd.DataFrame(
        {
            "images": images,
            "share": images / images.sum(),
            "jensen_shannon": jensen_shannon_divergence(partition.counts),
            "total_variation": total_variation(partition.counts),
            "effective_classes": effective_classes(partition.counts),
        },
        index=pd.Index(partition.hospitals, name="hospital"),
    )


def partition_table(partition: Partition) -> Table:
    """Lay out the training images of each class at each hospital, with sizes and divergences, for ``--dry-run``."""
    measures = measure_heterogeneity(partition)
    table = Table(
        title="Training images by hospital and class",
        caption="JSD: Jensen-Shannon divergence from all, 0 (alike) to 1\n"
        "eff.: effective number of classes\n"
        "all hospitals: JSD is the mean by size",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    # Six hospitals with eight classes fit into 80 columns. Where it is too narrow, digits fold: none is lost.
    table.add_column("hospital", overflow="fold")
    for name in (*partition.classes, "images", "JSD", "eff."):
        table.add_column(name, justify="right", overflow="fold")
    for counts, row in zip(partition.counts, measures.itertuples(), strict=True):
        table.add_row(
            str(row.Index),
            *(str(count) if count else "·" for count in counts),
            str(row.images),
            f"{row.jensen_shannon:.3f}",
            f"{row.effective_classes:.2f}",
        )
    table.add_section()
    whole = partition.counts.sum(axis=0, keepdims=True)
    table.add_row(
        "all hospitals",
        *(str(count) for count in (*whole[0], whole.sum())),
        f"{np.average(measures['jensen_shannon'], weights=measures['share']):.3f}",
        f"{effective_classes(whole)[0]:.2f}",
    )
    return table


@contextlib.contextmanager
def _lettering(text: str) -> Iterator[None]:
    """Let a picture be drawn with fonts that have the letters of a text."""
    from matplotlib import rc_context

    settings: Any = {
        "text.parse_math": False,  # A "$" in a name is a "$".
        "hatch.linewidth": 0.6,
        "font.family": font_families(text),
    }
    with rc_context(settings), warnings.catch_warnings():
        # Where no font has a letter a box stands for it; that is seen, and need not be said on the screen.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def plot_partition(partition: Partition, path: Path) -> None:
    """Draw each hospital's mixture of classes, beside the whole's, and its size, into a png file."""
    from matplotlib.figure import Figure

    measures = measure_heterogeneity(partition)
    counts = np.vstack([partition.counts.sum(axis=0), partition.counts])
    names = ["all hospitals", *partition.hospitals]
    # Beyond a hundred hospitals rows grow thin and lose their names, not the picture its height.
    is_named = len(partition.hospitals) <= _MOST_NAMED_HOSPITALS
    positions = np.arange(len(names), dtype=float)
    positions[1:] += 0.4
    names, classes = [_short(name) for name in names], [_short(name) for name in partition.classes]
    ncols = max(1, min(len(classes), 10, _LEGEND_CELLS // (_LEGEND_MARK_CELLS + max(map(cell_len, classes)))))
    height = 1.4 + 0.3 * min(len(names), _MOST_NAMED_HOSPITALS) + 0.22 * (math.ceil(len(classes) / ncols) - 1)

    with _lettering("".join((*names, *classes))):
        figure = Figure(figsize=(10, height), layout="constrained")
        mixture, size = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1.5))

        percent = 100 * _histograms(counts)
        left = np.zeros(len(names))
        handles = []
        for label in range(len(partition.classes)):
            bars = mixture.barh(
                positions,
                percent[:, label],
                left=left,
                height=0.8 if is_named else 1.0,
                color=_COLOURS[label % len(_COLOURS)],
                hatch=_HATCHES[label // len(_COLOURS) % len(_HATCHES)],
                edgecolor="white",
                linewidth=0.6 if is_named else 0,
            )
            handles.append(bars[0])
            left += percent[:, label]
        mixture.set(xlim=(0, 100), xlabel="share of the hospital's training images (%)")
        mixture.set_ylim(positions[-1] + 0.6, -0.6)
        mixture.set_yticks(positions if is_named else [], names if is_named else [])

        images = measures["images"].to_numpy()
        size.barh(positions[1:], images, height=0.8 if is_named else 1.0, color="#4D4D4D")
        if is_named:
            for position, row in zip(positions[1:], measures.itertuples(), strict=True):
                text = f" {row.images:,}  ({row.jensen_shannon:.2f})"
                size.text(row.images, position, text, va="center", fontsize=8)
            size.text(0, positions[0], f" {images.sum():,}", va="center", fontsize=8)
            size.set(xlim=(0, 1.6 * images.max()), xlabel="images (Jensen-Shannon divergence)")
        else:
            size.set(xlabel="images")
            mixture.set(ylabel=f"{len(partition.hospitals):,} hospitals, below the whole")
        size.locator_params(axis="x", nbins=4)
        size.xaxis.set_major_formatter("{x:,.0f}")
        for axes in (mixture, size):
            axes.tick_params(axis="y", length=0)
            axes.spines[["top", "right", "left"]].set_visible(False)

        figure.legend(handles, classes, loc="outside upper center", ncols=ncols, frameon=False)
        with written_atomically(path) as unfinished:
            figure.savefig(unfinished, dpi=120, format="png")
