"""Which recipe learns best? Settings x seeds, trained centrally on real images, judged by KID on validation images.

A study is a set of recipes, named after what they differ in. Every recipe sees the same images, the same number of
them, with the same seeds; only validation images judge. Seconds are the processor's own in training (evaluation
excluded), so that a shared machine does not decide. Runs go side by side, one thread each::

    python benchmarks/recipe_comparison.py loss --root PATH/TO/ham10000 --out results/loss
    python benchmarks/recipe_comparison.py augmentation --root PATH/TO/ham10000 --images 15000 --out results/small

It writes a line per evaluation to ``OUT/results.jsonl``, the last generator of each run to ``OUT/<recipe>-<seed>/``
with a picture of its samples, and prints a table: mean and 95 % interval (Student's t) over the seeds. A conditional
recipe's generators are also shown to a classifier trained on real images: which share of a class does it recognise?
Runs whose lines are there already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clients.local_training import train_locally
from data_partitions.dataset import ImageDataset, load_images
from data_partitions.sources import load_index
from data_partitions.split import split_parts
from federation.config import Configuration, parse_assignments, resolve
from federation.metrics.features import build_extractor
from federation.metrics.fidelity import kid
from federation.models import GenerativeModel, build_model
from federation.models.classifier import predict_probabilities, train_classifier
from federation.models.drawing import drawer_of
from federation.models.final import save_final
from federation.seeding import numpy_stream, torch_stream
from federation.settings.section import join_names
from server.evaluation.sample_sheet import write_sample_sheet

_CONDITIONAL = ["training.batch-size=16"]
_ONE_HOSPITAL = ["model.conditional=false", "training.batch-size=16"]
_LOGISTIC = ["stylegan2.loss=logistic", "stylegan2.gamma=0.05"]

# Each study: the site whose images are used (empty: all), and settings by recipe.
STUDIES: dict[str, tuple[str, dict[str, list[str]]]] = {
    "loss": (
        "",
        {
            "relativistic": _CONDITIONAL,
            "logistic": [*_CONDITIONAL, *_LOGISTIC],
            "paper": [
                *_CONDITIONAL,
                *_LOGISTIC,
                "stylegan2.style-mixing=0.9",
                "stylegan2.path-length-weight=2.0",
                "stylegan2.minibatch-std=4",
                "stylegan2.resampling=fir",
            ],
        },
    ),
    "precision": ("", {"fp32": [*_CONDITIONAL, "training.precision=fp32"], "bf16": _CONDITIONAL}),
    "resampling": ("", {"bilinear": _CONDITIONAL, "fir": [*_CONDITIONAL, "stylegan2.resampling=fir"]}),
    "long-tail": (
        "",
        {
            "as it is": _CONDITIONAL,
            "balanced classes": [*_CONDITIONAL, "training.balanced-classes=true"],
            "label dropout": [*_CONDITIONAL, "training.balanced-classes=true", "stylegan2.label-dropout=0.1"],
            "transition": [
                *_CONDITIONAL,
                "training.balanced-classes=true",
                "stylegan2.transition-start-images=5000",
                "stylegan2.transition-images=10000",
            ],
        },
    ),
    "augmentation": (
        "vienna_dias",
        {
            "none": _ONE_HOSPITAL,
            "ada dermoscopy": [*_ONE_HOSPITAL, "stylegan2.augmentation.name=ada", "stylegan2.augmentation.ada-kimg=20"],
            "ada bgc": [
                *_ONE_HOSPITAL,
                "stylegan2.augmentation.name=ada",
                "stylegan2.augmentation.ada-kimg=20",
                "stylegan2.augmentation.transforms=bgc",
            ],
            "diffaugment": [*_ONE_HOSPITAL, "stylegan2.augmentation.name=diffaugment"],
        },
    ),
}
_GENERATED = 1000
_PER_CLASS = 200
_SHEET_COLUMNS = 12
_FIELDS = ("study", "recipe", "seed", "images_in_all", "evaluations")


class Judge:
    """Validation images of one source, and the networks that judge by them."""

    def __init__(self, configuration: Configuration, site: str) -> None:
        data, resolution = configuration.data, configuration.model.resolution
        self.index = load_index(data, resolution=resolution)
        self.classes = self.index.classes
        self.images = load_images(self.index, resolution, data.cache_dir)
        self.parts = split_parts(self.index.groups, data.split_seed)
        here = np.asarray(self.index.sites) == site if site else np.ones(len(self.parts), dtype=bool)
        self.train = np.flatnonzero((self.parts == "train") & here)
        validation = np.flatnonzero((self.parts == "validation") & here)
        if len(validation) > _GENERATED:
            stream = numpy_stream(data.split_seed, "evaluation images, validation")
            validation = np.sort(stream.choice(validation, size=_GENERATED, replace=False))
        rows = np.flatnonzero(self.parts == "extractor")
        sites = np.unique(self.index.sites, return_inverse=True)[1]
        self.extractor, _ = build_extractor(
            configuration.evaluation,
            images=self.images[rows],
            labels=self.index.labels[rows],
            sites=sites[rows],
            num_classes=len(self.classes),
            split_seed=data.split_seed,
            cache_dir=data.cache_dir,
            device=torch.device("cpu"),
            progress=lambda *_: None,
        )
        self.real = self.extractor.features(self.images[validation])
        self.real_train = self.extractor.features(self.images[self.train[:_GENERATED]])
        # Classes are asked for as they occur in the validation images.
        self.asked = np.resize(self.index.labels[validation], _GENERATED)

    def generate(self, model: GenerativeModel, labels: np.ndarray, purpose: str) -> np.ndarray:
        """Draw an image for each label, the same latents for the same purpose."""
        stream = torch_stream(0, purpose)
        drawer, drawn = drawer_of(model), []
        for start in range(0, len(labels), 100):
            batch = torch.from_numpy(labels[start : start + 100])
            drawn.append(drawer.generate(batch if model.num_classes else None, len(batch), stream).numpy())
        return np.concatenate(drawn)

    def scores(self, model: GenerativeModel) -> dict[str, float]:
        """KID of 1,000 generated images; few real images mean many subsets of as few.

        Returns
        -------
        ``kid``: against validation images, which alone decide. ``kid_train``: against (1,000 of) the training images,
        which a copy of them would win. ``kid_floor``: of training against validation images, what chance makes of
        few images.
        """
        generated = self.extractor.features(self.generate(model, self.asked, "scores"))

        def compare(real: np.ndarray, other: np.ndarray) -> float:
            return kid(real, other, num_subsets=20 if min(len(real), len(other)) >= _GENERATED else 200)[0]

        return {
            "kid": compare(self.real, generated),
            "kid_train": compare(self.real_train, generated),
            "kid_floor": compare(self.real, self.real_train),
        }


def configuration_of(root: str, settings: Sequence[str], seed: int) -> Configuration:
    """Resolve a recipe."""
    common = ["data.source=ham10000", f"data.root={root}", "evaluation.threads=1", "evaluation.extractor=lesion-cnn"]
    # Trained in one place.
    common += ["partition.hospitals=1"]
    configuration = resolve([parse_assignments([*common, f"seed={seed}", *settings])])
    classes = load_index(configuration.data, resolution=configuration.model.resolution).classes
    return configuration.with_values({"data.classes": join_names(classes)})


def run(study: str, recipe: str, seed: int, arguments: argparse.Namespace) -> None:
    """Train one recipe with one seed; write its lines, its generator and its picture."""
    torch.set_num_threads(1)
    site, recipes = STUDIES[study]
    configuration = configuration_of(arguments.root, recipes[recipe], seed)
    judge = Judge(configuration, site)
    training = configuration.training
    model = build_model(configuration)
    dataset = ImageDataset(
        judge.images,
        judge.index.labels,
        judge.train,
        flips=training.flips,
        balanced=configuration.balanced_over != "none",
    )
    steps = arguments.images // arguments.evaluations // training.batch_size
    settings = training.model_copy(update={"local_steps": steps})
    seconds, lines = 0.0, []
    for part in range(arguments.evaluations):
        stream = torch_stream(seed, "recipe comparison", server_round=part + 1)
        start = time.process_time()
        result = train_locally(model, dataset, settings, stream)
        seconds += time.process_time() - start
        lines.append(
            {
                "study": study,
                "recipe": recipe,
                "seed": seed,
                "images_in_all": arguments.images,
                "evaluations": arguments.evaluations,
                "images": (part + 1) * steps * training.batch_size,
                "seconds": seconds,
                **judge.scores(model),
                "extractor": judge.extractor.name,
                "num_train": len(dataset),
                "num_validation": len(judge.real),
                **result.losses,
            }
        )
        print(f"{recipe:>18} seed {seed}: {lines[-1]['images']:>7,} images {lines[-1]['kid']:.3f}", flush=True)
    if model.num_classes:
        lines[-1] |= recognised(judge, model, seed)
    folder = arguments.out / f"{recipe.replace(' ', '-')}-{seed}"
    save_final(folder, drawer_of(model), configuration)
    rows = len(judge.classes) if model.num_classes else 4
    sheet = judge.generate(model, np.repeat(np.arange(rows), _SHEET_COLUMNS), "sheet")
    captions = judge.classes if model.num_classes else [""] * rows
    tiles = sheet.reshape(rows, _SHEET_COLUMNS, *sheet.shape[1:])
    write_sample_sheet(folder / "samples.png", list(zip(captions, tiles, strict=True)), scale=2)
    with (arguments.out / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def recognised(judge: Judge, model: GenerativeModel, seed: int) -> dict[str, Any]:
    """Show generated images, each class alike, to a classifier trained on the real training images.

    Returns
    -------
    ``recognised``: by class, the share of its images that is taken for it. ``mistaken``: the share of all other
    classes' generated images that is taken for it: what a guess would be. ``recognised_real``: of real
    validation images.
    """
    classifier = train_classifier(
        judge.images[judge.train],
        judge.index.labels[judge.train],
        num_classes=len(judge.classes),
        steps=600,
        stream=torch_stream(seed, "recognising classifier"),
    )
    labels = np.repeat(np.arange(len(judge.classes)), _PER_CLASS)
    predicted = predict_probabilities(classifier, judge.generate(model, labels, "recognised")).argmax(1)
    rows = np.flatnonzero(judge.parts == "validation")
    predicted_real = predict_probabilities(classifier, judge.images[rows]).argmax(1)
    real = judge.index.labels[rows]
    names = list(enumerate(judge.classes))
    return {
        "recognised": {name: float((predicted[labels == label] == label).mean()) for label, name in names},
        "mistaken": {name: float((predicted[labels != label] == label).mean()) for label, name in names},
        "recognised_real": {name: float((predicted_real[real == label] == label).mean()) for label, name in names},
    }


def interval(values: Sequence[float]) -> str:
    """Mean and half of the 95 % interval of the mean by Student's t."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean:.3f} ± {half:.3f}"


