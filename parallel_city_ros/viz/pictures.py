"""The pictures of a patrol. Each function writes one PNG and returns its path.

They take what they have: one sortie or several, no event, no telemetry.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgb, to_rgba_array
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrow, Patch, Polygon
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogFormatter

from parallel_city_ros.city.twin import CityEvent
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.viz.scene import Camera, CityScene
from parallel_city_ros.viz.sortie import (
    Sortie,
    along,
    gap_to_event,
    kind_of,
    known_to,
    new_share,
    resample,
    surface_under,
)
from parallel_city_ros.viz.style import (
    BAND_COLOUR,
    BOTH_COLOUR,
    BUILDING_GREYS,
    EVENT_COLOUR,
    EXTRA_COLOUR,
    HALO,
    INK,
    MISSED_COLOUR,
    PALE_GREYS,
    SOFT_INK,
    colour,
    dark,
    new_figure,
    number,
    percent,
    plain_axes,
    save,
)

_GREYS = LinearSegmentedColormap.from_list("buildings", BUILDING_GREYS)
_PALE_GREYS = LinearSegmentedColormap.from_list("pale", PALE_GREYS)
_PROFILE = "#9a9ea3"
_WHITE_EDGE = [withStroke(linewidth=4.6, foreground="white")]


def draw_all(folder: str | Path, city_grid: VoxelGrid, sorties: Sequence[Sortie],
             events: Sequence[CityEvent]) -> list[tuple[Path, str]]:
    """Every picture, with the caption that it has in the report."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        (draw_city_3d(folder / "city_3d.png", city_grid, sorties, events),
         "The city as the planner sees it, every building a stack of cubes. Thin lines drop from "
         "a route to the roof or street below it; where a building hides a route it is pale."),
        (draw_map(folder / "map.png", city_grid, sorties, events),
         "The same flights from above. The dashed line is the plan, the broad line what was "
         "flown; the darker a building, the higher it is."),
        (draw_coverage(folder / "coverage.png", city_grid, sorties, events),
         "Ground and roofs that the camera saw. The last panel lays the flights over each other: "
         "ground seen twice is ground that the later flight could have spared itself."),
        (draw_altitude(folder / "altitude.png", city_grid, sorties, events),
         "Each flight from the side, over the roofs that lie under it. The arrow marks where the "
         "drone came closest to a roof below."),
        (draw_convergence(folder / "convergence.png", city_grid, sorties),
         "How the planner found the routes: the best patrol so far, against the number of "
         "patrols tried. Worths differ between sorties, so only the shape of curves compares."),
    ]


# --- what several pictures share ------------------------------------------------------------

def _plural(sorties) -> str:
    count = len(sorties)
    return {1: "One patrol sortie", 2: "Two patrol sorties"}.get(count, f"{count} patrol sorties")


def _headline(sorties, events) -> str:
    """Claims that the last sortie keeps clear only where that is so, and was not chance."""
    last = sorties[-1]
    if len(sorties) > 1 and events and all(
            known_to(last, e) and gap_to_event(line, e) > 0
            for e in events for line in (last.plan.path, last.track)):
        return f"{_plural(sorties)}: the last keeps clear of the {kind_of(events[-1])}"
    return f"{_plural(sorties)} over the city"


def _route_handles(sorties) -> list[Line2D]:
    handles = []
    for s in sorties:
        c = colour(s.number)
        handles += [
            Line2D([], [], color=c, linewidth=3, label=f"Sortie {s.number}, flown"),
            Line2D([], [], color=dark(c), linewidth=1.2, dashes=(4, 2),
                   label=f"Sortie {s.number}, planned")]
    return handles


def _event_patch(events) -> list[Patch]:
    if not events:
        return []
    return [Patch(facecolor="none", edgecolor=EVENT_COLOUR, hatch="////",
                  label=f"Closed block ({kind_of(events[0])})")]


