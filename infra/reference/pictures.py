"""Draws the pictures of the architecture and of one turn, as SVG for light and dark pages.

`python -m infra.reference.pictures [--write|--check]` from the repository's root.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from infra.reference.generated import command

FOLDER = Path("docs/pictures")

_STYLE = """\
  text { font: 14px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2430; }
  .small { font-size: 12px; fill: #57606a; }
  .name { font-weight: 600; }
  .page { fill: #ffffff; }
  .box { fill: #eef2ff; stroke: #4051b5; stroke-width: 1.5; }
  .store { fill: #fff4e5; stroke: #b25e09; stroke-width: 1.5; }
  .apart { fill: #e9f7ef; stroke: #1b7f4b; stroke-width: 1.5; }
  .area { fill: none; stroke: #8c959f; stroke-dasharray: 5 4; }
  .line { fill: none; stroke: #57606a; stroke-width: 1.5; }
  .life { stroke: #8c959f; stroke-dasharray: 3 4; }
  .head { fill: #57606a; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .small { fill: #a5b0bd; }
    .page { fill: #0d1117; }
    .box { fill: #1c2442; stroke: #8c9eff; }
    .store { fill: #3a2a12; stroke: #e3a35b; }
    .apart { fill: #12301f; stroke: #5ec98f; }
    .line { stroke: #a5b0bd; }
    .head { fill: #a5b0bd; }
  }
"""
_HEAD = (
    '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
    'orient="auto-start-reverse"><path class="head" d="M0 0 10 5 0 10z"/></marker>'
)


def picture(*parts: str, width: int, height: int, title: str) -> str:
    """A whole file."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}</style>\n<defs>{_HEAD}</defs>\n"
        f'<rect class="page" width="{width}" height="{height}" rx="8"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def words(x: float, y: float, told: str, *, kind: str = "", anchor: str = "middle") -> str:
    """A line of text."""
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(told)}</text>'


@dataclass(frozen=True)
class NamedBox:
    """A part with its name and what it does, a line each."""

    x: int
    y: int
    width: int
    height: int
    name: str
    lines: tuple[str, ...] = ()
    kind: str = "box"

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    def drawn(self) -> str:
        top = self.y + self.height / 2 - 8 * len(self.lines) + 5
        told = [words(self.middle, top, self.name, kind="name")]
        told += [
            words(self.middle, top + 18 + 16 * n, line, kind="small")
            for n, line in enumerate(self.lines)
        ]
        frame = (
            f'<rect class="{self.kind}" x="{self.x}" y="{self.y}" width="{self.width}" '
            f'height="{self.height}" rx="6"/>'
        )
        return "\n".join([frame, *told])


def area(x: int, y: int, width: int, height: int, told: str) -> str:
    """What belongs together."""
    frame = f'<rect class="area" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>'
    return f"{frame}\n{words(x + width - 12, y + 20, told, kind='small', anchor='end')}"


def arrow(path: str, *, both: bool = False) -> str:
    """A line along a path with a head at its end, or at both."""
    start = ' marker-start="url(#head)"' if both else ""
    return f'<path class="line" d="{path}" marker-end="url(#head)"{start}/>'


def architecture() -> str:
    """The programs, and what passes between them."""
    client = NamedBox(20, 40, 200, 64, "OpenAI client", ("LibreChat, Open WebUI, SDKs",))
    api = NamedBox(330, 40, 200, 64, "api", ("any number, no state",))
    redis = NamedBox(
        330, 190, 200, 100, "Redis",
        ("conversations, leases", "turns and turn logs", "transcripts, idle deadlines"), "store",
    )  # fmt: skip
    worker = NamedBox(
        330, 390, 200, 84, "worker", ("claims turns under a lease,", "runs their agents")
    )
    gateway = NamedBox(
        600, 390, 200, 84, "gateway", ("the only one with the key,", "and only during a turn")
    )
    agent = NamedBox(
        330, 550, 470, 84, "container: one for each conversation, no network",
        ("agent server · Claude Agent SDK · its tools", "/workspace"), "apart",
    )  # fmt: skip
    model = NamedBox(870, 400, 130, 64, "the model", ("Messages API",))
    tools = NamedBox(870, 490, 130, 64, "the internet", ("as far as allowed",))
    boxes = (client, api, redis, worker, gateway, agent, model, tools)
    return picture(
        area(310, 350, 510, 304, "one host of many"),
        *(box.drawn() for box in boxes),
        arrow("M220 62 H330"), words(275, 54, "request", kind="small"),
        arrow("M330 88 H220"), words(275, 104, "SSE", kind="small"),
        arrow("M390 104 V190"), words(382, 152, "submit(turn)", kind="small", anchor="end"),
        arrow("M470 190 V104"),
        words(478, 152, "relay: turn log, pub/sub", kind="small", anchor="start"),
        arrow("M390 290 V390"), words(382, 336, "claim", kind="small", anchor="end"),
        arrow("M470 390 V290"),
        words(478, 336, "append(turn, fence, n, event)", kind="small", anchor="start"),
        arrow("M530 432 H600", both=True),
        arrow("M430 474 V550", both=True),
        words(422, 516, "agent.sock", kind="small", anchor="end"),
        arrow("M700 550 V474"),
        words(692, 516, "model.sock, egress.sock", kind="small", anchor="end"),
        arrow("M800 426 H870"), arrow("M800 450 C840 450 840 522 870 522"),
        width=1020, height=674, title="AgCluster: its programs, and what passes between them",
    )  # fmt: skip


@dataclass(frozen=True)
class TurnArrow:
    """A message of a turn, from one life line to another; or what one does by itself."""

    sender: int
    receiver: int
    told: str


LINES = ("client", "api", "Redis", "worker", "gateway", "agent", "model")
STEPS = (
    TurnArrow(0, 1, "POST /v1/chat/completions"),
    TurnArrow(1, 2, "submit: turn, sealed key"),
    TurnArrow(2, 3, "hint: a turn waits"),
    TurnArrow(3, 2, "lease, claim"),
    TurnArrow(3, 4, "register, sealed key"),
    TurnArrow(3, 5, "start the container, StartTurn: base, prompt"),
    TurnArrow(5, 4, "model.sock: POST /v1/messages"),
    TurnArrow(4, 6, "with the caller's key"),
    TurnArrow(6, 4, "words"),
    TurnArrow(4, 5, "words, metered"),
    TurnArrow(5, 3, "events 1, 2, 3 …"),
    TurnArrow(3, 1, "publish frames (fast path)"),
    TurnArrow(3, 2, "append(turn, fence, n, event)"),
    TurnArrow(1, 0, "SSE: deltas"),
    TurnArrow(3, 5, "acknowledge what is logged"),
    TurnArrow(5, 3, "end: state, usage, checkpoint"),
    TurnArrow(3, 4, "close the turn: the key is wiped"),
    TurnArrow(3, 2, "finish: accepted prompt, idle deadline"),
    TurnArrow(1, 0, "[DONE]"),
)
_GAP, _LEFT, _TOP, _ROW = 190, 70, 84, 36


def turn() -> str:
    """One turn, from its request to its end."""
    height = _TOP + _ROW * len(STEPS) + 24
    parts = []
    for n, name in enumerate(LINES):
        x = _LEFT + _GAP * n
        kind = {"Redis": "store", "agent": "apart"}.get(name, "box")
        parts.append(f'<path class="life" d="M{x} 54 V{height - 16}"/>')
        parts.append(NamedBox(x - 50, 20, 100, 34, name, kind=kind).drawn())
    for n, step in enumerate(STEPS):
        y = _TOP + _ROW * n + 12
        begin, end = _LEFT + _GAP * step.sender, _LEFT + _GAP * step.receiver
        parts.append(arrow(f"M{begin} {y} H{end + (-2 if end > begin else 2)}"))
        parts.append(_on_line((begin + end) / 2, y - 6, step.told))
    width = _LEFT * 2 + _GAP * (len(LINES) - 1)
    return picture(*parts, width=width, height=height, title="One turn, from request to end")


def _on_line(x: float, y: float, told: str) -> str:
    """Text on a piece of the page's colour, so that no life line crosses it."""
    wide = 6.3 * len(told) + 6
    ground = (
        f'<rect class="page" x="{x - wide / 2:.0f}" y="{y - 12}" width="{wide:.0f}" height="15"/>'
    )
    return f"{ground}\n{words(x, y, told, kind='small')}"


def pictures() -> Mapping[Path, str]:
    """All of them, by file."""
    return {FOLDER / "architecture.svg": architecture(), FOLDER / "turn.svg": turn()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print, write or check them."""
    return command(
        pictures,
        printed=lambda: "\n".join(pictures().values()),
        program="infra.reference.pictures",
        about=__doc__,
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
