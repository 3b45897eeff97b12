"""The packages behind the text scores, all in the extra ``eval``: looked for when a task is opened."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version
from importlib.util import find_spec

from dlm.errors import SettingsError


def installed(module: str) -> bool:
    """Whether a module can be imported."""
    return find_spec(module) is not None


def require(module: str, what: str) -> None:
    """Raise now what would otherwise be raised at the first answer.

    Raises:
        SettingsError: ``module``, needed by ``what``, is not installed.
    """
    if not installed(module):
        raise SettingsError(f"{what} needs the package {module}: pip install 'dlm[eval]'")


@cache  # a sweep asks for every point
def version(distribution: str) -> str:
    """The version of an installed distribution."""
    try:
        return _version(distribution)
    except PackageNotFoundError:
        return "unknown"
