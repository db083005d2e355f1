"""The whole configuration: one validated schema, each default written once.

Keys are dotted and kebab-case (``training.batch-size``) in a toml file, in ``--set``, in
``[tool.flwr.app.config]`` and in ``flwr run --run-config``. Values are int, float, bool or str,
because Flower's run configuration and the messages to hospitals take nothing else.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from federation.errors import ConfigurationError
from federation.strategy_facts import PRIVATE, STRATEGY_FACTS, StrategyFacts, strategy_problems

Scalar = int | float | bool | str

AUGMENTATION_TRANSFORMS = (
    "x-flip",
    "rotate90",
    "integer-translation",
    "scale",
    "rotation",
    "anisotropic-scale",
    "fractional-translation",
    "brightness",
    "contrast",
    "luma-flip",
    "hue",
    "saturation",
)
"""Transforms of adaptive augmentation, in the order in which they are applied."""

AUGMENTATION_SETS: dict[str, tuple[str, ...]] = {
    # Pixel blitting, general geometry, colour: what the paper found best on small sets (its "bgc").
    "bgc": AUGMENTATION_TRANSFORMS,
    # Colour is diagnostic: no other hue, and no light lesion on dark skin.
    "dermoscopy": tuple(name for name in AUGMENTATION_TRANSFORMS if name not in ("luma-flip", "hue")),
}

UTILITY_ARMS = ("real", "synthetic", "real+synthetic", "rare")
"""What classifiers that test synthetic images are trained on."""

AVERAGED_STATE = ("ada-p", "path-length-mean")
"""What training carries from step to step and a federation may average."""


NETWORKS = ("generator", "discriminator")
"""The two networks that are trained."""

STYLE_LAYERS = ("generator.layers.*.style", "generator.to_rgb.*.style")
"""Where w becomes the scale of each channel: what normalisation layers are in other generators."""


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class Section(BaseModel):
    """A table of the configuration."""

    model_config = ConfigDict(
        alias_generator=_kebab,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        strict=True,
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


class DataSettings(Section):
    """Which images there are."""

    source: Literal["phantom", "ham10000", "isic2019", "isic2020", "folder", "huggingface"] = "phantom"
    """Where images come from; ``phantom`` is generated and needs neither download nor patient."""
    root: str = ""
    """Folder that holds the images and their csv; unused for ``phantom``."""
    classes: str = ""
    """Class names in the order of their label, separated by commas. Empty: the source's published
    classes (in simulation, the names found in a folder). A hospital site never infers them."""
    split_seed: int = Field(default=0, ge=0)
    """Key of the train / extractor / validation / test split; independent of ``seed``."""
    phantom_images: int = Field(default=4000, ge=200, le=100_000)
    """Number of generated images when the source is ``phantom``."""
    csv: str = ""
    """``folder``: csv file, relative to the root. Empty: the only csv there, or one sub-folder per class."""
    image_column: str = "image"
    """``folder``: csv column with the image's file name, with or without its suffix."""
    label_column: str = "label"
    """``folder``, ``huggingface``: column with the class name."""
    group_column: str = ""
    """``folder``, ``huggingface``: column with the patient or lesion. Empty: each image is its own group."""
    site_column: str = ""
    """``folder``, ``huggingface``, ``isic2020``: column with the hospital. Empty: one site."""
    dataset: str = ""
    """``huggingface``: dataset name; empty when ``data.root`` is a local ``imagefolder``."""
    dataset_split: str = "train"
    """``huggingface``: the split of the dataset to read."""
    cache_dir: str = ""
    """Where decoded images are kept, outside the run. Empty: the user's cache folder."""


class PartitionSettings(Section):
    """Which hospital holds which training images."""

    scheme: Literal["natural", "dirichlet", "pathological", "quantity", "dominant", "iid"] = "natural"
    """``natural``: by site. ``dirichlet``: label skew. ``pathological``: a few classes each.
    ``quantity``: size skew. ``dominant``: one hospital is ``dominance`` times as large as each other.
    ``iid``: alike."""
    hospitals: int = Field(default=4, ge=1, le=10_000)
    """Number of hospitals; 1 pools all images, which is centralised training."""
    alpha: float = Field(default=0.5, gt=0, le=1e6)
    """Concentration of ``dirichlet`` (0.1: most of a hospital's images are of one class; 100: nearly
    alike) and of ``quantity`` (0.5: the largest hospital holds most images)."""
    classes_per_hospital: int = Field(default=2, ge=1)
    """``pathological``: how many classes each hospital holds."""
    dominance: float = Field(default=50.0, ge=1)
    """``dominant``: images at the first hospital for each image at another."""
    seed: int = Field(default=0, ge=0)
    """Seed of the partition; independent of ``seed``, so that seeds are compared on the same hospitals."""
    min_images: int = Field(default=16, ge=1)
    """Least number of training images at a hospital."""


