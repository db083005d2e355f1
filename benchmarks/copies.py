"""Is copying flagged where some generated images are copies, and only there? Ten draws of each kind, on HAM10000.

What stands for generated images: a Gaussian on principal components of each class, and real images that nobody trained
on, of the extractor part and of that and the validation part, turned, moved by up to two pixels and recoloured a little
until there are as many: an honest generator would not come as near to real ones as these. Of each kind none, one in a
hundred and one in ten are replaced by copies of training images, drawn at random, turned or mirrored, moved by a pixel
and with noise of 2 grey levels; or one in ten by copies of a few training images alone.

    python -m benchmarks.copies --root HAM10000 --json copies.json

prints how often copying was flagged, and by what; 5 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from federation.config import parse_assignments
from federation.metrics.authenticity import canonical_orientation
from federation.metrics.copies import CopySearch, is_flagged, thumbnails
from federation.metrics.features import FeatureExtractor
from federation.seeding import numpy_stream
from server.evaluation.generated_images import AT_ONCE, features_and_thumbnails
from server.evaluation.run_extractor import extractor_of
from server.evaluation.yardsticks import pca_gaussian
from server.inputs import RunInputs, prepare_inputs
from strategies.configuration import resolve

Nearness = dict[str, tuple[np.ndarray, np.ndarray]]
"""By kind of distance: how near each training and each held-out image has a searched one."""

NUM_DRAWS = 10
SHARES = (0.0, 0.01, 0.1)
"""Of generated images that are copies."""
FEW = (30, 60, 120)
"""Training images that alone are copied, one generated image in ten."""


def turned(images: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """Bring each image (n, r, r, 3) into one of its eight orientations at random."""
    out = np.empty_like(images)
    orientations = stream.integers(8, size=len(images))
    for number in range(8):
        chosen = orientations == number
        some = images[chosen][:, :, ::-1] if number >= 4 else images[chosen]
        out[chosen] = np.rot90(some, number % 4, axes=(1, 2))
    return out


def moved(images: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """Move each image by a pixel, up, down, left or right; the edge is repeated."""
    side = images.shape[1]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    out = np.empty_like(images)
    directions = stream.integers(4, size=len(images))
    for number, (down, right) in enumerate(((0, 1), (2, 1), (1, 0), (1, 2))):
        chosen = directions == number
        out[chosen] = padded[chosen][:, down : down + side, right : right + side]
    return out


def noised(images: np.ndarray, size: float, stream: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise of so many grey levels."""
    noise = size * stream.standard_normal(images.shape, dtype=np.float32)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def disguised_copies(images: np.ndarray, count: int, stream: np.random.Generator) -> np.ndarray:
    """Copy images at random, with replacement: in any orientation, moved by a pixel, noise of 2 grey levels."""
    rows = stream.integers(len(images), size=count)
    return noised(moved(turned(images[rows], stream), stream), 2, stream)


def augmented(images: np.ndarray, count: int, stream: np.random.Generator) -> np.ndarray:
    """Make as many of images as are asked for: turned, moved twice, contrast, colours and brightness changed."""
    rows = stream.integers(len(images), size=count)
    drawn = moved(moved(turned(images[rows], stream), stream), stream)
    mean = drawn.mean((1, 2), keepdims=True, dtype=np.float32)
    contrast = stream.uniform(0.9, 1.1, (count, 1, 1, 3)).astype(np.float32)
    brightness = stream.uniform(0.95, 1.05, (count, 1, 1, 1)).astype(np.float32)
    return noised((drawn - mean) * contrast + mean * brightness, 2, stream)


