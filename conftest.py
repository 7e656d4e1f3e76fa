"""Shapes and types of the whole package are checked while it is tested, and only then."""

from jaxtyping import install_import_hook

install_import_hook("tutelage", "tower.typed")