class ModelSettings(Section):
    """Which generative model is trained."""

    name: Literal["stylegan2"] = "stylegan2"
    """The generative model."""
    conditional: bool = True
    """Whether the model is told the diagnosis."""
    resolution: int = Field(default=32, ge=32, le=512)
    """Side of the images in pixels, a power of two: 32, 64, 128, 256 or 512."""
    latent_size: int = Field(default=128, ge=8, le=1024)
    """Dimension of z and of w."""
    mapping_layers: int = Field(default=2, ge=1, le=16)
    """Fully connected layers from z to w (2 in StyleGAN2-ADA's settings, 8 in its paper256)."""
    channel_base: int = Field(default=2048, ge=32, le=65_536)
    """A layer at resolution r has min(channel-base / r, channel-max) channels."""
    channel_max: int = Field(default=64, ge=8, le=1024)
    """Most channels of a layer."""
    resampling: Literal["bilinear", "fir"] = "bilinear"
    """How layers change resolution. ``fir``: StyleGAN2's filters [1, 3, 3, 1]. ``bilinear``: convolve, then
    enlarge bilinearly; average pairs of pixels, then convolve."""
    minibatch_std: int = Field(default=0, ge=0, le=256)
    """Images in a group of the discriminator's minibatch standard deviation (4 in StyleGAN2-ADA's ``auto``, 8 in
    ``paper256``, 32 in ``cifar``). 0: none, as in R3GAN."""


class TrainingSettings(Section):
    """What a hospital does in a round."""

    local_steps: int = Field(default=40, ge=0)
    """Training steps per round at each hospital."""
    local_epochs: float = Field(default=0.0, ge=0, le=1000)
    """Passes over the hospital's own images per round, in place of ``local-steps``. 0: unused."""
    batch_size: int = Field(default=8, ge=2, le=4096)
    """Images in a step at one hospital. Small: averaged steps see hospitals x batch-size images, and on a
    processor quality follows the number of steps more than the number of images."""
    threads: int = Field(default=1, ge=1, le=256)
    """CPU threads of a hospital. It changes the last bits of the weights, so it is a setting and never
    derived; two hospitals at one thread each are faster than one at two."""
    loss: Literal["relativistic", "logistic"] = "relativistic"
    """``relativistic``: relativistic pairing with R1 and R2 (R3GAN). ``logistic``: non-saturating
    logistic with R1 (StyleGAN2)."""
    gamma: float = Field(default=0.1, ge=0)
    """Weight of the gradient penalties: gamma / 2 times the mean squared gradient norm."""
    penalty_every: int = Field(default=16, ge=1)
    """Steps from one gradient penalty to the next (lazy regularisation)."""
    learning_rate: float = Field(default=0.002, gt=0, le=1)
    """Adam's step size, of both networks."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's decay of the gradient's mean."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Adam's decay of the gradient's square."""
    ema_half_life_images: float = Field(default=5000.0, ge=0)
    """Half-life of the generator's running average, in images shown at one hospital."""
    ema_ramp: float = Field(default=0.1, ge=0, le=1)
    """The half-life is at most this share of the images shown so far, so that early rounds are not judged
    on initial weights (0.05 in StyleGAN2-ADA, for runs a thousand times as long). 0: no ramp."""
    style_mixing: float = Field(default=0.0, ge=0, le=1)
    """Share of fakes whose later layers take their style from another latent (0.9 in StyleGAN2, 0 in R3GAN)."""
    path_length_weight: float = Field(default=0.0, ge=0)
    """Weight of path-length regularisation of the generator (2 in StyleGAN2). 0: none, as in R3GAN."""
    path_length_every: int = Field(default=4, ge=1)
    """Steps from one path-length regularisation to the next; each works on half a batch."""
    path_length_decay: float = Field(default=0.01, gt=0, le=1)
    """Share of a new value in the running mean of path lengths."""
    flips: bool = True
    """Whether real images are flipped and turned by quarter turns at random: dermoscopy has no upright."""
    fake_labels: Literal["data", "uniform"] = "data"
    """Classes asked of the generator in training: drawn from the hospital's own images, or all alike."""
    label_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of images, real and generated, whose class is hidden from both networks: what classes have in
    common is learned from all of them. Helps where few images per class let a conditional GAN collapse."""
    transition_start_images: float = Field(default=0.0, ge=0)
    """Images shown at one hospital before the class begins to be blended in (transitional conditioning)."""
    transition_images: float = Field(default=0.0, ge=0)
    """Images over which the class is blended in, from not at all to fully. With both 0: conditional at once."""
    balanced_classes: bool = False
    """Whether every class that a hospital holds is drawn equally often, for long tails; else every image is."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the convolutions. ``auto``: bf16 where the processor has it. Weights are always fp32."""

    def count_steps(self, num_images: int) -> int:
        """Return the steps of a round at a hospital with `num_images` training images, at least 1."""
        if self.local_epochs > 0:
            return max(1, math.ceil(self.local_epochs * num_images / self.batch_size))
        return self.local_steps


