"""How the skills of an agent's bundle are found in its container: worker and agent agree on it."""

from __future__ import annotations

BUNDLE_AT = "/run/bundle"
"""Where a container has its agent's bundle, read-only."""
PLUGIN_FOLDER = "plugin"
"""The folder of the bundle that the CLI reads as a plugin."""
PLUGIN = "agent"
"""The plugin's name. The CLI calls its skills `agent:<skill>`."""