def print_tables(lines: list[dict[str, Any]], study: str) -> None:
    """Print KID over images, seconds, and what a classifier recognises, as markdown."""
    recipes = [name for name in STUDIES[study][1] if any(line["recipe"] == name for line in lines)]
    counts = sorted({line["images"] for line in lines})
    print(f"\n| recipe | {' | '.join(f'{count:,}' for count in counts)} | images/s |")
    print("|" + "---|" * (len(counts) + 2))
    for recipe in recipes:
        own = [line for line in lines if line["recipe"] == recipe]
        cells = [interval([line["kid"] for line in own if line["images"] == count]) for count in counts]
        last = [line for line in own if line["images"] == counts[-1]]
        speed = sum(line["images"] for line in last) / sum(line["seconds"] for line in last)
        print(f"| {recipe} | {' | '.join(cells)} | {speed:.0f} |")
    judged = [line for line in lines if "recognised" in line]
    if judged:
        classes = list(judged[0]["recognised"])
        print(f"\n| recognised | {' | '.join(classes)} |")
        print("|" + "---|" * (len(classes) + 1))
        for recipe in recipes:
            own = [line for line in judged if line["recipe"] == recipe]
            for key in ("recognised", "mistaken"):
                cells = [interval([line[key][name] for line in own]) for name in classes]
                print(f"| {recipe}{', by mistake' if key == 'mistaken' else ''} | {' | '.join(cells)} |")
        cells = [interval([line["recognised_real"][name] for line in judged]) for name in classes]
        print(f"| real validation images | {' | '.join(cells)} |")


def main() -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--root", required=True, help="folder of HAM10000")
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument("--images", type=int, default=30_000, help="images shown to each (default 30000)")
    parser.add_argument("--evaluations", type=int, default=3, help="at equal distances (default 3)")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--recipes", default="", help="only these, separated by commas")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side (default 2)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "results.jsonl"

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    there = {tuple(line[field] for field in _FIELDS) for line in read()}
    recipes = arguments.recipes.split(",") if arguments.recipes else list(STUDIES[arguments.study][1])
    jobs = [
        (arguments.study, recipe, seed)
        for seed in map(int, arguments.seeds.split(","))
        for recipe in recipes
        if (arguments.study, recipe, seed, arguments.images, arguments.evaluations) not in there
    ]
    if jobs:
        with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
            for future in [pool.submit(run, *job, arguments) for job in jobs]:
                future.result()
    asked = (arguments.study, arguments.images, arguments.evaluations)
    lines = [line for line in read() if (line["study"], line["images_in_all"], line["evaluations"]) == asked]
    print_tables(lines, arguments.study)


if __name__ == "__main__":
    main()
