"""Which Python of the sandbox has a module: in bubblewrap it is not the system's. Pure."""

from __future__ import annotations


def find_python(modules: str) -> str:
    """Shell words that set `py` to the first Python that has the modules, or to nothing."""
    return (
        "py=; for one in $(type -aP python3 python); do "
        f'"$one" -c "import {modules}" 2>/dev/null && py=$one && break; done'
    )
