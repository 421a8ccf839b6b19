"""OPEFO for TRL: GRPO with the policy's entropy flow balanced."""

import warnings
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.version import Version


if TYPE_CHECKING:
    from .config import OPEFOConfig as OPEFOConfig
    from .trainer import EntropyFlowMixin as EntropyFlowMixin
    from .trainer import OPEFOTrainer as OPEFOTrainer

__version__ = "0.1.0"
__all__ = ["EntropyFlowMixin", "OPEFOConfig", "OPEFOTrainer"]
# Oldest and newest release of TRL that the tests ran with
TESTED_TRL = ("1.15", "1.16")


# OPEFO overrides methods of TRL that change between releases. An older release lacks some of them, so it is refused. A
# newer release is accepted with a warning: each training step checks that the overrides still work (`seam.py`)
def _check_trl() -> None:
    try:
        requirements = map(Requirement, requires("opefo_trl") or [])
    except PackageNotFoundError as error:
        raise ImportError(
            f"opefo_trl {__version__} is imported from a folder and not installed, so its TRL requirement is "
            "unknown: run `pip install -e .` in its checkout."
        ) from error
    supported = next(requirement.specifier for requirement in requirements if requirement.name == "trl")
    needed = "trl" + ",".join(sorted(map(str, supported), reverse=True))  # the lower bound first
    try:
        found = version("trl")
    except PackageNotFoundError as error:
        raise ImportError(
            f"opefo_trl {__version__} works with {needed}, but no trl is installed: run `pip install '{needed}'`."
        ) from error
    if not supported.contains(found, prereleases=True):
        raise ImportError(
            f"opefo_trl {__version__} works with {needed}, but trl {found} is installed: run `pip install '{needed}'`."
        )
    if Version(found).release[:2] > Version(TESTED_TRL[1]).release:
        warnings.warn(
            f"opefo_trl {__version__} is tested with trl {' to '.join(TESTED_TRL)}, and trl {found} is installed. "
            "If TRL's loss has changed, the first training step reports it.",
            stacklevel=2,
        )


_check_trl()
_MODULES = {"EntropyFlowMixin": ".trainer", "OPEFOConfig": ".config", "OPEFOTrainer": ".trainer"}


# Lazy, like TRL's own import: `import opefo_trl` must not load torch
def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
