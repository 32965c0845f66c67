"""The version of AgCluster: here, and nowhere else.

A constant and no look at what is installed, as the agent's image holds folders, not the package.
`pyproject.toml` reads it from here.
"""

VERSION = "0.1.0"
