"""The judge: fidelity, diversity, predictive ability and authenticity of one source of images.

A run ends with it, and ``dermafed evaluate`` calls it alone, on a run, an exported generator or a folder of images
from anywhere. The images that it compares with belong to the part that is named: ``test`` in the end.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from federation.errors import NotFiniteError
from federation.images import ImageRows
from federation.metrics.feature_cache import cached_features
from federation.metrics.features import FeatureExtractor, LesionCNNExtractor
from federation.metrics.image_statistics import image_statistics
from federation.models.classifier import Progress
from federation.models.efficientnet import find_imagenet_weights
from federation.seeding import numpy_stream
from server.evaluation.authenticity import (
    FEWEST_IMAGES,
    ComparedImages,
    RealImages,
    TrainedNetworks,
    Upload,
    draw_closest_pairs,
    judge_authenticity,
)
from server.evaluation.classifier_cost import describe_cost, gain_work, measure_step, utility_work
from server.evaluation.gain import GAIN_IS_OFF, Hospital, judge_gain
from server.evaluation.membership import Attacked, AttackedUpload
from server.evaluation.predictions import TestImages
from server.evaluation.scores import RealSet, Reference, SiteReference, score_supply
from server.evaluation.second_opinion import COMPARED_YARDSTICKS, SecondOpinion, SecondReference
from server.evaluation.site_yardsticks import thinned, with_real_images
from server.evaluation.supply import ImageSupply
from server.evaluation.utility import RealParts, UtilityTerms, judge_utility
from server.evaluation.yardsticks import measure_yardsticks
from server.inputs import RunInputs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

# Training images of which copies are searched for by a large extractor.
_MOST_COMPARED_DEAR = 4000
# Training images of which copies are searched for: all of them where features cost little.
_MOST_COMPARED = 20_000
# Generated images that are searched, unless it is said how many. So many times as there are training images: a copier
# then draws nearly each of them, e^-4 of them are left out.
_SEARCHED_FOR_EACH = 4
_MOST_SEARCHED = 20_000
# What a search costs that much is generating: a pixel costs about the same at any resolution.
_CHEAP_RESOLUTION = 32
# At least so many are searched, and where features cost much, no more have any.
_FEW_SEARCHED = 2000


class Judge:
    """Judges sources of images against the real images of one data set.

    Parameters
    ----------
    inputs
        Data, split and settings.
    extractor
        Whose features are compared.
    device
        Where classifiers are trained.
    progress
        Called with what is being done, how much is done, and of how much.
    second
        Whose features are compared as well, for a second opinion on fidelity; None: of nobody.
    say
        Told in a line what classifiers will cost, before they are trained; None: nobody asks.

    Raises
    ------
    InputError
        If the classifier's pretrained weights are named and are not the published ones.
    """

    def __init__(
        self,
        inputs: RunInputs,
        extractor: FeatureExtractor,
        *,
        device: torch.device | str,
        progress: Progress,
        second: FeatureExtractor | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.inputs = inputs
        self._say = say
        self._step_seconds: tuple[float, int] | None = None
        self.second = second
        self._second_references: dict[str, SecondReference] = {}
        self.configuration = inputs.configuration
        self.extractor = extractor
        self.device = device
        self.progress = progress
        settings = self.configuration.evaluation
        if (settings.utility or settings.gain) and settings.utility_classifier == "efficientnet-b2":
            # Weights that are wrong must show now, and not after hours of training.
            find_imagenet_weights(settings.utility_weights, allow_downloads=settings.allow_downloads)

    def features(self, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """Return the features of real images, computed once per data set and extractor."""
        return cached_features(self.extractor, self.inputs.images[rows], cache_dir=self.configuration.data.cache_dir)

    def real_set(self, rows: NDArray[np.int64]) -> RealSet:
        """Return real images as what generated ones are compared with."""
        index = self.inputs.index
        return RealSet(self.features(rows), index.labels[rows], index.sites[rows])

    def site_reference(
        self, rows: NDArray[np.int64], real: RealSet, part: str, *, members_unknown: str = ""
    ) -> SiteReference:
        """Return what stands for each hospital.

        Where hospitals are the sites of the data, that is their images of the part; else who holds what is decided
        for training images alone, and those are taken.
        """
        settings, partition = self.configuration.partition, self.inputs.partition
        if settings.scheme == "natural" or members_unknown:
            names = sorted(set(real.sites.tolist()))
            return SiteReference(
                {name: real.features[real.sites == name] for name in names}, f"the {part} images of each site"
            )
        most = len(rows)
        found = {}
        for name in partition.hospitals:
            found[name] = self.features(thinned(partition.rows_of(name), most))
        return SiteReference(found, f"training images of each hospital, since partition.scheme = {settings.scheme}")

    def _with_real_images(
        self,
        sites: SiteReference,
        real: RealSet,
        train_features: NDArray[np.floating],
        part: str,
        members_unknown: str,
    ) -> SiteReference:
        """Add the real images that are to score against each hospital."""
        return with_real_images(
            sites,
            real,
            train_features,
            inputs=self.inputs,
            features=self.features,
            part=part,
            are_sites=self.configuration.partition.scheme == "natural" or bool(members_unknown),
        )

    def judge(
        self,
        supply: ImageSupply,
        *,
        attacked: Attacked,
        part: str = "test",
        members_unknown: str = "",
        pairs_path: Path | None = None,
        keep: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Judge a source of images.

        Parameters
        ----------
        supply
            The images.
        attacked
            What can be attacked beside the images themselves.
        part
            The part of the real images that is the reference: ``test``, or ``validation`` while choices are made.
        members_unknown
            Why it is not known which images the generator learned from; empty: the train part.
        pairs_path
            Where the closest pairs are drawn; None: nowhere, since they show real images.
        keep
            Called with the same sections before classifiers are trained, which takes longest.

        Returns
        -------
        ``test``, ``gain``, ``utility`` and ``authenticity``.
        """
        scores = self._scores(supply, part, members_unknown)
        if members_unknown:
            authenticity: dict[str, Any] = {"not_measured": members_unknown}
        else:
            authenticity = self._authenticity(supply, attacked, part, pairs_path)
        settings = self.configuration.evaluation
        if keep is not None and (settings.utility or settings.gain):
            pending = {"not_measured": "classifiers were not trained to their end"}
            keep({"test": scores, "gain": pending, "utility": pending, "authenticity": authenticity})
        return {
            "test": scores,
            "gain": self._gain(supply, part, members_unknown),
            "utility": self._utility(supply, part),
            "authenticity": authenticity,
        }

    def _scores(self, supply: ImageSupply, part: str, members_unknown: str) -> dict[str, Any]:
        """Return the section ``test``: fidelity and diversity, by both extractors."""
        settings = self.configuration.evaluation
        rows = self.inputs.choose(part, settings.images)
        self.progress("features of real images", 0, 1)
        real = self.real_set(rows)
        train_features = self.features(self.inputs.choose("train", len(rows)))
        sites = self.site_reference(rows, real, part, members_unknown=members_unknown)
        opinion = None if self.second is None else SecondOpinion(supply, self._second_reference(rows, part))
        scores = score_supply(
            supply if opinion is None else opinion.supply,
            self.extractor,
            Reference(
                real=real,
                train_features=train_features,
                sites=self._with_real_images(sites, real, train_features, part, members_unknown),
                classes=self.inputs.index.classes,
                part=part,
            ),
            num_draws=settings.draws,
            seed=self.configuration.data.split_seed,
            progress=self.progress,
        )
        scores["resolution"] = int(self.inputs.images.shape[1])
        if opinion is not None:
            scores |= opinion.sections(scores)
        return scores

    def _second_reference(self, rows: NDArray[np.int64], part: str) -> SecondReference:
        """Return what the second extractor compares images with; the same for all that are judged on a part."""
        assert self.second is not None
        if part not in self._second_references:
            self.progress("yardsticks", 0, 1)
            images, train, seed = self.inputs.images, self.inputs.choose("train", len(rows)), self._seed
            cache_dir = self.configuration.data.cache_dir
            features = cached_features(self.second, images[rows], cache_dir=cache_dir)
            # Inception takes hours for them on a processor.
            cheap = isinstance(self.extractor, LesionCNNExtractor)
            asked = {"second": (self.second, features)}
            if cheap:
                asked["first"] = (self.extractor, self.features(rows))
            components = images[self.inputs.choose("train", _MOST_COMPARED_DEAR)]
            measured = {
                who: measure_yardsticks(
                    extractor,
                    validation_images=images[rows],
                    validation_features=reference,
                    train_images=components,
                    seed=seed,
                    only=COMPARED_YARDSTICKS,
                )
                for who, (extractor, reference) in asked.items()
            }
            self._second_references[part] = SecondReference(
                extractor=self.second,
                real=features,
                labels=self.inputs.index.labels[rows],
                stand_in=cached_features(self.second, images[train], cache_dir=cache_dir),
                real_pixels=image_statistics(images[rows]),
                stand_in_pixels=image_statistics(images[train]),
                yardsticks=measured["second"],
                first_yardsticks=measured.get("first", {}),
                seed=seed,
            )
        return self._second_references[part]

    @property
    def _seed(self) -> int:
        return self.configuration.data.split_seed

    def _utility(self, supply: ImageSupply, part: str) -> dict[str, Any]:
        settings = self.configuration.evaluation
        why = "" if settings.utility else "evaluation.utility is false"
        why = why or self.why_no_classifier(supply)
        if why:
            return {"not_measured": why}
        try:
            if self._say is not None and (cost := self.utility_cost(part)):
                self._say(f"utility: {cost}; --set evaluation.utility=false leaves them out")
            return judge_utility(
                self._terms(), self._real_parts(part), partial(_generate, supply), progress=self.progress
            )
        except NotFiniteError as error:
            # One classifier that diverges must not lose what else was judged.
            return {"not_measured": str(error)}

    def utility_cost(self, part: str) -> str:
        """Say how many classifiers the section ``utility`` needs, and how long they take here; empty where none."""
        terms, real = self._terms(), self._real_parts(part)
        seconds, batch_size = self._measured_step(real)
        work = utility_work(terms, real, batch_size)
        return describe_cost(work, seconds, terms) if work.count else ""

    def _measured_step(self, real: RealParts) -> tuple[float, int]:
        """Return how long a step takes, measured once, and of how many images."""
        if self._step_seconds is None:
            self.progress("timing a classifier's step", 0, 1)
            self._step_seconds = measure_step(self._terms(), real)
        return self._step_seconds

    def _real_parts(self, part: str) -> RealParts:
        inputs = self.inputs
        # What classifiers are tested on must not have chosen their state.
        chosen_by = "extractor" if part == "validation" else "validation"
        return RealParts(
            train=self._labelled("train"),
            train_sites=inputs.index.sites[inputs.rows("train")],
            validation=self._labelled(chosen_by),
            test=self._test_images(part),
        )

    def _gain(self, supply: ImageSupply, part: str, members_unknown: str) -> dict[str, Any]:
        inputs, settings, partition = self.inputs, self.configuration.evaluation, self.inputs.partition
        why = "" if settings.gain else GAIN_IS_OFF
        why = why or members_unknown or self.why_no_classifier(supply)
        if why:
            return {"not_measured": why}
        index, test = inputs.index, self._test_images(part)

        def held(rows: NDArray[np.int64]) -> tuple[ImageRows, NDArray[np.int64]]:
            return ImageRows(inputs.images, rows), index.labels[rows]

        is_natural = self.configuration.partition.scheme == "natural"
        hospitals = [
            Hospital(
                name=name, train=held(partition.rows_of(name)), own_test=test.sites == name if is_natural else None
            )
            for name in partition.hospitals
        ]
        try:
            if self._say is not None and len(hospitals) > 1:
                seconds, _ = self._measured_step(self._real_parts(part))
                cost = describe_cost(gain_work(self._terms(), len(hospitals)), seconds, self._terms())
                self._say(f"gain: {cost}; --set evaluation.gain=false leaves them out")
            return judge_gain(
                self._terms(),
                hospitals,
                self._labelled("train"),
                test,
                part,
                partial(_generate, supply),
                progress=self.progress,
            )
        except NotFiniteError as error:
            return {"not_measured": str(error)}

    def why_no_classifier(self, supply: ImageSupply) -> str:
        """Return why no classifier can be trained on generated images; empty where it can."""
        if not supply.knows_classes:
            return "the generated images bear no class, so that no classifier can be trained on them"
        absent = [name for label, name in enumerate(self.inputs.index.classes) if not supply.has_class(label)]
        return f"there is no generated image of {', '.join(absent)}" if absent else ""

    def _terms(self) -> UtilityTerms:
        """Return how classifiers are trained."""
        settings = self.configuration.evaluation
        return UtilityTerms(
            settings=settings,
            classes=self.inputs.index.classes,
            seed=self.configuration.seed,
            cache_dir=self.configuration.data.cache_dir,
            device=self.device,
            threads=settings.threads,
        )

    def _labelled(self, part: str) -> tuple[ImageRows, NDArray[np.int64]]:
        """Return the images of a part, which stay where they are, and their labels."""
        rows = self.inputs.rows(part)
        return ImageRows(self.inputs.images, rows), self.inputs.index.labels[rows]

    def _test_images(self, part: str) -> TestImages:
        rows, index = self.inputs.rows(part), self.inputs.index
        return TestImages(
            images=ImageRows(self.inputs.images, rows),
            labels=index.labels[rows],
            sites=index.sites[rows],
            groups=index.groups[rows],
            seed=self.configuration.data.split_seed,
        )

    def _authenticity(
        self, supply: ImageSupply, attacked: Attacked, part: str, pairs_path: Path | None
    ) -> dict[str, Any]:
        inputs, settings = self.inputs, self.configuration.evaluation
        if not settings.authenticity:
            return {"not_measured": "evaluation.authenticity is false"}
        index = inputs.index
        # A pass of Inception takes longer than drawing the image.
        cheap = isinstance(self.extractor, LesionCNNExtractor)
        train = inputs.choose("train", _MOST_COMPARED if cheap else _MOST_COMPARED_DEAR)
        count, chosen_by = images_to_search(len(train), settings.searched_images, int(inputs.images.shape[1]))
        if supply.num_images is not None and supply.num_images < count:
            count, chosen_by = supply.num_images, "there are no more"
        stream = numpy_stream(self.configuration.data.split_seed, "classes of images that are searched for copies")
        _, batches = supply.draw(stream.choice(index.labels[train], count), "authenticity", whole=True)
        self.progress("looking for copies of training images", 0, 1)
        section, pairs = judge_authenticity(
            ComparedImages(
                generated=batches,
                num_generated=count,
                most_features=count if cheap else _FEW_SEARCHED,
                train=self._real_images(train),
                test=self._real_images(inputs.rows(part)),
                classes=index.classes,
                known_groups=known_groups(inputs),
            ),
            self.extractor,
            # Every extractor of ours learns from elsewhere: from other data, or from the extractor part.
            extractor_saw_train=False,
            seed=self.configuration.data.split_seed,
            networks=TrainedNetworks(
                final=attacked.final,
                without_final=attacked.final_reason,
                uploads={name: self._upload(upload, train) for name, upload in attacked.uploads.items()},
                score=attacked.score,
            ),
            progress=self.progress,
        )
        if "not_measured" not in section:
            section["num_generated_chosen_by"] = chosen_by
        if pairs_path is not None and len(pairs.rows):
            draw_closest_pairs(pairs_path, pairs, inputs.images[train], scale=4)
        return section

    def _upload(self, upload: AttackedUpload, train: NDArray[np.int64]) -> Upload | str:
        """Return what is known of a hospital's upload, or why there is none."""
        if upload.scores is None:
            return f"{upload.site}: {upload.reason}" if upload.site else upload.reason
        held = self.inputs.partition.rows_of(upload.site)
        return Upload(
            site=upload.site,
            scores=upload.scores,
            rows=np.flatnonzero(np.isin(train, held)),
            by_site=self.configuration.partition.scheme == "natural",
        )

    def _real_images(self, rows: NDArray[np.int64]) -> RealImages:
        index = self.inputs.index
        return RealImages(
            images=self.inputs.images[rows],
            labels=index.labels[rows],
            groups=index.groups[rows],
            sites=index.sites[rows],
            ids=index.table.image_id.to_numpy(dtype=object)[rows],
        )


