"""The city as it really stands around a simulated drone; it may differ from the twin."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from parallel_city_ros.city.sensor import cast
from parallel_city_ros.city.terrain import Ground
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import ConfigError, OutsideMapError
from parallel_city_ros.flight.simulator.vehicle import ground_of
from parallel_city_ros.geo import LocalFrame

BODY_RADIUS = 0.3       # m
DISTANCES = 72          # around the drone, as many as MAVLink's OBSTACLE_DISTANCE holds
# Not downwards: what it stands on is no obstacle, and a fall ends where its middle does.
_BODY = BODY_RADIUS * np.array([(0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0),
                                (0, 0, 1)], float)


class Surroundings:
    """Positions are [east, north, up] in the drone's own frame, metres.

    Parameters
    ----------
    grid : VoxelGrid
        The truth.
    frame : LocalFrame
        The drone's: its origin is on the ground where it was switched on.

    Raises
    ------
    ConfigError
        If that place is beside the city or inside a building.
    """

    reach = 40.0            # m, of what looks around
    reach_below = 120.0     # m, of what looks down

    def __init__(self, grid: VoxelGrid, frame: LocalFrame):
        self._stand_in(grid)
        # Affine: both are local frames, and where they are not is centimetres in kilometres.
        corners = frame.to_wgs84(np.array([(0, 0, 0), (1000, 0, 0), (0, 1000, 0)], float))
        here, east, north = grid.frame.to_enu(corners[:, 0], corners[:, 1])
        self._turn = np.eye(3)
        self._turn[:2, :2] = (np.array([east, north]) - here)[:, :2] / 1000
        self._here = np.array([*here[:2], float(grid.ground_at(here))])
        place = f"({here[0]:.0f}, {here[1]:.0f}) m"
        if not np.isfinite(self.below((0.0, 0.0, 1.0))):
            raise ConfigError(f"home is at {place} of the city, beside it; choose a home inside")
        if self.hits((0.0, 0.0, 0.0)):
            raise ConfigError(f"home is at {place} of the city, where something stands; choose "
                              "a home on open ground")

    def _stand_in(self, grid: VoxelGrid) -> None:
        self._grid, terrain = grid, grid.terrain
        self._ground = None if terrain.is_flat else ground_of(
            terrain.heights, terrain.origin, terrain.cell)

    def replace(self, grid: VoxelGrid) -> None:
        """Something was built or torn down. grid : the truth from now on, in the same frame"""
        if grid.frame != self._grid.frame:
            raise ConfigError("that city has another frame; rebuild the one that stands there")
        self._stand_in(grid)

    def in_city(self, points) -> np.ndarray:
        """(..., 3) in the frame of the city."""
        return np.asarray(points, float) @ self._turn + self._here

    def ground(self, east: float, north: float) -> float:
        """Height of the ground there."""
        if self._ground is None:
            return 0.0
        x, y, _ = self.in_city((east, north, 0.0)).tolist()
        return self._ground(x, y) - self._here[2]

    def hits(self, position) -> bool:
        """Whether a drone there would touch something that stands on the ground."""
        voxels = self._grid.index(self.in_city(_BODY + np.asarray(position, float)))
        return bool(self._grid.holds(voxels).any())

    def around(self, position, yaw: float) -> np.ndarray:
        """(DISTANCES,) metres level, clockwise from the nose; inf where nothing is near."""
        angle = yaw - np.arange(DISTANCES) * (2 * np.pi / DISTANCES)
        return self._cast(position, np.stack([np.cos(angle), np.sin(angle),
                                              np.zeros(DISTANCES)], axis=-1), self.reach)

    def below(self, position) -> float:
        """Metres down to a roof or the ground; inf if farther than reach_below."""
        return float(self._cast(position, np.array([(0.0, 0.0, -1.0)]), self.reach_below)[0])

    def _cast(self, position, rays, reach: float) -> np.ndarray:
        """(N,) metres along (N, 3) unit vectors; inf, and all where the city ends, for none."""
        try:
            return cast(self._grid, self.in_city(position), rays @ self._turn, reach)[0]
        except OutsideMapError:
            return np.full(len(rays), np.inf)


def write_city(file, grid: VoxelGrid) -> None:
    """For another process; see read_city."""
    ground, frame = grid.terrain, grid.frame
    np.savez(file, chunk_index=grid.chunk_index, words=grid.words, shape=grid.shape,
             origin=grid.origin, resolution=grid.resolution,
             frame=(frame.latitude_deg, frame.longitude_deg, frame.altitude_m),
             heights=ground.heights, ground_origin=ground.origin, cell=ground.cell)


def read_city(file: str | Path) -> VoxelGrid:
    """Inverse of write_city.

    Raises
    ------
    ConfigError
        If the file cannot be read or holds something else.
    """
    try:
        with np.load(file) as f:
            ground = Ground(f["heights"], tuple(f["ground_origin"].tolist()), float(f["cell"]))
            return VoxelGrid(f["chunk_index"], f["words"], tuple(f["shape"].tolist()),
                             f["origin"], float(f["resolution"]),
                             LocalFrame(*f["frame"].tolist()), ground)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{file}: holds no city ({error})") from error