def _runs(mask: np.ndarray) -> list[tuple[bool, slice]]:
    """Stretches of an (N,) mask, each reaching one point into the next so that lines join."""
    if len(mask) == 0:
        return []
    cuts = np.flatnonzero(np.diff(mask.astype(int))) + 1
    starts, ends = np.r_[0, cuts], np.r_[cuts, len(mask)]
    return [(bool(mask[a]), slice(a, min(b + 1, len(mask))))
            for a, b in zip(starts, ends, strict=True)]


def _free_side(at: np.ndarray, taken: np.ndarray, reach: tuple[float, float],
               frame: tuple[float, float, float, float]) -> np.ndarray:
    """(2,) offset from `at` to where a label is farthest from the (N, 2) points taken.

    reach : half width and half height of the way to go; frame : left, right, low, high to stay in
    """
    best, best_gap = np.zeros(2), -np.inf
    for angle in np.arange(8) * np.pi / 4:
        offset = np.array([np.cos(angle), np.sin(angle)]) * reach
        x, y = at + offset
        inside = frame[0] < x < frame[1] and frame[2] < y < frame[3]
        gap = np.linalg.norm((taken - at - offset) / reach, axis=1).min() if len(taken) else 0.0
        if inside and gap > best_gap + 1e-9:
            best, best_gap = offset, gap
    return best


def _ends(sorties) -> list[tuple[np.ndarray, str]]:
    """Places where flights begin and end, (3,) ENU metres, with their label; near ones merged."""
    places: list[tuple[np.ndarray, list[str]]] = []
    for s in sorties:
        for point, what in ((s.plan.path[0], "start"), (s.plan.path[-1], "goal")):
            for known, labels in places:
                if np.linalg.norm(known - point) < 15.0:
                    labels.append(f"{what} {s.number}")
                    break
            else:
                places.append((point, [f"{what} {s.number}"]))
    return [(point, " · ".join(labels).capitalize()) for point, labels in places]


def _label(axes, text, at, offset, ink=INK):
    axes.annotate(text, at, at + offset, ha="center", va="center", size=9, weight="bold",
                  color=ink, bbox=HALO, zorder=9, annotation_clip=False,
                  arrowprops=dict(arrowstyle="-", color=ink, linewidth=0.9, shrinkB=4))


def arrows(axes, line, c, spacing, size):
    """Arrow heads along an (N, 2) line, spacing in its units apart."""
    flat = np.c_[line, np.zeros(len(line))]
    length = along(flat)[-1]
    for at in np.arange(0.5, max(1, round(length / spacing))) * spacing:
        a, b = (np.array([np.interp(d, along(flat), line[:, k]) for k in (0, 1)])
                for d in (at - 0.01 * spacing, at + 0.01 * spacing))
        axes.annotate("", b, a, arrowprops=dict(
            arrowstyle="-|>", mutation_scale=size, facecolor=c, edgecolor="white",
            linewidth=0.8, shrinkA=0, shrinkB=0), zorder=7)


# --- the city in 3-D ------------------------------------------------------------------------

def _view(sorties, events, width, height) -> Camera:
    """From the side of the routes, so that they spread over the picture; sights to the north."""
    points = [s.plan.path for s in sorties]
    points += [s.plan.path * (1, 1, 0) for s in sorties]
    for event in events:
        ring = np.array(event.footprint)
        points += [np.c_[ring, np.full(len(ring), z)] for z in (event.lower_z, event.upper_z)]
    points = np.concatenate(points)
    level = points[:, :2] - points[:, :2].mean(axis=0)
    across = np.linalg.svd(level, full_matrices=False)[2][1]
    azimuth = np.arctan2(across[1], across[0])
    if np.sin(azimuth) < 0:
        azimuth += np.pi
    return Camera.looking_at(points, azimuth, np.radians(38), width, height)


def _to_linear(hex_colour) -> np.ndarray:
    return np.array(to_rgb(hex_colour)) ** 2.2