def _generate(supply: ImageSupply, asked: NDArray[np.int64], purpose: str) -> NDArray[np.uint8]:
    """Return an image of each label."""
    return np.concatenate(list(supply.batches(asked, purpose)))


def images_to_search(num_train: int, asked: int, resolution: int) -> tuple[int, str]:
    """Return how many generated images are searched for copies, and what decides it, in words.

    Parameters
    ----------
    num_train
        Training images.
    asked
        ``evaluation.searched-images``; 0: the rule decides.
    resolution
        Side of the images in pixels.
    """
    if asked:
        return asked, f"evaluation.searched-images = {asked}"
    most = max(_FEW_SEARCHED, round(_MOST_SEARCHED * min(1.0, (_CHEAP_RESOLUTION / resolution) ** 2)))
    enough = max(_SEARCHED_FOR_EACH * num_train, FEWEST_IMAGES)
    if enough <= most:
        return enough, f"evaluation.searched-images = 0: {_SEARCHED_FOR_EACH} for each of {num_train:,} training images"
    return most, f"evaluation.searched-images = 0: the most at {resolution} px"


def known_groups(inputs: RunInputs) -> str:
    """Say what the data know of patients: what that is, groups keep apart, and no more."""
    data = inputs.configuration.data
    lesions = (
        "HAM10000 and ISIC 2019 know lesions, not patients: two lesions of one patient may lie on both sides of the "
        "split, so that leakage can look a little smaller than it is"
    )
    known = {
        "phantom": "the images are generated, and every patient of theirs is known",
        "ham10000": lesions,
        "isic2019": lesions,
        "isic2020": "ISIC 2020 knows patients: none lies on both sides of the split",
    }
    if data.source in known:
        return known[data.source]
    if data.group_column:
        return f"images of one {data.group_column!r} (data.group-column) lie on one side of the split"
    return (
        "no data.group-column is set: images of one patient may lie on both sides of the split, so that leakage can "
        "look smaller than it is"
    )
