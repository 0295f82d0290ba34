"""Motion and battery of a small multirotor. Pure and deterministic: same seed, same track.

What flies it is the cascade of PX4's position controller: from the error of the position to a
velocity, from that of the velocity to an acceleration, which its attitude follows.

Power is that of patrol/power.py, whose formulae and references it says. They stand here again
because those are compiled, and a simulator is to start in a fifth of a second; a test holds both
together. The parameters of a drone may differ from what its plan was reckoned with.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from parallel_city_ros.settings import require

GRAVITY = 9.80665
AIR_DENSITY = 1.225     # kg/m³
FALL_SPEED = 12.0       # m/s
# PX4's gains, east, north and up
POSITION_GAIN = (0.95, 0.95, 1.0)   # 1/s, MPC_XY_P, MPC_Z_P
VELOCITY_GAIN = (1.8, 1.8, 4.0)     # 1/s, MPC_XY_VEL_P_ACC, MPC_Z_VEL_P_ACC
INTEGRAL_GAIN = (0.4, 0.4, 2.0)     # 1/s², MPC_XY_VEL_I_ACC, MPC_Z_VEL_I_ACC


@dataclass(frozen=True, kw_only=True)
class VehicleModel:
    """Limits are PX4's own defaults where PX4 has one; it is named. What mass, rotor and battery
    are called and by default is as in patrol.task.Drone."""

    max_speed: float = 12.0         # m/s level, MPC_XY_VEL_MAX
    max_climb: float = 3.6          # m/s, a fifth above MPC_Z_V_AUTO_UP
    max_descent: float = 1.8        # m/s, a fifth above MPC_Z_V_AUTO_DN
    max_tilt_deg: float = 45.0      # MPC_TILTMAX_AIR
    max_thrust: float = 2.0         # times its weight
    response_s: float = 0.15        # time constant of its attitude and motors
    max_yaw_rate: float = 0.8       # rad/s, MPC_YAWRAUTO_MAX is 45 to 60 deg/s
    mass: float = 1.5               # kg
    rotor_area: float = 0.18        # m², swept by all rotors
    drag_area: float = 0.03         # m², drag coefficient times frontal area
    drag_rate: float = 0.25         # 1/s, drag of the rotors: by speed, not its square; SIH: 1
    figure_of_merit: float = 0.63   # share of the shaft power that lifts, in hover
    tip_speed: float = 80.0         # m/s, of the blades in hover
    efficiency: float = 0.75        # of battery, controllers and motors together
    battery_wh: float = 70.0        # full
    full_voltage: float = 16.8      # V, four cells
    empty_voltage: float = 14.0     # V
    wind_east: float = 0.0          # m/s, of the air over ground
    wind_north: float = 0.0
    gust: float = 0.1               # m/s, standard deviation of the wind around that
    gust_time_s: float = 2.0        # its correlation time

    def __post_init__(self):
        for name, value in vars(self).items():
            least = {"gust": 0, "wind_east": -50, "wind_north": -50, "drag_rate": 0}.get(
                name, 1e-9)
            require(math.isfinite(value) and value >= least, self, name,
                    "a finite number above 0")

    def electric_power(self, airspeed: float, climb: float) -> float:
        """W at a level airspeed and a rate of climb, m/s."""
        weight = self.mass * GRAVITY
        drag = 0.5 * AIR_DENSITY * self.drag_area * airspeed ** 2
        thrust = math.hypot(weight, drag)
        half, disc = airspeed ** 2 / 2, 2 * AIR_DENSITY * self.rotor_area
        induced = math.sqrt(math.hypot(half, thrust / disc) - half)
        profile = weight * math.sqrt(weight / disc) * (1 / self.figure_of_merit - 1)
        return (thrust * induced + profile * (1 + 3 * (airspeed / self.tip_speed) ** 2)
                + drag * airspeed + weight * max(climb, 0.0)) / self.efficiency


class Vehicle:
    """Position, velocity and charge, advanced by setpoints as a trajectory gives them.

    position, velocity : [east, north, up] from where it was switched on, metres and m/s
    yaw : ENU, radians
    """

    def __init__(self, model: VehicleModel, seed: int = 0, battery_percent: float = 100.0,
                 ground=lambda east, north: 0.0):
        """ground : (east, north) → height of the ground there, metres, 0 where it stands."""
        self.model, self._ground = model, ground
        self.position = [0.0, 0.0, 0.0]
        self.velocity = [0.0, 0.0, 0.0]
        self.yaw = math.pi / 2
        self.energy_wh = model.battery_wh * battery_percent / 100.0
        self.power_w, self._hover_power = 0.0, model.electric_power(0.0, 0.0)
        self.wind = [model.wind_east, model.wind_north]     # mean, m/s
        self.gust = model.gust
        self.broken = False     # a motor is lost: nothing holds it
        self._gust = [0.0, 0.0]
        self._push, self._integral = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]   # m/s², of its thrust
        self._most = GRAVITY * math.tan(math.radians(model.max_tilt_deg))
        self._random = random.Random(seed)

    @property
    def height(self) -> float:
        """Above the ground beneath, metres."""
        return self.position[2] - self._ground(*self.position[:2])

    @property
    def battery_percent(self) -> float:
        return 100.0 * self.energy_wh / self.model.battery_wh

    @property
    def voltage(self) -> float:
        m = self.model
        return m.empty_voltage + (m.full_voltage - m.empty_voltage) * self.battery_percent / 100

    @property
    def current(self) -> float:
        return self.power_w / self.voltage

    def fly(self, position, velocity, acceleration, yaw_setpoint: float, dt: float) -> None:
        """One time step in the air (motors on), never below the ground.

        position, velocity, acceleration : where it is to be, how fast and how hard pushed,
        [east, north, up]; a position of NaN is free
        """
        m = self.model
        self._blow_on(dt)
        if self.broken:
            self._fall(dt)
            return
        wanted = [v + (gain * (x - p) if x == x else 0.0) for v, x, p, gain in
                  zip(velocity, position, self.position, POSITION_GAIN, strict=True)]
        wanted[:2] = _limited(wanted[:2], m.max_speed)
        wanted[2] = min(max(wanted[2], -m.max_descent), m.max_climb)
        errors = [w - v for w, v in zip(wanted, self.velocity, strict=True)]
        push = [a + gain * e + i for a, e, i, gain in
                zip(acceleration, errors, self._integral, VELOCITY_GAIN, strict=True)]
        given = _limited(push[:2], self._most)
        given.append(min(max(push[2], -GRAVITY), (m.max_thrust - 1) * GRAVITY))
        self._integral = [i + gain * e * dt if g == p else i for i, e, gain, g, p in    # no windup
                          zip(self._integral, errors, INTEGRAL_GAIN, given, push, strict=True)]
        share = min(dt / m.response_s, 1.0)
        self._push = [a + share * (g - a) for a, g in zip(self._push, given, strict=True)]
        drag = self._drag()
        self.velocity = [v + (a + d) * dt for v, a, d in
                         zip(self.velocity, self._push, drag, strict=True)]
        self.position = [p + v * dt for p, v in zip(self.position, self.velocity, strict=True)]
        if self.height <= 0:
            self.position[2] -= self.height
            self.velocity[2] = max(self.velocity[2], 0.0)

        turn = (yaw_setpoint - self.yaw + math.pi) % (2 * math.pi) - math.pi
        self.yaw += min(max(turn, -m.max_yaw_rate * dt), m.max_yaw_rate * dt)
        self.yaw = (self.yaw + math.pi) % (2 * math.pi) - math.pi
        self._drain(dt)

    def blow(self, wind, gust: float) -> None:
        """The wind changes: mean (east, north) and standard deviation, m/s."""
        self.wind, self.gust = list(wind), gust

    @property
    def air_velocity(self) -> tuple[float, float]:
        """Of the air over ground, gusts included, m/s."""
        return self.wind[0] + self._gust[0], self.wind[1] + self._gust[1]

    def _blow_on(self, dt: float) -> None:
        if not self.gust and self._gust == [0.0, 0.0]:
            return
        decay = math.exp(-dt / self.model.gust_time_s)
        spread = self.gust * math.sqrt(1 - decay * decay)
        self._gust = [decay * g + spread * self._random.gauss(0, 1) for g in self._gust]

    def _drag(self) -> list[float]:
        """Acceleration by the air that it moves through."""
        m, air = self.model, (*self.air_velocity, 0.0)
        through = [v - a for v, a in zip(self.velocity, air, strict=True)]
        rate = m.drag_rate + 0.5 * AIR_DENSITY * m.drag_area / m.mass * math.hypot(*through)
        return [-rate * u for u in through]

    def _fall(self, dt: float) -> None:
        """Down with the air, at the speed at which a tumbling airframe falls."""
        e, n, u = self.velocity
        air = self.air_velocity
        share = min(dt / 2.0, 1.0)
        self.velocity = [e + share * (air[0] - e), n + share * (air[1] - n),
                         max(u - GRAVITY * dt, -FALL_SPEED)]
        self.position = [p + v * dt for p, v in zip(self.position, self.velocity, strict=True)]
        if self.height <= 0:
            self.position[2] -= self.height
            self.velocity = [0.0, 0.0, 0.0]
        self.yaw = (self.yaw + 6.0 * dt + math.pi) % (2 * math.pi) - math.pi
        self.power_w = self._hover_power
        self._spend(dt)

    def rest(self, armed: bool, dt: float) -> None:
        """One time step on the ground. Motors idle if armed; the charge is kept if not."""
        self.velocity = [0.0, 0.0, 0.0]
        self._push, self._integral = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
        self.power_w = 0.1 * self._hover_power if armed else 0.0
        self._spend(dt)

    def _drain(self, dt: float) -> None:
        air = self.air_velocity
        self.power_w = self.model.electric_power(
            math.hypot(self.velocity[0] - air[0], self.velocity[1] - air[1]), self.velocity[2])
        self._spend(dt)

    def _spend(self, dt: float) -> None:
        self.energy_wh = max(self.energy_wh - self.power_w * dt / 3600, 0.0)


def ground_of(heights, origin, cell: float):
    """(east, north) → height of the ground from nodes: bilinear between them, constant beyond.

    In plain Python: it is asked for one place, thousands of times a second.

    heights : (a, b) array, m; origin : east and north of node (0, 0), m; cell : between nodes, m
    """
    rows, (east0, north0) = heights.tolist(), origin
    last_x, last_y = (n - 1 for n in heights.shape)

    def ground(east, north):
        u = min(max((east - east0) / cell, 0.0), last_x)
        v = min(max((north - north0) / cell, 0.0), last_y)
        i, j = min(int(u), max(last_x - 1, 0)), min(int(v), max(last_y - 1, 0))
        p, q, j1 = u - i, v - j, min(j + 1, last_y)
        low, high = rows[i], rows[min(i + 1, last_x)]
        return ((1 - p) * ((1 - q) * low[j] + q * low[j1])
                + p * ((1 - q) * high[j] + q * high[j1]))
    return ground


def _limited(vector, limit: float) -> list[float]:
    """The vector, shortened to the limit."""
    length = math.hypot(*vector)
    return list(vector) if length <= limit else [v * limit / length for v in vector]
