"""The demo makes things: a plot, a page. What lies in `outputs` comes back as a link. Pure."""

from __future__ import annotations

import re

from infra.scripted_model.demo.plot_program import plot_program
from infra.scripted_model.demo.pythons import find_python
from infra.scripted_model.demo.scenes import Scene, bash, play, say, shown, write
from infra.scripted_model.demo.topics import END, topic
from infra.scripted_model.replies import Reply

PLOT_PROGRAM = "plot.py"
PAGE = "outputs/hello.html"

_NUMBERS = re.compile(r"-?\d+(?:\.\d+)?(?:(?:, ?| and |, and | )-?\d+(?:\.\d+)?)+")
_RUN_PLOT = f'{find_python("matplotlib")}; cd /workspace && "${{py:-python3}}" {PLOT_PROGRAM}'
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Hello from your agent</title>
<style>
  body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 15vh auto }
  h1 { font-size: 2.4rem; background: linear-gradient(90deg, #c2410c, #7c3aed);
       -webkit-background-clip: text; color: transparent }
</style>
<h1>Hello from your agent</h1>
<p>This page was written in a sandbox without a network. The file outlives it:
the link in the chat works when the container is long gone.</p>
</html>
"""


def make_plot(scene: Scene, what: str | None = None) -> Reply:
    """A plot of numbers, of a formula, or of a wave."""
    program = plot_program(*_wanted(what))

    def first(scene: Scene) -> Reply:
        return say(
            "I write a small program that draws it.",
            write(PLOT_PROGRAM, program),
            thought="A plot: a program, run it, and leave the picture in outputs.",
        )

    def second(scene: Scene) -> Reply:
        if scene.last.is_error:
            # Of an earlier plot. The tool changes no file that was not read before.
            command = f"cat > /workspace/{PLOT_PROGRAM} <<'END'\n{program}END\n{_RUN_PLOT}"
            return say("I replace the one of before and run it.", bash(command, "Draw"))
        return say("Now I run it.", bash(_RUN_PLOT, "Draw the plot"))

    def third(scene: Scene) -> Reply:
        if scene.last.is_error:
            return say(f"The program failed, so there is no plot:\n\n{shown(scene.last)}")
        return say(f"{scene.last.text} The picture is below, with a link to keep.")

    return play(scene, [first, second, third])


def make_page(scene: Scene) -> Reply:
    """A page that a browser shows."""
    return play(
        scene,
        [
            lambda _: say("I write a page.", write(PAGE, _PAGE)),
            _page_is_there,
        ],
    )


def _page_is_there(scene: Scene) -> Reply:
    if scene.last.is_error:
        return say(f"The page is there already: `{PAGE}`.")
    return say(f"Done: `{PAGE}`. Files in `outputs` are kept and linked below.")


def _wanted(what: str | None) -> tuple[str | None, list[float]]:
    """A formula, or numbers."""
    if what is None:
        return "sin(x)", []
    if found := _NUMBERS.search(what):
        return None, [float(one) for one in re.findall(r"-?\d+(?:\.\d+)?", found[0])][:100]
    formula = what.replace("^", "**").removeprefix("y = ").strip("` ")
    return (formula if re.search(r"\bx\b", formula) else "sin(x)"), []


def _plot(scene: Scene, found: re.Match[str]) -> Reply:
    return make_plot(scene, found["what"])


def _page(scene: Scene, found: re.Match[str]) -> Reply:
    return make_page(scene)


TOPICS = (
    topic(
        "make a plot",
        "Writes a program that draws numbers or a formula of x, runs it, and shows the picture.",
        examples=["plot 3, 1, 4, 1, 5", "plot x**2 - 3*x", "make a plot"],
        patterns=[
            r"(?:make|draw|show|create)(?: me)?(?: an?| some)? (?:plot|chart|graph|diagram)s?"
            rf"(?: (?:of|for) (?P<what>.+?))?{END}",
            rf"(?:plot|draw|chart) (?P<what>.+?){END}",
        ],
        act=_plot,
    ),
    topic(
        "make an artifact",
        "Makes a web page in `outputs`; the answer links it.",
        examples=["make an artifact", "make me a web page"],
        patterns=[
            r"(?:make|create|build|write)(?: me)?(?: an?)?"
            rf" (?:artifact|(?:web|html) ?(?:page|site)|page){END}",
        ],
        act=_page,
    ),
)
