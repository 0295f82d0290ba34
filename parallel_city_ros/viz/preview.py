"""A city file at a glance: how high everything is, and how well that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize, to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke

from parallel_city_ros.city import rasterise
from parallel_city_ros.city.model import City, HeightSource
from parallel_city_ros.city.rasterise import CHUNK
from parallel_city_ros.city.terrain import highest_in_columns
from parallel_city_ros.city.voxels import VoxelGrid, voxelise
from parallel_city_ros.city.zones import Zone, ZoneKind
from parallel_city_ros.viz.style import INK, SOFT_INK, new_figure, number, percent, save

MOST_PIXELS = 1400          # along one side of the map: more are not seen in the picture
SQUARE = 64                 # chunks along one side of what is looked at at once
SUN = np.array([-1.0, 1.0]) / np.sqrt(2)    # from the north-west, as maps are lit
SUN_HEIGHT = np.radians(40)
LONGEST_SHADOW_M = 150.0
ZONE_COLOURS = {ZoneKind.NO_FLY: "#B2182B", ZoneKind.PRIVACY: "#0072B2",
                ZoneKind.NOISE_SENSITIVE: "#007A5A", ZoneKind.PRIORITY: "#A8488A"}
NAMED_SHARE = 0.005         # of the map that a zone takes whose name is written
SOURCE_COLOURS = {HeightSource.ASSUMED: "#D55E00", HeightSource.LEVELS: "#0072B2"}
SOURCE_HATCHES = {HeightSource.ASSUMED: "/////", HeightSource.LEVELS: "...."}
SOURCE_VEILS = {HeightSource.ASSUMED: "#ffffff99", HeightSource.LEVELS: "none"}
HATCH_WIDTHS = {HeightSource.ASSUMED: 1.0, HeightSource.LEVELS: 0.15}
# Low to high: as dark grows as the eye takes it, and told apart with colour blindness.
_HEIGHTS = LinearSegmentedColormap.from_list(
    "heights", ("#f6e3b0", "#f0b26f", "#d9786b", "#9d4a78", "#5b2d77", "#241a4d"))
_LAND = LinearSegmentedColormap.from_list("land", ("#dfe6dd", "#eeeee4", "#e2dbcd", "#d3c9bb"))
_TREES, TREE = "#6fa35f", "tree"


def draw_preview(path: str | Path, city: City, grid: VoxelGrid,
                 zones: Sequence[Zone] = ()) -> Path:
    """The twin from above as a PNG.

    Colour is height above the ground. Buildings whose height is assumed are pale and
    hatched in vermilion, those whose height comes from storeys are dotted in blue.

    grid : the city voxelised; zones : drawn whenever they hold
    """
    path = Path(path)
    zones = _inside(zones, grid)
    cells, trees = _height_map(city, grid)
    west, south, east, north = _extent(grid)
    tall = (north - south) / (east - west)
    side, head, foot = 2.35, 0.86, 0.34
    wide = 10.0 - side - 0.3
    height_in = float(np.clip(wide * tall + head + foot, 5.6, 10.5))
    figure = new_figure(_title(city), _subtitle(city, grid), city.attribution, height_in)
    axes = figure.add_axes((0.02, foot / height_in, wide / 10, 1 - (head + foot) / height_in),
                           anchor="NW")
    norm = _norm(cells.above)
    axes.imshow(_picture(cells, trees, norm).transpose(1, 0, 2), origin="lower",
                extent=(west, west + cells.size[0], south, south + cells.size[1]),
                interpolation="antialiased")
    axes.set_xlim(west, east)
    axes.set_ylim(south, north)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#b9bec4")
    _draw_outlines(axes, city)
    _draw_zones(axes, zones)
    figure.canvas.draw()        # what stands beside the map begins where its shape left it
    box = axes.get_window_extent()
    right, top = box.x1 / figure.bbox.width + 0.025, box.y1 / figure.bbox.height
    low = _legend(figure, city, grid, trees is not None and trees.any(), zones, right, top)
    if np.isfinite(norm.vmin):
        low = _colour_bar(figure, norm, right, low)
    _scale_and_north(figure, axes, right, low - 0.62 / height_in, east - west)
    return save(figure, path)


class _Cells:
    """The grid's columns, several to a cell where there are too many: the highest counts.

    above : (a, b) m above the ground, 0 where nothing stands; ground : (a, b) z; edge, size : m
    """

    def __init__(self, grid: VoxelGrid):
        step = max(1, int(np.ceil(max(grid.shape[:2]) / MOST_PIXELS)))
        self.step, self.edge = step, step * grid.resolution
        self.above = _above(grid, step)
        # of wide columns at once: nothing is as large as the grid's own columns
        self.ground = highest_in_columns(grid.terrain, grid.origin, self.edge,
                                         self.above.shape)
        self.size = np.array(self.above.shape) * self.edge


def _above(grid: VoxelGrid, step: int) -> np.ndarray:
    """(a, b) m: the highest above its ground of every step x step columns, 0 if nothing stands.

    Square by square, and only where something stands: of a map 50 km wide there are 500 million
    columns.
    """
    out = np.zeros(tuple(-(-n // step) for n in grid.shape[:2]))
    heights, x, y, cell = grid.terrain.in_voxels(grid.origin, grid.resolution)
    piles = (grid.chunk_index >= 0).any(axis=2)
    side = step * max(1, SQUARE // step)    # chunks: squares begin with a cell
    for a, b in np.ndindex(-(-piles.shape[0] // side), -(-piles.shape[1] // side)):
        square = np.s_[a * side:(a + 1) * side, b * side:(b + 1) * side]
        if not piles[square].any():
            continue
        first = np.array([a, b]) * side * CHUNK
        shape = np.minimum(side * CHUNK, np.array(grid.shape[:2]) - first)
        layers = rasterise.highest(np.ascontiguousarray(grid.chunk_index[square]), grid.words,
                                   *shape)
        ground = rasterise.ground_of_columns(heights, x - first[0], y - first[1], cell, *shape)
        tops = _highest(np.where(layers > 0, np.maximum(layers - ground, 0.0), 0.0), step)
        i, j = first // step
        out[i:i + tops.shape[0], j:j + tops.shape[1]] = tops * grid.resolution
    return out


def _highest(values, step: int) -> np.ndarray:
    """(a, b): the highest of every step x step values; the rest at the edges by themselves."""
    a, b = (-(-n // step) * step for n in values.shape)
    padded = np.pad(values, ((0, a - values.shape[0]), (0, b - values.shape[1])), mode="edge")
    return padded.reshape(a // step, step, b // step, step).max(axis=(1, 3))


def _height_map(city, grid) -> tuple[_Cells, np.ndarray | None]:
    """Cells, and (a, b) bool where trees are the highest; None if there are none."""
    cells = _Cells(grid)
    bare = replace(city, **{what: tuple(t for t in getattr(city, what) if t.kind != TREE)
                            for what in ("buildings", "solids", "surfaces", "boxes")})
    if not any(t.kind == TREE for t in (*city.buildings, *city.solids, *city.surfaces,
                                        *city.boxes)):
        return cells, None
    bare = voxelise(bare, grid.resolution)
    built = _above(bare, cells.step)
    return cells, cells.above > built + 0.5 * grid.resolution


def _norm(above) -> Normalize:
    """Logarithmic where a few towers would else make all others look flat."""
    seen = above[above > 0]
    if not len(seen):
        return Normalize(np.nan, np.nan)
    top, usual = float(seen.max()), float(np.percentile(seen, 60))
    low = max(2.0, float(np.percentile(seen, 2)))
    return LogNorm(low, top) if top > 4 * usual and top > 1.5 * low else Normalize(0.0, top)


# --- the picture ------------------------------------------------------------------------------


def _picture(cells, trees, norm) -> np.ndarray:
    """(a, b, 3): land in relief, buildings by height, trees, and the shadows of all."""
    land = _land(cells)
    image = land
    stands = cells.above > 0
    if stands.any():
        image = np.where(stands[..., None], _HEIGHTS(norm(np.maximum(cells.above, norm.vmin)))
                         [..., :3], land)
    if trees is not None:
        shade = 0.75 + 0.5 * np.clip(cells.above / 25.0, 0, 1)
        image = np.where(trees[..., None], np.clip(to_rgb(_TREES) * (1.9 - shade)[..., None],
                                                   0, 1), image)
    dark = _shadow(cells.ground + cells.above, cells.edge)
    return image * np.where(dark, 0.72, 1.0)[..., None]


def _land(cells) -> np.ndarray:
    low, high = float(cells.ground.min()), float(cells.ground.max())
    if high - low < 0.5:
        return np.broadcast_to(to_rgb("#ecece6"), (*cells.ground.shape, 3))
    colour = _LAND((cells.ground - low) / (high - low))[..., :3]
    slope = np.stack(np.gradient(cells.ground, cells.edge), axis=-1) if min(
        cells.ground.shape) > 1 else np.zeros((*cells.ground.shape, 2))
    # Steep enough to be seen, whatever the land is like.
    usual = float(np.percentile(np.linalg.norm(slope, axis=-1), 95))
    slope = slope * min(8.0, 0.45 / max(usual, 1e-6))
    towards = np.array([*SUN * np.cos(SUN_HEIGHT), np.sin(SUN_HEIGHT)])
    light = (towards[2] - slope @ towards[:2]) / np.sqrt(1 + (slope**2).sum(axis=-1))
    bright = np.clip(0.62 + 0.38 * light / towards[2], 0.55, 1.06)
    return np.clip(colour * bright[..., None], 0, 1)


def _shadow(surface, edge: float) -> np.ndarray:
    """(a, b) bool: cells that something between them and the sun keeps dark."""
    dark = np.zeros(surface.shape, bool)
    reach = min(LONGEST_SHADOW_M, float(np.ptp(surface)) / np.tan(SUN_HEIGHT))
    for k in range(1, int(reach / edge) + 1):
        i, j = np.round(k * SUN).astype(int)
        away = k * edge
        to = tuple(slice(max(0, -d), n - max(0, d)) for d, n in zip((i, j), surface.shape,
                                                                   strict=True))
        of = tuple(slice(max(0, d), n - max(0, -d)) for d, n in zip((i, j), surface.shape,
                                                                   strict=True))
        if surface[to].size:
            dark[to] |= surface[of] - away * np.tan(SUN_HEIGHT) > surface[to] + 0.5
    return dark


def _outline(polygons) -> Outline | None:
    """All rings of polygons as one path."""
    rings = shapely.get_rings(shapely.get_parts(shapely.get_parts(np.asarray(polygons, object))))
    paths = [Outline(shapely.get_coordinates(r), closed=True) for r in rings]
    return Outline.make_compound_path(*paths) if paths else None


def _draw_outlines(axes, city):
    for source in HeightSource:
        outline = _outline([b.footprint for b in city.buildings
                            if b.source is source and b.kind != TREE])
        if outline is None:
            continue
        hatch = SOURCE_HATCHES.get(source)
        if hatch is not None:
            axes.add_patch(PathPatch(outline, facecolor=SOURCE_VEILS[source], hatch=hatch,
                                     hatch_linewidth=HATCH_WIDTHS[source], linewidth=0.0,
                                     edgecolor=SOURCE_COLOURS[source], zorder=3))
        axes.add_patch(PathPatch(outline, facecolor="none", zorder=4, linewidth=0.5,
                                 edgecolor=SOURCE_COLOURS.get(source, "#3a3340"), alpha=0.8))


def _inside(zones, grid) -> list[Zone]:
    """What of the zones lies on the map."""
    west, south, east, north = _extent(grid)
    cut = [replace(z, polygon=shapely.intersection(z.polygon, shapely.box(west, south, east,
                                                                          north))) for z in zones]
    return [z for z in cut if z.polygon.area > 0]


def _draw_zones(axes, zones):
    halo = [withStroke(linewidth=2.5, foreground="white")]
    x0, x1, y0, y1 = *axes.get_xlim(), *axes.get_ylim()
    for zone in zones:
        ink = ZONE_COLOURS[zone.kind]
        axes.add_patch(PathPatch(_outline([zone.polygon]), facecolor=ink + "26", edgecolor=ink,
                                 linewidth=1.4, linestyle=(0, (4, 2)), zorder=5))
        if zone.name and zone.polygon.area > NAMED_SHARE * (x1 - x0) * (y1 - y0):
            at = zone.polygon.representative_point()
            axes.annotate(zone.name, (at.x, at.y), ha="center", va="center", size=8.5,
                          weight="bold", color=ink, path_effects=halo, zorder=6)


# --- beside it --------------------------------------------------------------------------------


def _title(city) -> str:
    first, *others = city.name.split(" + ")
    name = first if len(first) <= 48 else first[:47] + "…"
    name += f" and {len(others)} more" if others else ""
    return f"{name}: what stands, and how high"


def _subtitle(city, grid) -> str:
    x0, y0, x1, y1 = city.extent
    count = f"{number(city.n_buildings)} buildings" + (
        f", {number(city.n_parts)} parts" if city.n_parts else "")
    return (f"{count} in {number(x1 - x0)} × {number(y1 - y0)} m, as the twin has them in voxels "
            f"of {grid.resolution:g} m.\nColour: height above the ground.")


def _extent(grid) -> tuple[float, float, float, float]:
    (x, y), (nx, ny, _) = grid.origin[:2], grid.shape
    return x, y, x + nx * grid.resolution, y + ny * grid.resolution


def _legend(figure, city, grid, trees, zones, right, top) -> float:
    """Draws it, and returns where it ends, as share of the figure."""
    wood = [b for b in city.buildings if b.kind == TREE]
    area = replace(city, buildings=tuple(b for b in city.buildings if b.kind != TREE)
                   ).built_area_by_source()
    whole = sum(area.values())
    handles = []
    if whole > 0:
        words = {HeightSource.MEASURED: "measured", HeightSource.LEVELS: "from storeys",
                 HeightSource.ASSUMED: f"assumed ({city.assumed_height_m:g} m)"}
        for source in HeightSource:
            if not area[source.value] > 0:
                continue
            handles.append(Patch(
                facecolor="white" if source is HeightSource.ASSUMED else "#f0d7a8",
                hatch=SOURCE_HATCHES.get(source), linewidth=0.8,
                edgecolor=SOURCE_COLOURS.get(source, "#3a3340"),
                label=f"{words[source]}: {percent(area[source.value] / whole)}"))
    title = "Heights, by built area" if handles else "Heights"
    if city.solids or (city.n_buildings and not whole):
        handles.append(Patch(facecolor="#f0d7a8", edgecolor="#f0d7a8", label="measured: "
                             + ("3-D models" if city.solids else "raster")))
    if trees:
        handles.append(Patch(facecolor=_TREES, label="trees, heights assumed" if any(
            b.source is HeightSource.ASSUMED for b in wood) else "trees"))
    low, high = float(grid.terrain.heights.min()), float(grid.terrain.heights.max())
    handles.append(Patch(
        facecolor="#e2dbcd" if high - low >= 0.5 else "#ecece6", edgecolor="#b9bec4",
        linewidth=0.5, label=f"ground, {number(low)} to {number(high)} m"
        if high - low >= 0.5 else "ground, flat"))
    handles += [Line2D([], [], color=ink, linewidth=1.4, dashes=(4, 2),
                       label=f"zone: {kind.value.replace('_', ' ')}")
                for kind, ink in ZONE_COLOURS.items() if any(z.kind is kind for z in zones)]
    legend = figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(right - 0.008, top), frameon=False,
        fontsize=9, borderpad=0, labelspacing=0.8, handlelength=2.0, handleheight=1.3,
        title=title, title_fontproperties={"size": 9.5, "weight": "bold"}, alignment="left")
    figure.canvas.draw()
    return legend.get_window_extent().y0 / figure.bbox.height


def _colour_bar(figure, norm, right, low) -> float:
    from matplotlib.cm import ScalarMappable
    height_in = figure.get_figheight()
    bar = figure.add_axes((right, low - 0.62 / height_in, 0.185, 0.13 / height_in))
    colours = figure.colorbar(ScalarMappable(norm, _HEIGHTS), cax=bar, orientation="horizontal")
    colours.outline.set_visible(False)
    if isinstance(norm, LogNorm):
        ticks = [t for t in (2, 5, 10, 20, 50, 100, 200, 500, 1000) if norm.vmin <= t <= norm.vmax]
        colours.set_ticks(ticks, labels=[f"{t:g}" for t in ticks])
        colours.ax.minorticks_off()
    colours.ax.tick_params(labelsize=8, colors=SOFT_INK)
    colours.ax.set_title("Metres above the ground", size=9, color=INK, loc="left")
    return low - 0.95 / height_in


def _scale_and_north(figure, axes, x, y, metres):
    """Scale bar and north arrow beside the map, from (x, y) in shares of the figure."""
    share = axes.get_window_extent().width / figure.bbox.width / metres
    longest = 0.13 / share
    step = 10.0 ** np.floor(np.log10(longest))
    length = step * max(k for k in (1, 2, 5) if k * step <= longest)
    tall = 0.14 / figure.get_figheight()
    figure.add_artist(Line2D([x, x, x + share * length, x + share * length],
                             [y + tall / 2, y, y, y + tall / 2], color=INK, linewidth=1.2))
    figure.text(x + share * length / 2, y + 0.3 * tall, f"{length:g} m", ha="center",
                va="bottom", size=9, color=INK)
    figure.text(x + 0.175, y, "N", size=10, weight="bold", color=INK, ha="center", va="bottom")
    figure.text(x + 0.175, y + 1.15 * tall, "▲", size=9, color=INK, ha="center", va="bottom")
