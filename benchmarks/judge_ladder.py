"""Does the judge tell good images from bad? Images whose quality is known, in the order that every axis must find.

The reference is half of the real held-out images (validation and test parts), divided by lesion; the other half is
the best that can be had, and is blurred, noised, compressed, thinned out, or loses half of its power at middle
frequencies and half of the variety of its colours, as a federated generator does. Beside it stand copies of training
images, one image repeated, a Gaussian on principal components, the mean image, and generators that were trained for
longer and longer. Each of five resamples divides lesions anew, draws other images and, for classifiers, other
initial weights. Neighbours on a ladder must differ by more than two standard deviations over resamples, of whichever
of the two varies more. Both extractors must find the order of fidelity.

    python -m benchmarks.judge_ladder --root HAM10000 --json ladder.json

prints a table per axis and says which neighbours are not told apart; about 25 minutes on one core, generators
included. These are trained on all training images, every class drawn alike.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from clients.local_training import train_locally
from data_partitions.dataset import ImageDataset
from federation.config import Configuration, parse_assignments
from federation.images import ImageRows
from federation.metrics.authenticity import ScoredImages, authentic_percentage, canonical_orientation, membership_auc
from federation.metrics.diversity import vendi_score
from federation.metrics.features import FeatureExtractor
from federation.metrics.fidelity import kid
from federation.metrics.neighbours import nearest_neighbours
from federation.models import GenerativeModel, build_model
from federation.models.drawing import drawer_of
from federation.seeding import numpy_stream, torch_stream
from server.evaluation.predictions import TestImages
from server.evaluation.run_extractor import extractor_of, second_extractor_of
from server.evaluation.scores import compare
from server.evaluation.utility import RealParts, UtilityTerms, judge_utility
from server.evaluation.yardsticks import blurred, jpeg_compressed, mean_image, noisy, pca_gaussian
from server.inputs import RunInputs, prepare_inputs
from strategies.configuration import resolve

NUM_RESAMPLES = 5
APART = 2.0
"""Deviations by which neighbours must differ."""
SPECTRUM = (0.89, 0.63, 0.43, 0.60, 0.88, 1.07, 1.26, 1.58)
"""Power of a federated generator's images beside real ones, in eight even bands up to half the side: measured on
HAM10000 at 32 px after 76,800 images at four sites."""
HALF_COLOURS = 0.58
"""How much its images' mean colours varied beside real ones'."""
# Half of HAM10000's seven classes, the common and the rare: 79 % of its images are of the others.
_DROPPED = ("mel", "bcc", "vasc", "df")


@dataclass(frozen=True)
class Ladder:
    """Rungs that one figure must put into one order."""

    axis: str
    figure: str
    rises: bool
    """Whether the figure rises along the rungs."""
    rungs: tuple[str, ...]


def image_ladders(generators: Sequence[str]) -> list[Ladder]:
    """Return the ladders of fidelity, diversity and authenticity; `generators` from the least trained to the most."""
    trained = tuple(reversed(generators))
    ladders = [
        Ladder("fidelity", "kid", True, ("real", "blur 24", "blur 16", "blur 12", "blur 8", "blur 4")),
        Ladder("fidelity", "kid", True, ("real", "noise 4", "noise 8", "noise 16", "noise 32")),
        Ladder("fidelity", "kid", True, ("real", "jpeg 75", "jpeg 50", "jpeg 20", "jpeg 5")),
        Ladder("fidelity", "kid", True, ("real", *trained)),
        Ladder("fidelity", "kid", True, ("real", "PCA Gaussian", "mean image")),
        Ladder("fidelity", "kid", True, ("real", "spectrum", "spectrum and colours")),
        Ladder("fidelity", "kid", True, ("real", "half colours", "spectrum and colours")),
        Ladder("fidelity", "fid", True, ("real", "blur 16", "blur 8", "blur 4")),
        Ladder("fidelity", "precision", False, ("real", "blur 12", "blur 8", "blur 4")),
        Ladder("diversity", "coverage", False, ("real", "classes dropped", "one image")),
        Ladder("diversity", "recall", False, ("real", "classes dropped", "one image")),
        Ladder("diversity", "vendi", False, ("real", "half repeated", "tenth repeated", "one image")),
        Ladder("diversity", "coverage", False, ("real", "half repeated", "tenth repeated", "one image")),
        Ladder("authenticity", "membership", True, ("real", "copies 25 %", "copies 50 %", "copies")),
        Ladder("authenticity", "membership", True, ("real", "copies, flipped")),
        Ladder("authenticity", "membership", True, ("real", "copies, noise 8", "copies")),
        Ladder("authenticity", "auth_pct", False, ("real", "copies 25 %", "copies 50 %", "copies")),
    ]
    # What the first extractor must put in order, the second must too.
    ladders += [replace(ladder, figure="second_kid") for ladder in ladders if ladder.figure == "kid"]
    return [ladder for ladder in ladders if len(ladder.rungs) > 1]


UTILITY_LADDERS = (
    ("real", "blur 8", "class means"),
    ("real", "noise 32", "labels shuffled"),
    ("real", "classes dropped", "labels shuffled"),
)
"""Training images by the balanced accuracy of classifiers trained on them, falling."""
BESIDE_REAL_LADDERS = (("real", "labels shuffled"), ("real", "class means"))
"""Held-out real images beside the real ones, and what can teach nothing, by the area under the curve."""


class Remembered:
    """An extractor that computes the features of an image once: most sets hold the same images, or one repeated."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        self.name = extractor.name
        self._extractor = extractor
        self._known: dict[bytes, np.ndarray] = {}

    def features(self, images: np.ndarray) -> np.ndarray:
        """See :class:`federation.metrics.features.FeatureExtractor`."""
        keys = [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest() for image in images]
        new = {key: number for number, key in enumerate(keys) if key not in self._known}
        if new:
            self._known |= zip(new, self._extractor.features(images[list(new.values())]), strict=True)
        return np.stack([self._known[key] for key in keys])


