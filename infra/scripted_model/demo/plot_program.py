"""The program that the demo draws plots with, as text: it runs in the agent's sandbox. Pure.

With matplotlib where some Python there has it; otherwise a plainer picture by the standard library.
"""

from __future__ import annotations

from collections.abc import Sequence

_PROGRAM = '''\
"""Draws a plot into outputs: with matplotlib, or a plainer one without it."""
import math
from pathlib import Path

FORMULA = {formula!r}
VALUES = {values!r}
OUTPUTS = Path("outputs")

if FORMULA:
    known = ("sin", "cos", "tan", "exp", "log", "sqrt", "pi", "e")
    names = {{name: getattr(math, name) for name in known}}
    xs = [i / 25 for i in range(-157, 158)]
    points = []
    for x in xs:
        try:
            points.append((x, float(eval(FORMULA, {{"__builtins__": {{}}}}, names | {{"x": x}}))))
        except (ArithmeticError, ValueError):
            pass  # Not defined there.
    title = "y = " + FORMULA
else:
    points = list(enumerate(VALUES, 1))
    title = ", ".join(format(value, "g") for value in VALUES)


def with_matplotlib():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    if FORMULA:
        axes.plot(*zip(*points))
    else:
        axes.bar([x for x, _ in points], [y for _, y in points])
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.savefig(OUTPUTS / "plot.png", dpi=120)
    return "plot.png with matplotlib " + matplotlib.__version__


def without():
    low, high = min(y for _, y in points), max(y for _, y in points)
    left, right = points[0][0], points[-1][0]
    place = [
        (20 + 660 * (x - left) / ((right - left) or 1), 380 - 340 * (y - low) / ((high - low) or 1))
        for x, y in points
    ]
    line = " ".join("%.1f,%.1f" % one for one in place)
    (OUTPUTS / "plot.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 400" style="background:white">'
        '<polyline fill="none" stroke="#1f77b4" stroke-width="2" points="' + line + '"/></svg>'
    )
    return "plot.svg without matplotlib, which no Python here has"


OUTPUTS.mkdir(exist_ok=True)
try:
    made = with_matplotlib()
except ImportError:
    made = without()
print("Drew " + title + " into outputs/" + made + ".")
'''


def plot_program(formula: str | None, values: Sequence[float]) -> str:
    """The program for a formula of x, or for some values."""
    return _PROGRAM.format(formula=formula, values=list(values))
