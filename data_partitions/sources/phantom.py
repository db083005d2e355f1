"""The embedded default data: generated, dermoscopy-like images. No download, and no patient behind them.

A picture is a stack of pigments seen through a camera. Skin and lesion are maps of what absorbs light
(melanin near the surface, melanin deep down, blood) and of what scatters it (scars, scale); Beer and Lambert
turn them into colour; the site's camera adds its cast, blur, vignette, frame and ruler. The seven diagnoses and
four sites copy the counts of HAM10000 (Tschandl, Rosendahl, Kittler 2018, https://doi.org/10.1038/sdata.2018.161),
and each diagnosis is drawn by the structures that dermoscopy knows it by (https://dermoscopedia.org).

Everything is a function of continuous coordinates, so the same picture appears at every resolution, and every
number comes from a stream keyed by the lesion (and the view), so no image depends on another.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from data_partitions.image_index import ImageIndex
from federation.errors import DataError
from federation.seeding import numpy_stream
from federation.settings.data import DataSettings
from federation.settings.section import split_names

Array = npt.NDArray[np.floating[Any]]

VERSION = 1
"""To be raised with every change that moves a pixel: it keys the random streams and the cache of images."""

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")

LESIONS_PER_10000 = {
    "north-clinic": (0, 10, 130, 30, 40, 3550, 50),
    "university-hospital": (40, 205, 480, 50, 660, 1800, 80),
    "coast-practice": (290, 290, 470, 30, 330, 800, 10),
    "slide-archive": (0, 10, 20, 5, 80, 530, 5),
}
"""How often a lesion of each class is seen at each site: the long tail and the label skew of HAM10000's sources."""

ARTEFACT_SITES = ("frames", "rulers", "neither")
"""Where ``data.phantom-sites = artefacts``: what lies on the pictures of each, and all that tells them apart."""

_LESIONS = {
    "clinics": LESIONS_PER_10000,
    "artefacts": dict.fromkeys(
        ARTEFACT_SITES, tuple(sum(column) for column in zip(*LESIONS_PER_10000.values(), strict=True))
    ),
}
"""By ``data.phantom-sites``."""

VIEWS_PER_LESION = (1, 2, 1, 1, 3, 1, 2, 1, 1, 2)
"""Numbers of images of a lesion, taken in turn at each site and class."""


@dataclass(frozen=True)
class Lesion:
    """One spot on one person's skin."""

    lesion_id: str
    diagnosis: str
    site: str
    num_views: int
    age: float
    """Years, in steps of five as in HAM10000."""
    sex: str
    localisation: str


@dataclass(frozen=True)
class Camera:
    """How a site's pictures differ from another's. Lengths are in half image widths."""

    cast: tuple[float, float, float]
    """Gain of red, green and blue."""
    contrast: float
    """Exponent on brightness."""
    blur: float
    """Standard deviation of the lens's point spread."""
    vignette: float
    """Part of the light that is lost in the corners."""
    frame: float
    """How often the round edge of the lens shows as a black frame."""
    hairs: float
    """Mean number of hairs."""
    ruler: float
    """How often a ruler lies at the edge."""
    grain: float
    """Standard deviation of the film's grain, as optical density."""


CAMERAS = {
    "north-clinic": Camera((1.08, 0.87, 0.86), 1.00, 0.042, 0.00, 0.00, 0.6, 0.00, 0.00),
    "university-hospital": Camera((0.90, 0.93, 1.03), 1.10, 0.020, 0.42, 0.22, 2.0, 0.02, 0.00),
    "coast-practice": Camera((1.03, 0.98, 0.92), 1.15, 0.015, 0.08, 0.00, 3.5, 0.30, 0.00),
    "slide-archive": Camera((1.15, 1.05, 1.16), 1.40, 0.030, 0.00, 0.12, 1.0, 0.00, 0.015),
    "frames": Camera((1.00, 0.95, 0.95), 1.10, 0.020, 0.10, 1.00, 2.0, 0.00, 0.00),
    "rulers": Camera((1.00, 0.95, 0.95), 1.10, 0.020, 0.10, 0.00, 2.0, 1.00, 0.00),
    "neither": Camera((1.00, 0.95, 0.95), 1.10, 0.020, 0.10, 0.00, 2.0, 0.00, 0.00),
}

