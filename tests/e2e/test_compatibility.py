"""Each field of a request, sent: whether the model is asked something else, or the answer differs.

The table is `tests/compatibility.py`. Fields that are said to be ignored are sent all at once.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
import pytest

from tests.compatibility import Sent, Treatment, rows
from tests.e2e.conftest import KINDS
from tests.e2e.deployments import GOOD_KEY, MODEL, Deployment
from tests.e2e.upstream import last_asked

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.parametrize("deployment", KINDS[1:2], indirect=True),
]

PLAIN = {"model": MODEL, "messages": [{"role": "user", "content": "echo one two three"}]}
SIDE = {"X-Task": "title_generation"}
_OWN = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|(chatcmpl-|toolu_|call_|conv_|req_)?[0-9a-f]{24,}")
"""Ids, which differ each time."""


class Lane:
    """Requests for an agent, or side requests. What comes of one is asked for once."""

    def __init__(self, deployment: Deployment, headers: Mapping[str, str]) -> None:
        self._deployment = deployment
        self._headers = {"Authorization": f"Bearer {GOOD_KEY}", **headers}
        self._known: dict[str, tuple[Treatment | None, Any]] = {}

    def treatment(self, row: Sent) -> Treatment:
        """What a field is seen to do."""
        refused, told = self._outcome({**row.beside, **row.fields})
        if refused:
            assert told == row.name
            return refused
        same = told == self._outcome(row.beside)[1]
        return Treatment.IGNORED if same else Treatment.HONOURED

    def _outcome(self, fields: Mapping[str, Any]) -> tuple[Treatment | None, Any]:
        """REFUSED with the field, or None with what the model was asked and what it answered."""
        body = json.dumps({**PLAIN, **fields}, sort_keys=True)
        if body not in self._known:
            self._known[body] = self._ask(body)
        return self._known[body]

    def _ask(self, body: str) -> tuple[Treatment | None, Any]:
        answer = httpx.post(
            f"{self._deployment.base_url}/v1/chat/completions",
            content=body,
            headers={
                "Content-Type": "application/json",
                # No agent goes on from another request's history.
                "X-Conversation-ID": f"fields-{uuid.uuid4()}",
                **self._headers,
            },
            timeout=90,
        )
        if answer.status_code == 400:
            return Treatment.REFUSED, answer.json()["error"]["param"]
        assert answer.status_code == 200, answer.text
        asked = last_asked(self._deployment)
        told = re.sub(r'"created": ?\d+', "", answer.text)
        # Comments keep a stream alive; how many there are, nobody knows.
        told = "\n".join(line for line in told.splitlines() if not line.startswith(":"))
        return None, _OWN.sub("", json.dumps([asked, told], sort_keys=True))


def together(sent: Iterable[Sent], field: str, treatment: Treatment) -> Sent:
    """All parameters as one row."""
    fields = {name: value for row in sent for name, value in row.fields.items()}
    return Sent(field, fields, treatment, treatment)


@pytest.mark.parametrize("lane", ["agents", "side"])
def test_every_field_has_the_effect_that_the_table_says(deployment: Deployment, lane: str) -> None:
    sending = Lane(deployment, SIDE if lane == "side" else {})
    sent = [row for row in rows() if isinstance(row, Sent)]
    quiet = [row for row in sent if _said(row, lane) is Treatment.IGNORED and not row.beside]
    alone = [row for row in sent if row not in quiet]
    wrong = {
        row.name: found
        for row in (*alone, together(quiet, "all that are ignored", Treatment.IGNORED))
        if (found := sending.treatment(row)) is not _said(row, lane)
    }
    assert wrong == {}


def _said(row: Sent, lane: str) -> Treatment:
    return row.side if lane == "side" else row.agents
