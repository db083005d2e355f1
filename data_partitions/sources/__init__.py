"""Where images come from; each source becomes the same table, an :class:`ImageIndex`."""

from __future__ import annotations

from collections.abc import Callable

from data_partitions.image_cache import Progress
from data_partitions.image_index import FoundImages, ImageIndex, build_index
from data_partitions.sources.folder import find_folder
from data_partitions.sources.ham10000 import find_ham10000
from data_partitions.sources.huggingface import find_huggingface
from data_partitions.sources.isic2019 import find_isic2019
from data_partitions.sources.isic2020 import find_isic2020
from data_partitions.sources.phantom import load_phantom
from federation.errors import noted
from federation.settings.data import DataSettings

_FINDERS: dict[str, Callable[[DataSettings, list[str]], FoundImages]] = {
    "ham10000": find_ham10000,
    "isic2019": find_isic2019,
    "isic2020": find_isic2020,
    "folder": find_folder,
    "huggingface": find_huggingface,
}


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
        If anything about the data is wrong; each problem names its remedy. What was left out until then goes with it.
    """
    if data.source == "phantom":
        # Phantom images hold every class, and are drawn only when they are asked for.
        return load_phantom(data, resolution)
    notes: list[str] = []
    with noted(notes):
        return build_index(
            _FINDERS[data.source](data, notes),
            notes=notes,
            data=data,
            resolution=resolution,
            require_every_class=require_every_class,
            progress=progress,
        )
