"""The gateway, the engine proxy and their neighbours, as their own tests have them."""

from tests.integration.gateway.conftest import config, data_dir, host, make_host, model
from tests.unit.worker.engine_proxy.conftest import folder, line

__all__ = ["config", "data_dir", "folder", "host", "line", "make_host", "model"]