class AugmentationSettings(Section):
    """What the discriminator sees of real and of generated images alike, against overfitting of small sets."""

    name: Literal["none", "ada", "fixed", "diffaugment"] = "none"
    """``ada``: each transform with a probability p that a controller adapts to the discriminator's overfitting.
    ``fixed``: with p = ``augmentation.p``. ``diffaugment``: colour, translation and cutout, always."""
    transforms: str = "dermoscopy"
    """``ada``, ``fixed``: sets (``bgc``, ``dermoscopy``) and transforms, separated by commas; a minus leaves one
    out. E.g. ``bgc,-hue`` or ``x-flip,rotate90``."""
    p: float = Field(default=0.0, ge=0, le=1)
    """``fixed``: the probability. ``ada``: where it starts."""
    ada_target: float = Field(default=0.6, ge=-1, lt=1)
    """``ada``: p rises while the discriminator's sign on real images is above this on average: 1 is sure, 0 a guess.
    With the relativistic loss it is the sign of real minus generated."""
    ada_every: int = Field(default=4, ge=1)
    """``ada``: steps from one adjustment to the next."""
    ada_kimg: float = Field(default=500.0, gt=0)
    """``ada``: thousands of images shown at a hospital in which p could rise from 0 to 1."""


class StrategySettings(Section):
    """How the hospitals' updates are combined; docs/strategies.md has each rule, its source and its cost."""

    name: str = "fedgan"
    """``fedgan`` (generator, discriminator and EMA averaged by number of images), ``fedavg``, ``fedavgm``, ``fedprox``,
    ``fedadam``, ``fedyogi``, ``fedadagrad``, ``fedmedian``, ``fedtrimmedavg``, ``krum``, ``multikrum``, ``bulyan``,
    ``geometric-median``, ``qfedavg``, ``scaffold``, ``fednova``, ``feddyn``, ``fedbn``, ``partial-sync``, ``fegan``,
    ``fed-tgan``, ``ifl-gan``, ``fedcar``, ``label-aware``, ``cap-gan``, ``effgan``, ``dp-fedavg-gan``, ``ua-gan``,
    ``md-gan``, ``centralised`` or ``alone``."""
    generator: str = ""
    """The strategy of the generator and its EMA, or ``private``. Empty: ``strategy.name``."""
    discriminator: str = ""
    """The strategy of the discriminator, or ``private``. Empty: ``strategy.name``."""
    private: str = ""
    """What stays at each hospital and is not averaged: networks, beginnings of parameter names, or patterns with
    ``*``, separated by commas, e.g. ``discriminator`` or ``generator.mapping``. Empty: all is averaged."""
    averaged_state: str = ""
    """State of training that is averaged too, separated by commas: ``ada-p``, ``path-length-mean``. Empty: it
    stays at each hospital, whose own images it belongs to. Adam's moments always stay."""
    server_learning_rate: float = Field(default=0.0, ge=0, le=100)
    """The server's step. 0: the strategy's own, 1 for ``fedavgm`` and ``scaffold``, 0.1 for ``fedadam`` and
    ``fedadagrad``, 0.01 for ``fedyogi``."""
    server_momentum: float = Field(default=0.9, gt=0, lt=1)
    """``fedavgm``: momentum of the server's steps."""
    server_beta1: float = Field(default=0.9, ge=0, lt=1)
    """``fedadam``, ``fedyogi``: decay of the mean of updates."""
    server_beta2: float = Field(default=0.99, ge=0, lt=1)
    """``fedadam``, ``fedyogi``: decay of the mean of squared updates."""
    server_tau: float = Field(default=1e-3, gt=0)
    """``fedadam``, ``fedyogi``, ``fedadagrad``: added to the root of squared updates; large is less adaptive."""
    proximal_mu: float = Field(default=0.01, ge=0)
    """``fedprox``: weight of mu / 2 times the squared distance to the global weights."""
    trim: float = Field(default=0.2, gt=0, lt=0.5)
    """``fedtrimmedavg``: share of the hospitals cut off at either end, for each weight."""
    malicious: int = Field(default=1, ge=0)
    """``krum``, ``multikrum``, ``bulyan``: f, how many hospitals may be hostile."""
    selected: int = Field(default=0, ge=0)
    """``multikrum``: how many updates are averaged. 0: all but ``malicious``."""
    fairness_q: float = Field(default=0.1, ge=0)
    """``qfedavg``: hospitals with a higher loss count more by the power q. 0: all alike."""
    fairness_lipschitz: float = Field(default=1e-3, gt=0)
    """``qfedavg``: L, by which updates become gradients; 1 / learning rate for plain SGD. Adam's updates do not
    shrink with the gradient: with 1 / learning rate the norm in the denominator would stop training."""
    fairness_loss: Literal["loss-generator", "loss-discriminator"] = "loss-discriminator"
    """``qfedavg``: the loss, mean over a hospital's round, that it weights by."""
    dynamic_alpha: float = Field(default=0.01, gt=0)
    """``feddyn``: weight of the dynamic regulariser."""
    synchronise: Literal["both", "generator", "discriminator", "none"] = "generator"
    """``partial-sync``: which networks are averaged; the others stay at each hospital."""
    divergence_weight: Literal["more", "less"] = "more"
    """``fegan``: whether a hospital whose classes differ more from the federation's counts more or less."""
    weighted_networks: Literal["auto", "both", "generator", "discriminator"] = "auto"
    """``fegan``, ``fed-tgan``, ``ifl-gan``, ``fedcar``: which networks take the strategy's weights; the others are
    averaged by number of images. ``auto``: as published, ``both``, and ``generator`` for ``ifl-gan``."""
    temperature: float = Field(default=1.0, ge=0.01, le=100)
    """``fed-tgan``, ``ifl-gan``, ``fedcar``: scores are divided by it before the softmax; below 1 weights differ
    more."""
    samples: int = Field(default=256, ge=32, le=4096)
    """``fedcar``: images drawn from each hospital's generator in a round."""
    personal_part: Literal["mapping", "styles"] = "mapping"
    """``cap-gan``: the part of the generator that stays at its hospital: the mapping network, or the layers that turn
    w into styles."""
    fine_tune_rounds: int = Field(default=4, ge=1)
    """``effgan``: last rounds in which hospitals train on alone."""
    generator_steps: int = Field(default=0, ge=0)
    """``dp-fedavg-gan``, ``ua-gan``, ``md-gan``: the server's steps of the generator in a round. 0: as many as
    ``training.local-steps``."""
    swap_rounds: int = Field(default=10, ge=0)
    """``md-gan``: rounds from one exchange of discriminators between hospitals to the next. 0: never."""
    clip_norm: float = Field(default=1.0, gt=0)
    """``dp-fedavg-gan``: most that one hospital moves the discriminator in a round, as the norm of its update."""
    noise_multiplier: float = Field(default=0.0, ge=0)
    """``dp-fedavg-gan``: standard deviation of the noise over ``clip-norm``. 0: no noise, and no privacy."""
    delta: float = Field(default=1e-3, gt=0, lt=1)
    """``dp-fedavg-gan``: the delta for which epsilon is reported; well below one over the number of hospitals."""


