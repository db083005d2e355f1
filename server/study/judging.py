"""What a row of a study is worth: its generators, judged on the test images of its table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from federation.config import Configuration
from federation.images import ImageRows
from federation.metrics.features import FeatureExtractor
from federation.models.classifier import Progress
from federation.models.drawing import Component
from federation.models.final import FinalGenerator, load_final
from federation.run_directory import RunDirectory, read_json, read_lines
from server.evaluation.judge import Judge
from server.evaluation.membership import nothing_attacked
from server.evaluation.mixes import MixImages, MixOutcome, MixTerms, judge_mixes
from server.evaluation.predictions import TestImages
from server.evaluation.run_extractor import extractor_of, second_extractor_of
from server.inputs import RunInputs
from server.study.plan import Row, StudyPlan
from server.study.supplies import ConditionalSource, PairSource, Source
from strategies.configuration import with_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FIDELITY = ("kid", "fid", "precision", "density", "recall", "coverage", "vendi")


@dataclass(frozen=True)
class JudgedRow:
    """What a row is worth, as it is kept."""

    record: dict[str, Any]
    """For json: costs, and each generator's figures."""
    resampled: dict[str, NDArray[np.float64]]
    """By generator, classifier, mix and figure (:func:`resampled_name`): its values in resampled sets, (r,)."""


class TableJudge:
    """Judges the rows of one table, all with the same extractors and the same real images.

    Parameters
    ----------
    inputs
        Images of the table; its settings are those of the table's judgement.
    plan
        The study.
    against
        The class that is told from the rest.
    threads
        Classifiers trained side by side.
    progress
        Called with what is being done, how much is done, and of how much.
    """

    def __init__(self, inputs: RunInputs, plan: StudyPlan, against: str, *, threads: int, progress: Progress) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.inputs, self.plan, self.threads, self.progress = inputs, plan, threads, progress
        self.label = inputs.index.classes.index(against)
        self.extractor: FeatureExtractor
        self.extractor, self.sentence = extractor_of(inputs, device=self.device, progress=progress)
        self.second = second_extractor_of(inputs, device=self.device)

    def judge(self, row: Row, directories: Sequence[RunDirectory]) -> JudgedRow:
        """Judge each generator of a row.

        Parameters
        ----------
        row
            What is judged.
        directories
            Its finished runs, in the order of its cells.
        """
        values: dict[str, Any] = {"seed": row.seed}
        if "small-cnn" not in self._networks(row):
            values["evaluation.utility"] = False
        inputs = replace(self.inputs, configuration=with_values(self.inputs.configuration, values))
        judge = Judge(inputs, self.extractor, device=self.device, progress=self.progress, second=self.second)
        generators: list[dict[str, Any]] = []
        resampled: dict[str, NDArray[np.float64]] = {}
        for name, source in self._sources(row, [directory.final for directory in directories]):
            judged = judge.judge(source, attacked=nothing_attacked("a study attacks no generator"))
            mixes = self._mixes(row, source)
            generators.append(
                {
                    "hospital": name,
                    "test": judged["test"],
                    "utility": judged["utility"],
                    "mixes": {
                        network: {mix: one.figures for mix, one in outcomes.items()}
                        for network, outcomes in mixes.items()
                    },
                    "classifiers": {
                        network: next(iter(outcomes.values())).classifier for network, outcomes in mixes.items()
                    },
                }
            )
            resampled |= dict(_resampled(name, mixes))
        return JudgedRow({"costs": costs(row, directories), "generators": generators}, resampled)

    def _sources(self, row: Row, finals: Sequence[Path]) -> Iterator[tuple[str, Source]]:
        """Yield what is judged: one generator, or that of each hospital by its name."""
        loaded = [load_final(path, device=self.device) for path in finals]
        names = [component.name for component in loaded[0].components]
        for number, name in enumerate(names):
            own = [_component(final, final.components[number]) for final in loaded]
            yield name, self._source(row, own)

    def _source(self, row: Row, own: Sequence[FinalGenerator]) -> Source:
        if row.kind == "conditional":
            labels = self.inputs.index.labels[self.inputs.rows("train")]
            return ConditionalSource(own[0], seed=row.seed, threads=self.threads, label=self.label, labels=labels)
        return PairSource(*own, seed=row.seed, threads=self.threads, label=self.label)

    def _networks(self, row: Row) -> dict[str, int]:
        """Return the classifiers that are trained for a row, and for how many steps."""
        return {
            name: one.steps
            for name, one in self.plan.classifiers.items()
            if one.concerns(row.table, row.regime, row.seed)
        }

    def _mixes(self, row: Row, source: Source) -> dict[str, dict[str, MixOutcome]]:
        networks = self._networks(row)
        if not networks:
            return {}
        settings = self.inputs.configuration.evaluation
        terms = MixTerms(
            networks=networks,
            seed=row.seed,
            cache_dir=self.inputs.configuration.data.cache_dir,
            device=self.device,
            threads=self.threads,
            weights=settings.utility_weights,
            allow_downloads=settings.allow_downloads,
        )
        images = MixImages(
            train=self._labelled("train"), validation=self._labelled("validation"), test=self._test_images()
        )
        return judge_mixes(terms, images, source.of_class, progress=self.progress)

    def _labelled(self, part: str) -> tuple[ImageRows, NDArray[np.int64]]:
        rows = self.inputs.rows(part)
        return ImageRows(self.inputs.images, rows), (self.inputs.index.labels[rows] == self.label).astype(np.int64)

    def _test_images(self) -> TestImages:
        rows, index = self.inputs.rows("test"), self.inputs.index
        images, labels = self._labelled("test")
        return TestImages(
            images=images,
            labels=labels,
            sites=index.sites[rows],
            groups=index.groups[rows],
            seed=self.inputs.configuration.data.split_seed,
        )


