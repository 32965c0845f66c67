"""The reviewer's demo: it reads a patch, looks around it, reproduces what it suspects. Pure."""

from __future__ import annotations

from infra.scripted_model.demo.agents.shipped import AgentDemo
from infra.scripted_model.demo.scenes import Scene, bash, play, say, shown
from infra.scripted_model.demo.sub_agents import delegating
from infra.scripted_model.replies import Reply, ToolUse

FIND = "find where pages is used"

_FOLDER = "/workspace/review"
_MAKE = f"""mkdir -p {_FOLDER}/old {_FOLDER}/new && cd {_FOLDER}
cat > old/pages.py <<'END'
def pages(items, size):
    count = (len(items) + size - 1) // size
    return [items[i * size:(i + 1) * size] for i in range(count)]
END
cat > new/pages.py <<'END'
def pages(items, size):
    count = len(items) // size
    return [items[i * size:(i + 1) * size] for i in range(count)]
END
cat > new/report.py <<'END'
from pages import pages


def lines(names):
    for page in pages(names, 10):
        yield ", ".join(page)
END
diff -u old/pages.py new/pages.py || true"""
_TRY = (
    f'cd {_FOLDER} && for v in old new; do echo "$v: $(cd $v && python3 -c '
    "'from pages import pages; print(pages(list(range(5)), 2))')\"; done"
)


def _read(scene: Scene) -> Reply:
    return say(
        "The demo has no project, so I bring a patch of my own, “Simplify pages”, and read it.",
        bash(_MAKE, "Lay out the patch and read it"),
        thought="Read the whole change first, then the code around it.",
    )


def _look_around(scene: Scene) -> Reply:
    said = f"{shown(scene.last)}\n\nThe rounding changed. "
    return delegating(scene, f"{said}Who depends on it?", to="finder", task=FIND)


def _reproduce(scene: Scene) -> Reply:
    return say(
        "I suspect that the last page is lost if it is not full. I try it.",
        bash(_TRY, "Run the old and the new version"),
    )


def _report(scene: Scene) -> Reply:
    if scene.last.is_error:
        return say(f"I could not run it here, so this is a suspicion:\n\n{shown(scene.last)}")
    return say(
        "**Do not merge it as it is.** One finding:\n\n"
        "1. **`new/pages.py:2`, wrong result.** `len(items) // size` drops the last page if it is "
        "not full: five items in pages of two lose the fifth, and fewer items than a page give "
        f"nothing. `new/report.py:5` would leave out names.\n\n{shown(scene.last)}\n\n"
        "   Instead: keep the rounding up, `-(-len(items) // size)`, and add a test with a last "
        "page that is not full.\n\n"
        "Tried: both versions, above. Not tried: sizes of zero, which fail before and after."
    )


def _act(scene: Scene) -> Reply:
    return play(scene, (_read, _look_around, _reproduce, _report))


def find(scene: Scene) -> Reply:
    """What the reviewer's finder does."""
    call = ToolUse(
        "Grep",
        {"pattern": r"pages\(", "path": f"{_FOLDER}/new", "output_mode": "content", "-n": True},
    )
    return play(scene, [lambda _: say("", call), lambda s: say(s.last.text or "Nothing found.")])


REVIEWER = AgentDemo(
    name="reviewer",
    role="You review changes of code",
    words=("Review the patch, please.",),
    act=_act,
)
