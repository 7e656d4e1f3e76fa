"""Shapes and types of the whole package are checked while it is tested, and only then."""

import os
import tempfile

from jaxtyping import install_import_hook

install_import_hook("tutelage", "tower.typed")
# What a machine remembers of earlier runs is not the tests' to read or to change.
os.environ["TUTELAGE_CACHE"] = tempfile.mkdtemp(prefix="tutelage-tests-")
