"""Classifiers trained on real images alone are trained once: every run on the same data and seed needs the same.

In a benchmark of ten strategies nine of ten are found here.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from federation.cache import blocks_of, cache_folder, kept_in, read_checked, write_checked
from federation.models import classifier as training
from federation.models import federated_classifier
from federation.models.classifier import Classifier

if TYPE_CHECKING:
    from federation.models.classifier import LabelledImages


def fit_once(
    classifier: Classifier,
    fit: Callable[[], object],
    *,
    how: Mapping[str, Any],
    shown: Sequence[LabelledImages],
    streams: Sequence[torch.Generator],
    cache_dir: str,
) -> bool:
    """Give a classifier the weights that training ends with: stored ones, else `fit` trains it and they are stored.

    They are found again by a hash of what training depends on: images, initial weights, random numbers, the code of
    this package, PyTorch's version, threads and the processor's instructions.

    Parameters
    ----------
    classifier
        With its initial weights, on its device.
    fit
        Trains it in place, as the next three say.
    how
        What decides the training beside images, for json: the steps, and what each of `shown` is for.
    shown
        Images and labels, in their order; none from a generator that a run has trained.
    streams
        As `fit` will find them.
    cache_dir
        ``data.cache-dir``. Empty: the user's cache folder.

    Returns
    -------
    Whether they were stored. The classifier is in evaluation mode either way.

    Raises
    ------
    StorageError
        If the cache cannot be written.
    """
    key = _key(classifier, how, shown, streams)
    path = cache_folder(cache_dir) / "classifiers" / f"{key}.safetensors"
    try:
        classifier.load_state_dict(safetensors.torch.load(read_checked(path)))
    except (OSError, ValueError, RuntimeError, SafetensorError):
        pass  # absent, or damaged: trained anew
    else:
        classifier.eval()
        return True
    fit()
    content = {name: value.detach().cpu().contiguous() for name, value in classifier.state_dict().items()}
    with kept_in(path.parent):
        write_checked(path, safetensors.torch.save(content))
    return False


def _key(
    classifier: Classifier,
    how: Mapping[str, Any],
    shown: Sequence[LabelledImages],
    streams: Sequence[torch.Generator],
) -> str:
    device = next(classifier.parameters()).device
    code = (training, federated_classifier, sys.modules[type(classifier).__module__])
    decides = {
        "classifier": classifier.name,
        # How it is trained, and what it is.
        "code": [inspect.getsource(module) for module in code],
        "how": dict(how),
        "batch": classifier.batch_size,
        "learning rate": classifier.learning_rate,
        "shapes": [pixels.shape for pixels, _ in shown],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    hasher = hashlib.blake2b(json.dumps(decides, sort_keys=True).encode(), digest_size=16)
    for name, value in classifier.state_dict().items():
        hasher.update(name.encode())
        hasher.update(value.detach().cpu().contiguous().numpy().tobytes())
    for stream in streams:
        hasher.update(stream.get_state().numpy().tobytes())
    for pixels, labels in shown:
        for block in blocks_of(pixels):
            hasher.update(block)
        hasher.update(labels.tobytes())
    return hasher.hexdigest()
