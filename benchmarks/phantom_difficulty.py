"""How hard the phantom data are, in the right way: in pictures, not in colours.

Prints one json object of balanced accuracies on held-out lesions (30 % of them), at the default number of images:

``diagnosis_mean_colour``
    The best of three classifiers that see an image's mean red, green and blue only. Wanted: under .50.
``diagnosis_small_cnn``
    Four convolutions, drawing the classes equally often, with flips. Wanted: .60 to .95.
``site_probe``
    Which site took the image, by logistic regression on simple features of colour, shade and sharpness.
    Wanted: over .90.

Run ``python -m benchmarks.phantom_difficulty``; about 40 seconds on one core. It prints::

    {"diagnosis_mean_colour": 0.26, "diagnosis_small_cnn": 0.863, "site_probe": 0.984}
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from data_partitions.sources.phantom import load_phantom
from federation.seeding import numpy_stream, torch_stream
from federation.settings.data import DataSettings


@dataclass(frozen=True)
class PhantomImages:
    """Drawn images, with a 70 / 30 split by lesion."""

    images: npt.NDArray[np.uint8]
    """Of shape (n, r, r, 3)."""
    diagnosis: npt.NDArray[np.int64]
    site: npt.NDArray[np.int64]
    is_train: npt.NDArray[np.bool_]

    def balanced_accuracy(self, target: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> float:
        """Return the mean recall over classes of predictions for the held-out images."""
        return float(balanced_accuracy_score(target[~self.is_train], predicted))


def draw_images(num_images: int, resolution: int) -> PhantomImages:
    """Draw the phantom data and split their lesions."""
    index = load_phantom(DataSettings(phantom_images=num_images), resolution)
    table = index.table
    lesions = np.unique(table["group"])
    train_lesions = numpy_stream(0, "phantom difficulty split").permutation(lesions)[: int(0.7 * len(lesions))]
    return PhantomImages(
        images=np.stack([index.read_image(row) for row in range(len(table))]),
        diagnosis=table["label"].to_numpy(copy=True),
        site=np.unique(table["site"], return_inverse=True)[1],
        is_train=table["group"].isin(train_lesions).to_numpy(copy=True),
    )


def score_mean_colour(data: PhantomImages) -> float:
    """Balanced accuracy on the diagnosis of the best classifier of an image's mean colour."""
    colour = data.images.mean(axis=(1, 2))
    classifiers = (
        make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)),
        HistGradientBoostingClassifier(class_weight="balanced", max_iter=50, random_state=0),
        KNeighborsClassifier(7, weights="distance"),
    )
    scores = []
    for classifier in classifiers:
        classifier.fit(colour[data.is_train], data.diagnosis[data.is_train])
        scores.append(data.balanced_accuracy(data.diagnosis, classifier.predict(colour[~data.is_train])))
    return max(scores)


def score_site_probe(data: PhantomImages) -> float:
    """Balanced accuracy on the site of logistic regression on the skin's colour, the corners' shade, the sharpness."""
    pixels = data.images / 255.0
    grey = pixels.mean(axis=-1)
    axis = np.abs(np.linspace(-1, 1, grey.shape[1]))
    is_border = np.maximum.outer(axis, axis) > 0.8
    is_corner = np.add.outer(axis, axis) > 1.6
    median_skin, bright_skin = np.quantile(pixels[:, is_border], [0.5, 0.9], axis=1)
    curvature = np.abs(np.diff(grey, n=2, axis=1))
    features = np.column_stack(
        [
            median_skin,
            bright_skin,
            np.log(median_skin + 0.01),
            grey[:, is_corner].mean(axis=1) - grey[:, is_border].mean(axis=1),
            np.log(curvature.mean(axis=(1, 2)) + 1e-4),
            np.log(np.median(curvature, axis=(1, 2)) + 1e-4),
            pixels.std(axis=(1, 2)),
        ]
    )
    probe = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000, C=10.0))
    probe.fit(features[data.is_train], data.site[data.is_train])
    return data.balanced_accuracy(data.site, probe.predict(features[~data.is_train]))


def score_small_cnn(data: PhantomImages, *, steps: int, batch_size: int = 64) -> float:
    """Balanced accuracy on the diagnosis of a small convolutional network."""
    rng = torch_stream(0, "phantom difficulty cnn")
    pixels = torch.from_numpy(data.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    train, held_out = pixels[torch.from_numpy(data.is_train)], pixels[torch.from_numpy(~data.is_train)]
    labels = torch.from_numpy(data.diagnosis[data.is_train])
    class_weight = 1.0 / torch.bincount(labels).clamp_min(1)

    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 48), (48, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.AvgPool2d(2)]
    num_classes = int(labels.max()) + 1
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))
    for parameter in network.parameters():
        if parameter.dim() > 1:
            with torch.no_grad():
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=rng)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    network.train()
    for _ in range(steps):
        rows = torch.multinomial(class_weight[labels], batch_size, replacement=True, generator=rng)
        batch = train[rows]
        flip_x, flip_y = torch.rand(2, batch_size, 1, 1, 1, generator=rng) < 0.5
        batch = torch.where(flip_x, batch.flip(3), batch)
        batch = torch.where(flip_y, batch.flip(2), batch)
        loss = nn.functional.cross_entropy(network(batch), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        predicted = torch.cat([network(part).argmax(dim=1) for part in held_out.split(256)])
    return data.balanced_accuracy(data.diagnosis, predicted.numpy())


def main() -> None:
    """Draw, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000, help="number of images (default 4000)")
    parser.add_argument("--resolution", type=int, default=32, help="side in pixels (default 32)")
    parser.add_argument("--steps", type=int, default=800, help="training steps of the network (default 800)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = draw_images(options.images, options.resolution)
    figures = {
        "diagnosis_mean_colour": score_mean_colour(data),
        "diagnosis_small_cnn": score_small_cnn(data, steps=options.steps),
        "site_probe": score_site_probe(data),
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
