"""Puts our packages into one, `agcluster`, when they are installed. See pyproject.toml."""

from setuptools import find_namespace_packages, setup

OURS = ("api", "worker", "agent", "infra")
found = find_namespace_packages(
    include=[pattern for name in OURS for pattern in (name, f"{name}.*")],
    exclude=["infra.package", "*.__pycache__"],
)

setup(
    packages=["agcluster", *(f"agcluster.{name}" for name in found)],
    package_dir={"agcluster": "infra/package", **{f"agcluster.{name}": name for name in OURS}},
)