def draw_city_3d(path: str | Path, city_grid: VoxelGrid, sorties: Sequence[Sortie],
                 events: Sequence[CityEvent]) -> Path:
    """The twin in sunlight with routes, their drop lines and the closed blocks.

    city_grid : the base, without events, which are drawn as coloured blocks
    """
    height_in, foot, head = 7.1, 0.62, 0.66
    figure = new_figure(
        _headline(sorties, events),
        "The city in 3-D, every building to its height. Broad line: flown. Dashed: planned. "
        "Fine lines drop to what lies below.", city_grid.attribution, height_in)
    width, height = (int(n * figure.dpi) for n in (figure.get_figwidth(),
                                                    height_in - foot - head))
    camera = _view(sorties, events, width, height)
    sideways = np.arctan2(camera.axes[2, 1], camera.axes[2, 0]) + np.radians(125)
    sun = np.array([np.cos(sideways), np.sin(sideways), 0.95])
    scene = CityScene(city_grid, events, sun / np.linalg.norm(sun))
    axes = figure.add_axes((0, foot / height_in, 1, (height_in - foot - head) / height_in))
    axes.imshow(scene.render(camera, block_colour=_to_linear(EVENT_COLOUR)),
                extent=(0, width, height, 0), interpolation="none")
    axes.set_axis_off()
    axes.autoscale(False)
    taken = np.concatenate([_draw_route_3d(axes, scene, camera, s) for s in sorties])
    frame = (0.06 * width, 0.94 * width, 0.04 * height, 0.96 * height)
    reach = (0.075 * width, 0.075 * height)
    for point, text in _ends(sorties):
        at = camera.project(point[None])[0]
        axes.plot(*at, "o", markersize=7, color="white", markeredgecolor=INK, zorder=8)
        _label(axes, text, at, _free_side(at, taken, reach, frame))
    for event in events:
        centre = event.polygon.centroid
        at = camera.project([[centre.x, centre.y, event.upper_z]])[0]
        _label(axes, f"{kind_of(event).capitalize()}, up to {event.upper_z:.0f} m", at,
               _free_side(at, taken, reach, frame), EVENT_COLOUR)
    handles = _route_handles(sorties)
    if events:
        handles.append(Patch(facecolor=EVENT_COLOUR, label=f"Closed block ({kind_of(events[0])})"))
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.01, 0.22 / height_in),
                  ncols=5, frameon=False, fontsize=8.5, handlelength=2.2, columnspacing=1.4,
                  borderpad=0.2)
    return save(figure, path)


def _draw_route_3d(axes, scene, camera, s: Sortie) -> np.ndarray:
    """Returns the (N, 2) pixels that the route takes."""
    c = colour(s.number)
    planned = resample(s.plan.path, 3.0)[1]
    feet = s.plan.path.copy()
    feet[:, 2] = surface_under(s.grid, feet)
    ends = np.stack([camera.project(s.plan.path), camera.project(feet)], axis=1)
    clear = scene.visible(feet + (0, 0, 0.3), camera.eye)
    shades = to_rgba_array([c] * len(ends), np.where(clear, 0.55, 0.25))
    axes.add_collection(LineCollection(ends, colors=shades, linewidths=0.8, zorder=3))
    under = planned.copy()
    under[:, 2] = surface_under(s.grid, under) + 0.5
    axes.scatter(*camera.project(under)[scene.visible(under, camera.eye)].T, s=2.0, color="black",
                 alpha=0.28, linewidths=0, zorder=2)
    lines = [(planned, dict(color=dark(c), linewidth=1.0, dashes=(4, 2), zorder=6))]
    if len(s.track) > 1:
        lines.append((resample(s.track, 3.0)[1], dict(
            color=c, linewidth=2.8, path_effects=_WHITE_EDGE, solid_capstyle="round", zorder=5)))
    for points, look in lines:
        pixels, seen = camera.project(points), scene.visible(points, camera.eye)
        for clear, run in _runs(seen):
            pale = {} if clear else dict(alpha=0.35, path_effects=[])
            axes.plot(*pixels[run].T, **look | pale)
    arrows(axes, camera.project(planned), c, 0.13 * camera.width, 15)
    return camera.project(planned)


