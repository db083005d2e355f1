"""The central judge: scores on validation images as a run goes, on test images once at its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from federation.metrics.feature_cache import cached_features, features_of_batches
from federation.metrics.features import FeatureExtractor, LesionCNNExtractor
from federation.metrics.fidelity import fid_caveat, kid
from federation.metrics.lesion_cnn import has_lesion_cnn
from federation.metrics.random_filters import RandomFiltersExtractor, has_random_filters
from federation.models.drawing import Drawer
from federation.models.final import FinalGenerator, load_final
from federation.run_directory import RunDirectory, writing
from federation.seeding import torch_stream
from server.evaluation.judge import Judge
from server.evaluation.membership import load_attacked
from server.evaluation.run_extractor import extractor_of, second_extractor_of
from server.evaluation.sample_sheet import write_sample_sheet
from server.evaluation.scores import FIGURES, compare, kid_of_group
from server.evaluation.supply import GeneratorSupply
from server.evaluation.yardsticks import measure_yardsticks
from server.inputs import RunInputs
from server.progress import RunProgress

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Images generated at once: enough to keep two cores busy, little memory.
_BATCH = 100
# Hospitals whose looks are shown, by name: of more the picture would be too tall to look at.
_MOST_LOOKS = 64
_SHEET_COLUMNS = 12
# Real training images that the yardsticks are made of, at most.
_MOST_REAL_TRAIN = 4000
# Points of TensorBoard's projector: more than that a browser turns slowly.
_MOST_PROJECTED = 500


class Evaluator:
    """Judges generators against the real images of one run.

    Parameters
    ----------
    inputs
        Data and configuration.
    directory
        Where sample sheets and TensorBoard events go.
    device
        Where features are computed.
    progress
        Where a person looks.
    knows_members
        Whether the hospitals hold the training images of `inputs`: in a simulation.
    """

    def __init__(
        self,
        inputs: RunInputs,
        directory: RunDirectory,
        device: torch.device,
        progress: RunProgress,
        *,
        knows_members: bool = True,
    ) -> None:
        self.inputs = inputs
        self.configuration = inputs.configuration
        self.directory = directory
        self.device = device
        self.progress = progress
        settings = self.configuration.evaluation

        if self.configuration.resume and has_lesion_cnn(directory.extractor):
            # The very network that gave the scores so far: another version or processor would train another.
            self.extractor: FeatureExtractor = LesionCNNExtractor.load(directory.extractor, device=device)
            sentence = f"{self.extractor.name}, which the run has kept"
        else:
            self.extractor, sentence = extractor_of(inputs, device=device, progress=progress.step)
        progress.say(f"extractor: {sentence}")

        self.second: FeatureExtractor = self._second_extractor()
        progress.say(f"second opinion: {self.second.name}")

        self.judge = Judge(
            inputs, self.extractor, device=device, progress=self._show, second=self.second, say=progress.say
        )
        self.members_unknown = "" if knows_members else "the hospitals' training images are not known to the server"
        progress.activity("features of real images")
        rows = inputs.choose("validation", settings.images)
        self.validation = self.judge.real_set(rows)
        self.second_validation = cached_features(
            self.second, inputs.images[rows], cache_dir=self.configuration.data.cache_dir
        )
        self.site_reference = self.judge.site_reference(
            rows, self.validation, "validation", members_unknown=self.members_unknown
        )
        caveat = fid_caveat(len(rows), len(rows), self.extractor.num_features)
        if caveat:
            progress.say(caveat)
        progress.activity("yardsticks")
        self.yardsticks: dict[str, Any] = measure_yardsticks(
            self.extractor,
            validation_images=inputs.images[rows],
            validation_features=self.validation.features,
            train_images=inputs.images[inputs.choose("train", _MOST_REAL_TRAIN)],
            seed=self.configuration.data.split_seed,
        )
        self.first_round = 0
        """The first round that is evaluated here; later for a resumed run."""
        self._writer: Any = None

    def _second_extractor(self) -> FeatureExtractor:
        """Return the second extractor: the one that the run has kept, else a new one."""
        if self.configuration.resume and has_random_filters(self.directory.extractor):
            return RandomFiltersExtractor.load(self.directory.extractor, device=self.device)
        return second_extractor_of(self.inputs, device=self.device)

    def save_extractor(self) -> None:
        """Keep our own extractors in the run directory: only the network that gave a figure can give it again."""
        if isinstance(self.extractor, LesionCNNExtractor):
            self.extractor.save(self.directory.extractor)
        if isinstance(self.second, RandomFiltersExtractor):
            self.second.save(self.directory.extractor)

    def _show(self, description: str, done: int, total: int) -> None:
        """Say beside the bar, which counts rounds, how far a piece of the judgement is."""
        self.progress.activity(f"{description} {done}/{total}" if total > 1 else description)

    def generate(self, model: Drawer, labels: np.ndarray, purpose: str) -> Iterator[np.ndarray]:
        """Yield batches of images, one for each label (ignored by an unconditional model); uint8 (n, r, r, 3).

        The same latents and noise whenever the purpose is the same, so that rounds are compared on them.
        """
        stream = torch_stream(self.configuration.seed, f"evaluation, {purpose}")
        for start in range(0, len(labels), _BATCH):
            batch = labels[start : start + _BATCH]
            asked: Tensor | None = torch.from_numpy(batch) if model.num_classes else None
            yield model.generate(asked, len(batch), stream).cpu().numpy()

    def evaluate(self, model: Drawer, server_round: int) -> dict[str, Any]:
        """Compare as many generated images as real validation images, classes alike.

        Returns
        -------
        ``kid``, ``kid_sd``, ``fid``, ``precision``, ``density``, ``recall`` and ``coverage``, KID by class and by site
        (None where there are too few images), with the extractor's name and the counts that belong to them;
        ``second_kid`` is that of ``second_extractor``.
        """
        self.progress.activity(f"round {server_round}: evaluation")
        real, seed = self.validation, self.configuration.data.split_seed
        by_second: list[NDArray[np.floating]] = []

        def seen_by_both() -> Iterator[np.ndarray]:
            for batch in self.generate(model, real.labels, "scores"):
                by_second.append(self.second.features(batch))
                yield batch

        generated = features_of_batches(self.extractor, seen_by_both())
        by_class: dict[str, float | None] = {}
        if model.num_classes:
            for label, name in enumerate(self.inputs.index.classes):
                rows = real.labels == label
                by_class[name] = kid_of_group(real.features[rows], generated[rows], seed=seed)
        return {
            **compare(real.features, generated, seed=seed),
            "kid_by_class": by_class,
            "kid_by_site": {
                name: kid_of_group(features, generated, seed=seed)
                for name, features in self.site_reference.features.items()
            },
            "extractor": self.extractor.name,
            "second_kid": kid(self.second_validation, np.concatenate(by_second), seed=seed)[0],
            "second_extractor": self.second.name,
            "num_real": len(real.features),
            "num_generated": len(generated),
        }

    def write_sample_sheet(self, model: Drawer, server_round: int) -> None:
        """Write ``samples/round-NNNN.png``: a row per class where the model is told the class."""
        classes = self.inputs.index.classes
        labels = np.repeat(np.arange(len(classes)), _SHEET_COLUMNS)
        drawn = np.concatenate(list(self.generate(model, labels, "sample sheet")))
        images = drawn.reshape(len(classes), _SHEET_COLUMNS, *self.inputs.images.shape[1:])
        captions = classes if model.num_classes else [""] * len(classes)
        rows = list(zip(captions, images, strict=True))
        if self.may_show_real_images:
            shown = self.inputs.choose("validation", self.configuration.evaluation.images)[:_SHEET_COLUMNS]
            rows.append(("real", self.inputs.images[shown]))
        scale = max(1, 64 // self.configuration.model.resolution)
        path = self.directory.sample_sheet(server_round)
        write_sample_sheet(path, rows, scale=scale)
        with writing(self.directory.tensorboard):
            self._tensorboard().add_images(
                "samples", images.reshape(-1, *images.shape[2:])[: 8 * _SHEET_COLUMNS], server_round, dataformats="NHWC"
            )

    @property
    def may_show_real_images(self) -> bool:
        """Whether real images may be seen in what the run leaves behind."""
        return self.configuration.data.source == "phantom" or self.configuration.report.show_real_images

    def final_evaluation(self) -> dict[str, Any]:
        """Judge the exported generator on test images, which nothing else has touched, or as ``evaluation.part`` says.

        Returns
        -------
        ``test``, ``gain``, ``utility`` and ``authenticity``; see :class:`Judge`. ``dermafed evaluate`` finds the same.
        """
        settings = self.configuration.evaluation
        final = load_final(self.directory.final, device=self.device)
        supply = GeneratorSupply(final, seed=self.configuration.seed, threads=settings.threads)
        self._write_projection(supply)
        self._write_looks(final)
        found = self.judge.judge(
            supply,
            attacked=load_attacked(self.directory, self.configuration, self.device),
            part=settings.part,
            members_unknown=self.members_unknown,
            pairs_path=self.directory.closest_pairs if self.may_show_real_images else None,
        )
        if final.is_mixture:
            found["test"]["own_generators"] = self._judge_own_generators(final)
        return found

    def _write_looks(self, final: FinalGenerator) -> None:
        """Write ``looks.png``, where the generator is told hospitals: the same latents, a row for each hospital."""
        hospitals = final.hospitals[:_MOST_LOOKS]
        if final.is_mixture or not hospitals:
            return
        rows = [
            (name, final.of_hospital(name).generate(_SHEET_COLUMNS, seed=self.configuration.seed).numpy())
            for name in hospitals
        ]
        write_sample_sheet(self.directory.looks, rows, scale=max(1, 64 // self.configuration.model.resolution))

    def _judge_own_generators(self, final: FinalGenerator) -> list[dict[str, Any]]:
        """Compare what each hospital's own generator draws with all test images, and with its hospital's."""
        settings, seed = self.configuration.evaluation, self.configuration.data.split_seed
        rows = self.inputs.choose(settings.part, settings.images)
        real = self.judge.real_set(rows)
        sites = self.judge.site_reference(rows, real, settings.part, members_unknown=self.members_unknown)
        found = []
        for number, component in enumerate(final.components):
            self._show("judging the hospitals' own generators", number, len(final.components))
            supply = GeneratorSupply(final.only(component), seed=self.configuration.seed, threads=settings.threads)
            generated = features_of_batches(self.extractor, supply.batches(real.labels, "own generator"))
            reference = sites.features.get(component.name)
            found.append(
                {
                    "name": component.name,
                    "kid": kid_of_group(real.features, generated, seed=seed),
                    "kid_site": None if reference is None else kid_of_group(reference, generated, seed=seed),
                }
            )
        return found

    def _write_projection(self, supply: GeneratorSupply) -> None:
        """Give TensorBoard's projector the features of generated images, with the images themselves."""
        classes = self.inputs.index.classes
        asked = np.arange(_MOST_PROJECTED) % len(classes)
        labels, batches = supply.draw(asked, "projector")
        images = np.concatenate(list(batches))
        with writing(self.directory.tensorboard):
            self._tensorboard().add_embedding(
                self.extractor.features(images),
                metadata=["generated" if labels is None else classes[label] for label in asked],
                label_img=torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255,
                global_step=self.configuration.rounds,
                tag=f"generated images, {self.extractor.name}",
            )

    def _tensorboard(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            # Drops the events after the round that a resumed run starts from.
            self._writer = SummaryWriter(str(self.directory.tensorboard), purge_step=self.first_round)
        return self._writer

    def log_scalars(self, line: dict[str, Any]) -> None:
        """Write a line of metrics.jsonl as TensorBoard scalars."""
        with writing(self.directory.tensorboard):
            self._log_scalars(line)

    def _log_scalars(self, line: dict[str, Any]) -> None:
        writer = self._tensorboard()
        for name in FIGURES:
            if line[name] is not None:
                writer.add_scalar(f"{name}/{self.extractor.name}", line[name], line["round"])
        writer.add_scalar(f"kid/{line['second_extractor']}", line["second_kid"], line["round"])
        for groups in ("kid_by_class", "kid_by_site"):
            for name, value in line[groups].items():
                if value is not None:
                    writer.add_scalar(f"{groups}/{name}", value, line["round"])
        for loss in self.configuration.anatomy.losses:
            name = loss.replace("-", "_")
            if line.get(name) is not None:
                writer.add_scalar(name, line[name], line["round"])
        writer.flush()

    def close(self) -> None:
        """Finish the event files."""
        if self._writer is not None:
            with writing(self.directory.tensorboard):
                self._writer.close()
