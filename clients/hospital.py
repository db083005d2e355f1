"""A hospital: who it is, its own images, and what stays there between rounds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from data_partitions.dataset import ImageDataset, load_images
from data_partitions.holdings import Holdings, find_holdings
from federation.config import Configuration
from federation.errors import ConfigurationError, StorageError
from federation.home import expand_home
from federation.run_directory import writing, written_atomically
from federation.settings.data import DataSettings, PartitionSettings
from federation.site import folder_name

_OF_SITES = ("site", "data-dir", "state-dir", "policy")


def is_site(node_config: Mapping[str, object]) -> bool:
    """Return whether a node's configuration has anything that only a real site has."""
    return any(key in node_config for key in _OF_SITES)


@dataclass(frozen=True)
class Identity:
    """Who a node is.

    A node of a simulation is told ``partition-id`` and ``num-partitions``; a deployed one ``site``
    and ``data-dir`` too, ``state-dir`` where its private state should not lie beside the images, and ``policy``,
    a file that says what may leave the site.
    """

    partition_id: int
    num_partitions: int
    site: str = ""
    """Name of a deployed site; empty in simulation, where the partition names it."""
    data_dir: str = ""
    """The deployed site's own folder of images."""
    state_dir: str = ""
    """Where the site keeps its private state."""
    policy: str = ""
    """The site's own file that says what may leave it; empty: the strictest with which it can take part."""

    @classmethod
    def from_node_config(cls, node_config: Mapping[str, object]) -> Identity:
        """Read a node's configuration.

        Raises
        ------
        ConfigurationError
            Naming the key that is missing.
        DataError
            If there is no home folder for a path that begins with ``~``.
        """
        missing = [key for key in ("partition-id", "num-partitions") if key not in node_config]
        # Whatever only a real site has makes it one: half a site must not be taken for a simulated hospital.
        if is_site(node_config):
            missing += [key for key in ("site", "data-dir") if not node_config.get(key)]
        if missing:
            raise ConfigurationError(
                f"node configuration: {' and '.join(missing)} missing or empty; a site is started with --node-config "
                '\'site="name" data-dir="/path/to/images" partition-id=0 num-partitions=3\''
            )
        return cls(
            partition_id=int(str(node_config["partition-id"])),
            num_partitions=int(str(node_config["num-partitions"])),
            site=str(node_config.get("site", "")),
            data_dir=_path(node_config, "data-dir"),
            state_dir=_path(node_config, "state-dir"),
            policy=_path(node_config, "policy"),
        )


def _path(node_config: Mapping[str, object], key: str) -> str:
    """Return the path that a node's configuration gives; empty where it gives none."""
    given = str(node_config.get(key, ""))
    return str(expand_home(given, key)) if given else ""


class PrivateState:
    """What a hospital keeps for itself, on disk, a file for each round.

    Optimiser moments, counters and private networks never reach the server. The file of a round is
    kept as long as the server may go back to it.

    Parameters
    ----------
    folder
        The hospital's own folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rounds(self) -> list[int]:
        """Return the rounds with a file, ascending."""
        return sorted(int(path.stem.removeprefix("round-")) for path in self.folder.glob("round-*.safetensors"))

    def load(self, last_round: int, server_round: int) -> dict[str, Tensor]:
        """Return the state after the last round in which the server took this hospital's reply.

        What was written in rounds since then is dropped: those replies were late, refused or lost, or the run
        was resumed from before them.

        Parameters
        ----------
        last_round
            That round; 0 if there was none: the state is empty then.
        server_round
            The round that begins.

        Raises
        ------
        StorageError
            If the state of that round is gone or damaged.
        """
        with writing(self.folder):
            for number in self.rounds():
                if last_round < number < server_round:
                    self._path(number).unlink(missing_ok=True)
        if last_round == 0:
            return {}
        path = self._path(last_round)
        try:
            return safetensors.torch.load_file(path)
        except (OSError, safetensors.SafetensorError) as error:
            what = "gone" if isinstance(error, FileNotFoundError) else f"damaged ({error})"
            raise StorageError(
                f"{path}: this hospital's private state after round {last_round} is {what}, and without it training "
                "would not go on as it was; put the file back, or start the run anew"
            ) from error

    def save(self, server_round: int, state: Mapping[str, Tensor], checkpoint_rounds: Iterable[int]) -> None:
        """Write the state after a round; drop files that no checkpoint needs any more.

        `checkpoint_rounds` are those that the server can go back to.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        with writing(self.folder):
            self._save(server_round, state, checkpoint_rounds)

    def _save(self, server_round: int, state: Mapping[str, Tensor], checkpoint_rounds: Iterable[int]) -> None:
        for left in self.folder.glob(".round-*"):  # by a process that was killed while it wrote
            left.unlink(missing_ok=True)
        with written_atomically(self._path(server_round)) as temporary:
            tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
            safetensors.torch.save_file(tensors, temporary)
        rounds = self.rounds()
        for number in rounds:
            if number > server_round:  # left by a run that was resumed from an earlier round
                self._path(number).unlink(missing_ok=True)
        rounds = [number for number in rounds if number <= server_round]
        # The previous round too: the server may be interrupted before it has saved this one. Of a round that
        # this hospital missed, the one before it.
        needed = {server_round, server_round - 1, *checkpoint_rounds}
        kept = {max((number for number in rounds if number <= wanted), default=0) for wanted in needed}
        for number in rounds:
            if number not in kept:
                self._path(number).unlink(missing_ok=True)

    def _path(self, server_round: int) -> Path:
        return self.folder / f"round-{server_round:04d}.safetensors"


