"""The version of AgCluster, defined only here.

It is a constant instead of the installed package's metadata, because the agent's image contains
folders, not the package. `pyproject.toml` reads it from here.
"""

VERSION = "0.1.0"