class AttackSettings(Section):
    """Hospitals that do harm, on purpose or not. For simulations alone."""

    name: Literal["none", "flipped-labels", "random", "scaled", "sign-flipped", "free-rider", "noisy-camera"] = "none"
    """``flipped-labels``: classes in reverse. ``random``: noise of the update's size in its place. ``scaled``,
    ``sign-flipped``: the update times ``scale``, or times minus ``scale``. ``free-rider``: sends back what it got.
    ``noisy-camera``: grain of ``scale`` in its images."""
    hospitals: int = Field(default=1, ge=1)
    """How many do so, drawn with ``partition.seed``: the same ones whatever ``seed``."""
    scale: float = Field(default=1.0, gt=0)
    """Strength of ``random``, ``scaled`` and ``sign-flipped``; for ``noisy-camera`` the standard deviation of the
    grain, where pixels are from -1 to 1."""


class ParticipationSettings(Section):
    """Who takes part in a round, and how long others wait for them."""

    fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the hospitals asked in each round, drawn anew from ``seed`` and round; at least one."""
    min_replies: int = Field(default=1, ge=1)
    """A round with fewer usable replies ends the run; its last good state is saved."""
    retries: int = Field(default=1, ge=0, le=100)
    """How often a hospital that failed is asked again within the round, in a simulation by a new process."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Chance of each hospital to be away for a round, drawn from ``seed`` and round; so many are there as the
    strategy and ``min-replies`` need."""
    train_seconds: float = Field(default=0.0, ge=0)
    """How long a hospital may take to train in a round: in a simulation from the moment it begins, at real sites
    from the moment it is asked. 0: as long as it likes."""
    describe_seconds: float = Field(default=600.0, gt=0)
    """How long the hospitals may take, before the first round, to read their images and say who they are."""


class EarlyStoppingSettings(Section):
    """When to end before the last round."""

    patience: int = Field(default=0, ge=0)
    """Evaluations in a row without a better KID on validation images after which the run ends. 0: never."""
    min_images: int = Field(default=0, ge=0)
    """Images shown, in the whole federation, before which no run is ended."""


class EvaluationSettings(Section):
    """How the global generator is judged."""

    every: int = Field(default=4, ge=1)
    """Rounds from one evaluation to the next; round 0 and the last are always evaluated."""
    images: int = Field(default=1000, ge=16, le=100_000)
    """Most generated, and most real, images in an evaluation."""
    extractor: Literal["auto", "inception-v3", "dinov2", "lesion-cnn"] = "auto"
    """Network whose features are compared. ``auto``: Inception where its weights are on this machine or may be
    downloaded, since published figures are of it, else DINOv2 where its weights are on this machine, else a small
    lesion classifier trained on the extractor part."""
    extractor_weights: str = ""
    """Weight file of Inception or, a safetensors file, of DINOv2. Empty: where their own libraries keep it."""
    allow_downloads: bool = False
    """Whether weights of extractors and of pretrained classifiers may be downloaded."""
    draws: int = Field(default=5, ge=1, le=100)
    """Independent sets of generated images in the final evaluation: intervals are over them."""
    utility: bool = True
    """Whether classifiers are trained on synthetic images and tested on real ones at the end."""
    utility_arms: str = "real,synthetic,real+synthetic,rare"
    """What classifiers are trained on, separated by commas: ``real`` images, ``synthetic`` ones,
    ``real+synthetic`` together, or real ones with synthetic ones of the ``rare`` classes alone."""
    utility_ratio: float = Field(default=1.0, gt=0, le=100)
    """``real+synthetic``: synthetic images for each real one."""
    utility_classifier: Literal["small-cnn", "efficientnet-b2"] = "small-cnn"
    """The classifier. ``small-cnn`` takes seconds on a processor, ``efficientnet-b2`` a GPU or patience."""
    utility_weights: str = ""
    """``efficientnet-b2``: file of ImageNet weights. Empty: torchvision's usual place, else initial weights
    are random, and the classifier's name says so."""
    utility_seeds: int = Field(default=3, ge=1, le=100)
    """Classifiers trained on each kind of images: intervals are over them."""
    utility_steps: int = Field(default=300, ge=10)
    """Training steps of each of those classifiers; the state that is best on validation images is kept."""
    authenticity: bool = True
    """Whether it is tested at the end if the generator copies its training images."""
    threads: int = Field(default=2, ge=1, le=256)
    """CPU threads of the evaluation."""
    overlap: Literal["auto", "always", "never"] = "auto"
    """Whether hospitals train the next round while the last one is judged; the scores are the same. ``auto``: where
    the hospitals' work leaves ``evaluation.threads`` cores of this machine free, and nothing waits for the score."""


