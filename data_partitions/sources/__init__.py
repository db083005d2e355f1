"""Where images come from; each source becomes the same table, an :class:`ImageIndex`."""

from __future__ import annotations

from typing import Protocol

from data_partitions.image_cache import Progress
from data_partitions.image_index import ImageIndex
from data_partitions.sources.folder import load_folder
from data_partitions.sources.ham10000 import load_ham10000
from data_partitions.sources.huggingface import load_huggingface
from data_partitions.sources.isic2019 import load_isic2019
from data_partitions.sources.isic2020 import load_isic2020
from data_partitions.sources.phantom import load_phantom
from federation.config import DataSettings


class Source(Protocol):
    """Reads the index of one source."""

    def __call__(
        self, data: DataSettings, resolution: int, *, require_every_class: bool, progress: Progress | None
    ) -> ImageIndex:
        """Do so; see :func:`load_index`."""
        ...


def load_index(
    data: DataSettings, *, resolution: int, progress: Progress | None = None, require_every_class: bool = True
) -> ImageIndex:
    """Read the images that ``data.source`` names.

    The first time every image is hashed and decoded, so that what cannot be decoded is gone before the
    split; later only the folder and the csv are read.

    Parameters
    ----------
    data
        The source, and what it needs.
    resolution
        Side in pixels of the images that will be asked for (``model.resolution``).
    progress
        Called with what is being done, how many images are done, and how many there are.
    require_every_class
        Whether a class of ``data.classes`` without an image is refused. A hospital that knows the
        federation's classes by name need not hold all of them.

    Returns
    -------
    The index, sorted by image id; its `notes` say what was left out.

    Raises
    ------
    DataError
        If anything about the data is wrong; each problem names its remedy.
    """
    return _build_source(data.source)(data, resolution, require_every_class=require_every_class, progress=progress)


def _build_source(name: str) -> Source:
    sources: dict[str, Source] = {
        "phantom": _load_phantom,
        "ham10000": load_ham10000,
        "isic2019": load_isic2019,
        "isic2020": load_isic2020,
        "folder": load_folder,
        "huggingface": load_huggingface,
    }
    return sources[name]


def _load_phantom(
    data: DataSettings, resolution: int, *, require_every_class: bool, progress: Progress | None
) -> ImageIndex:
    """Phantom images hold every class, and are drawn only when they are asked for."""
    return load_phantom(data, resolution)