@dataclass
class Bench:
    """The images of known quality, and the judge."""

    inputs: RunInputs
    extractor: Remembered
    second: Remembered
    generators: dict[str, GenerativeModel] = field(default_factory=dict)

    @classmethod
    def open(cls, configuration: Configuration) -> Bench:
        """Read the images and train or load the extractors."""
        inputs = prepare_inputs(configuration)
        extractor, _ = extractor_of(inputs)
        return cls(inputs, Remembered(extractor), Remembered(second_extractor_of(inputs)))

    def train_generators(self, images_shown: Sequence[int]) -> None:
        """Train one generator, and keep it as it is after each number of images shown."""
        configuration = self.inputs.configuration
        training = configuration.training
        dataset = ImageDataset(
            self.inputs.images,
            self.inputs.index.labels,
            self.inputs.rows("train"),
            flips=training.flips,
            balanced=configuration.balanced_over != "none",
        )
        shown = 0
        model = build_model(configuration)
        for target in images_shown:
            steps = (target - shown) // training.batch_size
            if steps:
                settings = training.model_copy(update={"local_steps": steps})
                train_locally(model, dataset, settings, torch_stream(0, "ladder", server_round=target))
                shown += steps * training.batch_size
            kept = build_model(configuration)
            kept.networks["generator_ema"].load_state_dict(model.networks["generator_ema"].state_dict())
            self.generators[f"generator {target:,}"] = kept

    def halves(self, resample: int) -> tuple[np.ndarray, np.ndarray]:
        """Divide held-out images in two, by lesion: the reference, and what is judged, as many of each."""
        rows = np.concatenate([self.inputs.rows("validation"), self.inputs.rows("test")])
        groups = self.inputs.index.groups[rows]
        names = numpy_stream(resample, "ladder, halves").permutation(np.unique(groups))
        first = np.isin(groups, names[: len(names) // 2])
        reference, judged = rows[first], rows[~first]
        # With unequal numbers, KID would be taken of twenty subsets that are nearly everything.
        size = min(len(reference), len(judged))
        return reference[:size], judged[:size]

    def rungs(self, resample: int, judged: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
        """Return every set of images of known quality, made when it is asked for."""
        images, labels, classes = self.inputs.images, self.inputs.index.labels, self.inputs.index.classes
        real = images[judged]
        train = self.inputs.rows("train")
        stream = numpy_stream(resample, "ladder, rungs")
        copied = images[stream.choice(train, len(judged), replace=False)]
        kept = np.flatnonzero(~np.isin(np.array(classes)[labels[judged]], _DROPPED))
        several = stream.permutation(len(real))
        one = int(stream.integers(len(real)))

        def copies(share: float) -> np.ndarray:
            number = round(share * len(real))
            return np.concatenate([copied[:number], real[several[number:]]])

        def repeated(share: float) -> np.ndarray:
            return real[np.resize(several[: max(1, round(share * len(real)))], len(real))]

        rungs: dict[str, Callable[[], np.ndarray]] = {
            "real": lambda: real,
            "classes dropped": lambda: real[np.resize(kept, len(real))],
            "half repeated": lambda: repeated(0.5),
            "tenth repeated": lambda: repeated(0.1),
            "one image": lambda: np.repeat(real[one][None], len(real), axis=0),
            "copies": lambda: copies(1.0),
            "copies 50 %": lambda: copies(0.5),
            "copies 25 %": lambda: copies(0.25),
            "copies, flipped": lambda: copied[:, :, ::-1],
            "copies, noise 8": lambda: noisy(copied, 8, seed=resample),
            "PCA Gaussian": lambda: pca_gaussian(images[train], len(real), seed=resample),
            "mean image": lambda: mean_image(images[train], len(real)),
            "spectrum": lambda: with_power(real, SPECTRUM),
            "half colours": lambda: with_power(real, (1.0,), colours=HALF_COLOURS),
            "spectrum and colours": lambda: with_power(real, SPECTRUM, colours=HALF_COLOURS),
        }
        rungs |= {f"blur {side}": lambda side=side: blurred(real, side) for side in (24, 16, 12, 8, 4)}
        rungs |= {f"noise {size}": lambda size=size: noisy(real, size, seed=resample) for size in (4, 8, 16, 32)}
        rungs |= {
            f"jpeg {quality}": lambda quality=quality: jpeg_compressed(real, quality) for quality in (75, 50, 20, 5)
        }
        for name, model in self.generators.items():
            rungs[name] = lambda model=model: self.generate(model, labels[judged], resample)
        return rungs

    def generate(self, model: GenerativeModel, labels: np.ndarray, resample: int) -> np.ndarray:
        """Draw an image for each label."""
        stream = torch_stream(resample, "ladder, generated")
        drawer, drawn = drawer_of(model), []
        for start in range(0, len(labels), 100):
            batch = torch.from_numpy(labels[start : start + 100])
            drawn.append(drawer.generate(batch if model.num_classes else None, len(batch), stream).numpy())
        return np.concatenate(drawn)

    def _oriented_features(self, images: np.ndarray) -> np.ndarray:
        """Return features that do not depend on flips and quarter turns, as the judge of authenticity does."""
        return self.extractor.features(canonical_orientation(images))

    def measure(
        self,
        names: Sequence[str],
        searched: Sequence[str],
        num_resamples: int = NUM_RESAMPLES,
        most_of_second: int | None = None,
    ) -> dict[str, dict[str, list[float]]]:
        """Return the figures of each rung, one for each resample; of authenticity for the `searched` ones alone.

        The second extractor looks at no more than `most_of_second` images of each; None: at all of them.
        """
        index, train = self.inputs.index, self.inputs.rows("train")
        train_features = self._oriented_features(self.inputs.images[train])
        radii = nearest_neighbours(train_features, train_features, exclude_self=True)[0][:, 0]
        # Pairs of one class and one site are compared, as the judge does.
        strata = np.unique(index.sites, return_inverse=True)[1] * len(index.classes) + index.labels
        found: dict[str, dict[str, list[float]]] = {}
        for resample in range(num_resamples):
            reference, judged = self.halves(resample)
            real = self.extractor.features(self.inputs.images[reference])
            by_second = self.second.features(self.inputs.images[reference[:most_of_second]])
            oriented = self._oriented_features(self.inputs.images[reference])
            rungs = self.rungs(resample, judged)
            for name in names:
                drawn = rungs[name]()
                generated = self.extractor.features(drawn)
                figures = compare(real, generated, seed=0) | {"vendi": vendi_score(generated)}
                figures["second_kid"] = kid(by_second, self.second.features(drawn[:most_of_second]))[0]
                for figure, value in figures.items():
                    found.setdefault(name, {}).setdefault(figure, []).append(float(value))
                if name not in searched:
                    continue
                turned = self._oriented_features(drawn)
                to_members, to_others = (
                    -nearest_neighbours(features, turned)[0][:, 0] for features in (train_features, oriented)
                )
                membership = membership_auc(
                    ScoredImages(to_members, index.groups[train], strata[train]),
                    ScoredImages(to_others, index.groups[reference], strata[reference]),
                    num_resamples=2,  # the spread that counts here is over the resamples
                    seed=0,
                )
                figures = {
                    "auth_pct": authentic_percentage(train_features, turned, train_radii=radii),
                    "membership": membership["auc"],
                }
                for figure, value in figures.items():
                    found.setdefault(name, {}).setdefault(figure, []).append(float(value))
        return found

    def training_sets(self, seed: int, part: str = "train") -> dict[str, Callable[[np.ndarray, str], np.ndarray]]:
        """Return functions that give an image for each label, of known use for training, made of a part's images."""
        index, train = self.inputs.index, self.inputs.rows(part)
        labels = index.labels[train]
        kept = [label for label, name in enumerate(index.classes) if name not in _DROPPED]

        def real(asked: np.ndarray, purpose: str) -> np.ndarray:
            stream = numpy_stream(seed, purpose)
            rows = np.array([stream.choice(train[labels == label]) for label in asked])
            return np.asarray(self.inputs.images[rows])

        def some_classes(asked: np.ndarray, purpose: str) -> np.ndarray:
            return real(np.where(np.isin(asked, kept), asked, kept[0]), purpose)

        def shuffled(asked: np.ndarray, purpose: str) -> np.ndarray:
            return real(numpy_stream(seed, purpose + ", shuffled").choice(np.unique(labels), len(asked)), purpose)

        of_class = {
            int(label): mean_image(self.inputs.images[train[labels == label]], 1) for label in np.unique(labels)
        }

        def means(asked: np.ndarray, purpose: str) -> np.ndarray:
            return np.concatenate([of_class[label] for label in asked])

        sets = {
            "real": real,
            "blur 8": lambda asked, purpose: blurred(real(asked, purpose), 8),
            "noise 32": lambda asked, purpose: noisy(real(asked, purpose), 32, seed=seed),
            "classes dropped": some_classes,
            "class means": means,
            "labels shuffled": shuffled,
        }
        for name, model in self.generators.items():
            sets[name] = lambda asked, _, model=model: self.generate(model, asked, seed)
        return sets

    def measure_utility(
        self,
        names: Sequence[str],
        *,
        num_resamples: int = NUM_RESAMPLES,
        steps: int = 600,
        threads: int = 2,
        num_validation: int | None = None,
        arm: str = "synthetic",
        part: str = "train",
        figure: str = "balanced_accuracy",
    ) -> dict[str, list[float]]:
        """Return a figure on real test images of classifiers trained on each set, one per resample.

        `arm` is ``synthetic`` or ``real+synthetic``; `part` is what sets of images are made of: beside the train part
        its own images would be nothing new.
        """
        inputs = self.inputs
        rows = {part: inputs.rows(part) for part in ("train", "validation", "test")}
        # These only choose the step whose weights are kept.
        rows["validation"] = rows["validation"][:num_validation]
        index = inputs.index
        train, validation = (
            (ImageRows(inputs.images, rows[part]), index.labels[rows[part]]) for part in ("train", "validation")
        )
        test = TestImages(
            images=ImageRows(inputs.images, rows["test"]),
            labels=index.labels[rows["test"]],
            sites=index.sites[rows["test"]],
            groups=index.groups[rows["test"]],
        )
        real = RealParts(train=train, train_sites=index.sites[rows["train"]], validation=validation, test=test)
        settings = inputs.configuration.evaluation.model_copy(
            update={
                "utility_arms": arm,
                "utility_yardsticks": "",
                "utility_seeds": num_resamples,
                "utility_steps": steps,
            }
        )
        terms = UtilityTerms(settings=settings, classes=inputs.index.classes, seed=0, threads=threads)
        found = {}
        for name in names:
            judged = judge_utility(terms, real, self.training_sets(0, part)[name])
            found[name] = judged["arms"][arm][figure]["values"]
        return found


def with_power(images: np.ndarray, powers: Sequence[float], *, colours: float = 1.0) -> np.ndarray:
    """Multiply the power of images band by band, and how far their mean colours are from that of all.

    Parameters
    ----------
    images
        uint8 (n, r, r, 3).
    powers
        Of even bands from no cycle to half the side; the last one's is that of all frequencies beyond.
    colours
        Factor of each mean colour's distance from the mean of all images.
    """
    side = images.shape[1]
    frequencies = np.fft.fftfreq(side) * side
    radius = np.hypot(frequencies[:, None], frequencies[None])
    band = np.minimum((radius * len(powers) * 2 / side).astype(int), len(powers) - 1)
    means = images.mean((1, 2), keepdims=True)
    spectrum = np.fft.fft2(images - means, axes=(1, 2)) * np.sqrt(np.array(powers))[band][None, :, :, None]
    overall = means.mean(0)
    drawn = np.fft.ifft2(spectrum, axes=(1, 2)).real + overall + colours * (means - overall)
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def not_apart(lower: Sequence[float], higher: Sequence[float]) -> bool:
    """Return whether the second does not exceed the first by two deviations of whichever varies more."""
    gap = float(np.mean(higher) - np.mean(lower))
    return not gap > APART * max(float(np.std(lower, ddof=1)), float(np.std(higher, ddof=1)))


def check(ladder: Ladder, values: dict[str, list[float]]) -> list[tuple[str, str]]:
    """Return the neighbours of a ladder that are not told apart, or are in the wrong order."""
    rungs = ladder.rungs if ladder.rises else ladder.rungs[::-1]
    return [(a, b) for a, b in pairwise(rungs) if not_apart(values[a], values[b])]


def utility_ladders(generators: Sequence[str]) -> list[Ladder]:
    """Return the ladders of predictive ability."""
    chains = [*UTILITY_LADDERS]
    if len(generators) > 1:
        chains.append(("real", *reversed(generators)))
    return [Ladder("utility", "balanced accuracy", False, chain) for chain in chains]


def beside_real_ladders() -> list[Ladder]:
    """Return the ladders of what images beside real ones bring."""
    return [Ladder("beside real images", "macro AUROC", False, chain) for chain in BESIDE_REAL_LADDERS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of HAM10000")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--generators", default="0,20000,60000", help="images shown, ascending; empty for none")
    parser.add_argument("--steps", type=int, default=600, help="of each classifier; 0: without classifiers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    assignments = [
        "data.source=ham10000",
        f"data.root={arguments.root}",
        f"model.resolution={arguments.resolution}",
        "training.batch-size=16",
        "training.balanced-classes=hospital",
        # Trained in one place, though there are sites.
        "model.site-embedding=off",
        *arguments.set,
    ]
    bench = Bench.open(resolve([parse_assignments(assignments)]))
    bench.train_generators([int(count) for count in arguments.generators.split(",") if count])
    generators = list(bench.generators)
    ladders = image_ladders(generators)
    names = list(dict.fromkeys(name for ladder in ladders for name in ladder.rungs))
    figures = bench.measure(names, names)
    print(f"{bench.extractor.name}, second {bench.second.name}, {NUM_RESAMPLES} resamples, mean ± sd\n")
    columns = (
        "kid",
        "second_kid",
        "fid",
        "precision",
        "density",
        "recall",
        "coverage",
        "vendi",
        "auth_pct",
        "membership",
    )
    print(f"| images | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name in names:
        print(f"| {name} | {' | '.join(_mean_and_deviation(figures[name][column]) for column in columns)} |")
    print(flush=True)
    accuracy: dict[str, list[float]] = {}
    if arguments.steps:
        chains = utility_ladders(generators)
        sets = list(dict.fromkeys(name for ladder in chains for name in ladder.rungs))
        accuracy = bench.measure_utility(sets, steps=arguments.steps, threads=arguments.threads)
        print("| training images | balanced accuracy |\n|---|---|")
        for name in sets:
            print(f"| {name} | {_mean_and_deviation(accuracy[name])} |")
        print()
    areas = _measure_beside_real(bench, arguments) if arguments.steps else {}
    wrong = 0
    of_classifiers = {"utility": accuracy, "beside real images": areas}
    chains = [*utility_ladders(generators), *beside_real_ladders()] if accuracy else []
    for ladder in [*ladders, *chains]:
        values = of_classifiers.get(ladder.axis) or {name: figures[name][ladder.figure] for name in ladder.rungs}
        failed = check(ladder, values)
        wrong += len(failed)
        verdict = "; ".join(f"NOT APART: {a} and {b}" for a, b in failed) or "in order"
        print(f"{ladder.axis:<12} {ladder.figure:<18} {' > '.join(ladder.rungs)}: {verdict}")
    print(f"{wrong} pairs of neighbours are not told apart" if wrong else "every ladder is in order")
    if arguments.json:
        found = {
            "extractor": bench.extractor.name,
            "second": bench.second.name,
            "figures": figures,
            "balanced_accuracy": accuracy,
            "macro_auroc_beside_real": areas,
        }
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _measure_beside_real(bench: Bench, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Measure, and print, what images beside the real ones bring: those made of the extractor part are new to them."""
    names = list(dict.fromkeys(name for ladder in beside_real_ladders() for name in ladder.rungs))
    areas = bench.measure_utility(
        names,
        steps=arguments.steps,
        threads=arguments.threads,
        arm="real+synthetic",
        part="extractor",
        figure="macro_auroc",
    )
    print("| images beside all real ones | macro AUROC |\n|---|---|")
    for name in names:
        print(f"| {name} | {_mean_and_deviation(areas[name])} |")
    print()
    return areas


def _mean_and_deviation(values: Sequence[float]) -> str:
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    digits = 1 if abs(mean) >= 100 else 2 if abs(mean) >= 10 else 3
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


if __name__ == "__main__":
    main()
