"""The team's demo: its lead gives three sub-agents their parts, and all are played here. Pure."""

from __future__ import annotations

from infra.scripted_model.demo.agents.shipped import AgentDemo
from infra.scripted_model.demo.scenes import Scene, bash, play, say, write
from infra.scripted_model.demo.sub_agents import delegating, report_of
from infra.scripted_model.replies import Reply

PAGE = "outputs/countdown.html"
SCOUT, BUILD, CHECK = "look around", "build the page", "check the page"

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Days until New Year</title>
<style>body { font: 2rem system-ui; text-align: center; margin-top: 25vh }</style>
<p><strong id="days"></strong> days until New Year</p>
<script>
  const now = new Date(), end = new Date(now.getFullYear() + 1, 0, 1);
  document.getElementById("days").textContent = Math.ceil((end - now) / 86400000);
</script>
</html>
"""
_LOOK = "cd /workspace && ls -A && echo there are $(ls -A | wc -l) entries"
_CHECK = (
    f'cd /workspace && for t in "<!doctype html>" "id=\\"days\\"" "</script>" "</html>"; do '
    f'grep -qi -- "$t" {PAGE} && echo "has $t" || echo "LACKS $t"; done; wc -c {PAGE}'
)


def _scout(scene: Scene) -> Reply:
    return delegating(
        scene,
        "I split it: the scout looks what is there, the builder makes the page, the checker tries "
        "to find fault with it.",
        to="scout",
        task=SCOUT,
    )


def _build(scene: Scene) -> Reply:
    said = f"**Scout:** {report_of(scene.last)}\n\nNothing is in the way, so the builder may begin."
    return delegating(scene, said, to="builder", task=BUILD)


def _check(scene: Scene) -> Reply:
    said = f"**Builder:** {report_of(scene.last)}\n\nWho builds does not check. The checker's turn."
    return delegating(scene, said, to="checker", task=CHECK)


def _sum_up(scene: Scene) -> Reply:
    return say(
        f"**Checker:** {report_of(scene.last)}\n\n`{PAGE}` is ready: it counts the days until New "
        "Year. Nobody has looked at it in a browser."
    )


def _act(scene: Scene) -> Reply:
    return play(scene, (_scout, _build, _check, _sum_up))


def scout(scene: Scene) -> Reply:
    """What the scout does."""
    return play(
        scene,
        [
            lambda _: say("", bash(_LOOK, "Look around")),
            lambda s: say(f"In /workspace {s.last.text.strip().splitlines()[-1]}."),
        ],
    )


def build(scene: Scene) -> Reply:
    """What the builder does."""
    return play(
        scene,
        [
            lambda _: say("", write(PAGE, _PAGE)),
            lambda s: say(
                f"{PAGE} was there already; I left it." if s.last.is_error else f"I wrote {PAGE}."
            ),
        ],
    )


def check(scene: Scene) -> Reply:
    """What the checker does."""

    def second(scene: Scene) -> Reply:
        found = scene.last.text
        bad = scene.last.is_error or "LACKS" in found
        verdict = "It is not complete" if bad else "All four parts are there"
        return say(f"{verdict}: {', '.join(found.split(chr(10)))}.")

    return play(scene, [lambda _: say("", bash(_CHECK, "Check the page")), second])


TEAM = AgentDemo(
    name="team",
    role="You lead a team",
    words=("Make a page that counts the days until New Year.",),
    act=_act,
)