def _component(final: FinalGenerator, component: Component) -> FinalGenerator:
    """Return one of a mixture's generators, or the generator where there is one alone."""
    return final.only(component) if final.is_mixture else final


def _resampled(name: str, mixes: Mapping[str, Mapping[str, MixOutcome]]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    for network, outcomes in mixes.items():
        for mix, outcome in outcomes.items():
            for figure, values in outcome.resampled.items():
                yield resampled_name(name, network, mix, figure), values


def resampled_name(hospital: str, network: str, mix: str, figure: str) -> str:
    """Return the name of a figure's values in resampled sets."""
    return "|".join((hospital, network, mix, figure))


def names_of_resampled(record: Mapping[str, Any]) -> list[str]:
    """Return the names of all figures whose values in resampled sets belong to a row."""
    return [
        resampled_name(generator["hospital"], network, mix, figure)
        for generator in record["generators"]
        for network, mixes in generator["mixes"].items()
        for mix, figures in mixes.items()
        for figure in figures
    ]


def judged_by(record: Mapping[str, Any]) -> dict[str, str]:
    """Return by which networks a row was judged, each by what it is: rows are compared where these are the same."""
    first = record["generators"][0]
    found = {
        "extractor": first["test"].get("extractor"),
        **{f"classifier {network}": name for network, name in first.get("classifiers", {}).items()},
    }
    found["second extractor"] = (first["test"].get("second") or {}).get("extractor")
    return {what: str(name) for what, name in found.items() if name is not None}


def judging_configuration(configuration: Configuration, plan: StudyPlan) -> Configuration:
    """Return the settings with which a table is judged: classifiers of all classes for generators that know them."""
    steps = plan.classifiers["small-cnn"].steps if "small-cnn" in plan.classifiers else 0
    if not steps:
        return configuration
    return with_values(
        configuration,
        {
            "evaluation.utility": True,
            "evaluation.utility-arms": "real,synthetic,real+synthetic",
            "evaluation.utility-yardsticks": "",
            "evaluation.utility-seeds": 1,
            "evaluation.utility-steps": steps,
        },
    )


def costs(row: Row, directories: Sequence[RunDirectory]) -> dict[str, float]:
    """Return what training a row's generators took: seconds, images shown, and bytes between hospitals and server.

    Of hospitals that train alone these are of all together.
    """
    summaries = [read_json(directory.summary) for directory in directories]
    seconds = [
        sum(summary["seconds_by_work"].get(work, 0.0) for work in ("training", "aggregation")) for summary in summaries
    ]
    sent = 0
    if row.regime == "federated":
        lines = [line for directory in directories for line in read_lines(directory.hospitals)]
        sent = sum(line.get("bytes_down", 0) + line.get("bytes_up", 0) for line in lines)
    images = sum(summary["images"] for summary in summaries)
    return {"seconds": sum(seconds), "images": images, "seconds_per_kimg": 1000 * sum(seconds) / images, "bytes": sent}


def site_figure(hospital: str) -> str:
    """Return the name of the distance to one hospital's images."""
    return f"kid_site[{hospital}]"


def figures_of(record: Mapping[str, Any], network: str) -> dict[str, float]:
    """Return a row's figures by name, each the mean over its generators."""
    found: dict[str, list[float]] = {}
    for generator in record["generators"]:
        for name, value in _of_generator(generator, network):
            found.setdefault(name, []).append(float(value))
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return means | {name: float(value) for name, value in record["costs"].items()}


def _of_generator(generator: Mapping[str, Any], network: str) -> Iterator[tuple[str, float]]:
    test = generator["test"]
    found = {name: test.get(name) for name in _FIDELITY}
    found["second_kid"] = (test.get("second") or {}).get("kid")
    for entry in test.get("per_site", []):
        # Who trains alone serves itself: what its images are to others is in the whole.
        if generator["hospital"] in ("", entry["name"]):
            found[site_figure(entry["name"])] = entry.get("kid")
    for arm, section in generator["utility"].get("arms", {}).items():
        if section.get("balanced_accuracy"):
            found[f"all_classes[{arm}]"] = section["balanced_accuracy"]["mean"]
    for mix, figures in generator["mixes"].get(network, {}).items():
        found |= {f"{figure}[{mix}]": value for figure, value in figures.items()}
    yield from ((name, value) for name, value in found.items() if value is not None)