class CheckpointSettings(Section):
    """What is kept for ``--resume``."""

    every: int = Field(default=10, ge=1)
    """Rounds from one checkpoint to the next."""
    keep: int = Field(default=2, ge=2)
    """Checkpoints kept, at least 2; that of the best KID on validation images is kept beside them."""


class SimulationSettings(Section):
    """How hospitals are simulated on this machine."""

    engine: Literal["ray", "in-process"] = "ray"
    """``ray``: long-lived workers train hospitals side by side. ``in-process``: one after the other in
    this process, where a debugger can follow. Both give the same weights."""
    workers: int = Field(default=0, ge=0, le=4096)
    """Ray workers. 0: processor cores / ``training.threads``, at most one per hospital."""
    gpus_per_hospital: float = Field(default=0.0, ge=0, le=8)
    """Share of a GPU for each worker, e.g. 0.25. 0: the GPUs found are shared by the workers alike."""
    address: str = ""
    """A running Ray cluster, e.g. ``10.0.0.1:6379``, or ``auto``. Empty: this machine alone. Run directory and images
    must lie on a file system that all its machines share, under one path."""
    preflight: bool = True
    """``ray``: whether a training step is timed before the first round and its memory measured: to say how many
    hospitals fit side by side, and to refuse more."""
    fail_fast: bool = False
    """Whether the run ends when a hospital fails in spite of ``participation.retries``; otherwise the round goes on
    without it."""


class ReportSettings(Section):
    """What a run directory may show."""

    show_real_images: bool = False
    """Whether sample sheets and the report show real images; phantom images are always shown."""