# Mean and spread of the age, share of men, and where on the body, per class, after HAM10000's metadata.
_PATIENTS = {
    "akiec": (66, 11, 0.68, {"face": 40, "lower extremity": 20, "upper extremity": 20, "back": 10, "scalp": 10}),
    "bcc": (67, 13, 0.62, {"back": 40, "face": 25, "lower extremity": 12, "upper extremity": 12, "chest": 11}),
    "bkl": (64, 14, 0.57, {"face": 30, "back": 25, "lower extremity": 18, "upper extremity": 12, "trunk": 15}),
    "df": (53, 13, 0.55, {"lower extremity": 74, "upper extremity": 21, "abdomen": 5}),
    "mel": (61, 15, 0.62, {"back": 36, "upper extremity": 22, "lower extremity": 20, "face": 12, "abdomen": 10}),
    "nv": (46, 15, 0.51, {"back": 25, "lower extremity": 24, "trunk": 22, "abdomen": 15, "upper extremity": 14}),
    "vasc": (51, 20, 0.49, {"trunk": 25, "lower extremity": 22, "abdomen": 22, "back": 17, "upper extremity": 14}),
}


def enumerate_lesions(sites: str = "clinics") -> Iterator[Lesion]:
    """Yield lesion after lesion, without end, so that every beginning of the sequence has the recipe's shares.

    `sites` is ``data.phantom-sites``.
    Sites and classes take turns by Webster's divisors: the cell with the largest weight / (2 seats + 1) is next.
    """
    cells = [
        (-float(weight), weight, 0, site, diagnosis)
        for site, weights in _LESIONS[sites].items()
        for diagnosis, weight in zip(CLASSES, weights, strict=True)
        if weight
    ]
    heapq.heapify(cells)
    number = 0
    while True:
        _, weight, seats, site, diagnosis = cells[0]
        heapq.heapreplace(cells, (-weight / (2 * seats + 3), weight, seats + 1, site, diagnosis))
        lesion_id = f"phantom-{number:06d}"
        rng = numpy_stream(VERSION, f"phantom patient {lesion_id}")
        age_mean, age_spread, men, places = _PATIENTS[diagnosis]
        yield Lesion(
            lesion_id=lesion_id,
            diagnosis=diagnosis,
            site=site,
            num_views=VIEWS_PER_LESION[seats % len(VIEWS_PER_LESION)],
            age=float(np.clip(5 * np.round(rng.normal(age_mean, age_spread) / 5), 5, 85)),
            sex="male" if rng.random() < men else "female",
            localisation=str(rng.choice(list(places), p=np.array(list(places.values())) / 100)),
        )
        number += 1


def load_phantom(data: DataSettings, resolution: int) -> ImageIndex:
    """Index `data.phantom_images` generated images; each is drawn when it is read.

    Parameters
    ----------
    data
        `phantom_images` (a smaller number gives the first images of a larger one), `phantom_sites` and `classes` are
        used.
    resolution
        Side of the images, in pixels.

    Returns
    -------
    An index whose `read_image` draws uint8 images of shape (resolution, resolution, 3).

    Raises
    ------
    DataError
        If `data.classes` names other classes than the phantom's.
    """
    classes = _class_order(data)
    images: list[tuple[Lesion, int]] = []
    for lesion in enumerate_lesions(data.phantom_sites):
        images += [(lesion, view) for view in range(lesion.num_views)]
        if len(images) >= data.phantom_images:
            break
    del images[data.phantom_images :]

    image_ids = [f"{lesion.lesion_id}-{view}" for lesion, view in images]
    # The same lesion is another one elsewhere, and so is what was drawn of it.
    kind = "phantom" if data.phantom_sites == "clinics" else f"phantom of {data.phantom_sites}"
    table = pd.DataFrame(
        {
            "image_id": image_ids,
            "file": "",
            "label": np.array([classes.index(lesion.diagnosis) for lesion, _ in images], dtype=np.int64),
            "group": [lesion.lesion_id for lesion, _ in images],
            "site": [lesion.site for lesion, _ in images],
            "age": [lesion.age for lesion, _ in images],
            "sex": [lesion.sex for lesion, _ in images],
            "localisation": [lesion.localisation for lesion, _ in images],
            "digest": [hashlib.sha256(f"{kind} {VERSION} {image_id}".encode()).hexdigest() for image_id in image_ids],
        }
    )
    return ImageIndex(
        table=table, classes=classes, notes=(), read_image=functools.partial(_draw_row, images, resolution)
    )