# --- from above -----------------------------------------------------------------------------

def _window(city_grid, sorties, events, margin=70.0) -> tuple[float, float, float, float]:
    """Part of the map around all routes and events: west, east, south, north in metres."""
    points = [s.plan.path[:, :2] for s in sorties] + [s.track[:, :2] for s in sorties]
    points = np.concatenate(points + [np.array(e.footprint) for e in events])
    lower, upper = city_grid.origin[:2], city_grid.origin[:2] + np.array(
        city_grid.surface.shape) * city_grid.resolution
    low = np.maximum(points.min(axis=0) - margin, lower)
    high = np.minimum(points.max(axis=0) + margin, upper)
    return low[0], high[0], low[1], high[1]


def _extent(grid) -> tuple[float, float, float, float]:
    """West, east, south, north of the whole grid, metres."""
    (x, y), (nx, ny) = grid.origin[:2], grid.surface.shape
    return x, x + nx * grid.resolution, y, y + ny * grid.resolution


def show_buildings(axes, grid, window, cmap=_GREYS, **how):
    heights = np.where(grid.built, grid.surface - grid.ground, np.nan)
    image = axes.imshow(heights.T, origin="lower", extent=_extent(grid), cmap=cmap,
                        interpolation="nearest", vmin=0, **how)
    axes.set_xlim(window[:2])
    axes.set_ylim(window[2:])
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#b9bec4")
    return image


def _hatch(axes, events, **look):
    for event in events:
        axes.add_patch(Polygon(event.footprint, closed=True, facecolor="#ffffff90",
                               edgecolor=EVENT_COLOUR, hatch="////", linewidth=1.6, **look))


def explain_beside(figure, axes, image, window, **legend):
    """Legend, heights of buildings, scale and north beside a map, wherever its shape left it.

    legend : arguments of Figure.legend
    """
    figure.canvas.draw()
    right = axes.get_window_extent().x1 / figure.bbox.width + 0.015
    top = axes.get_window_extent().y1 / figure.bbox.height
    drawn = figure.legend(loc="upper left", bbox_to_anchor=(right, top), frameon=False,
                          fontsize=9, borderpad=0, **legend)
    figure.canvas.draw()
    low = drawn.get_window_extent().y0 / figure.bbox.height
    bar = figure.add_axes((right + 0.01, low - 0.10, 0.15, 0.016))
    colours = figure.colorbar(image, cax=bar, orientation="horizontal")
    colours.outline.set_visible(False)
    colours.ax.tick_params(labelsize=8, colors=SOFT_INK)
    colours.ax.set_title("Height of buildings, m", size=9, color=INK, loc="left")
    _scale_and_north(figure, axes, window, right + 0.01, low - 0.22)


def _scale_and_north(figure, axes, window, x, y):
    """Scale bar and north arrow beside a map, from (x, y) in shares of the figure."""
    share = axes.get_window_extent().width / figure.bbox.width / (window[1] - window[0])
    longest = 0.13 / share
    step = 10.0 ** np.floor(np.log10(longest))
    length = step * max(k for k in (1, 2, 5) if k * step <= longest)
    tall = 0.14 / figure.get_figheight()
    bar = dict(color=INK, linewidth=1.2, solid_capstyle="butt")
    figure.add_artist(Line2D([x, x, x + share * length, x + share * length],
                             [y + tall / 2, y, y, y + tall / 2], **bar))
    figure.text(x + share * length / 2, y + 0.25 * tall, f"{length:g} m", ha="center",
                va="bottom", size=9, color=INK)
    figure.add_artist(FancyArrow(x + 0.175, y, 0, 1.6 * tall, width=0.0015, head_width=0.010,
                                 head_length=0.9 * tall, color=INK, transform=figure.transFigure,
                                 length_includes_head=False))
    figure.text(x + 0.190, y + tall, "N", size=11, weight="bold", color=INK, va="center")


