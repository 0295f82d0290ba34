"""How every picture looks: size, colours, title, attribution, and how it is written."""

from __future__ import annotations

import io
import math
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from parallel_city_ros.files import write_atomically

DPI = 160
WIDTH_IN = 10.0         # 1600 px; letters stay readable when shown at 1200 px

# Okabe & Ito (2008): told apart with every common kind of colour blindness.
SORTIE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
EVENT_COLOUR = "#D55E00"
BOTH_COLOUR = "#A8488A"     # seen twice: a reddish purple darker than the palette's
EXTRA_COLOUR, MISSED_COLOUR = "#009E73", "#000000"
BAND_COLOUR = "#00795a"
INK, SOFT_INK = "#1f2328", "#59616b"
BUILDING_GREYS = ("#d9d9d6", "#4a4d52")     # low to high
PALE_GREYS = ("#ececea", "#b4b6b8")         # the same, behind colours

HALO = dict(boxstyle="round,pad=0.25", facecolor="white", edgecolor="none", alpha=0.88)


def colour(number: int) -> str:
    """Colour of a sortie by its number, which starts at 1."""
    return SORTIE_COLOURS[(number - 1) % len(SORTIE_COLOURS)]


def dark(hex_colour: str, share: float = 0.45) -> tuple[float, float, float]:
    """The colour mixed with black: for a planned line drawn over the flown one."""
    return tuple(int(hex_colour[k:k + 2], 16) / 255 * (1 - share) for k in (1, 3, 5))


def new_figure(title: str, subtitle: str, attribution: str, height_in: float) -> Figure:
    """A white figure with headline, an explaining line under it and the map's attribution."""
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    top = 1 - 0.10 / height_in
    figure.text(0.02, top, title, va="top", size=14, weight="bold", color=INK)
    figure.text(0.02, top - 0.30 / height_in, subtitle, va="top", size=9.5, color=SOFT_INK,
                linespacing=1.35)
    figure.text(0.985, 0.08 / height_in, f"Map data: {attribution}" if attribution else "",
                ha="right", va="bottom", size=8, color=SOFT_INK)
    return figure


def plain_axes(axes, xlabel: str, ylabel: str) -> None:
    """Light grid, two spines, quiet labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b9bec4")
    axes.tick_params(colors=SOFT_INK, labelsize=8.5)
    axes.grid(color="#e6e8ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel, size=9.5, color=INK)
    axes.set_ylabel(ylabel, size=9.5, color=INK)


def save(figure: Figure, path: str | Path) -> Path:
    """Write the PNG; it is complete or absent, and the same picture gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
    return Path(path)


def number(value: float, digits: int = 0) -> str:
    """1 234.5 with a narrow space that does not break; a dash for what is not known."""
    if not math.isfinite(value):
        return "–"
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace(",", "\u202f")     # never -0


def percent(share: float, digits: int = 0) -> str:
    return f"{number(100 * share, digits)}\u202f%" if math.isfinite(share) else "–"
