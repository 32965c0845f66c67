"""The head of a skill says what it is, and gives nothing."""

from __future__ import annotations

import pytest

from infra.wire.agents.bundle import BundleFile, BundleRefused, pack
from infra.wire.agents.skill_head import fault_of_head

GOOD = """---
name: house-style
description: >-
  How texts are written in this house:
  plainly.
# A remark.
license: MIT
metadata:
  version: "1"
  keywords: [a, b]
---
hooks: in the text are text.
---
"""


def test_a_head_as_people_write_it_is_taken() -> None:
    assert fault_of_head(GOOD) is None


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("description: d\nhooks:\n  PreToolUse: []", "`hooks`"),
        ("description: d\nallowed-tools: Bash", "`allowed-tools`"),
        ("description: d\nmcpServers: {}", "`mcpServers`"),
        ("description: d\ncontext: fork", "`context`"),
        ("description: d\nmetadata:\n  hooks: {}", "`hooks`"),
        ("description:\n  hooks: {}", "`hooks`"),
        ("description:\n  - hooks: {}", "`hooks`"),
        (" hooks: {}\n description: d", "no `field: text`"),
        ('"hooks": {}\ndescription: d', "no `field: text`"),
        ("{description: d, hooks: {}}", "no `field: text`"),
        ("? hooks\n: {}\ndescription: d", "no `field: text`"),
        ("<<: {hooks: {}}\ndescription: d", "no `field: text`"),
        ("description: d\u2028hooks: {}", "control characters"),
        ("description: d\rhooks: {}", "control characters"),
        ("description: d\x85hooks: {}", "control characters"),
        ("description: d\n\thooks: {}", "tabs"),
        ("description: d --- e", "`---`"),
        ("description: d\ndescription: e", "twice"),
        ("name: n", "no `description`"),
        ("description: " + "d" * 10_001, "longer than"),
    ],
)
def test_a_head_that_does_more_is_refused(head: str, told: str) -> None:
    assert told in str(fault_of_head(f"---\n{head}\n---\ntext"))


@pytest.mark.parametrize(
    "text", ["", "text", "\n---\ndescription: d\n---\n", "\ufeff---\ndescription: d\n---\n",
             "--- \ndescription: d\n---\n", "---\r\ndescription: d\r\n---\r\n",
             "---\ndescription: d\n"]
)  # fmt: skip
def test_a_text_without_a_plain_head_is_refused(text: str) -> None:
    assert "must begin with" in str(fault_of_head(text))


@pytest.mark.parametrize("name", ["SKILL.md", "deeper/SKILL.md", "deeper/Skill.MD"])
def test_every_skill_of_a_bundle_is_looked_at(name: str) -> None:
    good = BundleFile(GOOD.encode())
    bad = BundleFile(b"---\ndescription: d\nhooks: {}\n---\n")
    pack({"skills/a/SKILL.md": good, "workspace/SKILL.md": bad})
    with pytest.raises(BundleRefused, match="`hooks`"):
        pack({"skills/a/SKILL.md": good, f"skills/a/{name}": bad})
    with pytest.raises(BundleRefused, match="not UTF-8"):
        pack({"skills/a/SKILL.md": good, f"skills/a/{name}": BundleFile(b"\xff")})