@dataclass(frozen=True)
class Hospital:
    """One hospital, as its own process sees it."""

    site: str
    dataset: ImageDataset
    """Its training images."""
    private_state: PrivateState


def load_hospital(
    configuration: Configuration, identity: Identity, device: torch.device, cache_dir: str = ""
) -> Hospital:
    """Find a node's images and its private state.

    Both launchers come here: a node of a simulation takes its share of the partition, a deployed
    one all training images of its own folder.

    Parameters
    ----------
    configuration, identity
        What is asked, and who is asked.
    device
        Where the images will lie.
    cache_dir
        A real site's own folder for decoded images, whatever ``data.cache-dir`` says; empty: in its state folder.

    Raises
    ------
    InputError
        If the images cannot be read or the node does not fit the configuration.
    """
    resolution = configuration.model.resolution
    if identity.site:
        if not configuration.class_names:
            raise ConfigurationError("data.classes is empty: sites must be told the classes, so that labels agree")
        _check_stays_inside(configuration.data)
        cache_dir = cache_dir or str(_site_root(identity) / "cache")
        data = configuration.data.model_copy(update={"root": identity.data_dir, "cache_dir": cache_dir})
    else:
        if identity.num_partitions != configuration.partition.hospitals:
            raise ConfigurationError(
                f"partition.hospitals = {configuration.partition.hospitals}, but there are {identity.num_partitions} "
                f"nodes; set partition.hospitals={identity.num_partitions} or start as many nodes as hospitals"
            )
        data = configuration.data
    held = _cached_holdings(data, configuration.partition, resolution, identity.site)
    if identity.site:  # the coordinator of a simulation says them; of a site's own images it knows nothing
        for note in held.index.notes:
            logging.getLogger("dermafed").warning("data: %s", note)
    site = identity.site or held.partition.name_of(identity.partition_id)
    index, rows = held.index, held.partition.rows_of(site)
    images = load_images(index, resolution, data.cache_dir)
    return Hospital(
        site=site,
        dataset=ImageDataset(
            images,
            index.labels,
            rows,
            device=device,
            flips=configuration.training.flips,
            balanced=configuration.balanced_over != "none",
            table=index.table,
        ),
        private_state=PrivateState(_state_root(configuration, identity) / folder_name(site)),
    )


def _check_stays_inside(data: DataSettings) -> None:
    """Refuse settings by which a server would have a site read anything but its own folder."""
    if data.source == "huggingface" or data.dataset:
        raise ConfigurationError(
            f"data.source = {data.source!r}, data.dataset = {data.dataset!r}: a site reads its own folder alone; "
            "choose another data.source, and leave data.dataset empty"
        )
    if Path(data.csv).is_absolute() or ".." in Path(data.csv).parts:
        raise ConfigurationError(
            f"data.csv = {data.csv!r}: leads out of a site's own folder; give the name of a file in it"
        )


def _state_root(configuration: Configuration, identity: Identity) -> Path:
    if identity.site:
        name = Path(configuration.run_dir).name
        if name in ("", ".."):
            raise ConfigurationError(
                f"run-dir = {configuration.run_dir!r}: its last part names the folder in which a site keeps its state; "
                "give a path that ends in a name"
            )
        return _site_root(identity) / name
    return Path(configuration.run_dir) / "hospitals"


def _site_root(identity: Identity) -> Path:
    """Return the folder in which a real site keeps what is its own."""
    return Path(identity.state_dir) if identity.state_dir else Path(identity.data_dir) / ".dermafed"


# A worker trains several hospitals of one federation: the index and the partition are found once.
@lru_cache(maxsize=2)
def _cached_holdings(data: DataSettings, partition: PartitionSettings, resolution: int, site: str) -> Holdings:
    return find_holdings(data, partition, resolution, site=site)
