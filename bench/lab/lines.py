"""Lines over sizes, as SVG: panels side by side, both scales logarithmic."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, LEGEND = 380, 330, 52, 34, 40, 26
# Told apart also without colours: Okabe and Ito's, and dashes.
COLOURS = ["#000000", "#e69f00", "#d55e00", "#56b4e9", "#009e73", "#cc79a7"]
DASHES = ["", "6 3", "2 2", "8 3 2 3", "", "4 4"]


@dataclass
class Panel:
    """Values by line, one for each size; all above 0."""

    title: str
    lines: dict[str, list[float]]


def _decades(values: list[float]) -> list[float]:
    """Powers of ten around all values."""
    low = math.floor(math.log10(min(values)))
    high = math.ceil(math.log10(max(values)))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]


def _text(x: float, y: float, words: str, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{html.escape(words)}</text>'


def _panel(panel: Panel, sizes: list[str], left: float) -> list[str]:
    ticks = _decades([value for line in panel.lines.values() for value in line])
    low, high = math.log10(ticks[0]), math.log10(ticks[-1])
    x0, x1, y0, y1 = left + LEFT, left + WIDTH - 12, HEIGHT - BOTTOM, TOP
    across = lambda at: x0 + (x1 - x0) * (at + 0.5) / len(sizes)  # noqa: E731
    up = lambda value: y0 - (y0 - y1) * (math.log10(value) - low) / (high - low)  # noqa: E731
    out = [_text(left + LEFT, 20, panel.title, size=12)]
    for tick in ticks:
        out.append(f'<path d="M{x0} {up(tick):.1f}H{x1}" stroke="#ccc" stroke-width="0.7"/>')
        out.append(_text(x0 - 6, up(tick) + 4, f"{tick:g}", "end"))
    out += [_text(across(at), y0 + 18, size, "middle") for at, size in enumerate(sizes)]
    for (name, values), colour, dash in zip(panel.lines.items(), COLOURS, DASHES):
        points = " ".join(f"{across(at):.1f},{up(value):.1f}" for at, value in enumerate(values))
        out.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8" '
            f'stroke-dasharray="{dash}"><title>{html.escape(name)}</title></polyline>'
        )
    return out


def svg(panels: list[Panel], sizes: list[str]) -> str:
    """A picture with one legend for all panels, whose lines have the same names."""
    width = WIDTH * len(panels)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT + LEGEND}" '
        'font-family="sans-serif" fill="#222">',
        f'<rect width="{width}" height="{HEIGHT + LEGEND}" fill="#fff"/>',
    ]
    for at, panel in enumerate(panels):
        out += _panel(panel, sizes, at * WIDTH)
    for at, (name, colour, dash) in enumerate(zip(panels[0].lines, COLOURS, DASHES)):
        x = LEFT + at * (width - LEFT) / len(panels[0].lines)
        out.append(
            f'<path d="M{x:.1f} {HEIGHT}h24" stroke="{colour}" stroke-width="1.8" stroke-dasharray="{dash}"/>'
        )
        out.append(_text(x + 30, HEIGHT + 4, name))
    return "\n".join([*out, "</svg>"]) + "\n"