def draw_map(path: str | Path, city_grid: VoxelGrid, sorties: Sequence[Sortie],
             events: Sequence[CityEvent]) -> Path:
    """Routes planned and flown over building heights, from above."""
    window = _window(city_grid, sorties, events)
    tall = (window[3] - window[2]) / (window[1] - window[0])
    side, head, foot = 2.2, 0.78, 0.32
    wide = 10.0 - side - 0.3
    height_in = float(np.clip(wide * tall + head + foot, 4.5, 9.5))
    figure = new_figure(
        _headline(sorties, events), "The flights from above. Broad line: flown. Dashed: planned. "
        "Dots: where the camera takes its pictures.", city_grid.attribution, height_in)
    axes = figure.add_axes((0.02, foot / height_in, wide / 10, 1 - (head + foot) / height_in),
                           anchor="W")
    image = show_buildings(axes, city_grid, window)
    _hatch(axes, events, zorder=3)
    for s in sorties:
        c = colour(s.number)
        if len(s.track) > 1:
            axes.plot(*s.track[:, :2].T, color=c, linewidth=2.8, path_effects=_WHITE_EDGE,
                      zorder=5)
        axes.plot(*s.plan.path[:, :2].T, color=dark(c), linewidth=1.0, dashes=(4, 2), marker="o",
                  markersize=2.4, zorder=6)
        arrows(axes, s.plan.path[:, :2], c, 0.25 * (window[1] - window[0]), 17)
    taken = np.concatenate([resample(s.plan.path, 10.0)[1][:, :2] for s in sorties])
    reach = (0.11 * (window[1] - window[0]), 0.055 * (window[3] - window[2]))
    room = (window[0] + reach[0], window[1] - reach[0],
            window[2] + 0.4 * reach[1], window[3] - 0.4 * reach[1])
    for point, text in _ends(sorties):
        axes.plot(*point[:2], "o", markersize=8, color="white", markeredgecolor=INK,
                  markeredgewidth=1.4, zorder=8)
        _label(axes, text, point[:2], _free_side(point[:2], taken, reach, room))
    for event in events:
        at = np.array(event.polygon.centroid.coords[0])
        _label(axes, f"{kind_of(event).capitalize()}: closed\nup to {event.upper_z:.0f} m", at,
               _free_side(at, taken, np.multiply(reach, 1.3), room), EVENT_COLOUR)
    explain_beside(figure, axes, image, window,
                   handles=_route_handles(sorties) + _event_patch(events), labelspacing=0.7)
    return save(figure, path)


# --- what was seen --------------------------------------------------------------------------

def draw_coverage(path: str | Path, city_grid: VoxelGrid, sorties: Sequence[Sortie],
                  events: Sequence[CityEvent]) -> Path:
    """One panel a sortie, planned against flown; with several, one with all of them."""
    window = _window(city_grid, sorties, events)
    tall = (window[3] - window[2]) / (window[1] - window[0])
    several = len(sorties) > 1
    panels = len(sorties) + several
    gap, head, foot = 0.12, 1.12, 1.0
    wide = (10.0 - 0.4 - gap * (panels - 1)) / max(panels, 2)
    height_in = wide * tall + head + foot
    fresh = new_share(sorties, sorties[-1])
    figure = new_figure(
        f"What the cameras saw: {percent(fresh)} of sortie {sorties[-1].number}'s view was new"
        if several and np.isfinite(fresh) else "What the camera saw",
        "Coloured: ground and roofs in the camera's view and not hidden behind buildings.",
        city_grid.attribution, height_in)
    for k in range(panels):
        axes = figure.add_axes((
            (0.2 + k * (wide + gap)) / 10, foot / height_in, wide / 10, wide * tall / height_in))
        show_buildings(axes, city_grid, window, _PALE_GREYS)
        shown = sorties[k:k + 1] or sorties
        (_show_one if k < len(sorties) else _show_together)(axes, city_grid, shown)
        _hatch(axes, [e for e in events if any(known_to(s, e) for s in shown)], zorder=4)
        for s in shown:
            axes.plot(*s.plan.path[:, :2].T, color=dark(colour(s.number)), linewidth=0.9,
                      zorder=5)
    _coverage_legend(figure, sorties, events, foot / height_in)
    _scale_and_north(figure, axes, window, 0.78, (foot - 0.35) / height_in)
    return save(figure, path)


