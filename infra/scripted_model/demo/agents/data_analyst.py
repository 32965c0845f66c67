"""The data analyst's demo: a table, its gaps, a plot that answers the question. Pure.

It says so where no Python of the sandbox has pandas, and does what goes without.
"""

from __future__ import annotations

from infra.scripted_model.demo.agents.analysis_program import ANALYSIS, SALES
from infra.scripted_model.demo.agents.shipped import AgentDemo
from infra.scripted_model.demo.pythons import find_python
from infra.scripted_model.demo.scenes import (
    Scene,
    bash,
    in_workspace,
    play,
    quoted,
    say,
    shown,
    write,
)
from infra.scripted_model.replies import Reply

PROGRAM = "analysis.py"
TABLE = "sales.csv"
PLOT = "outputs/revenue.png"

_FIND = find_python("pandas, matplotlib")
_LOOK = (
    f"{_FIND}; echo ${{py:-no Python here has pandas}}; "
    "ls -A /workspace/uploads 2>/dev/null || true"
)
_RUN = f'{_FIND}; cd /workspace && "${{py:-python3}}" {PROGRAM}'
_BEST = (
    f"{_FIND}; cd /workspace && \"${{py:-python3}}\" - <<'END'\n"
    "import csv, collections\n"
    "total = collections.Counter()\n"
    f"for row in csv.DictReader(open({TABLE!r})):\n"
    "    if row['revenue']:\n"
    "        total[row['month']] += float(row['revenue'])\n"
    "for month, revenue in total.most_common(3):\n"
    "    print(f'{month}: {revenue:,.0f}')\n"
    "END"
)


def _act(scene: Scene) -> Reply:
    done_before = scene.has_called("Write", file_path=in_workspace(TABLE)) and scene.earlier
    return play(scene, _SECOND_TURN if done_before else _FIRST_TURN)


def _look(scene: Scene) -> Reply:
    return say(
        "First I look which Python has pandas, and which files I was sent.",
        bash(_LOOK, "Find Python and files"),
        thought="Look at the data before any conclusion: types, gaps, odd values.",
    )


def _lay_out(scene: Scene) -> Reply:
    first, _, sent = scene.last.text.strip().partition("\n")
    lacks = "no Python here has pandas" in first
    python = (
        "No Python here has pandas, so I work with the standard library. For pandas and "
        "matplotlib use the image `agcluster-analyst`, or without Docker "
        "`pip install 'agcluster[analyst]'`."
        if lacks
        else f"`{first}` has pandas."
    )
    files = (
        f" I see what you sent ({quoted(sent)}), but the demo knows one table only." if sent else ""
    )
    return say(f"{python}{files} I take a table of a shop's sales.", write(TABLE, SALES))


def _write_program(scene: Scene) -> Reply:
    return say("", write(PROGRAM, ANALYSIS))


def _run(scene: Scene) -> Reply:
    return say("Now I run the analysis.", bash(_RUN, "Analyse the table"))


def _report(scene: Scene) -> Reply:
    if scene.last.is_error:
        return say(f"The analysis failed, so I conclude nothing:\n\n{shown(scene.last)}")
    return say(
        "**The north lost a third of its revenue in June; the other regions did not.**\n\n"
        f"{shown(scene.last)}\n\n"
        "- One value is missing (west, April). I left it out and filled nothing in.\n"
        "- Three regions and eight months say what happened, not why.\n\n"
        f"The program is `{PROGRAM}`, so you can run it again. What it made is below."
    )


def _best_months(scene: Scene) -> Reply:
    return say("I ask the same table.", bash(_BEST, "Add up by month"))


def _report_best(scene: Scene) -> Reply:
    if scene.last.is_error:
        return say(f"That failed:\n\n{shown(scene.last)}")
    return say(f"The three best months, all regions together:\n\n{shown(scene.last)}")


_FIRST_TURN = (_look, _lay_out, _write_program, _run, _report)
_SECOND_TURN = (_best_months, _report_best)

DATA_ANALYST = AgentDemo(
    name="data-analyst",
    role="You are a data analyst",
    words=("What happened to our sales this year?", "Which months were best?"),
    act=_act,
)
