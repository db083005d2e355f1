"""The central judge: scores on validation images as a run goes, on test images once at its end."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from federation.metrics.features import LesionCNNExtractor, build_extractor
from federation.metrics.fidelity import fid, fid_caveat, kid
from federation.models import GenerativeModel
from federation.run_directory import RunDirectory
from federation.seeding import numpy_stream, torch_stream
from server.evaluation.sample_sheet import write_sample_sheet
from server.evaluation.utility import train_on_synthetic_test_on_real
from server.evaluation.yardsticks import measure_yardsticks
from server.inputs import RunInputs
from server.progress import RunProgress

# Images generated at once: enough to keep two cores busy, little memory.
_BATCH = 100
_SHEET_COLUMNS = 12
# Real training images that the yardsticks and the classifiers see at most.
_MOST_REAL_TRAIN = 4000


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
    """

    def __init__(self, inputs: RunInputs, directory: RunDirectory, device: torch.device, progress: RunProgress) -> None:
        self.inputs = inputs
        self.configuration = inputs.configuration
        self.directory = directory
        self.device = device
        self.progress = progress
        settings = self.configuration.evaluation

        extractor_rows = inputs.rows("extractor")
        sites = np.unique(inputs.index.sites, return_inverse=True)[1]
        self.extractor, sentence = build_extractor(
            settings,
            images=inputs.images[extractor_rows],
            labels=inputs.index.labels[extractor_rows],
            sites=sites[extractor_rows],
            num_classes=len(inputs.index.classes),
            split_seed=self.configuration.data.split_seed,
            cache_dir=self.configuration.data.cache_dir,
            device=device,
            progress=progress.step,
        )
        progress.say(f"extractor: {sentence}")

        progress.activity("features of real images")
        rows = self._choose("validation", settings.images)
        self.validation_labels = inputs.index.labels[rows]
        self.validation_features = self.extractor.features(inputs.images[rows])
        caveat = fid_caveat(len(rows), len(rows), self.validation_features.shape[1])
        if caveat:
            progress.say(caveat)
        progress.activity("yardsticks")
        self.yardsticks: dict[str, Any] = measure_yardsticks(
            self.extractor,
            validation_images=inputs.images[rows],
            validation_features=self.validation_features,
            train_images=inputs.images[self._choose("train", _MOST_REAL_TRAIN)],
            seed=self.configuration.data.split_seed,
        )
        self.first_round = 0
        """The first round that is evaluated here; later for a resumed run."""
        self._writer: Any = None

    def save_extractor(self) -> None:
        """Keep our own extractor in the run directory: only the network that gave a figure can give it again."""
        if isinstance(self.extractor, LesionCNNExtractor):
            self.extractor.save(self.directory.extractor)

    def _choose(self, part: str, most: int) -> np.ndarray:
        """Return at most `most` rows of a part, the same whatever ``seed`` is."""
        rows = self.inputs.rows(part)
        if len(rows) <= most:
            return rows
        stream = numpy_stream(self.configuration.data.split_seed, f"evaluation images, {part}")
        return np.sort(stream.choice(rows, size=most, replace=False))

    def generate(self, model: GenerativeModel, labels: np.ndarray, purpose: str) -> np.ndarray:
        """Draw one image for each label (ignored by an unconditional model); uint8 (n, r, r, 3).

        The same latents and noise whenever the purpose is the same, so that rounds are compared on them.
        """
        stream = torch_stream(self.configuration.seed, f"evaluation, {purpose}")
        drawn = []
        for start in range(0, len(labels), _BATCH):
            batch = labels[start : start + _BATCH]
            asked: Tensor | None = torch.from_numpy(batch) if model.num_classes else None
            drawn.append(model.generate(asked, len(batch), stream).cpu().numpy())
        return np.concatenate(drawn)

    def evaluate(self, model: GenerativeModel, server_round: int) -> dict[str, Any]:
        """Return KID and FID of as many generated images as real validation images, classes alike.

        Returns
        -------
        ``kid``, ``kid_sd``, ``fid``, with the extractor's name and the counts that belong to them.
        """
        self.progress.activity(f"round {server_round}: evaluation")
        generated = self.generate(model, self.validation_labels, "scores")
        return self._score(self.validation_features, self.extractor.features(generated))

    def _score(self, real: np.ndarray, generated: np.ndarray) -> dict[str, Any]:
        mean, deviation = kid(real, generated, seed=self.configuration.data.split_seed)
        return {
            "kid": mean,
            "kid_sd": deviation,
            "fid": fid(real, generated),
            "extractor": self.extractor.name,
            "num_real": len(real),
            "num_generated": len(generated),
        }

    def write_sample_sheet(self, model: GenerativeModel, server_round: int) -> None:
        """Write ``samples/round-NNNN.png``: a row per class where the model is told the class."""
        classes = self.inputs.index.classes
        labels = np.repeat(np.arange(len(classes)), _SHEET_COLUMNS)
        images = self.generate(model, labels, "sample sheet").reshape(
            len(classes), _SHEET_COLUMNS, *self.inputs.images.shape[1:]
        )
        captions = classes if model.num_classes else [""] * len(classes)
        rows = list(zip(captions, images, strict=True))
        configuration = self.configuration
        if configuration.data.source == "phantom" or configuration.report.show_real_images:
            shown = self._choose("validation", configuration.evaluation.images)[:_SHEET_COLUMNS]
            rows.append(("real", self.inputs.images[shown]))
        scale = max(1, 64 // configuration.model.resolution)
        path = self.directory.sample_sheet(server_round)
        write_sample_sheet(path, rows, scale=scale)
        self._tensorboard().add_images(
            "samples", images.reshape(-1, *images.shape[2:])[: 8 * _SHEET_COLUMNS], server_round, dataformats="NHWC"
        )

    def final_evaluation(self, model: GenerativeModel) -> dict[str, Any]:
        """Judge the last generator on test images, which nothing else has touched.

        Returns
        -------
        ``test``: scores as in :meth:`evaluate`; ``utility``: classifiers trained on synthetic and on
        real images, or why there are none.
        """
        inputs, settings = self.inputs, self.configuration.evaluation
        rows = self._choose("test", settings.images)
        labels = inputs.index.labels[rows]
        real = self.extractor.features(inputs.images[rows])
        generated = self.extractor.features(self.generate(model, labels, "test scores"))
        return {"test": self._score(real, generated), "utility": self._utility(model)}

    def _utility(self, model: GenerativeModel) -> dict[str, Any]:
        inputs, settings = self.inputs, self.configuration.evaluation
        if not settings.utility:
            return {"not_measured": "evaluation.utility is false"}
        if model.num_classes == 0:
            return {"not_measured": "an unconditional generator gives no labels to train a classifier on"}
        train, test = self._choose("train", _MOST_REAL_TRAIN), inputs.rows("test")
        classes = inputs.index.classes
        # As many synthetic as real images, every class alike: that is what a generator can give.
        asked = np.arange(len(train)) % len(classes)
        self.progress.activity("classifiers on synthetic and on real images")
        return train_on_synthetic_test_on_real(
            synthetic_images=self.generate(model, asked, "utility"),
            synthetic_labels=asked,
            real_images=inputs.images[train],
            real_labels=inputs.index.labels[train],
            test_images=inputs.images[test],
            test_labels=inputs.index.labels[test],
            classes=classes,
            steps=settings.utility_steps,
            seed=self.configuration.seed,
            device=self.device,
            progress=self.progress.step,
        )

    def _tensorboard(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            # Drops the events after the round that a resumed run starts from.
            self._writer = SummaryWriter(str(self.directory.tensorboard), purge_step=self.first_round)
        return self._writer

    def log_scalars(self, line: dict[str, Any]) -> None:
        """Write a line of metrics.jsonl as TensorBoard scalars."""
        writer = self._tensorboard()
        for name in ("kid", "fid"):
            writer.add_scalar(f"{name}/{self.extractor.name}", line[name], line["round"])
        for name in ("loss_generator", "loss_discriminator", "logit_real", "logit_fake", "augmentation_p"):
            if line.get(name) is not None:
                writer.add_scalar(name, line[name], line["round"])
        writer.flush()

    def close(self) -> None:
        """Finish the event files."""
        if self._writer is not None:
            self._writer.close()
