"""Does the feature extractor order images as a person would? KID of images whose quality is known.

For each source: the lesion classifier is trained on the extractor part, and validation images are the
reference. Wanted: real images of other lesions near 0; blurred images, and a Gaussian on 64 principal
components, far above them; the mean image far above those; and the less blurred below the more blurred.
A generator in training should fall from the mean image's figure through the Gaussian's.

Run ``python -m benchmarks.extractor_ordering`` (phantom data), or with sources and folders::

    python -m benchmarks.extractor_ordering phantom ham10000=FOLDER isic2019=FOLDER

It prints a line per source, after about a minute each on one core::

    source     extractor          images seconds         floor    blurred_16     blurred_8  pca_gaussian    mean_image
    phantom    lesion-cnn-32@23fe    567    23.5        0.0063        0.0951        0.6099        0.7347        3.1126
    ham10000   lesion-cnn-32@7155   1537    20.8        0.0097        0.1630        0.9107        0.6547       11.6489
    isic2019   lesion-cnn-32@cb70   3585    22.7        0.0043        0.0958        0.5383        1.2296        8.1946

Over three sets of initial weights the Gaussian moves from .60 to .74 on HAM10000, the mean image from 12 to 19.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from data_partitions.dataset import load_images
from data_partitions.sources import load_index
from data_partitions.split import split_parts
from federation.config import parse_assignments
from federation.metrics.lesion_cnn import train_lesion_cnn
from federation.seeding import numpy_stream
from federation.settings.evaluation import EvaluationSettings
from server.evaluation.yardsticks import measure_yardsticks
from strategies.configuration import resolve


def measure(source: str, root: str, resolution: int, seed: int) -> tuple[str, dict[str, float], int, float]:
    """Train the extractor of a source and return its name, the yardsticks, its images and its seconds."""
    assignments = [f"data.source={source}", f"data.root={root}", f"model.resolution={resolution}"]
    configuration = resolve([parse_assignments(assignments)])
    index = load_index(configuration.data, resolution=resolution)
    images = load_images(index, resolution)
    parts = split_parts(index.groups, configuration.data.split_seed)
    sites = np.unique(index.sites, return_inverse=True)[1]
    rows = np.flatnonzero(parts == "extractor")
    started = time.perf_counter()
    extractor = train_lesion_cnn(
        images[rows], index.labels[rows], sites[rows], num_classes=len(index.classes), split_seed=seed
    )
    seconds = time.perf_counter() - started
    most = EvaluationSettings().images
    validation = np.flatnonzero(parts == "validation")
    validation = numpy_stream(seed, "extractor ordering").permutation(validation)[:most]
    yardsticks = measure_yardsticks(
        extractor, validation_images=images[validation], train_images=images[parts == "train"], seed=seed
    )
    return extractor.name, yardsticks, len(rows), seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=["phantom"], metavar="SOURCE[=FOLDER]")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1, help="initial weights of the extractor to try")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    header_shown = False
    for entry in arguments.sources:
        source, _, root = entry.partition("=")
        for seed in range(arguments.seeds):
            name, yardsticks, num_images, seconds = measure(source, root, arguments.resolution, seed)
            if not header_shown:
                columns = "  ".join(f"{column.removeprefix('kid_'):>12}" for column in yardsticks)
                print(f"{'source':<10} {'extractor':<18} {'images':>6} {'seconds':>7}  {columns}")
                header_shown = True
            figures = "  ".join(f"{value:>12.4f}" for value in yardsticks.values())
            print(f"{source:<10} {name:<18} {num_images:>6} {seconds:>7.1f}  {figures}", flush=True)


if __name__ == "__main__":
    main()
