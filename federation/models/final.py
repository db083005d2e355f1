"""A trained generator as two files: enough to generate images without the rest of a run.

``generator.safetensors`` holds the weights without metadata, so that equal weights are equal bytes;
``model.json`` what they are the weights of. ::

    generator = load_final("runs/…/final")
    images = generator.generate(16, class_name="mel", seed=1, truncation=0.7)
"""

from __future__ import annotations

import json
from collections import abc, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from federation.config import Configuration, Layer, fields_by_key, flatten, resolve, with_new_names
from federation.errors import ConfigurationError, DataError, InputError
from federation.models.drawing import Component, Drawer, Looks, draw, looks_at
from federation.models.families import FAMILIES
from federation.models.protocol import DrawingNetwork
from federation.run_directory import RunDirectory, to_json, write_text, written_atomically
from federation.seeding import torch_stream
from federation.settings.section import kebab

FORMAT = 4
# Before generators were told hospitals: the same without ``looks``.
_FORMAT_WITHOUT_LOOKS = 3
# Before there were families of models: the architecture of StyleGAN2 stood in the model's table.
_OLD_FORMAT = 2
WEIGHTS = "generator.safetensors"
DESCRIPTION = "model.json"

# Images are drawn so many at a time, fewer where they are larger, so that a chunk's activations fit any machine.
CHUNK_IMAGES = 32
CHUNK_PIXELS = 32 * 128 * 128
# What training began with is no part of what draws; hospitals that are told are named by ``looks``.
_NOT_OF_WHAT_DRAWS = frozenset({"initial", "site_embedding"})
_NO_SITES = {"model.site-embedding": "off"}
# Tensors named in a message before the rest is only counted.
NAMED_TENSORS = 8


def request_problems(*, count: int, seed: int, truncation: float, threads: int) -> list[str]:
    """Return what is wrong with the numbers of a request for images, a sentence each."""
    problems = [
        f"{name} {value}: allowed is a whole number >= {least}"
        for name, value, least in (("count", count, 1), ("seed", seed, 0), ("threads", threads, 1))
        if value < least
    ]
    if not 0 <= truncation <= 1:
        problems.append(f"truncation {truncation:g}: allowed is a number from 0 (the typical image) to 1 (as learned)")
    return problems