def _show_one(axes, grid, shown):
    (s,) = shown
    _show_masks(axes, grid, [(s.planned_seen & s.flown_seen, colour(s.number)),
                             (s.planned_seen & ~s.flown_seen, MISSED_COLOUR),
                             (~s.planned_seen & s.flown_seen, EXTRA_COLOUR)])
    _panel_title(axes, f"Sortie {s.number} saw {s.seen_km2(s.flown_seen):.3f} km²",
                 f"{percent(s.flown_seen.mean(), 1)} of the map; "
                 f"planned {s.seen_km2(s.planned_seen):.3f} km²")


def _show_together(axes, grid, sorties):
    times = sum(s.flown_seen.astype(int) for s in sorties)
    layers = [(s.flown_seen & (times == 1), colour(s.number)) for s in sorties]
    _show_masks(axes, grid, [*layers, (times > 1, BOTH_COLOUR)])
    area = sorties[0].seen_km2
    _panel_title(axes, f"Together {area(times > 0):.3f} km²",
                 f"{percent((times > 0).mean(), 1)} of the map; "
                 f"seen twice {area(times > 1):.3f} km²")


def _panel_title(axes, title, below):
    axes.annotate(title, (0, 1), (0, 19), xycoords="axes fraction", textcoords="offset points",
                  size=10.5, weight="bold", color=INK)
    axes.annotate(below, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points",
                  size=9, color=SOFT_INK)


def _show_masks(axes, grid, masks):
    """Lay (nx, ny) masks over the map, each in its colour."""
    image = np.zeros((*grid.surface.shape, 4))
    for mask, c in masks:
        image[mask] = (*to_rgb(c), 0.72)
    axes.imshow(image.transpose(1, 0, 2), origin="lower", extent=_extent(grid),
                interpolation="nearest", zorder=2)
    axes.autoscale(False)


def _coverage_legend(figure, sorties, events, top):
    alike = [Patch(color=colour(s.number), alpha=0.72, label=f"Seen by sortie {s.number}")
             for s in sorties]
    if len(sorties) > 1:
        alike.append(Patch(color=BOTH_COLOUR, alpha=0.72, label="Seen by more than one"))
    alike += [Patch(color=MISSED_COLOUR, alpha=0.72, label="Planned, but missed"),
              Patch(color=EXTRA_COLOUR, alpha=0.72, label="Seen, not planned"),
              Line2D([], [], color=SOFT_INK, linewidth=1, label="Route"), *_event_patch(events)]
    figure.legend(handles=alike, loc="upper left", bbox_to_anchor=(0.012, top - 0.01),
                  ncols=-(-len(alike) // 3), frameon=False, fontsize=8.8)


# --- from the side --------------------------------------------------------------------------

def draw_altitude(path: str | Path, city_grid: VoxelGrid, sorties: Sequence[Sortie],
                  events: Sequence[CityEvent]) -> Path:
    """Altitude along each route over the roofs under it, with the band that it may use."""
    head, foot, each = 0.60, 0.98, 2.55
    height_in = head + foot + each * len(sorties)
    figure = new_figure(
        "From the side: how high the drone flew above roofs and streets",
        "Grey: buildings right under the route. The drone must stay in the green band; "
        "below the dotted line people hear it.", city_grid.attribution, height_in)
    longest = max(s.plan.length_m for s in sorties)
    for k, s in enumerate(sorties):
        low = foot + each * (len(sorties) - 1 - k)
        axes = figure.add_axes((0.075, low / height_in, 0.775, (each - 0.52) / height_in))
        _draw_profile(axes, city_grid, s, events)
        plain_axes(axes, "Metres along the route" if s is sorties[-1] else "",
                   "Metres above ground")
        axes.set_xlim(0, longest)
        axes.set_title(f"Sortie {s.number}", size=10.5, color=INK, loc="left", weight="bold")
    handles = [*_route_handles(sorties), Patch(color=_PROFILE, label="Buildings under the route"),
               *_event_patch(events)]
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.01, 0.05 / height_in),
                  ncols=3, frameon=False, fontsize=8.5, columnspacing=1.4)
    return save(figure, path)


