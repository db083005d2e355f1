"""dermafed: federated learning of generative models of skin lesions; the part of it that is meant to be imported.

Importing it costs nothing: a name is looked up when it is first used, and what it needs is imported then. All but
``resolve``, which asks the strategies, works without Flower and Ray. ::

    import dermafed

    generator = dermafed.load_final("runs/…")
    images = generator.generate(16, class_name="mel")
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from federation.config import Configuration, load_toml, parse_assignments
    from federation.errors import DermafedError, InputError, RunError
    from federation.models import build_model
    from federation.models.final import FinalGenerator, load_final
    from federation.run_directory import RunDirectory
    from strategies.configuration import resolve

__all__ = [
    "Configuration",
    "DermafedError",
    "FinalGenerator",
    "InputError",
    "RunDirectory",
    "RunError",
    "__version__",
    "build_model",
    "load_final",
    "load_toml",
    "parse_assignments",
    "resolve",
]

_HOMES = {
    "Configuration": "federation.config",
    "DermafedError": "federation.errors",
    "FinalGenerator": "federation.models.final",
    "InputError": "federation.errors",
    "RunDirectory": "federation.run_directory",
    "RunError": "federation.errors",
    "build_model": "federation.models",
    "load_final": "federation.models.final",
    "load_toml": "federation.config",
    "parse_assignments": "federation.config",
    "resolve": "strategies.configuration",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("dermafed")
    if name not in _HOMES:
        raise AttributeError(f"module 'dermafed' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