def class_gaussian(images: np.ndarray, labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw from a Gaussian on principal components of each class, classes as often as they are in `labels`."""
    asked = numpy_stream(seed, "classes of Gaussian images").choice(labels, count)
    return np.concatenate(
        [pca_gaussian(images[labels == label], int((asked == label).sum()), seed=seed) for label in np.unique(asked)]
    )


class Bench:
    """Real images, and the two searches among them.

    Parameters
    ----------
    inputs
        HAM10000 and its split.
    extractor
        Of the features; None: thumbnails alone.
    part
        What is held out: its images stand against training images.
    """

    def __init__(self, inputs: RunInputs, extractor: FeatureExtractor | None, part: str = "test") -> None:
        self.inputs, self.extractor = inputs, extractor
        groups = inputs.index.groups
        rows = {name: inputs.rows(name) for name in ("train", part)}
        described = [self.describe(inputs.images[rows[name]]) for name in ("train", part)]
        self.searches = {
            name: CopySearch(described[0][name], described[1][name], groups[rows["train"]], groups[rows[part]])
            for name in described[0]
        }

    def describe(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the judge compares, by its name."""
        if self.extractor is not None:
            return dict(zip(("features", "thumbnails"), features_and_thumbnails(self.extractor, images), strict=True))
        chunks = [images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE)]
        return {"thumbnails": np.concatenate([thumbnails(canonical_orientation(chunk)) for chunk in chunks])}

    def stand_ins(self, kind: str, count: int, seed: int) -> np.ndarray:
        """Return images that nobody copied, by their name in :data:`KINDS`."""
        index, images = self.inputs.index, self.inputs.images
        train = self.inputs.rows("train")
        if kind == "Gaussian of each class":
            return class_gaussian(np.asarray(images[train]), index.labels[train], count, seed)
        rows = np.concatenate([self.inputs.rows(part) for part in KINDS[kind]])
        return augmented(np.asarray(images[rows]), count, numpy_stream(seed, f"augmented, {kind}"))

    def copies(self, count: int, seed: int, few: int = 0) -> np.ndarray:
        """Return disguised copies of training images, or of so `few` of them alone."""
        stream = numpy_stream(seed, "disguised copies")
        rows = self.inputs.rows("train")
        if few:
            rows = np.sort(stream.choice(rows, few, replace=False))
        return disguised_copies(np.asarray(self.inputs.images[rows]), count, stream)

    def nearness(self, images: np.ndarray) -> Nearness:
        """Return how near each real image has one of these, by kind of distance."""
        described = self.describe(images)
        return {name: search.nearness(described[name]) for name, search in self.searches.items()}

    def ask(self, *sets: Nearness) -> dict[str, Any]:
        """Return what the test says of several sets of images together, by kind of distance, and the flag."""
        tests = {}
        for name, search in self.searches.items():
            of_train, of_test = zip(*(one[name] for one in sets), strict=True)
            tests[name] = search.test(np.max(of_train, axis=0), np.max(of_test, axis=0))
        entry: dict[str, Any] = {name: asdict(test) for name, test in tests.items()}
        return entry | {"flagged": is_flagged([test.p for test in tests.values()])}


KINDS: dict[str, Sequence[str]] = {
    "Gaussian of each class": (),
    "extractor part, augmented": ("extractor",),
    "both parts, augmented": ("extractor", "validation"),
}
"""What stands for generated images, and the parts that it is made of."""


def measure(bench: Bench, kinds: Sequence[str], count: int, num_draws: int) -> list[dict[str, Any]]:
    """Return a line for each kind of images, what was copied, and draw."""
    # The stand-ins that copies take the place of come last: the nearest of parts is the nearest of all.
    cuts = [count - round(share * count) for share in reversed(SHARES)]
    lines = []
    for draw in range(num_draws):
        copies = {(share, 0): bench.nearness(bench.copies(round(share * count), draw)) for share in SHARES if share}
        copies |= {(SHARES[-1], few): bench.nearness(bench.copies(count - cuts[0], draw, few)) for few in FEW}
        for kind in kinds:
            parts = [bench.nearness(part) for part in np.split(bench.stand_ins(kind, count, draw), cuts[:-1])]
            for share, few in [(0.0, 0), *copies]:
                kept = parts[: len(SHARES) - SHARES.index(share)]
                found = bench.ask(*kept, *([copies[share, few]] if share else []))
                lines.append({"kind": kind, "share": share, "few": few, "draw": draw, **found})
    return lines


def tabulate(lines: Sequence[dict[str, Any]]) -> str:
    """Lay out how often copying was flagged, and how many of the images looked at were training images."""
    rows = ["| in the generator's place | copies | flagged | by features | by thumbnails |", "|---|---|---|---|---|"]
    for kind, share, few in dict.fromkeys((line["kind"], line["share"], line["few"]) for line in lines):
        some = [line for line in lines if (line["kind"], line["share"], line["few"]) == (kind, share, few)]
        cells = []
        for name in ("features", "thumbnails"):
            tests = [line[name] for line in some if name in line]
            numbers = [test["num_trained_on"] for test in tests]
            cells.append(
                f"{min(numbers)} to {max(numbers)} of {tests[0]['num_looked_at']}, p {min(t['p'] for t in tests):.1g} "
                f"to {max(t['p'] for t in tests):.1g}"
                if tests
                else "–"
            )
        what = f"{100 * share:.0f} %" + (f", of {few} images" if few else "") if share else "none"
        flagged = sum(line["flagged"] for line in some)
        rows.append(f"| {kind} | {what} | {flagged} of {len(some)} | {cells[0]} | {cells[1]} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of HAM10000")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--draws", type=int, default=NUM_DRAWS)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    assignments = ["data.source=ham10000", f"data.root={arguments.root}", "evaluation.extractor=lesion-cnn"]
    inputs = prepare_inputs(resolve([parse_assignments([*assignments, *arguments.set])]))
    extractor, _ = extractor_of(inputs)
    lines = measure(Bench(inputs, extractor), list(KINDS), arguments.images, arguments.draws)
    print(f"{extractor.name}, {arguments.images:,} images, {arguments.draws} draws\n\n{tabulate(lines)}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"extractor": extractor.name, "draws": lines}, indent=2) + "\n")


if __name__ == "__main__":
    main()
