"""What users are told: one sentence for each code, and one for each case its code leaves open.

All programs take them from here, so a failure reads the same in every program. Written for the
person who asked: no key, no path, no name of a part of ours, and no host but the model's service.
A sentence that needs figures holds them in braces. What is wrong with a field of a request is
said where the field is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from infra.wire.errors import ErrorCode, RequestRefused
from infra.wire.model.upstream_cause import UpstreamCause

_GOES_ON = "The next message starts a new one with the conversation so far."

SENTENCES: Mapping[ErrorCode, str] = {
    ErrorCode.INVALID_REQUEST: "The request is not valid.",
    ErrorCode.BODY_TOO_LARGE: "The request body is too large.",
    ErrorCode.HEADERS_TOO_LARGE: "The request headers are too large.",
    ErrorCode.REQUEST_TIMEOUT: "The request arrived too slowly.",
    ErrorCode.MISSING_KEY: "No API key was sent. Send your Anthropic key as "
    "`Authorization: Bearer <key>` or `x-api-key: <key>`.",
    ErrorCode.INVALID_KEY: "The model's service refused the API key. An Anthropic key "
    "begins with `sk-ant-`.",
    ErrorCode.PERMISSION_DENIED: "The API key may not use what was asked for.",
    ErrorCode.MODEL_NOT_FOUND: "The model does not exist, or the API key has no access to it.",
    ErrorCode.CONTEXT_TOO_LONG: "The conversation is too long for the model.",
    ErrorCode.RATE_LIMITED: "The API key's rate limit is reached. Try again later.",
    ErrorCode.INSUFFICIENT_QUOTA: "The account behind the API key has no credit left.",
    ErrorCode.BUDGET_EXCEEDED: "This turn has used all the tokens it may and was stopped.",
    ErrorCode.OVERLOADED: "The model's service is overloaded. Try again later.",
    ErrorCode.UPSTREAM_ERROR: "The model's service failed.",
    ErrorCode.UPSTREAM_UNREACHABLE: "The model's service could not be reached.",
    ErrorCode.NOT_AS_ASKED: "The model did not answer in the form that was asked for.",
    ErrorCode.TURN_NOT_FOUND: "There is no answer with this id.",
    ErrorCode.TURN_RUNNING: "The answer is not finished yet. Ask again, or read it as a stream.",
    ErrorCode.CONVERSATION_NOT_FOUND: "There is no such conversation.",
    ErrorCode.CONVERSATION_BUSY: "A turn of this conversation has not ended. Cancel it first.",
    ErrorCode.FILE_NOT_FOUND: "There is no such file or upload.",
    ErrorCode.REGISTRY_ENTRY_NOT_FOUND: "The registry has no such agent, server or version.",
    ErrorCode.LINK_EXPIRED: "This link has expired, or its file was deleted.",
    ErrorCode.FILE_TOO_LARGE: "The file is too large.",
    ErrorCode.FILES_FULL: "The files of this API key take all the room they may. Delete some.",
    ErrorCode.RANGE_NOT_SATISFIABLE: "The file has no bytes in the range that was asked for.",
    ErrorCode.FILE_STORE_UNAVAILABLE: "Files are briefly unavailable. Please try again.",
    ErrorCode.QUEUE_FULL: "Too many turns of this conversation are waiting already.",
    ErrorCode.CLUSTER_FULL: "Too many requests are waiting already. Please try again later.",
    ErrorCode.TENANT_LIMIT: "The conversations and answers of this API key take all the room "
    "they may. Please wait for one to end, or delete conversations.",
    ErrorCode.REPLICA_FULL: "This server has as many requests as it takes.",
    ErrorCode.QUEUE_TIMEOUT: "No worker could take this turn in time. Please try again.",
    ErrorCode.TURN_TIMED_OUT: "The turn took longer than it may and was stopped.",
    ErrorCode.TURN_CANCELLED: "The turn was cancelled.",
    ErrorCode.CONTAINER_FAILED: "The agent could not be started. Please try again.",
    ErrorCode.CONTAINER_LOST: f"The agent's container ended while it was working. {_GOES_ON}",
    ErrorCode.OUT_OF_MEMORY: "The agent was killed, most likely because it ran out of memory. "
    f"{_GOES_ON}",
    ErrorCode.WORKSPACE_FULL: "The files of this conversation take more room than they may, so the "
    "turn was ended. The next one may remove some; it is ended when it adds to them.",
    ErrorCode.AGENT_FAILED: "The agent failed in the middle of the turn. "
    "The next message goes on with the conversation so far.",
    ErrorCode.FORM_NOT_KEPT: "The model did not give the JSON that `response_format` asks for, "
    "though it was asked more than once.",
    ErrorCode.LOG_LOST: "Part of this answer was lost with Redis' data. "
    "Please send the message again.",
    ErrorCode.LOG_TRIMMED: "The beginning of this answer is no longer kept.",
    ErrorCode.STORE_UNAVAILABLE: "The service is briefly unavailable. Please try again.",
    ErrorCode.SHUTTING_DOWN: "The server is shutting down. Please send the request again.",
    ErrorCode.INTERNAL: "Something went wrong inside the server. It has been logged.",
}


class Case(Enum):
    """A case of a code that has a sentence of its own, as it asks something else of the reader."""

    NOT_HTTP = ErrorCode.INVALID_REQUEST, "The request is not valid HTTP."
    CALL_MISSING = (
        ErrorCode.NOT_AS_ASKED,
        "The model called none of your functions, although `tool_choice` asked for a call. "
        "Say in your message what is to be called, or send `tool_choice` `auto`.",
    )
    CALLS_WRONG = (
        ErrorCode.NOT_AS_ASKED,
        "The model called your functions with arguments that do not match their schemas, again "
        "and again.",
    )
    UPSTREAM_REFUSED = ErrorCode.INVALID_REQUEST, "The model's service refused the request."
    UPSTREAM_AWAY = (
        ErrorCode.UPSTREAM_UNREACHABLE,
        "The model's service ({host}) could not be reached: {fault}.",
    )
    KEY_MALFORMED = (
        ErrorCode.INVALID_KEY,
        "The API key is malformed: it has {least} to {most} visible characters and no spaces. An "
        "Anthropic key begins with `sk-ant-`.",
    )
    KEY_UNREADABLE = (
        ErrorCode.INVALID_KEY,
        "The API key of this turn can no longer be read. Please send the message again.",
    )
    KEY_TOO_OFTEN = ErrorCode.RATE_LIMITED, "This key may make {limit} requests a minute."
    BAD_KEYS = ErrorCode.RATE_LIMITED, "Too many bad API keys came from this address."
    DAY_SPENT = (
        ErrorCode.BUDGET_EXCEEDED,
        "Today's token budget of this API key is used up. A new day begins at 0:00 UTC.",
    )
    FILES_COUNTED = (
        ErrorCode.FILES_FULL,
        "This API key keeps {files} files, which is as many as it may. Delete some.",
    )
    FILES_WEIGHED = (
        ErrorCode.FILES_FULL,
        "The files of this API key may take {bytes} bytes together. Delete some.",
    )
    FILE_TOO_LARGE = ErrorCode.FILE_TOO_LARGE, "A file may have {bytes} bytes at most."
    REQUEST_FILES = (
        ErrorCode.INVALID_REQUEST,
        "A message may carry {files} files at most. Send the others with another message.",
    )
    REQUEST_FILE_BYTES = (
        ErrorCode.FILE_TOO_LARGE,
        "The files of a message may have {bytes} bytes together. Send some with another message.",
    )
    FILES_DO_NOT_FIT = (
        ErrorCode.WORKSPACE_FULL,
        "The files that came with the message do not fit into the room that the files of this "
        "conversation may take, so the turn was not begun. Send smaller ones, or ask the agent to "
        "delete some first.",
    )
    SENT_FILE_GONE = (
        ErrorCode.FILE_NOT_FOUND,
        "A file that came with the message was deleted before the agent had it. Upload it again.",
    )
    FILE_ELSEWHERE = (
        ErrorCode.FILE_STORE_UNAVAILABLE,
        "This file is kept where this server cannot read it. Its operators can read in "
        "AgCluster's manual how servers share their files.",
    )
    CONVERSATION_WAITS = (
        ErrorCode.QUEUE_FULL,
        "{turns} turns of this conversation are waiting already.",
    )
    CLUSTER_WAITS = (
        ErrorCode.CLUSTER_FULL,
        "The service is at capacity: {turns} requests are waiting already. Please try again later.",
    )
    KEY_OPEN = (
        ErrorCode.TENANT_LIMIT,
        "{turns} requests of this API key are open already. Please wait for one to end.",
    )
    KEY_WAITS = (
        ErrorCode.TENANT_LIMIT,
        "{turns} requests of this API key are waiting already. Please wait for one to start.",
    )
    KEY_UPLOADS = (
        ErrorCode.TENANT_LIMIT,
        "{uploads} uploads of this API key were begun in the last two hours already.",
    )
    KEY_STREAMS = ErrorCode.TENANT_LIMIT, "{answers} answers to this key are open already."
    KEY_HOLDS = (
        ErrorCode.TENANT_LIMIT,
        "The conversations and requests of this API key take {mb} MB already, and this one is too "
        "much. Please delete conversations, or try again when answers and old conversations are "
        "forgotten.",
    )
    GATEWAY_SILENT = (
        ErrorCode.CONTAINER_FAILED,
        "The model gateway of this host does not answer. Please try again.",
    )
    AGENT_IMAGE = (
        ErrorCode.CONTAINER_FAILED,
        "This agent needs an image of its own, which its host does not have or may not use. "
        "Please tell the people who run this service.",
    )
    STARTS_SPENT = (
        ErrorCode.CONTAINER_FAILED,
        "The agent could not be started, though it was tried more than once.",
    )
    CONVERSATION_LOST = (
        ErrorCode.LOG_LOST,
        "What was known of this conversation was lost with Redis' data, so the turn was ended. "
        "Please send the message again.",
    )
    EVENTS_TRIMMED = (
        ErrorCode.LOG_TRIMMED,
        "The first {events} events of this answer are no longer kept. What follows can be read "
        "with stream=true&starting_after={events}.",
    )
    ANSWERER_LOST = (
        ErrorCode.SHUTTING_DOWN,
        "The server that answered was lost. Please send the request again.",
    )
    READER_CUT = (
        ErrorCode.SHUTTING_DOWN,
        "This server is shutting down. The answer may go on: ask for it by its id, or send "
        "the request again.",
    )

    def __init__(self, code: ErrorCode, sentence: str) -> None:
        self.code = code
        self.sentence = sentence


WHY_AWAY: Mapping[UpstreamCause, str] = {
    UpstreamCause.NAME: "its name is not known",
    UpstreamCause.REFUSED: "it refuses the connection",
    UpstreamCause.TIMEOUT: "it does not answer in time",
    UpstreamCause.CERTIFICATE: "its certificate is not trusted",
    UpstreamCause.TLS: "it does not speak TLS as expected",
    UpstreamCause.PROXY: "the proxy on the way does not let through",
    UpstreamCause.BROKEN: "the connection broke off",
}
"""The rest of a sentence about the model's service."""


def refused(
    case: Case,
    *,
    param: str | None = None,
    retry_after_s: float | None = None,
    **figures: object,
) -> RequestRefused:
    """A refusal in that case's words."""
    return RequestRefused(
        case.sentence.format(**figures), code=case.code, param=param, retry_after_s=retry_after_s
    )