def _draw_row(images: list[tuple[Lesion, int]], resolution: int, row: int) -> npt.NDArray[np.uint8]:
    lesion, view = images[row]
    return draw_phantom(lesion, view, resolution)[0]


def _class_order(data: DataSettings) -> tuple[str, ...]:
    """Return `data.classes`, which may order the phantom's classes anew, or else `CLASSES`."""
    names = split_names(data.classes) or CLASSES
    if set(names) != set(CLASSES):
        raise DataError(
            f"data.classes = {data.classes!r}: the phantom data have the classes {', '.join(CLASSES)}; "
            f"name these, in any order, or leave data.classes empty"
        )
    return names


def draw_phantom(lesion: Lesion, view: int, resolution: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Draw one picture of a lesion.

    Parameters
    ----------
    lesion
        What is pictured: shape, pigment, skin and hairs follow from its id, class and site.
    view
        Number of the picture, from 0: pose, zoom, light, frame and ruler follow from it.
    resolution
        Side of the picture, in pixels.

    Returns
    -------
    The picture, uint8 of shape (resolution, resolution, 3), and the lesion's mask, bool of shape
    (resolution, resolution).
    """
    skin_rng = numpy_stream(VERSION, f"phantom {lesion.lesion_id}")
    view_rng = numpy_stream(VERSION, f"phantom {lesion.lesion_id} view {view}")
    camera = CAMERAS[lesion.site]

    # Two canvas pixels per pixel and direction, from -1 to 1 over the picture.
    pitch = 1.0 / resolution
    axis = (np.arange(2 * resolution, dtype=np.float32) + 0.5) * np.float32(pitch) - 1
    across, down = np.meshgrid(axis, axis)
    x, y = _pose(view_rng, across, down)

    pigments = _paint_skin(skin_rng, x, y)
    level = _PAINTERS[lesion.diagnosis](skin_rng, pigments, x, y)
    _add_hairs(skin_rng, pigments, x, y, pitch, camera)
    colour = _blur(pigments.colour(), camera.blur / pitch)
    colour = _photograph(view_rng, colour, across, down, pitch, camera)

    shape = (resolution, 2, resolution, 2)
    picture = colour.reshape(3, *shape).mean(axis=(2, 4)).transpose(1, 2, 0)
    mask = (level > 0).reshape(shape).mean(axis=(1, 3)) >= 0.5
    return np.round(255 * picture).astype(np.uint8), mask


# Textures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texture:
    """Patterns over the canvas; lengths are in units of the lookup's coordinates."""

    cloud: Array
    """Smooth noise, mean 0 and deviation 1, details from 1 down to 1/6."""
    mist: Array
    """Another such noise."""
    furrow: Array
    """Noise of one wavelength, 1/3, mean 0 and deviation 1: brain-like ridges and furrows."""
    network: Array
    """1 on the lines of a honeycomb whose cells are 1/4 wide, 0 inside."""
    dots: Array
    """1 in the middle of dots of various sizes, less than 1/4 apart, 0 between."""


_TILE = 256
_TILE_WIDTH = 8.0


@functools.cache
def _texture_tile() -> Array:
    """Return one period of all textures, of shape (tile * tile, 5); drawn once per process."""
    rng = numpy_stream(VERSION, "phantom textures")
    wave = np.fft.fftfreq(_TILE, 1 / _TILE)
    radius = np.hypot(wave[:, None], wave[None, :])

    def noise(spectrum: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((_TILE, _TILE))) * spectrum).real
        return (field - field.mean()) / field.std()

    cloudy = np.where((radius >= 5) & (radius <= 48), np.maximum(radius, 1.0) ** -2.0, 0.0)
    ring = np.exp(-(((radius - 24) / 4) ** 2))

    # A point near the middle of each cell of a grid whose odd rows are shifted: nearly a honeycomb.
    cells = 32
    row, column = np.mgrid[:cells, :cells]
    size = _TILE / cells
    point_y = (row + 0.5 + rng.uniform(-0.28, 0.28, row.shape)) * size
    point_x = (column + 0.5 * (row % 2) + rng.uniform(-0.28, 0.28, row.shape)) * size
    dot_radius = rng.uniform(0.10, 0.46, row.shape) * size
    nearest = np.full((2, _TILE, _TILE), np.inf)
    dots = np.zeros((_TILE, _TILE))
    y, x = np.mgrid[:_TILE, :_TILE]
    home_row, home_column = (y // size).astype(int), (x // size).astype(int)
    for step_down in (-2, -1, 0, 1, 2):
        for step_right in (-2, -1, 0, 1, 2):
            cell = (home_row + step_down) % cells, (home_column + step_right) % cells
            dy = (y - point_y[cell] + _TILE / 2) % _TILE - _TILE / 2
            dx = (x - point_x[cell] + _TILE / 2) % _TILE - _TILE / 2
            distance = np.hypot(dy, dx)
            nearest = np.sort(np.concatenate([nearest, distance[None]]), axis=0)[:2]
            dots = np.maximum(dots, _rise(distance, dot_radius[cell] + 1.5, dot_radius[cell] - 1.5))
    network = _rise(nearest[1] - nearest[0], 3.2, 0.4)

    channels = [noise(cloudy), noise(cloudy), noise(ring), network, dots]
    return np.stack(channels, axis=-1).reshape(_TILE * _TILE, -1).astype(np.float32)


def _look_up(rng: np.random.Generator, x: Array, y: Array, frequency: float) -> Texture:
    """Read the textures, turned and moved at random, at `frequency` times the coordinates."""
    angle, offset_x, offset_y = rng.uniform(0, [2 * np.pi, _TILE, _TILE])
    scale = frequency * _TILE / _TILE_WIDTH
    c, s = np.float32(scale * np.cos(angle)), np.float32(scale * np.sin(angle))
    tile_x, tile_y = c * x - s * y + np.float32(offset_x), s * x + c * y + np.float32(offset_y)
    left, top = np.floor(tile_x), np.floor(tile_y)
    right_part, low_part = (tile_x - left).ravel()[:, None], (tile_y - top).ravel()[:, None]
    column, row = left.astype(np.int32).ravel() % _TILE, top.astype(np.int32).ravel() % _TILE
    next_column, row, next_row = (column + 1) % _TILE, row * _TILE, (row + 1) % _TILE * _TILE
    tile = _texture_tile()
    upper = tile[row + column]
    upper += right_part * (tile[row + next_column] - upper)
    lower = tile[next_row + column]
    lower += right_part * (tile[next_row + next_column] - lower)
    upper += low_part * (lower - upper)
    return Texture(*np.ascontiguousarray(upper.T).reshape(-1, *x.shape))


def _rise(value: npt.NDArray, low: float | npt.NDArray, high: float | npt.NDArray) -> npt.NDArray:
    """Go smoothly from 0 where `value` is `low` to 1 where it is `high` (which may be the lesser one)."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


# Pigments ----------------------------------------------------------------------------------------------------------

# Optical density of one unit of each absorber, at red, green and blue. Melanin deep in the skin looks blue-grey,
# because blue light is scattered back before it gets there (Tyndall).
_MELANIN = np.array([0.44, 0.76, 1.00], dtype=np.float32)
_DEEP_MELANIN = np.array([1.00, 0.82, 0.58], dtype=np.float32)
_BLOOD = np.array([0.14, 1.10, 0.72], dtype=np.float32)
# What light comes back from skin without absorbers, from a scar, and from scale.
_DERMIS = np.array([0.97, 0.90, 0.87], dtype=np.float32)
_SCAR = np.array([0.93, 0.86, 0.87], dtype=np.float32)
_SCALE = np.array([0.90, 0.80, 0.56], dtype=np.float32)


@dataclass
class Pigments:
    """Maps over the canvas: amounts of absorbers (>= 0) and cover by scatterers (0 to 1)."""

    melanin: Array
    deep_melanin: Array
    blood: Array
    scar: Array
    scale: Array
    evenness: Array
    """Factor on the absorbers, about 1: nothing on skin is flat."""

    def colour(self) -> Array:
        """Return what light comes back, of shape (3, height, width), in [0, 1]."""
        absorbers = ((_MELANIN, self.melanin), (_DEEP_MELANIN, self.deep_melanin), (_BLOOD, self.blood))
        channels = []
        for channel in range(3):
            density = sum(spectrum[channel] * np.maximum(amount, 0) for spectrum, amount in absorbers)
            light = _DERMIS[channel] * np.exp(-density * self.evenness)
            light += np.clip(self.scar, 0, 1) * (_SCAR[channel] - light)
            light += np.clip(self.scale, 0, 1) * (_SCALE[channel] - light)
            channels.append(light)
        return np.stack(channels)


def _paint_skin(rng: np.random.Generator, x: Array, y: Array) -> Pigments:
    """Skin of any tone, mottled, crossed by fine lines, sometimes freckled."""
    texture = _look_up(rng, x, y, frequency=rng.uniform(1.1, 1.7))
    tone = 0.04 + 0.95 * rng.beta(1.1, 4.5)
    flush = rng.uniform(0.02, 0.20)
    freckles = rng.uniform(0.15, 0.5) if rng.random() < 0.15 else 0.0
    melanin = tone * (1 + np.float32(freckles) * texture.dots - np.float32(0.12) * texture.network)
    blood = flush * (1 + np.float32(rng.uniform(0.05, 0.30)) * texture.mist)
    nothing = np.zeros_like(x)
    return Pigments(
        melanin=melanin,
        deep_melanin=nothing,
        blood=blood,
        scar=nothing.copy(),
        scale=nothing.copy(),
        evenness=1 + np.float32(rng.uniform(0.06, 0.14)) * texture.cloud,
    )


def _outline(
    rng: np.random.Generator,
    x: Array,
    y: Array,
    *,
    radius: float,
    elongation: float,
    irregularity: float,
    lobes: int = 1,
    spread: float = 0.0,
) -> tuple[Array, Texture]:
    """Return the lesion's level (1 in the middle, 0 on its border, < 0 outside) and textures at its scale."""
    radius *= np.clip(rng.lognormal(0, 0.22), 0.55, 1.6)
    radius = min(radius, 0.92)
    texture = _look_up(rng, x, y, frequency=0.7 / radius)
    nearness = np.zeros_like(x)
    for lobe in range(lobes):
        angle, stretch = rng.uniform(0, np.pi), 1 + elongation * rng.uniform(0, 1)
        offset_x, offset_y = rng.uniform(-spread, spread, 2) * (lobe > 0)
        size = radius * (rng.uniform(0.55, 0.9) if lobe else 1.0)
        c, s = np.cos(angle) / size, np.sin(angle) / size
        dx, dy = x - np.float32(offset_x * radius), y - np.float32(offset_y * radius)
        along = (np.float32(c) * dx + np.float32(s) * dy) / np.float32(np.sqrt(stretch))
        across = (np.float32(c) * dy - np.float32(s) * dx) * np.float32(np.sqrt(stretch))
        nearness += np.exp(-(along * along + across * across))
    # One lobe gives 1 - distance; several flow together.
    distance = np.sqrt(np.maximum(-np.log(np.maximum(nearness, 1e-12)), 0))
    return 1 - distance + np.float32(irregularity) * texture.cloud, texture


def _patch(rng: np.random.Generator, noise: Array, level: Array, cover: float) -> Array:
    """Return a soft-edged patch inside the lesion, where the noise is high; it covers about `cover` of it."""
    threshold = 1.2 - 2.4 * cover
    return _rise(noise, threshold - 1.2, threshold + 1.4) * _rise(level, rng.uniform(-0.1, 0.1), 0.4)


def _paint_nv(rng: np.random.Generator, skin: Pigments, x: Array, y: Array) -> Array:
    """Naevus: one or two browns, symmetric, an even network, globules, or none."""
    level, texture = _outline(
        rng, x, y, radius=0.44, elongation=0.8, irregularity=rng.uniform(0.03, 0.11), lobes=1 + (rng.random() < 0.25),
        spread=0.6,
    )  # fmt: skip
    inside = _rise(level, -0.08, rng.uniform(0.15, 0.6))
    fine = _look_up(rng, x, y, frequency=rng.uniform(1.5, 2.2))
    depth = rng.lognormal(-0.35, 0.5)
    centre = rng.uniform(-0.35, 0.8) * _rise(level, 0.1, 0.9)
    pattern = (0.5 * fine.network, 0.6 * fine.dots, 0.15 * fine.cloud)[rng.choice(3, p=[0.45, 0.2, 0.35])]
    skin.melanin += inside * depth * (0.75 + centre + 0.15 * texture.cloud + pattern)
    skin.blood += inside * rng.uniform(0, 0.4)
    skin.deep_melanin += inside * rng.uniform(0, 0.25)
    return level


def _paint_mel(rng: np.random.Generator, skin: Pigments, x: Array, y: Array) -> Array:
    """Melanoma: asymmetric, many colours, black blotches, blue-white veil, regression, streaks."""
    level, texture = _outline(
        rng, x, y, radius=0.46, elongation=0.8, irregularity=rng.uniform(0.08, 0.19), lobes=3, spread=0.9
    )
    if rng.random() < 0.4:
        rays = np.cos(np.float32(rng.integers(10, 16)) * np.arctan2(y, x) + 1.5 * texture.mist)
        level += np.float32(0.13) * rays * _rise(np.abs(level), 0.4, 0.0)
    inside = _rise(level, -0.06, rng.uniform(0.12, 0.4))
    fine = _look_up(rng, x, y, frequency=rng.uniform(1.1, 1.7))
    depth = rng.lognormal(-0.45, 0.4)
    skin.melanin += inside * depth * (0.8 + 0.35 * texture.mist + 0.5 * fine.network * _rise(texture.cloud, -0.5, 0.5))
    blotch = _patch(rng, fine.cloud + texture.cloud, level, rng.uniform(0.15, 0.5))
    skin.melanin += rng.uniform(0.6, 2.4) * blotch
    veil = _patch(rng, texture.mist, level, rng.uniform(0.1, 0.45))
    skin.deep_melanin += rng.uniform(0.3, 1.3) * veil
    skin.scar += rng.uniform(0.0, 0.3) * veil
    regression = _patch(rng, fine.mist + texture.cloud, level, rng.uniform(0.0, 0.35)) * (1 - blotch)
    skin.scar += rng.uniform(0.1, 0.5) * regression
    skin.blood += inside * rng.uniform(0, 0.25) + 0.4 * regression
    return level


def _paint_bkl(rng: np.random.Generator, skin: Pigments, x: Array, y: Array) -> Array:
    """Benign keratosis: stuck on, sharp moth-eaten border, ridges and furrows, milia and plugs."""
    level, texture = _outline(
        rng, x, y, radius=0.52, elongation=0.8, irregularity=rng.uniform(0.07, 0.16), lobes=2, spread=0.7
    )
    fine = _look_up(rng, x, y, frequency=rng.uniform(1.1, 1.5))
    level -= np.float32(0.3) * fine.dots * _rise(level, 0.35, 0.05)  # the moth's bites
    inside = _rise(level, -0.04, rng.uniform(0.10, 0.22))
    depth = rng.lognormal(-0.5, 0.45)
    furrows = _rise(fine.furrow, -1.0, 1.2)
    skin.melanin += inside * depth * (0.45 + 0.15 * texture.cloud + rng.uniform(0.4, 1.0) * furrows)
    skin.deep_melanin += inside * rng.uniform(0.0, 0.3)
    skin.scale += inside * rng.uniform(0.0, 0.15)
    skin.blood += inside * rng.uniform(0.0, 0.35)
    milia = _rise(texture.mist, -0.3, 0.6)
    beads = fine.dots * _rise(level, 0.1, 0.3)
    skin.scale += rng.uniform(0.1, 0.55) * beads * milia
    skin.melanin += rng.uniform(0.2, 1.3) * beads * (1 - milia)
    return level


def _paint_bcc(rng: np.random.Generator, skin: Pigments, x: Array, y: Array) -> Array:
    """Basal cell carcinoma: pearly pink, blue-grey nests, tree-like vessels, an ulcer."""
    level, texture = _outline(
        rng, x, y, radius=0.50, elongation=0.6, irregularity=rng.uniform(0.07, 0.16), lobes=2, spread=0.6
    )
    inside = _rise(level, -0.2, 0.4)
    fine = _look_up(rng, x, y, frequency=rng.uniform(0.8, 1.1))
    skin.blood += inside * rng.uniform(0.05, 0.3)
    skin.melanin += inside * rng.uniform(0.0, 0.4) * (1 + 0.4 * texture.cloud)
    skin.scar += inside * rng.uniform(0.05, 0.4) * _rise(texture.mist, -1.0, 1.5)
    for _ in range(rng.integers(2, 7)):
        angle, away, size = rng.uniform([0, 0.05, 0.05], [2 * np.pi, 0.38, 0.17])
        dx, dy = x - np.float32(away * np.cos(angle)), y - np.float32(away * np.sin(angle))
        nest = _rise(np.sqrt(dx * dx + dy * dy) + np.float32(0.04) * fine.cloud, size * 1.5, size * 0.6)
        skin.deep_melanin += np.float32(rng.uniform(0.3, 1.2)) * nest
    # Vessels wind and branch: where one noise crosses zero, as far as another is high.
    vessels = np.exp(-((fine.mist / np.float32(0.12)) ** 2)) * _rise(texture.mist, -0.6, 0.8) * _rise(level, -0.4, 0.2)
    skin.blood += rng.uniform(0.3, 1.1) * vessels
    if rng.random() < 0.3:
        ulcer = _patch(rng, texture.cloud, level, 0.15)
        skin.blood += 0.9 * ulcer
        skin.melanin += 0.6 * ulcer
    return level


def _paint_akiec(rng: np.random.Generator, skin: Pigments, x: Array, y: Array) -> Array:
    """Actinic keratosis and Bowen's disease: ill-defined red patch, pale follicles in it, scale, patchy brown."""
    level, texture = _outline(
        rng, x, y, radius=0.60, elongation=0.8, irregularity=rng.uniform(0.20, 0.32), lobes=2, spread=0.7
    )
    inside = _rise(level, -0.35, 0.6)
    fine = _look_up(rng, x, y, frequency=rng.uniform(1.4, 1.9))
    follicles = fine.dots * inside
    skin.blood += inside * rng.uniform(0.2, 0.65) * (0.9 + 0.3 * texture.mist) * (1 - 0.6 * fine.dots)
    skin.scale += rng.uniform(0.05, 0.30) * follicles
    skin.scar += rng.uniform(0.2, 0.7) * inside * _rise(fine.cloud + texture.cloud, 0.8, 2.2)
    skin.melanin += rng.uniform(0.1, 0.9) * inside * _rise(texture.mist + 0.5 * fine.mist, -0.4, 1.6)
    return level


def _paint_df(rng: np.random.Generator, skin: Pigments, x: Array, y: Array) -> Array:
    """Dermatofibroma: a white scar in the middle, a faint brown or pink network around it."""
    level, texture = _outline(rng, x, y, radius=0.50, elongation=0.6, irregularity=rng.uniform(0.04, 0.12))
    fine = _look_up(rng, x, y, frequency=rng.uniform(1.5, 2.2))
    inside = _rise(level, -0.2, 0.5)
    heart = _rise(level + np.float32(0.08) * texture.mist, rng.uniform(0.2, 0.4), rng.uniform(0.7, 0.95))
    ring = inside * (1 - 0.8 * heart)
    skin.melanin += ring * rng.lognormal(-0.75, 0.4) * (0.75 + 0.25 * texture.cloud + 0.4 * fine.network)
    skin.blood += ring * rng.uniform(0.0, 0.4)
    skin.scar += rng.uniform(0.25, 0.75) * heart * (1 - 0.3 * fine.network)
    return level


def _paint_vasc(rng: np.random.Generator, skin: Pigments, x: Array, y: Array) -> Array:
    """Vascular lesion: well-bordered red, purple or black lagoons with pale walls between."""
    level, texture = _outline(
        rng, x, y, radius=0.38, elongation=0.6, irregularity=rng.uniform(0.04, 0.14), lobes=2, spread=0.7
    )
    fine = _look_up(rng, x, y, frequency=rng.uniform(1.0, 1.4))
    inside = _rise(level, -0.08, 0.15)
    walls = _rise(fine.network + np.float32(0.4) * fine.mist, 0.3, 1.3)
    lagoons = inside * (1 - rng.uniform(0.2, 0.8) * walls) * (1 + 0.25 * texture.cloud)
    skin.blood += lagoons * rng.uniform(0.7, 1.9)
    clotted = rng.uniform(0.5, 1.8) if rng.random() < 0.35 else rng.uniform(0.0, 0.3)
    skin.deep_melanin += lagoons * clotted * _rise(texture.mist, -1.2, 0.8)
    skin.scar += 0.25 * inside * walls
    return level


_PAINTERS: dict[str, Callable[[np.random.Generator, Pigments, Array, Array], Array]] = {
    "akiec": _paint_akiec,
    "bcc": _paint_bcc,
    "bkl": _paint_bkl,
    "df": _paint_df,
    "mel": _paint_mel,
    "nv": _paint_nv,
    "vasc": _paint_vasc,
}


def _add_hairs(rng: np.random.Generator, skin: Pigments, x: Array, y: Array, pitch: float, camera: Camera) -> None:
    """Lay curved hairs over the skin. Thin ones are drawn wider and paler, so that they look alike at any size."""
    num_hairs = int(min(rng.poisson(camera.hairs * rng.gamma(0.6, 1 / 0.6)), 14))
    direction, colour = rng.uniform(0, 2 * np.pi), rng.uniform(1.2, 3.0)
    for _ in range(num_hairs):
        angle = direction + rng.normal(0, 0.3)
        offset, bend, start, length = rng.uniform([-1.2, -0.5, -1.3, 0.8], [1.2, 0.5, 0.3, 2.2])
        width = rng.uniform(0.006, 0.015)
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        along, across = c * x + s * y, c * y - s * x
        distance = across - np.float32(offset) - np.float32(bend) * along * along
        drawn = np.hypot(width, 0.6 * pitch)
        line = np.exp(-((distance / np.float32(drawn)) ** 2)) * np.float32(width / drawn)
        ends = _rise(along, start, start + 0.1) * _rise(along, start + length, start + length - 0.5)
        skin.melanin += np.float32(colour) * line * ends


# Camera ------------------------------------------------------------------------------------------------------------


def _pose(rng: np.random.Generator, across: Array, down: Array) -> tuple[Array, Array]:
    """Return the place on the skin, from the lesion's middle, that each canvas pixel sees."""
    angle, zoom = rng.normal(0, 0.2), np.exp(rng.normal(0, 0.1))
    shift_x, shift_y = rng.normal(0, 0.08, 2)
    c, s = np.float32(np.cos(angle) / zoom), np.float32(np.sin(angle) / zoom)
    return c * across - s * down + np.float32(shift_x), s * across + c * down + np.float32(shift_y)


def _blur(colour: Array, deviation: float) -> Array:
    """Blur both axes by a Gaussian whose deviation is in canvas pixels; the border is repeated."""
    reach = int(np.ceil(2.5 * deviation))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    side = colour.shape[-1]
    padded = np.pad(colour, ((0, 0), (reach, reach), (0, 0)), mode="edge")
    colour = sum(weight * padded[:, shift : shift + side] for shift, weight in enumerate(weights))
    padded = np.pad(colour, ((0, 0), (0, 0), (reach, reach)), mode="edge")
    return sum(weight * padded[:, :, shift : shift + side] for shift, weight in enumerate(weights))


def _photograph(
    rng: np.random.Generator, colour: Array, across: Array, down: Array, pitch: float, camera: Camera
) -> Array:
    """Return what the site's camera makes of the light, in [0, 1]."""
    exposure = np.exp(rng.normal(0, 0.07))
    balance = np.array(camera.cast) * np.exp(rng.normal(0, 0.02, 3))
    light_x, light_y = rng.normal(0, 0.05, 2)
    distance2 = across * across + down * down
    shade = 1 + np.float32(light_x) * across + np.float32(light_y) * down
    shade *= 1 - np.float32(0.5 * camera.vignette * rng.uniform(0.6, 1.2)) * distance2 * distance2 * np.float32(0.5)
    if camera.grain:
        grain = _look_up(rng, across, down, frequency=3.0)
        shade *= np.exp(np.float32(camera.grain) * (grain.cloud + grain.furrow))
    if rng.random() < camera.ruler:
        shade *= _ruler(rng, across, down, pitch)
    if rng.random() < camera.frame:
        radius = rng.uniform(1.0, 1.2)
        shade *= 0.03 + 0.97 * _rise(np.sqrt(distance2), radius + 0.03, radius - 0.05)
    gains = (exposure * balance).astype(np.float32)
    # Contrast around a bright pivot, so that skin stays as bright and dark lesions become darker.
    pivot = np.float32(0.78)
    colour = np.clip(gains[:, None, None] * colour * shade, 0, None)
    return np.clip(pivot * (colour / pivot) ** np.float32(camera.contrast), 0, 1)


def _ruler(rng: np.random.Generator, across: Array, down: Array, pitch: float) -> Array:
    """Return the shade of a ruler's marks along one edge: 1 where there is none."""
    edge = rng.integers(4)
    along, inwards = (across, down) if edge % 2 else (down, across)
    inwards = inwards if edge < 2 else -inwards
    step = rng.uniform(0.22, 0.30)
    phase = np.abs((along / np.float32(step) + np.float32(rng.uniform(0, 1))) % 1 - 0.5) * np.float32(step)
    width = np.hypot(0.02, 0.6 * pitch)
    marks = np.exp(-((phase / np.float32(width)) ** 2)) * np.float32(0.02 / width)
    return 1 - np.float32(0.85) * marks * _rise(inwards, -0.72, -0.80)
