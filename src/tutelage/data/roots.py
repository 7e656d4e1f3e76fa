"""Where the files are that the [data] table of a recipe names."""

import os
from pathlib import Path

from tutelage.data.settings import DataSettings
from tutelage.errors import UsageError


def root_of(settings: DataSettings) -> Path:
    """The folder that the settings mean; it need not be there."""
    home = Path(os.environ.get("TUTELAGE_DATA", "data"))
    if settings.root is None:
        if settings.name == "folder":
            raise UsageError("a folder of images needs its path", where="[data] root", fix='root = "path/of/images"')
        return home / "imagenet100" if settings.name == "imagenet100" else home
    return found_path(settings.root)


def roots_of(settings: DataSettings) -> list[Path]:
    """Where series and interactions may lie: at the path itself, or under $TUTELAGE_DATA."""
    if settings.root is None:
        raise UsageError(f"{settings.name!r} needs its path", where="[data] root", fix='root = "path/of/file.csv"')
    given = Path(settings.root).expanduser()
    return [given, Path(os.environ.get("TUTELAGE_DATA", "data")) / given]


def homes() -> list[Path]:
    """Where paths of the settings are looked for."""
    return [Path(), Path(os.environ.get("TUTELAGE_DATA", "data"))]


def found_path(path: str) -> Path:
    """A path of the settings: as it is or, where nothing is there, under $TUTELAGE_DATA."""
    given, home = Path(path).expanduser(), Path(os.environ.get("TUTELAGE_DATA", "data"))
    return given if given.exists() or not (home / given).exists() else home / given
