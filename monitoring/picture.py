"""Draws the board of grafana.json as Grafana lays it out, from what Prometheus has answered to its queries.

For the picture in docs/, since Grafana cannot be had where the tests run. Knows the two kinds of panel that the board has.
"""

import math
import time
from html import escape

COLORS = ["#56a64b", "#f2cc0c", "#3274d9", "#ff780a", "#e02f44", "#8ab8ff", "#a352cc", "#c4162a", "#7c2ea3", "#37872d"]
NAMED = {"green": "#56a64b", "red": "#e02f44", "blue": "#3274d9"}
COLUMN, ROW, GAP = 50, 30, 8

STYLE = f"""
* {{ box-sizing: border-box }}
body {{ margin: 0; width: {24 * COLUMN + GAP}px; background: #f4f5f5; color: #24292e; font: 12px Inter, "DejaVu Sans", sans-serif }}
header {{ padding: 14px {GAP + 4}px 6px; font-size: 17px }}
header span {{ float: right; font-size: 12px; color: #6e7780; padding-top: 4px }}
main {{ position: relative }}
section {{ position: absolute; background: white; border: 1px solid #e2e4e6; border-radius: 3px; padding: 8px 10px }}
h2 {{ margin: 0; font-size: 13px; font-weight: 600; white-space: nowrap }}
.value {{ font-size: 34px; text-align: center; padding-top: 30px; white-space: nowrap }}
ul {{ margin: 2px 0 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: 1px 12px; color: #4f565d; font-size: 11px }}
li::before {{ content: ""; display: inline-block; width: 14px; height: 4px; border-radius: 2px; background: var(--color); margin: 0 5px 2px 0 }}
text {{ font-size: 10.5px; fill: #6e7780 }}
"""


def shown(value, unit):
    """A value as Grafana writes it."""
    if unit == "bytes":
        for name in ["B", "KiB", "MiB", "GiB"]:
            if abs(value) < 1024 or name == "GiB":
                return f"{value:.3g} {name}"
            value /= 1024
    if unit == "s" and abs(value) < 1:
        return f"{value * 1000:.3g} ms"
    text = f"{value / 1000:.3g} K" if abs(value) >= 1000 else f"{value:.3g}"
    return text + (" s" if unit == "s" else "")


def ticks(most, base):
    """Round values from 0 to at least `most`, about four."""
    least = most / 4
    size = base ** math.floor(math.log(least, base))
    steps = [1, 2, 2.5, 5, 10] if base == 10 else [2 ** n for n in range(11)]
    step = next(size * factor for factor in steps if size * factor >= least * 0.999)
    return [step * n for n in range(math.ceil(most / step) + 1)]


def stat(panel, series):
    defaults = panel["fieldConfig"]["defaults"]
    value = series[0][1][-1][1]
    text, color = shown(round(value) if defaults.get("decimals") == 0 else value, defaults["unit"]), "blue"
    for mapping in defaults["mappings"]:
        options = mapping["options"]
        if mapping["type"] == "value" and f"{value:g}" in options:
            text, color = options[f"{value:g}"]["text"], options[f"{value:g}"]["color"]
        elif mapping["type"] == "range" and options["from"] <= value <= options["to"]:
            text, color = options["result"]["text"], options["result"]["color"]
    return f'<div class="value" style="color: {NAMED[color]}">{escape(text)}</div>'


def graph(panel, series, begin, end, width, height):
    unit = panel["fieldConfig"]["defaults"]["unit"]
    legend = "".join(f'<li style="--color: {color}">{escape(name)}</li>' for (name, _), color in zip(series, COLORS))
    # As far as the legend goes over more than one line.
    lines = math.ceil(sum(33 + 6.3 * len(name) for name, _ in series) / width)
    height -= 24 + 16 * max(lines, 1)
    most = max((value for _, points in series for _, value in points), default=0) or 1
    marks = ticks(most, 1024 if unit == "bytes" else 10)
    left, bottom = 12 + max(6 * len(shown(mark, unit)) for mark in marks), height - 20
    x = lambda at: left + (at - begin) / (end - begin) * (width - left - 14)
    y = lambda value: bottom - value / marks[-1] * (bottom - 8)
    drawn = []
    for mark in marks:
        drawn.append(f'<path d="M{left} {y(mark):.1f}H{width}" stroke="#e8eaec"/>'
                     f'<text x="{left - 6}" y="{y(mark) + 3.5:.1f}" text-anchor="end">{shown(mark, unit)}</text>')
    every = next(step for step in [5, 10, 15, 30, 60, 120, 300] if (end - begin) / step <= width / 75)
    for at in range(math.ceil(begin / every) * every, math.floor(end) + 1, every):
        drawn.append(f'<path d="M{x(at):.1f} 8V{bottom}" stroke="#eff0f1"/>'
                     f'<text x="{x(at):.1f}" y="{height - 5}" text-anchor="middle">{time.strftime("%H:%M:%S", time.gmtime(at))}</text>')
    for (_, points), color in zip(series, COLORS):
        # A gap where there is no sample.
        step = min((later[0] - at[0] for at, later in zip(points, points[1:])), default=1)
        runs = [[]]
        for point in points:
            if runs[-1] and point[0] - runs[-1][-1][0] > 1.5 * step:
                runs.append([])
            runs[-1].append(point)
        for run in filter(None, runs):
            line = "L".join(f"{x(at):.1f} {y(value):.1f}" for at, value in run)
            drawn.append(f'<path d="M{line}V{bottom}H{x(run[0][0]):.1f}Z" fill="{color}" fill-opacity=".1"/>'
                         f'<path d="M{line}" fill="none" stroke="{color}" stroke-width="1.5" stroke-linejoin="round"/>')
    return f'<svg width="{width}" height="{height}">{"".join(drawn)}</svg><ul>{legend}</ul>'


def page(board, answers, begin, end):
    """`answers` has, for the id of each panel, its series: a legend, and points of time and value."""
    sections = []
    for panel in board["panels"]:
        at = panel["gridPos"]
        width, height = at["w"] * COLUMN - GAP, at["h"] * (ROW + GAP) - GAP
        series = answers[panel["id"]]
        if panel["type"] == "stat":
            body = stat(panel, series)
        else:
            body = graph(panel, series, begin, end, width - 22, height - 18)
        sections.append(f'<section style="left: {at["x"] * COLUMN + GAP}px; top: {at["y"] * (ROW + GAP)}px; '
                        f'width: {width}px; height: {height}px"><h2>{escape(panel["title"])}</h2>{body}</section>')
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) * (ROW + GAP)
    day = time.strftime("%Y-%m-%d", time.gmtime(end))
    return (f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style><header>{escape(board["title"])}<span>{day}, UTC</span></header>'
            f'<main style="height: {bottom}px">{"".join(sections)}</main>')