@dataclass(frozen=True)
class FinalGenerator:
    """A generator that was read back from ``final/``. It computes in fp32, whatever it was trained in.

    The same request gives the same bytes on one type of processor, whatever the number of threads, and
    image i does not depend on how many are asked for: images are drawn in whole chunks of a fixed size,
    each from a stream of its own and by one thread, and what is too much is cut off.
    """

    components: tuple[Component, ...]
    """The network, or, of a mixture, those of the hospitals."""
    classes: tuple[str, ...]
    """Names of the labels; empty for an unconditional generator."""

    @property
    def network(self) -> DrawingNetwork:
        """What images are drawn with; of a mixture, the first of its networks."""
        return self.components[0].use()

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return self.network.resolution

    @property
    def is_mixture(self) -> bool:
        """Whether hospitals have generators of their own."""
        return bool(self.components[0].name)

    def only(self, component: Component) -> FinalGenerator:
        """Return one generator of the mixture alone."""
        return FinalGenerator((Component("", component.use),), self.classes)

    @property
    def hospitals(self) -> tuple[str, ...]:
        """Hospitals whose images can be asked for: those that the generator is told, or that have one of their own."""
        if self.is_mixture:
            return tuple(component.name for component in self.components)
        looks = self.components[0].looks
        return looks.names if looks else ()

    def of_hospital(self, name: str) -> FinalGenerator:
        """Return what draws images of one hospital's look.

        Raises
        ------
        InputError
            If there is no such hospital.
        """
        if name not in self.hospitals:
            raise InputError(self.hospital_problems(name))
        number = self.hospitals.index(name)
        if self.is_mixture:
            return self.only(self.components[number])
        alone = Component("", self.components[0].use, looks=looks_at(number, len(self.hospitals), self.hospitals))
        return FinalGenerator((alone,), self.classes)

    def hospital_problems(self, name: str) -> list[str]:
        """Return what is wrong with a hospital that is asked for, a sentence."""
        if name in self.hospitals:
            return []
        if not self.hospitals:
            return [
                f"hospital {name!r}: this generator is not told hospitals; ask for none, or train a stylegan2 of "
                "several hospitals with model.site-embedding=on"
            ]
        return [
            f"hospital {name!r}: this generator knows no such hospital; its hospitals are {', '.join(self.hospitals)}"
        ]

    def class_problems(self, names: Sequence[str]) -> list[str]:
        """Return what is wrong with classes that are asked for, a sentence each."""
        if names and not self.classes:
            return [f"class {names[0]!r}: this generator was trained without classes; ask for none"]
        return [
            f"class {name!r}: this generator knows no such class; its classes are {', '.join(self.classes)}"
            for name in dict.fromkeys(names)
            if name not in self.classes
        ]

    def generate(
        self,
        count: int,
        *,
        class_name: str | Sequence[str] | None = None,
        seed: int = 0,
        truncation: float = 1.0,
        threads: int = 1,
    ) -> Tensor:
        """Draw images; uint8 (count, r, r, 3), on the CPU. See :meth:`batches`, which needs less memory for many."""
        drawn = self.batches(count, class_name=class_name, seed=seed, truncation=truncation, threads=threads)
        return torch.cat(list(drawn))

    def batches(
        self,
        count: int,
        *,
        class_name: str | Sequence[str] | None = None,
        seed: int = 0,
        truncation: float = 1.0,
        threads: int = 1,
    ) -> abc.Generator[Tensor, None, None]:
        """Draw images, a batch at a time.

        Parameters
        ----------
        count
            Images in all, at least 1.
        class_name
            The class of every image, or several that images take in turn: one for each image, if you like.
            None: all of `classes` in turn. An unconditional generator takes None alone.
        seed
            At least 0; another seed draws other images.
        truncation
            In [0, 1]. 1 draws from the learned distribution; less, more typical and less varied images. A StyleGAN2's
            w is pulled towards its mean over all classes and hospitals (Karras et al. 2019, arXiv 1812.04948, Appendix
            B), so that strong truncation blurs their difference too; a VAE's z towards 0, the typical image of each
            class.
        threads
            CPU threads, each with a chunk of its own in memory, so that their number does not change the
            images. Unused on a GPU.

        Returns
        -------
        A generator of uint8 (at most 32, r, r, 3), on the CPU.

        Raises
        ------
        InputError
            At once, with every problem of the request.
        """
        names = [class_name] if isinstance(class_name, str) else list(class_name or ())
        problems = request_problems(count=count, seed=seed, truncation=truncation, threads=threads)
        problems += self.class_problems(names)
        if problems:
            raise InputError(problems)
        in_turn = torch.tensor([self.classes.index(name) for name in names or self.classes], dtype=torch.int64)
        return self._draw(count, in_turn, seed, truncation, threads)

    def _draw(
        self, count: int, in_turn: Tensor, seed: int, truncation: float, threads: int
    ) -> abc.Generator[Tensor, None, None]:
        """Yield the chunks in order while the threads compute the next ones."""
        size = max(1, min(CHUNK_IMAGES, CHUNK_PIXELS // self.resolution**2))
        workers = 1 if self._device().type == "cuda" else threads
        # PyTorch's own threads would share one image, and so change its last bits: one for each worker.
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        pending: deque[Future[Tensor]] = deque()
        num_yielded = 0
        try:
            for chunk in range(-(-count // size)):
                pending.append(pool.submit(self._draw_chunk, chunk, size, in_turn, seed, truncation))
                if len(pending) > workers:
                    yield pending.popleft().result()
                    num_yielded += size
            while pending:
                yield pending.popleft().result()[: count - num_yielded]
                num_yielded += size
        finally:
            pool.shutdown(cancel_futures=True)
            # The workers' setting is also what threads started later would begin with.
            torch.set_num_threads(torch.get_num_threads())

    def _draw_chunk(self, chunk: int, size: int, in_turn: Tensor, seed: int, truncation: float) -> Tensor:
        """Return a whole chunk; uint8 (size, r, r, 3), on the CPU."""
        stream = torch_stream(seed, "generate", server_round=chunk)
        labels = in_turn[torch.arange(chunk * size, (chunk + 1) * size) % len(in_turn)] if len(in_turn) else None
        with ExitStack() as settings:
            if self._device().type == "cuda":  # cuDNN's own: tf32, and kernels that need not repeat themselves
                settings.enter_context(torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False))
            return draw(self.components, labels, size, stream, truncation).cpu().contiguous()

    def _device(self) -> torch.device:
        network = self.network
        assert isinstance(network, nn.Module)
        return next(network.parameters()).device


def save_final(folder: Path, drawer: Drawer, configuration: Configuration) -> None:
    """Write what was judged to `folder`: what draws the federation's images, or all hospitals' and their weights."""
    name = configuration.model.name
    description: dict[str, Any] = {
        "format": FORMAT,
        "model": configuration.model.model_dump(by_alias=True, exclude=set(_NOT_OF_WHAT_DRAWS)),
        name: getattr(configuration, name).model_dump(by_alias=True, include=configuration.family.architecture),
        "classes": list(configuration.class_names) if configuration.model.conditional else [],
    }
    if drawer.components[0].name:
        description["mixture"] = []
        for number, component in enumerate(drawer.components):
            file = f"generator-{number:04d}.safetensors"
            _write_weights(folder / file, component.use())
            description["mixture"].append(
                {"hospital": component.name, "file": file, "weights": list(component.weights)}
            )
    else:
        if looks := drawer.components[0].looks:
            description["looks"] = [
                {"hospital": name, "weights": list(weights)}
                for name, weights in zip(looks.names, looks.weights, strict=True)
            ]
        _write_weights(folder / WEIGHTS, drawer.components[0].use())
    write_text(folder / DESCRIPTION, to_json(description, indent=2) + "\n")


def _write_weights(path: Path, network: DrawingNetwork) -> None:
    assert isinstance(network, nn.Module)
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with written_atomically(path) as temporary:
        safetensors.torch.save_file(tensors, temporary)


def load_final(path: str | Path, *, device: torch.device | str = "cpu") -> FinalGenerator:
    """Read a generator back; nothing in the files is executed.

    Parameters
    ----------
    path
        A run's ``final`` folder, a copy of it, or the directory of a finished run.
    device
        Where images will be computed.

    Raises
    ------
    DataError
        If there is no such folder, the run is not finished, a file is missing or damaged or of another
        format, or the weights are not those of the described network.
    """
    folder = _find_folder(Path(path))
    configuration, classes, mixture, looks = read_description(folder / DESCRIPTION)
    files = mixture or [{"hospital": "", "file": WEIGHTS, "weights": [1.0]}]
    return FinalGenerator(
        tuple(
            Component(
                entry["hospital"],
                partial(_itself, _read_network(folder / entry["file"], configuration, len(classes), device)),
                tuple(entry["weights"]),
                looks,
            )
            for entry in files
        ),
        classes,
    )


def _itself(network: DrawingNetwork) -> DrawingNetwork:
    return network


def _read_network(
    file: Path, configuration: Configuration, num_classes: int, device: torch.device | str
) -> DrawingNetwork:
    """Build the described network and give it the weights of a file."""
    tensors = _read_weights(file)
    # Weights are drawn before they are replaced; the fork leaves the process's own stream alone.
    with torch.random.fork_rng(devices=[]):
        network = configuration.family.build_drawing(configuration, num_classes)
    assert isinstance(network, nn.Module)
    problems = _tensor_problems(tensors, network.state_dict())
    if problems:
        hidden = len(problems) - NAMED_TENSORS
        problems = [f"{file}: {problem}" for problem in problems[:NAMED_TENSORS]]
        if hidden > 0:
            problems.append(f"{file}: {hidden} more like these")
        belong = (
            f"{file.parent}: its files do not belong together or are damaged; copy all of them from one finished run"
        )
        raise DataError([belong, *problems])
    network.load_state_dict(tensors)
    return network.to(device).requires_grad_(False).eval()


def _find_folder(path: Path) -> Path:
    """Return the folder with the two files, in a run directory or given itself."""
    run = RunDirectory(path)
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise DataError(f"{path}: {what}; give the directory of a finished run, or its {run.final.name}/ folder")
    if (path / DESCRIPTION).exists() or (path / WEIGHTS).exists():
        return path
    if run.final.is_dir():
        return run.final
    if run.config.exists():
        raise DataError(
            f"run directory {path}: has no {run.final.name}/ yet, since the run is not finished; "
            f"finish it with dermafed simulate --resume --run-dir {path}"
        )
    raise DataError(
        f"{path}: holds no generator, neither {DESCRIPTION} with {WEIGHTS} nor a run's {run.final.name}/; "
        f"give the directory of a finished run, or its {run.final.name}/ folder"
    )


_COPY_BOTH = f"copy both {DESCRIPTION} and {WEIGHTS} from the final/ of a finished run"


def read_description(file: Path) -> tuple[Configuration, tuple[str, ...], list[dict[str, Any]], Looks | None]:
    """Read what the weights are the weights of.

    Returns
    -------
    The model's settings, the names of its classes, a mixture's parts, the hospitals that it is told.
    """
    description = _read_json(file)
    problems = []
    classes = description.get("classes")
    if not (
        isinstance(classes, list)
        and all(isinstance(name, str) and name for name in classes)
        and len(set(classes)) == len(classes)
    ):
        problems.append(f"classes = {classes!r}: allowed is a list of distinct names, empty for an unconditional model")
    configuration = None
    try:
        configuration = _resolve_model(description)
    except ConfigurationError as error:
        problems += error.problems
    if configuration is not None and not problems and configuration.model.conditional != bool(classes):
        problems.append(
            f"model.conditional = {str(configuration.model.conditional).lower()} and classes = {classes!r}: "
            "a conditional model has classes, and no other has"
        )
    mixture, looks = description.get("mixture", []), description.get("looks", [])
    num_classes = len(classes) if isinstance(classes, list) else 0
    if not _is_looks(looks, num_classes) or (mixture and looks):
        problems.append(
            "looks: allowed is a list of tables with the name of a hospital, each another, and a weight from 0 on for "
            "each class, or one weight in all tables, and none beside a mixture"
        )
    if not _is_mixture(mixture, num_classes):
        problems.append(
            "mixture: allowed is a list of tables with the name of a hospital, a file beside this one, and a weight "
            "from 0 on for each class"
        )
    if problems:
        raise DataError([f"{file}: {problem}; {_COPY_BOTH}" for problem in problems])
    assert configuration is not None
    told = Looks(
        tuple(entry["hospital"] for entry in looks), tuple(tuple(map(float, entry["weights"])) for entry in looks)
    )
    return configuration, tuple(classes or ()), mixture, told if looks else None


def _read_json(file: Path) -> dict[str, Any]:
    """Return the content of ``model.json``, of a format that is known."""
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{file}: is missing; {_COPY_BOTH}") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); {_COPY_BOTH}") from None
    except ValueError as error:
        raise DataError(f"{file}: is not json ({error}); {_COPY_BOTH}") from None
    found = description.get("format", "unknown") if isinstance(description, dict) else "unknown"
    if found not in (FORMAT, _FORMAT_WITHOUT_LOOKS, _OLD_FORMAT):
        raise DataError(
            f"{file}: the generator is of format {found}, and this version of dermafed reads formats {_OLD_FORMAT} to "
            f"{FORMAT}; train or export it again with this version"
        )
    return dict(description)


def _is_mixture(mixture: Any, num_classes: int) -> bool:
    """Return whether this is the description of a mixture that names no file elsewhere; it may be empty."""
    return _has_weights(mixture, num_classes) and all(
        isinstance(entry.get("file"), str) and Path(entry["file"]).name == entry["file"] for entry in mixture
    )


def _is_looks(looks: Any, num_classes: int) -> bool:
    """Return whether these are the looks of hospitals; there may be none."""
    if not _has_weights(looks, num_classes, any_class=True):
        return False
    names = {entry["hospital"] for entry in looks}
    return len(names) == len(looks) and len({len(entry["weights"]) for entry in looks}) <= 1


def _has_weights(entries: Any, num_classes: int, *, any_class: bool = False) -> bool:
    """Return whether these are hospitals with a weight for each class, or, where that may be, one for any class."""
    lengths = {max(1, num_classes), *([1] if any_class else [])}
    return isinstance(entries, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("hospital"), str)
        and entry["hospital"]
        and isinstance(entry.get("weights"), list)
        and len(entry["weights"]) in lengths
        and all(isinstance(weight, int | float) and 0 <= weight < float("inf") for weight in entry["weights"])
        for entry in entries
    )


def _resolve_model(description: dict[str, Any]) -> Configuration:
    """Validate a model's settings as a run's are. A default in place of one could be another network."""
    if not isinstance(description.get("model"), dict):
        raise ConfigurationError(f"model = {description.get('model')!r}: allowed is a table of the model's settings")
    values = dict(flatten({"model": description["model"]}))
    if description["format"] == _OLD_FORMAT:
        # What the batches of training had to fit is there no more.
        values = {key: value for key, value in with_new_names(values).items() if key != "stylegan2.minibatch-std"}
    told = description.get("looks", [])
    hospitals = len(told) if isinstance(told, list) else 0
    # A row of the embedding for each.
    values |= {"model.site-embedding": "on", "partition.hospitals": hospitals} if hospitals else _NO_SITES
    name = str(values.get("model.name", ""))
    if isinstance(description.get(name), dict):
        values |= flatten({name: description[name]})
    if not name:
        raise ConfigurationError("model.name: is missing")
    if name in FAMILIES:
        own = [f"{name}.{kebab(field)}" for field in FAMILIES[name].architecture]
        model = {key for key in fields_by_key() if key.startswith("model.")}
        model -= {f"model.{kebab(field)}" for field in _NOT_OF_WHAT_DRAWS}
        required = [*sorted(model), *sorted(own)]
        missing = [f"{key}: is missing" for key in required if key not in values]
        if missing:
            raise ConfigurationError(missing)
    return resolve([Layer(DESCRIPTION, values, settled=True)])


def _read_weights(file: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(file)
    except FileNotFoundError:
        raise DataError(f"{file}: is missing; {_COPY_BOTH}") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error}); {_COPY_BOTH}") from None
    except safetensors.SafetensorError as error:
        raise DataError(f"{file}: is not a whole safetensors file ({error}); {_COPY_BOTH}") from None


def _tensor_problems(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Return how tensors differ from those of a network, and which are not finite, a phrase each."""
    problems = []
    for name, like in expected.items():
        value = tensors.get(name)
        if value is None:
            problems.append(f"{name}: found nothing, expected shape {tuple(like.shape)}")
        elif value.shape != like.shape:
            problems.append(f"{name}: found shape {tuple(value.shape)}, expected {tuple(like.shape)}")
        elif value.dtype != like.dtype:
            problems.append(f"{name}: found {value.dtype}, expected {like.dtype}")
        elif not torch.isfinite(value).all():
            problems.append(f"{name}: holds values that are not finite")
    return problems + [
        f"{name}: found a tensor that the network does not have" for name in tensors if name not in expected
    ]