def _draw_profile(axes, city_grid, s: Sortie, events):
    task, c = s.plan.task, colour(s.number)
    at, points = resample(s.plan.path, 1.0)
    ground = city_grid.ground_at(points)
    axes.fill_between(at, 0, surface_under(city_grid, points) - ground, color=_PROFILE,
                      linewidth=0, zorder=2)
    for event in events:
        _draw_block(axes, at, points, s, event)
    axes.axhspan(task.min_altitude, task.max_altitude, color=EXTRA_COLOUR, alpha=0.08,
                 linewidth=0, zorder=1)
    for level, text, ink, look in (
            (task.min_altitude, "lowest allowed", BAND_COLOUR, "-"),
            (task.max_altitude, "highest allowed", BAND_COLOUR, "-"),
            (task.noise_altitude, "heard below", INK, ":")):
        axes.axhline(level, color=ink, linestyle=look, linewidth=1.0, zorder=2)
        axes.annotate(f"{text} {level:g} m", (1, level), (5, 0), textcoords="offset points",
                      xycoords=("axes fraction", "data"), size=8, color=ink, va="center")
    flown_at, flown = s.flown_along
    if len(flown):
        axes.plot(flown_at, flown[:, 2] - city_grid.ground_at(flown), color=c, linewidth=2.8,
                  zorder=5, path_effects=_WHITE_EDGE)
    axes.plot(at, points[:, 2] - ground, color=dark(c), linewidth=1.0, dashes=(4, 2), zorder=6)
    _mark_clearance(axes, s)
    axes.set_ylim(0, 1.12 * max(task.noise_altitude, task.max_altitude,
                                (points[:, 2] - ground).max(),
                                *(e.upper_z - _ground_of(s, e) for e in events)))


def _ground_of(s: Sortie, event) -> float:
    return float(s.grid.ground_at(event.polygon.centroid.coords[0]))


def _draw_block(axes, at, points, s: Sortie, event):
    """The stretches of a route over an event's footprint, and whether the plan knew of it."""
    over = shapely.dwithin(event.polygon, shapely.points(points[:, :2]), s.grid.resolution)
    ground = _ground_of(s, event)
    for crossing, run in _runs(over):
        if not crossing:
            continue
        axes.fill_between([at[run][0], at[run][-1]], event.lower_z - ground,
                          event.upper_z - ground, facecolor="none", edgecolor=EVENT_COLOUR,
                          hatch="////", zorder=3)
        name = kind_of(event).capitalize()
        left = at[run][-1] > 0.7 * at[-1]
        axes.annotate(name if known_to(s, event) else f"{name}: not yet there when planned",
                      (at[run][0 if left else -1], event.upper_z - ground),
                      (-5 if left else 5, 4), textcoords="offset points",
                      ha="right" if left else "left", va="bottom", size=8.5, weight="bold",
                      color=EVENT_COLOUR, zorder=7)