class Configuration(Section):
    """Everything that decides a run's result."""

    name: str = Field(default="phantom", min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run, part of its directory's name."""
    seed: int = Field(default=0, ge=0)
    """Seed of initial weights, local training and evaluation."""
    rounds: int = Field(default=24, ge=1)
    """Rounds of the federation."""
    run_dir: str = ""
    """The run directory. Empty: ``runs/<utc time>-<name>``."""
    resume: bool = False
    """Whether to go on from the last checkpoint in the run directory."""
    data: DataSettings = DataSettings()
    """Which images there are."""
    partition: PartitionSettings = PartitionSettings()
    """Which hospital holds which training images."""
    model: ModelSettings = ModelSettings()
    """Which generative model is trained."""
    training: TrainingSettings = TrainingSettings()
    """What a hospital does in a round."""
    augmentation: AugmentationSettings = AugmentationSettings()
    """What the discriminator sees of real and of generated images alike."""
    strategy: StrategySettings = StrategySettings()
    """How the hospitals' updates are combined."""
    attack: AttackSettings = AttackSettings()
    """Hospitals that do harm."""
    participation: ParticipationSettings = ParticipationSettings()
    """Who takes part in a round, and how long others wait for them."""
    early_stopping: EarlyStoppingSettings = EarlyStoppingSettings()
    """When to end before the last round."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How the global generator is judged."""
    checkpoint: CheckpointSettings = CheckpointSettings()
    """What is kept for ``--resume``."""
    simulation: SimulationSettings = SimulationSettings()
    """How hospitals are simulated on this machine."""
    report: ReportSettings = ReportSettings()
    """What a run directory may show."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in ``data.classes``, in the order of their label."""
        return split_names(self.data.classes)

    @property
    def private_prefixes(self) -> tuple[str, ...]:
        """What ``strategy.private``, and the strategies that are themselves a choice of what is private, keep back."""
        settings = self.strategy
        chosen = list(split_names(settings.private))
        chosen += [network for network in NETWORKS if getattr(settings, network) == PRIVATE]
        if settings.name == "partial-sync":
            chosen += [network for network in NETWORKS if settings.synchronise not in ("both", network)]
        elif settings.name == "alone":
            chosen += NETWORKS
        elif settings.name == "fedbn":
            chosen += STYLE_LAYERS
        elif settings.name == "cap-gan":
            chosen += STYLE_LAYERS if settings.personal_part == "styles" else ["generator.mapping"]
        elif settings.name in ("ua-gan", "md-gan"):
            chosen.append("discriminator")  # a hospital's own: the strategy carries it to the server and back
        return tuple(dict.fromkeys(chosen))

    def asked_hospitals(self) -> int:
        """Return how many hospitals are asked in a round."""
        return max(1, round(self.participation.fraction * self.partition.hospitals))

    @property
    def averaged_state(self) -> tuple[str, ...]:
        """The names in ``strategy.averaged-state``."""
        return split_names(self.strategy.averaged_state)

    @property
    def utility_arms(self) -> tuple[str, ...]:
        """The names in ``evaluation.utility-arms``."""
        return split_names(self.evaluation.utility_arms)

    def to_flat(self) -> dict[str, Scalar]:
        """Return every key, dotted, with its value: what travels in a Flower record."""
        return dict(flatten(self.model_dump(by_alias=True)))

    def to_toml(self) -> str:
        """Return the whole configuration as toml."""
        return tomli_w.dumps(self.model_dump(by_alias=True))

    def with_absolute_paths(self) -> Configuration:
        """Return a copy whose paths do not depend on a process's working directory."""
        flat = self.to_flat()
        paths = {key: str(flat[key]) for key in _PATHS if flat[key]}
        return self.with_values({key: str(Path(path).expanduser().absolute()) for key, path in paths.items()})

    def with_values(self, values: Mapping[str, Scalar]) -> Configuration:
        """Return a copy with some dotted keys set anew; refuses what :func:`resolve` refuses."""
        return resolve([Layer("configuration", self.to_flat()), Layer("update", dict(values))])


_PATHS = ("run-dir", "data.root", "data.cache-dir", "evaluation.extractor-weights", "evaluation.utility-weights")


@dataclass(frozen=True)
class Layer:
    """Values from one place, dotted; later layers win."""

    origin: str
    """Where they come from, for error messages: a file's path, ``--set``, …"""
    values: Mapping[str, Any]


def split_names(names: str) -> tuple[str, ...]:
    """Split a comma string into names without surrounding blanks."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


def augmentation_transforms(text: str) -> tuple[str, ...]:
    """Read ``augmentation.transforms``: sets and transforms, in turn added or, behind a minus, left out.

    Returns
    -------
    Names among :data:`AUGMENTATION_TRANSFORMS`, in that order.

    Raises
    ------
    ValueError
        Naming the first name that is neither a transform nor a set, and those that there are.
    """
    chosen: set[str] = set()
    for item in split_names(text):
        name = item.removeprefix("-").strip()
        if name not in AUGMENTATION_SETS and name not in AUGMENTATION_TRANSFORMS:
            allowed = ", ".join((*AUGMENTATION_SETS, *AUGMENTATION_TRANSFORMS))
            raise ValueError(f"{name!r} is no transform; allowed are {allowed}, each left out with a minus before it")
        names = AUGMENTATION_SETS.get(name, (name,))
        chosen = chosen - set(names) if item.startswith("-") else chosen | set(names)
    return tuple(name for name in AUGMENTATION_TRANSFORMS if name in chosen)


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and their values."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def fields_by_key() -> dict[str, FieldInfo]:
    """Return the field behind each dotted key, in the schema's order."""

    def walk(section: type[Section], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
        for name, field in section.model_fields.items():
            annotation = field.annotation
            if isinstance(annotation, type) and issubclass(annotation, Section):
                yield from walk(annotation, f"{prefix}{_kebab(name)}.")
            else:
                yield f"{prefix}{_kebab(name)}", field

    return dict(walk(Configuration, ""))


def describe_allowed(field: FieldInfo) -> str:
    """Say in words which values a field takes."""
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(annotation))
    if annotation is bool:
        return "true or false"
    if annotation is str:
        for constraint in field.metadata:
            if getattr(constraint, "pattern", None):
                return "letters, digits, '.', '_' and '-', beginning with a letter or a digit"
        return "a text"
    words = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{words[kind]} {getattr(constraint, kind):g}"
        for constraint in field.metadata
        for kind in words
        if getattr(constraint, kind, None) is not None
    ]
    return " ".join(["a whole number" if annotation is int else "a number", " and ".join(bounds)]).strip()


