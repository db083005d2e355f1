"""The judge: fidelity, diversity, predictive ability and authenticity of one source of images.

A run ends with it, and ``dermafed evaluate`` calls it alone, on a run, an exported generator or a folder of images
from anywhere. The images that it compares with belong to the part that is named: ``test`` in the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from federation.errors import NotFiniteError
from federation.metrics.feature_cache import cached_features
from federation.metrics.features import FeatureExtractor, LesionCNNExtractor
from federation.metrics.image_statistics import image_statistics
from federation.models.classifier import Progress
from federation.models.efficientnet import find_imagenet_weights
from federation.seeding import numpy_stream
from server.evaluation.authenticity import (
    ComparedImages,
    RealImages,
    TrainedNetworks,
    Upload,
    draw_closest_pairs,
    judge_authenticity,
)
from server.evaluation.membership import Attacked
from server.evaluation.scores import LEAST_OF_A_GROUP, RealSet, Reference, SiteReference, score_supply
from server.evaluation.second_opinion import COMPARED_YARDSTICKS, SecondOpinion, SecondReference
from server.evaluation.supply import ImageSupply
from server.evaluation.utility import RealParts, UtilityTerms, judge_utility
from server.evaluation.yardsticks import measure_yardsticks
from server.inputs import RunInputs

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# Real training images that stand in the generator's place, and on which classifiers are trained, at most.
MOST_TRAIN = 4000
# Training images that are searched for copies: all of them where features cost little.
_MOST_SEARCHED = 20_000
# Generated images that are compared with them: their pixels are kept for the hashes and the closest pairs.
_MOST_COMPARED = 2000


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
    ) -> None:
        self.inputs = inputs
        self.second = second
        self._second_references: dict[str, SecondReference] = {}
        self.configuration = inputs.configuration
        self.extractor = extractor
        self.device = device
        self.progress = progress
        settings = self.configuration.evaluation
        if settings.utility and settings.utility_classifier == "efficientnet-b2":
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
            held = partition.rows_of(name)
            found[name] = self.features(held[:: max(1, -(-len(held) // most))])
        return SiteReference(found, f"training images of each hospital, since partition.scheme = {settings.scheme}")

    def judge(
        self,
        supply: ImageSupply,
        *,
        attacked: Attacked,
        part: str = "test",
        members_unknown: str = "",
        pairs_path: Path | None = None,
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

        Returns
        -------
        ``test``, ``utility`` and ``authenticity``.
        """
        settings = self.configuration.evaluation
        rows = self.inputs.choose(part, settings.images)
        self.progress("features of real images", 0, 1)
        real = self.real_set(rows)
        opinion = None if self.second is None else SecondOpinion(supply, self._second_reference(rows, part))
        scores = score_supply(
            supply if opinion is None else opinion.supply,
            self.extractor,
            Reference(
                real=real,
                train_features=self.features(self.inputs.choose("train", len(rows))),
                sites=self.site_reference(rows, real, part, members_unknown=members_unknown),
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
        return {
            "test": scores,
            "utility": self._utility(supply, part),
            "authenticity": {"not_measured": members_unknown}
            if members_unknown
            else self._authenticity(supply, attacked, part, pairs_path),
        }

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
            components = images[self.inputs.choose("train", MOST_TRAIN)]
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
        inputs, settings = self.inputs, self.configuration.evaluation
        if not settings.utility:
            return {"not_measured": "evaluation.utility is false"}
        if not supply.knows_classes:
            return {"not_measured": "the generated images bear no class, so that no classifier can be trained on them"}
        absent = [name for label, name in enumerate(inputs.index.classes) if not supply.has_class(label)]
        if absent:
            return {"not_measured": f"there is no generated image of {', '.join(absent)}"}
        train = inputs.choose("train", MOST_TRAIN)
        # What classifiers are tested on must not have chosen their state.
        validation, test = inputs.rows("extractor" if part == "validation" else "validation"), inputs.rows(part)

        def labelled(rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
            return inputs.images[rows], inputs.index.labels[rows]

        def generate(asked: NDArray[np.int64], purpose: str) -> NDArray[np.uint8]:
            return np.concatenate(list(supply.batches(asked, purpose)))

        try:
            return judge_utility(
                UtilityTerms(
                    settings=settings,
                    classes=inputs.index.classes,
                    seed=self.configuration.seed,
                    cache_dir=self.configuration.data.cache_dir,
                    device=self.device,
                    threads=settings.threads,
                ),
                RealParts(train=labelled(train), validation=labelled(validation), test=labelled(test)),
                generate,
                progress=self.progress,
            )
        except NotFiniteError as error:
            # One classifier that diverges must not lose what else was judged.
            return {"not_measured": str(error)}

    def _authenticity(
        self, supply: ImageSupply, attacked: Attacked, part: str, pairs_path: Path | None
    ) -> dict[str, Any]:
        inputs, settings = self.inputs, self.configuration.evaluation
        if not settings.authenticity:
            return {"not_measured": "evaluation.authenticity is false"}
        index = inputs.index
        cheap = isinstance(self.extractor, LesionCNNExtractor)
        train = inputs.choose("train", _MOST_SEARCHED if cheap else MOST_TRAIN)
        test = inputs.rows(part)
        count = min(max(settings.images, LEAST_OF_A_GROUP), _MOST_COMPARED)
        stream = numpy_stream(self.configuration.data.split_seed, "classes of images that are searched for copies")
        _, batches = supply.draw(stream.choice(index.labels[train], count), "authenticity", whole=True)
        generated = np.concatenate(list(batches))
        self.progress("looking for copies of training images", 0, 1)
        upload = None
        if attacked.upload is not None:
            held = inputs.partition.rows_of(attacked.upload_site)
            upload = Upload(
                site=attacked.upload_site,
                scores=attacked.upload,
                rows=np.flatnonzero(np.isin(train, held)),
                by_site=self.configuration.partition.scheme == "natural",
            )
        section, pairs = judge_authenticity(
            ComparedImages(
                generated=generated,
                train=self._real_images(train),
                test=self._real_images(test),
                known_groups=known_groups(inputs),
            ),
            self.extractor,
            # Every extractor of ours learns from elsewhere: from other data, or from the extractor part.
            extractor_saw_train=False,
            seed=self.configuration.data.split_seed,
            networks=TrainedNetworks(
                final=attacked.final,
                without_final=attacked.final_reason,
                upload=upload,
                without_upload=attacked.upload_reason,
                score=attacked.score,
            ),
            progress=self.progress,
        )
        if pairs_path is not None and len(pairs):
            draw_closest_pairs(pairs_path, generated, inputs.images[train], pairs, scale=4)
        return section

    def _real_images(self, rows: NDArray[np.int64]) -> RealImages:
        index = self.inputs.index
        return RealImages(
            images=self.inputs.images[rows],
            labels=index.labels[rows],
            groups=index.groups[rows],
            sites=index.sites[rows],
            ids=index.table.image_id.to_numpy(dtype=object)[rows],
        )


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
