"""The researcher's demo: three sources that disagree, and a report that says why. Pure."""

from __future__ import annotations

from infra.scripted_model.demo.agents.shipped import AgentDemo
from infra.scripted_model.demo.scenes import Scene, bash, play, say, shown, write
from infra.scripted_model.replies import Reply, ToolUse

REPORT = "outputs/report.md"

_COLLECT = """mkdir -p /workspace/sources && cd /workspace/sources
cat > 1955-survey.md <<'END'
Survey of India, 1955: the summit is 8,848 m above sea level, measured from the ground.
END
cat > 1999-gps.md <<'END'
American expedition, 1999: 8,850 m by GPS at the summit; the thickness of the snow was estimated.
END
cat > 2020-announcement.md <<'END'
Nepal and China, December 2020: 8,848.86 m, agreed by both after surveys of 2019 and 2020.
END
ls"""
_REPORT = """# How high is Mount Everest?

**8,848.86 m** [1]. It is the figure of the newest survey, and the only one on which both countries
agreed.

| year | height | how |
| --- | --- | --- |
| 1955 | 8,848 m [3] | from the ground |
| 1999 | 8,850 m [2] | GPS at the summit, snow estimated |
| 2020 | 8,848.86 m [1] | surveys of 2019 and 2020 |

The sources differ by about a metre because they treat snow differently, not because the mountain
grew.

Not found out: how thick the snow was in 2020. None of the sources says so.

1. sources/2020-announcement.md
2. sources/1999-gps.md
3. sources/1955-survey.md
"""


def _collect(scene: Scene) -> Reply:
    return say(
        "I look for primary sources first. The demo has no internet, so they lie in the workspace.",
        bash(_COLLECT, "Fetch the sources"),
        thought="A factual question. One number is not enough: who measured it, when, and how?",
    )


def _compare(scene: Scene) -> Reply:
    call = {"pattern": "[0-9],[0-9]{3}", "path": "/workspace/sources", "output_mode": "content"}
    return say("Now what they say about the height.", ToolUse("Grep", call))


def _write(scene: Scene) -> Reply:
    return say(
        f"They disagree:\n\n{shown(scene.last)}\n\nI write down which one counts, and why.",
        write(REPORT, _REPORT),
    )


def _answer(scene: Scene) -> Reply:
    if scene.last.is_error:
        return say(f"The report of before stands in `{REPORT}`.")
    return say(
        "**8,848.86 m**, as Nepal and China announced together in 2020 [1]. Older figures are "
        "8,850 m (GPS, 1999) [2] and 8,848 m (1955) [3]; they count the snow differently.\n\n"
        "Sure of: the figure and who stands behind it. Not found out: how thick the snow was in "
        f"2020. All sources are in `{REPORT}`."
    )


def _act(scene: Scene) -> Reply:
    return play(scene, (_collect, _compare, _write, _answer))


RESEARCHER = AgentDemo(
    name="researcher",
    role="You are a researcher",
    words=("How high is Mount Everest, and why do sources disagree?",),
    act=_act,
)
