"""Which images there are, and which hospital holds which of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from federation.settings.section import Section, printable, split_names

# What reads a setting; those that are not named are read for every source.
_READ_FOR: dict[str, tuple[str, ...]] = {
    "root": ("ham10000", "isic2019", "isic2020", "folder", "huggingface"),
    "phantom_images": ("phantom",),
    "phantom_sites": ("phantom",),
    "csv": ("folder",),
    "image_column": ("folder", "huggingface"),
    "label_column": ("folder", "huggingface"),
    "group_column": ("folder", "huggingface"),
    "site_column": ("folder", "huggingface", "isic2020"),
    "dataset": ("huggingface",),
    "dataset_split": ("huggingface",),
}
_OF_SCHEME: dict[str, tuple[str, ...]] = {
    "alpha": ("dirichlet", "quantity"),
    "classes_per_hospital": ("pathological",),
    "dominance": ("dominant",),
    "prevalence_of": ("prevalence",),
    "prevalences": ("prevalence",),
    "sizes": ("prevalence",),
}


class DataSettings(Section):
    """Which images there are."""

    source: Literal["phantom", "ham10000", "isic2019", "isic2020", "folder", "huggingface"] = "phantom"
    """Where images come from; ``phantom`` is generated and needs neither download nor patient."""
    root: str = ""
    """Folder that holds the images and their csv; unused for ``phantom``."""
    classes: str = ""
    r"""Class names in the order of their label, separated by commas; a comma in a name is written ``\,``. Empty: the
    source's published classes (in simulation, the names found in a folder). A hospital site never infers them."""
    only: str = ""
    r"""Class names, separated by commas as in ``data.classes``: images of other classes are neither trained on nor
    judged; the network whose features judge still learns from all. Empty: all classes."""
    split_seed: int = Field(default=0, ge=0)
    """Key of the train / extractor / validation / test split; independent of ``seed``."""
    phantom_images: int = Field(default=4000, ge=200, le=100_000)
    """Number of generated images when the source is ``phantom``."""
    phantom_sites: Literal["clinics", "artefacts"] = "clinics"
    """``phantom``: ``clinics``: four sites that differ in cameras and in classes. ``artefacts``: three sites alike in
    both, but that one's pictures have a black frame, another's a ruler, and the third's neither."""
    csv: str = ""
    """``folder``: csv file, relative to the root. Empty: the only csv there, or one sub-folder per class."""
    image_column: str = "image"
    """``folder``: csv column with the image's file name, with or without its suffix; ``huggingface``: the images."""
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

    @property
    def only_names(self) -> tuple[str, ...]:
        """The names in ``data.only``."""
        return split_names(self.only)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in ``data.classes``, in the order of their label."""
        return split_names(self.classes)

    def problems(self, configuration: Any) -> Iterator[str]:
        """See :class:`Section`."""
        if self.source in ("ham10000", "isic2019", "isic2020", "folder") and not self.root:
            yield f"data.root is empty: data.source = {self.source} needs a folder; set data.root=/path/to/the/images"
        if self.source == "huggingface" and not (self.root or self.dataset):
            yield (
                "data.dataset and data.root are empty: data.source = huggingface needs a dataset name or a local folder"
            )
        if self.source in ("folder", "huggingface") and self.group_column and self.group_column == self.label_column:
            yield (
                f"data.group-column = {self.group_column!r}: is data.label-column too, so that all images of a class "
                "would fall into one part; name the column of patients or lesions, or leave it empty"
            )
        for key, path in (("root", self.root), ("csv", self.csv), ("cache-dir", self.cache_dir)):
            if printable(path) != path:
                yield f"data.{key} = '{printable(path)}': is not UTF-8 text; rename what is not"
        for field, sources in _READ_FOR.items():
            if self.source not in sources:
                allowed = " or ".join(sources)
                why = f"data.source = {self.source} does not read it; set data.source={allowed}, or leave it out"
                yield from self.in_vain("data", (field,), why, "data.source")
        if self.source == "huggingface" and self.dataset:
            why = f"data.dataset = {self.dataset!r} is read, and no folder; leave one of the two out"
            yield from self.in_vain("data", ("root",), why, "data.dataset")
        for key, text in (("classes", self.classes), ("only", self.only)):
            names = split_names(text)
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                yield f"data.{key} = {text!r}: names {', '.join(repeated)} more than once; name each class once"


def _numbers(text: str) -> list[float]:
    """Return the numbers of a comma string, none where one of its items is no number."""
    try:
        return [float(item) for item in text.split(",")]
    except ValueError:
        return []


class PartitionSettings(Section):
    """Which hospital holds which training images."""

    scheme: Literal["natural", "dirichlet", "pathological", "quantity", "dominant", "prevalence", "iid"] = "natural"
    """``natural``: by site. ``dirichlet``: label skew. ``pathological``: a few classes each.
    ``quantity``: size skew. ``dominant``: one hospital is ``dominance`` times as large as each other.
    ``prevalence``: hospitals differ in how frequent one class is. ``iid``: alike."""
    hospitals: int = Field(default=4, ge=1, le=10_000)
    """Number of hospitals; 1 pools all images, which is centralised training."""
    alpha: float = Field(default=0.5, gt=0, le=1e6)
    """Concentration of ``dirichlet`` (0.1: most of a hospital's images are of one class; 100: nearly
    alike) and of ``quantity`` (0.5: the largest hospital holds most images)."""
    classes_per_hospital: int = Field(default=2, ge=1)
    """``pathological``: how many classes each hospital holds."""
    dominance: float = Field(default=50.0, ge=1)
    """``dominant``: images at the first hospital for each image at another."""
    prevalence_of: str = ""
    """``prevalence``: the class whose share is set. Empty: the one that is melanoma by its name."""
    prevalences: str = "0.72,0.10,0.11"
    """``prevalence``: its share of each hospital's images, separated by commas; as many as there are hospitals.
    The default is a partition of Carrasco Limeros et al. 2022 (arXiv 2208.11702)."""
    sizes: str = "872,1036,1520"
    """``prevalence``: images at each hospital, in proportion: together as many as the data can fill with these shares.
    Images that would change them are left out."""
    seed: int = Field(default=0, ge=0)
    """Seed of the partition; independent of ``seed``, so that seeds are compared on the same hospitals."""
    min_images: int = Field(default=16, ge=1)
    """Least number of training images at a hospital."""

    def problems(self, configuration: Any) -> Iterator[str]:
        """See :class:`Section`."""
        for field, schemes in _OF_SCHEME.items():
            if self.scheme not in schemes:
                allowed = " or ".join(schemes)
                why = f"partition.scheme = {self.scheme} does not read it; set it to {allowed}, or leave this out"
                yield from self.in_vain("partition", (field,), why, "partition.scheme")
        if self.scheme == "prevalence":
            yield from self._prevalence_problems()
        if self.scheme == "natural" and configuration.attack.name == "none":
            why = "partition.scheme = natural and attack.name = none draw nothing; leave it out, or set one of them"
            yield from self.in_vain("partition", ("seed",), why, "partition.scheme", "attack.name")

    @property
    def prevalence_shares(self) -> list[float]:
        """The numbers in ``partition.prevalences``."""
        return _numbers(self.prevalences)

    @property
    def prevalence_sizes(self) -> list[float]:
        """The numbers in ``partition.sizes``."""
        return _numbers(self.sizes)

    def _prevalence_problems(self) -> Iterator[str]:
        shares, sizes = self.prevalence_shares, self.prevalence_sizes
        if not shares or any(not 0 <= share <= 1 for share in shares):
            yield (
                f"partition.prevalences = {self.prevalences!r}: allowed are shares from 0 to 1, separated by commas, "
                "e.g. 0.72,0.10,0.11"
            )
        if not sizes or any(not 0 < size < float("inf") for size in sizes):
            yield (
                f"partition.sizes = {self.sizes!r}: allowed are numbers above 0, separated by commas, e.g. "
                "872,1036,1520"
            )
        # One hospital pools what they hold.
        for key, text, numbers in (("prevalences", self.prevalences, shares), ("sizes", self.sizes, sizes)):
            if numbers and len(numbers) != (self.hospitals if self.hospitals > 1 else len(shares)):
                yield (
                    f"partition.{key} = {text!r}: has {len(numbers)} numbers for partition.hospitals = "
                    f"{self.hospitals}; give one for each hospital"
                )
