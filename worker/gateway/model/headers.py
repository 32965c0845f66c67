"""Which headers pass between an agent and the upstream. Pure.

The agent's headers are not trusted: only those that clients of the Messages API usually send are
passed on, with only the listed betas, and the caller's key is inserted. Headers that concern the
connection or the account are removed from the upstream's answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from multidict import CIMultiDict

RETRY_POINTLESS_AFTER_S = 20.0
"""If a CLI had to wait longer than this, its user would wait for nothing."""

_NEVER_MENDED = frozenset({400, 401, 403, 404, 413})
_OVERLOADED = frozenset({429, 529})
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    }
)
_SENT = frozenset(
    {
        "accept",
        "anthropic-beta",
        "anthropic-dangerous-direct-browser-access",
        "anthropic-version",
        "content-type",
        "user-agent",
        "x-app",
        "x-client-request-id",
    }
)
_BETAS = "anthropic-beta"
_DATE = re.compile(r"-20\d\d-?\d\d-?\d\d$")
OPEN_BETAS = frozenset(
    {
        "claude-code",
        "compact",
        "context-1m",
        "context-hint",
        "context-management",
        "effort",
        "extended-cache-ttl",
        "fine-grained-tool-streaming",
        "interleaved-thinking",
        "mid-conversation-system",
        "mid-conversation-system-clear-at",
        "mid-conversation-tool-changes",
        "per-turn-control",
        "prompt-caching",
        "prompt-caching-evict",
        "prompt-caching-scope",
        "redact-thinking",
        "structured-outputs",
        "task-budgets",
        "thinking-binding-controls",
        "thinking-display-updates",
        "thinking-resumption",
        "thinking-token-count",
        "token-counting",
        "tool-search-tool",
        "web-search",
        "web-search-results-only",
    }
)
"""Betas that an agent may use, without their dates: they change how a conversation is written,
thought about, cached and streamed, and all of them are metered in tokens. Left out are those that
run code, store files or state, connect elsewhere, answer faster, or use other models."""
_SENT_PREFIXES = ("x-stainless-", "x-claude-code-")
_SUSPECT = re.compile(r"auth|cookie|key|token|secret|credential")
_ACCOUNT = frozenset({"set-cookie", "anthropic-organization-id", "cf-ray", "server", "via"})


_HINTS = frozenset(
    {
        "x-claude-code-agent-type",
        "x-claude-code-compaction",
        "x-claude-code-context-compacted",
        "x-claude-code-prev-tool-durations",
        "x-claude-code-prompt-id",
        "x-claude-code-request-class",
    }
)
"""What the CLI tells a gateway, and nobody else."""


def to_upstream(given: Iterable[tuple[str, str]], *, api_key: str) -> CIMultiDict[str]:
    """The headers of the outgoing request, except its length."""
    pairs = list(given)
    dropped = _named_by_connection(pairs)
    kept: CIMultiDict[str] = CIMultiDict(
        (name, value)
        for name, value in pairs
        if _is_sent(name.lower()) and name.lower() not in dropped
    )
    _keep_open_betas(kept)
    kept["accept-encoding"] = "identity"
    kept["x-api-key"] = api_key
    return kept


def to_agent(given: Iterable[tuple[str, str]], *, status: int) -> CIMultiDict[str]:
    """The headers of the answer to the agent, including whether to retry."""
    pairs = list(given)
    dropped = _HOP_BY_HOP | _ACCOUNT | _named_by_connection(pairs)
    kept: CIMultiDict[str] = CIMultiDict(
        (name, value)
        for name, value in pairs
        if name.lower() not in dropped and not name.lower().startswith("proxy-")
    )
    if is_retry_pointless(status, retry_after_s=retry_after_s(kept)):
        kept["x-should-retry"] = "false"
    return kept


def is_retry_pointless(status: int, *, retry_after_s: float | None) -> bool:
    """Whether the CLI should fail now; unless told so, it retries for three minutes."""
    if status in _OVERLOADED:
        return retry_after_s is not None and retry_after_s > RETRY_POINTLESS_AFTER_S
    return status in _NEVER_MENDED


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The seconds that the upstream asks to wait. Dates are not supported, because the API sends
    seconds."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _keep_open_betas(kept: CIMultiDict[str]) -> None:
    """Drop the other betas, as the service does with unknown ones."""
    asked = [beta.strip() for value in kept.popall(_BETAS, []) for beta in value.split(",")]
    if betas := [beta for beta in asked if _DATE.sub("", beta) in OPEN_BETAS]:
        kept[_BETAS] = ",".join(betas)


def _is_sent(name: str) -> bool:
    if name in _HINTS:
        return False
    return name in _SENT or (name.startswith(_SENT_PREFIXES) and not _SUSPECT.search(name))


def _named_by_connection(pairs: Iterable[tuple[str, str]]) -> frozenset[str]:
    listed = ",".join(value for name, value in pairs if name.lower() == "connection")
    return frozenset(word.strip().lower() for word in listed.split(",") if word.strip())