def load_toml(path: Path) -> Layer:
    """Read a toml file into a layer.

    Raises
    ------
    ConfigurationError
        If there is no such file or it is not toml.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"--config {path}: cannot be read ({error.strerror}); give the path of a toml file, e.g. conf/smoke.toml"
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"--config {path}: is not a text file; give a toml file") from None
    try:
        return Layer(str(path), dict(flatten(tomllib.loads(text))))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"--config {path}: is not valid toml: {error}") from None


def parse_assignments(assignments: Sequence[str]) -> Layer:
    """Turn ``KEY=VALUE`` texts into a layer. A value is read as toml, and as a plain text where it is not.

    Raises
    ------
    ConfigurationError
        If a text has no ``=``.
    """
    values: dict[str, Any] = {}
    problems = []
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            problems.append(f"--set {assignment}: is not KEY=VALUE; write for example --set rounds=10")
            continue
        field = fields_by_key().get(key.strip())
        if field is not None and (field.annotation is str or get_origin(field.annotation) is Literal):
            # What must be a text is taken as it stands: data.classes=1 names a class "1".
            values[key.strip()] = text.strip().strip("\"'")
            continue
        try:
            values[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = text.strip()
    if problems:
        raise ConfigurationError(problems)
    return Layer("--set", values)


def resolve(layers: Iterable[Layer]) -> Configuration:
    """Merge layers over the defaults and validate the whole.

    Parameters
    ----------
    layers
        Lowest first: a later layer's value wins.

    Raises
    ------
    ConfigurationError
        With every problem found: unknown keys with the nearest known one, wrong types, values out
        of range, contradictions.
    """
    known = fields_by_key()
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []
    for layer in layers:
        for key, value in layer.values.items():
            if key in known:
                merged[key] = value
                origins[key] = layer.origin
                continue
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            problems.append(f"{key} ({layer.origin}): unknown key; the nearest known key is {nearest}")

    nested: dict[str, Any] = {}
    for key, value in merged.items():
        table = nested
        *parents, leaf = key.split(".")
        for parent in parents:
            table = table.setdefault(parent, {})
        table[leaf] = value
    try:
        configuration = Configuration.model_validate(nested)
    except ValidationError as error:
        for detail in error.errors():
            key = ".".join(_kebab(str(part)) for part in detail["loc"])
            field = known[key]
            problems.append(
                f"{key} = {merged[key]!r} ({origins[key]}): allowed is {describe_allowed(field)}; "
                f"the default is {field.default!r}"
            )
        raise ConfigurationError(problems) from None
    problems += _contradictions(configuration)
    if problems:
        raise ConfigurationError(problems)
    if configuration.training.local_epochs > 0 and configuration.training.local_steps != 0:
        training = configuration.training.model_copy(update={"local_steps": 0})
        configuration = configuration.model_copy(update={"training": training})
    if configuration.strategy.name == "centralised" and configuration.partition.hospitals > 1:
        # One place that holds all images, and shows as many of them in a round as the hospitals would; nobody in it
        # is away or does harm.
        training = configuration.training
        share = configuration.asked_hospitals() / configuration.partition.hospitals
        present = 1.0 - configuration.participation.dropout
        pooled = {
            "local_steps": max(
                min(1, training.local_steps), round(training.local_steps * configuration.asked_hospitals() * present)
            ),
            "local_epochs": training.local_epochs * share * present,
        }
        everybody = {"fraction": 1.0, "min_replies": 1, "dropout": 0.0}
        configuration = configuration.model_copy(
            update={
                "partition": configuration.partition.model_copy(update={"hospitals": 1}),
                "participation": configuration.participation.model_copy(update=everybody),
                "attack": AttackSettings(),
                "training": training.model_copy(update=pooled),
            }
        )
    return configuration


def _contradictions(configuration: Configuration) -> Iterator[str]:
    """Yield a sentence for each combination of values that makes no sense."""
    data, model, training = configuration.data, configuration.model, configuration.training
    augmentation = configuration.augmentation
    if not math.log2(model.resolution).is_integer():
        yield f"model.resolution = {model.resolution}: allowed is a power of two: 32, 64, 128, 256 or 512"
    if model.channel_base < model.resolution:
        yield (
            f"model.channel-base = {model.channel_base}: allowed is at least model.resolution = {model.resolution}, "
            "so that the last layer has a channel"
        )
    if model.minibatch_std == 1 or (model.minibatch_std and training.batch_size % model.minibatch_std):
        yield (
            f"model.minibatch-std = {model.minibatch_std}: allowed is a divisor of training.batch-size = "
            f"{training.batch_size} from 2 on, so that groups are whole and differ within, or 0"
        )
    if not model.conditional:
        for key, value in (
            ("label-dropout", training.label_dropout),
            ("transition-start-images", training.transition_start_images),
            ("transition-images", training.transition_images),
        ):
            if value > 0:
                yield f"training.{key} = {value:g}: model.conditional = false has no class to hide; set it to 0"
    # Hospitals of local-epochs differ in their steps; of local-steps all show as many images.
    shown = configuration.rounds * training.local_steps * training.batch_size
    conditional_from = training.transition_start_images + training.transition_images
    if training.local_epochs == 0 and conditional_from > shown:
        yield (
            f"training.transition-start-images + training.transition-images = {conditional_from:g}: a hospital is "
            f"shown {shown:,} images in all (rounds x local-steps x batch-size), so that the class would never be "
            "fully heard; lower them, or set more rounds"
        )
    try:
        transforms = augmentation_transforms(augmentation.transforms)
    except ValueError as error:
        yield f"augmentation.transforms = {augmentation.transforms!r}: {error}"
    else:
        if not transforms and augmentation.name in ("ada", "fixed"):
            yield (
                f"augmentation.transforms = {augmentation.transforms!r}: leaves no transform; name one, "
                "e.g. dermoscopy, or set augmentation.name=none"
            )
    if augmentation.name == "fixed" and augmentation.p == 0:
        yield "augmentation.p = 0: augmentation.name = fixed would change nothing; set augmentation.p=0.2, say"
    for name in configuration.averaged_state:
        if name not in AVERAGED_STATE:
            yield (
                f"strategy.averaged-state = {configuration.strategy.averaged_state!r}: {name!r} is not known; allowed "
                f"are {', '.join(AVERAGED_STATE)}"
            )
    for name, is_used, remedy in (
        ("ada-p", augmentation.name == "ada", "augmentation.name=ada"),
        ("path-length-mean", training.path_length_weight > 0, "training.path-length-weight=2.0"),
    ):
        if name in configuration.averaged_state and not is_used:
            yield f"strategy.averaged-state = {name!r}: there is none to average; leave it out, or set {remedy}"
    if augmentation.p > 0 and augmentation.name in ("none", "diffaugment"):
        yield (
            f"augmentation.p = {augmentation.p:g}: augmentation.name = {augmentation.name} has no probability; "
            "set augmentation.p=0, or augmentation.name=fixed"
        )
    asked = configuration.asked_hospitals()
    yield from strategy_problems(configuration.strategy, asked, training, configuration.augmentation)
    yield from _attack_problems(configuration)
    by_server = STRATEGY_FACTS.get(configuration.strategy.name, StrategyFacts()).trains_discriminator_only
    if by_server and training.local_epochs > 0 and configuration.strategy.generator_steps == 0:
        yield (
            "strategy.generator-steps = 0: means as many as training.local-steps, and training.local-epochs is given "
            "in its place; set strategy.generator-steps to the server's steps in a round"
        )
    if configuration.strategy.name == "effgan" and configuration.strategy.fine_tune_rounds >= configuration.rounds:
        yield (
            f"strategy.fine-tune-rounds = {configuration.strategy.fine_tune_rounds}: of rounds = "
            f"{configuration.rounds} none would be left in which hospitals learn from one another; lower it"
        )
    if configuration.strategy.name == "effgan" and configuration.early_stopping.patience > 0:
        yield (
            f"early-stopping.patience = {configuration.early_stopping.patience}: under effgan the last rounds are each "
            "hospital's own, and a run that stops early never comes to them; set it to 0"
        )
    if configuration.strategy.name == "fedcar" and "generator" in configuration.strategy.private:
        yield (
            f"strategy.private = {configuration.strategy.private!r}: fedcar compares the hospitals' generators at the "
            "server, and would look at some that nobody has; leave the generator out of it"
        )
    if configuration.participation.min_replies > asked:
        yield (
            f"participation.min-replies = {configuration.participation.min_replies}: only {asked} of "
            f"partition.hospitals = {configuration.partition.hospitals} are asked in a round (participation.fraction = "
            f"{configuration.participation.fraction:g}); lower it, or ask more"
        )
    evaluation = configuration.evaluation
    for name in configuration.utility_arms:
        if name not in UTILITY_ARMS:
            yield (
                f"evaluation.utility-arms = {evaluation.utility_arms!r}: {name!r} is not known; allowed are "
                f"{', '.join(UTILITY_ARMS)}"
            )
    if evaluation.utility and not configuration.utility_arms:
        yield "evaluation.utility-arms is empty: name what to train on, or set evaluation.utility=false"
    if evaluation.utility_weights and evaluation.utility_classifier != "efficientnet-b2":
        yield (
            f"evaluation.utility-weights = {evaluation.utility_weights!r}: evaluation.utility-classifier = "
            f"{evaluation.utility_classifier} has no pretrained weights; leave it out, or set "
            "evaluation.utility-classifier=efficientnet-b2"
        )
    default_steps = TrainingSettings.model_fields["local_steps"].default
    if training.local_epochs > 0 and training.local_steps not in (0, default_steps):
        yield (
            f"training.local-steps = {training.local_steps} and training.local-epochs = {training.local_epochs:g}: "
            "give one of them"
        )
    if training.local_epochs == 0 and training.local_steps == 0:
        yield "training.local-steps = 0 and training.local-epochs = 0: give one of them, e.g. training.local-steps=40"
    if data.source in ("ham10000", "isic2019", "isic2020", "folder") and not data.root:
        yield f"data.root is empty: data.source = {data.source} needs a folder; set data.root=/path/to/the/images"
    if data.source == "huggingface" and not (data.root or data.dataset):
        yield "data.dataset and data.root are empty: data.source = huggingface needs a dataset name or a local folder"
    names = split_names(data.classes)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        yield f"data.classes = {data.classes!r}: names {', '.join(repeated)} more than once; name each class once"


def _attack_problems(configuration: Configuration) -> Iterator[str]:
    attack = configuration.attack
    if attack.name == "none":
        for key, field in AttackSettings.model_fields.items():
            if key != "name" and getattr(attack, key) != field.default:
                yield f"attack.{key} = {getattr(attack, key)!r}: attack.name = none attacks nothing; set attack.name"
        return
    if attack.hospitals > configuration.partition.hospitals:
        yield (
            f"attack.hospitals = {attack.hospitals}: there are {configuration.partition.hospitals} hospitals "
            "(partition.hospitals); lower it"
        )
    harms_updates = attack.name not in ("flipped-labels", "noisy-camera")
    if harms_updates and configuration.strategy.name == "alone":
        yield (
            f"attack.name = {attack.name}: strategy.name = alone sends nothing that could be falsified; choose "
            "flipped-labels or noisy-camera, or another strategy"
        )
    if attack.name == "flipped-labels" and not configuration.model.conditional:
        yield "attack.name = flipped-labels: model.conditional = false hears no class; choose another attack"


def flower_table() -> str:
    """Return the toml table ``[tool.flwr.app.config]`` that pyproject.toml must hold.

    ``python -m federation.config`` prints it; a test compares the two.
    """
    return tomli_w.dumps({"tool": {"flwr": {"app": {"config": Configuration().model_dump(by_alias=True)}}}})


if __name__ == "__main__":
    print(flower_table(), end="")
