"""The data analyst's table and program, as text: they run in the agent's sandbox. Pure."""

from __future__ import annotations

_MONTHS = ("2025-01", "2025-02", "2025-03", "2025-04", "2025-05", "2025-06", "2025-07", "2025-08")
_REVENUE = {
    "north": ("41200", "40800", "43100", "42600", "44000", "29300", "28800", "30100"),
    "south": ("30500", "31200", "31900", "32400", "33000", "33800", "34100", "34900"),
    "west": ("22100", "22400", "23000", "", "23900", "24300", "24100", "24800"),
}
SALES = "month,region,revenue\n" + "".join(
    f"{month},{region},{values[i]}\n"
    for i, month in enumerate(_MONTHS)
    for region, values in _REVENUE.items()
)
ANALYSIS = '''\
"""Revenue by month and region: a summary, a plot and a workbook."""
import csv
from pathlib import Path

TABLE, OUTPUTS = "sales.csv", Path("outputs")
OUTPUTS.mkdir(exist_ok=True)


def with_pandas():
    import matplotlib
    import pandas

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sales = pandas.read_csv(TABLE)
    print(len(sales), "rows,", int(sales["revenue"].isna().sum()), "without revenue")
    by_month = sales.pivot(index="month", columns="region", values="revenue")
    first, second = by_month.loc["2025-03":"2025-05"].mean(), by_month.loc["2025-06":].mean()
    print("change since June:")
    for region, change in ((second / first - 1) * 100).items():
        print(f"  {region:<6} {change:+.0f} %")

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    by_month.plot(ax=axes, marker="o")
    axes.set(title="Revenue by region", xlabel="", ylabel="revenue", ylim=(0, None))
    axes.grid(alpha=0.3)
    figure.savefig(OUTPUTS / "revenue.png", dpi=120)
    by_month.to_excel(OUTPUTS / "revenue.xlsx")
    print("made with pandas", pandas.__version__)


def without():
    with open(TABLE) as file:
        rows = list(csv.DictReader(file))
    print(len(rows), "rows,", sum(not row["revenue"] for row in rows), "without revenue")
    print("change since June:")
    for region in sorted({row["region"] for row in rows}):
        values = [
            (row["month"], float(row["revenue"]))
            for row in rows
            if row["region"] == region and row["revenue"]
        ]
        first = [value for month, value in values if "2025-03" <= month < "2025-06"]
        second = [value for month, value in values if month >= "2025-06"]
        change = (sum(second) / len(second)) / (sum(first) / len(first)) * 100 - 100
        print(f"  {region:<6} {change:+.0f} %")
    (OUTPUTS / "revenue.csv").write_text(Path(TABLE).read_text())
    print("made without pandas, so without a plot")


try:
    with_pandas()
except ImportError:
    without()
'''
