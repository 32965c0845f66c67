"""The upstream's answer on its way back to an agent, or to a worker's side call."""

from __future__ import annotations

import aiohttp
from aiohttp import web

from infra.wire.errors import AgClusterError
from worker.gateway.model.headers import to_agent
from worker.gateway.model.metering import CallMeter
from worker.gateway.model.refusals import CallRefused


class StreamBroken(AgClusterError):
    """The upstream's answer broke off."""


def check_answer(answer: aiohttp.ClientResponse) -> None:
    """Raises `CallRefused` for answers that are not passed on.

    Following a redirect would carry the key elsewhere. A compressed answer, which nobody requested,
    could not be metered, and its real size is unknown.
    """
    if 300 <= answer.status < 400:
        message = "The upstream answered with a redirect; check the upstream's URL."
        raise CallRefused(502, "api_error", message)
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        message = "The upstream compressed its answer although it was asked not to."
        raise CallRefused(502, "api_error", message)


def begin_answer(
    answer: aiohttp.ClientResponse, *, is_retry_pointless: bool = False
) -> web.StreamResponse:
    """The head of our answer, based on the upstream's. It may say that a retry helps."""
    response = web.StreamResponse(
        status=answer.status,
        reason=answer.reason,
        headers=to_agent(answer.headers.items(), status=answer.status),
    )
    if is_retry_pointless:
        response.headers["x-should-retry"] = "false"
    if answer.content_length is None:
        response.enable_chunked_encoding()
    return response


async def read_on(answer: aiohttp.ClientResponse, meter: CallMeter) -> bytes:
    """The next bytes; empty at the end. Raises `StreamBroken`."""
    try:
        return await answer.content.readany()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        meter.broke()
        raise StreamBroken(type(error).__name__) from error


def break_off(request: web.BaseRequest) -> None:
    """Close the client's connection: what was written still arrives, but the answer has no proper
    end."""
    if request.transport is not None:
        request.transport.close()