def _mark_clearance(axes, s: Sortie):
    """An arrow where the drone is least high above what is under it."""
    at, line = s.flown_along
    if len(line) < 2:
        at, line = resample(s.plan.path, 1.0)
    roofs = surface_under(s.grid, line)
    k = int(np.argmin(line[:, 2] - roofs))
    gap, ground = float(line[k, 2] - roofs[k]), float(s.grid.ground_at(line[k]))
    axes.annotate("", (at[k], roofs[k] - ground), (at[k], line[k, 2] - ground), zorder=7,
                  arrowprops=dict(arrowstyle="<->", color=INK, linewidth=1.1, shrinkA=0,
                                  shrinkB=0))
    right = k < len(at) * 0.8
    axes.annotate(f"{gap:.0f} m above the roof" if roofs[k] > ground + s.grid.resolution else
                  f"{gap:.0f} m above the street",
                  (at[k], (roofs[k] + line[k, 2]) / 2 - ground), (6 if right else -6, 0),
                  textcoords="offset points", ha="left" if right else "right", va="center",
                  size=8.5, color=INK, bbox=HALO, zorder=7)


# --- the search -----------------------------------------------------------------------------

def draw_convergence(path: str | Path, city_grid: VoxelGrid, sorties: Sequence[Sortie]) -> Path:
    """Fitness of the best path so far against evaluations; less is better."""
    height_in = 5.4
    figure = new_figure(
        "How the planner improved each route",
        "F is carbon times noise for each km² seen: lower is better. Ground seen before counts "
        "less,\nso compare how the curves fall, not how high they lie.",
        city_grid.attribution, height_in)
    axes = figure.add_axes((0.085, 0.19, 0.78, 0.61))
    for s in sorties:
        _draw_search(axes, s)
    plain_axes(axes, "Patrols tried (evaluations)", "Fitness F of the best so far (log scale)")
    axes.set_yscale("log")
    axes.grid(which="minor", axis="y", color="#f0f1f2", linewidth=0.6)
    for fix in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        fix(_RoundNumbers(minor_thresholds=(1.5, 0.5)))
    axes.tick_params(which="both", colors=SOFT_INK, labelsize=8.5)
    axes.set_xlim(left=0)
    handles = [Line2D([], [], color=colour(s.number), linewidth=2.4,
                      label=f"Sortie {s.number}") for s in sorties]
    if any(g["violation"] > 0 for s in sorties for g in s.convergence):
        handles.append(Line2D([], [], color=SOFT_INK, marker="x", linestyle="none",
                              label="the best so far still breaks a rule"))
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.01, 0.005), frameon=False,
                  fontsize=9, ncols=len(handles))
    return save(figure, path)


class _RoundNumbers(LogFormatter):
    """12 000 in place of 1.2 × 10⁴."""

    def _num_to_string(self, x, vmin, vmax):
        return number(x, 0 if x >= 10 else 3)


def _draw_search(axes, s: Sortie):
    tried, fitness, violation = (np.array([g[key] for g in s.convergence], float)
                                 for key in ("evaluations", "fitness", "violation"))
    usable = np.isfinite(fitness) & (fitness > 0)
    kept = usable & (violation == 0)
    broken = usable & ~kept
    c = colour(s.number)
    axes.plot(tried[broken], fitness[broken], "x", color=c, markersize=6, markeredgewidth=1.4)
    axes.plot(tried[kept], fitness[kept], color=c, linewidth=2.4, drawstyle="steps-post")
    if kept.any():
        x, y = tried[kept][-1], fitness[kept][-1]
        axes.plot(x, y, "o", color=c, markersize=6)
        axes.annotate(f"Sortie {s.number}\nF = {number(y)}", (x, y), (8, 0),
                      textcoords="offset points", va="center", size=9, weight="bold", color=INK,
                      annotation_clip=False)
