"""The gateway, the engine proxy and their neighbours, as their own tests have them."""

import pytest

from tests.fuzz import mutations
from tests.integration.gateway.conftest import config, data_dir, host, make_host, model
from tests.unit.worker.engine_proxy.conftest import folder, line

__all__ = ["config", "data_dir", "folder", "host", "line", "make_host", "model"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The ring's minutes are shared by its tests."""
    ours = [item for item in items if "fuzz" in item.path.parts]
    mutations.share_s = 60 * mutations.MINUTES / max(1, len(ours))
