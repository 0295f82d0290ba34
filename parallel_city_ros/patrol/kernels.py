"""The compiled part of the evaluators: limits of a path, what is seen, and what that is worth.

One file, because numba's cache on disk only looks whether the file of the function that is called
has changed, not those of the functions in it. Kernels release the GIL and never use numba's own
threads, whose layers abort on concurrent calls or kill forked children.

Violation is a sum over points, legs and corners, so that who changes a few points evaluates only
what hangs on them. Bitmaps are int64 words along the second axis of the map: column (i, j) is bit
j % 64 of word j // 64 of row i. int64 and not uint64, because numba makes floats of sums of the
two. Functions called for every cell take numbers and arrays, not the scene: it would be copied.
"""

from __future__ import annotations

from math import exp, floor, log10, sqrt

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from parallel_city_ros.patrol.profile import CORNER_CUT_M

MIN_STEP_M = 0.01       # a shorter step has no direction
_SLACK = 1e-9
KEY_M = 4.0             # edge of the boxes of the table of views, and their height: a flight
KEY_UP_M = 1.0          # at constant height is off by the same in all its points
BAND = 16               # rows of a canvas that are counted alike
WIDTH_CLASSES = 4       # of the bumps of the local search
LEAST_PROMISE = 0.05    # of a kind of bump that never was better
FADING = 0.99           # of its record, per try
AIR_DENSITY = 1.225     # kg/m³


# --- limits, length and noise ------------------------------------------------------------------

@njit(cache=True, nogil=True)
def _of_point(ground, limits, path, b):
    """Noise (9) in metres and violation of the altitude band at track point b."""
    x, y, z = path[b, 0], path[b, 1], path[b, 2]
    nx, ny = ground.shape
    # outside the map the ground of its border
    i = min(max(int(floor((x - limits.x0) / limits.cell)), 0), nx - 1)
    j = min(max(int(floor((y - limits.y0) / limits.cell)), 0), ny - 1)
    h = z - ground[i, j]
    noise = 0.0
    if limits.paper > 0:
        if z <= limits.noise_altitude:
            noise = limits.noise_altitude - z - 1.0
    elif h <= limits.noise_altitude:
        noise = limits.noise_altitude - h + 1.0
    return noise, 0.1 * (max(0.0, h - limits.max_altitude - _SLACK)
                         + max(0.0, limits.min_altitude - h - _SLACK))


@njit(cache=True, nogil=True)
def _of_leg(clear, lowest_z, highest_z, limits, path, b):
    """Length (7) and violation of climb (13), speed (14), map and clearance of the leg to b."""
    nx, ny = clear.shape
    cell, uneven = limits.cell, limits.uneven > 0
    x, y, z = path[b - 1, 0], path[b - 1, 1], path[b - 1, 2]
    dx, dy, dz = path[b, 0] - x, path[b, 1] - y, path[b, 2] - z
    m = sqrt(dx * dx + dy * dy)
    leg = sqrt(m * m + dz * dz)
    violation = max(0.0, leg / limits.longest_leg - 1.0 - _SLACK)
    if m < MIN_STEP_M:
        violation += 1.0
    else:
        violation += max(0.0, abs(dz) / m / limits.tan_climb - 1.0 - _SLACK)
    samples = int(leg / cell) + 1
    u, v = (x - limits.x0) / cell, (y - limits.y0) / cell
    du, dv, dz = dx / cell / samples, dy / cell / samples, dz / samples
    end_u, end_v = u + samples * du, v + samples * dv
    if not uneven and 0 <= min(u, end_u) and max(u, end_u) < nx and 0 <= min(
            v, end_v) and max(v, end_v) < ny:
        # most legs break nothing, which is told sooner without branches
        low = False
        for s in range(samples + 1):
            low |= clear[int(u + s * du), int(v + s * dv)] > z + s * dz
        if not low:
            return leg, violation
    for s in range(samples + 1):
        fu, fv, fz = u + s * du, v + s * dv, z + s * dz
        if not (0 <= fu < nx and 0 <= fv < ny):
            violation += 0.1
            continue
        i, j = int(fu), int(fv)
        depth = clear[i, j] - fz
        if uneven:
            depth = max(depth, lowest_z[i, j] - fz, fz - highest_z[i, j])
        if depth > 0:
            violation += 0.02 + 0.01 * depth
    return leg, violation


@njit(cache=True, nogil=True)
def _of_corner(cos_turn, path, b):
    """Violation of the turn (12) at track point b."""
    mx, my = path[b, 0] - path[b - 1, 0], path[b, 1] - path[b - 1, 1]
    dx, dy = path[b + 1, 0] - path[b, 0], path[b + 1, 1] - path[b, 1]
    before, after = sqrt(mx * mx + my * my), sqrt(dx * dx + dy * dy)
    if before < MIN_STEP_M or after < MIN_STEP_M:
        return 0.0
    return max(0.0, cos_turn - (mx * dx + my * dy) / (before * after) - _SLACK)


@njit(cache=True, nogil=True)
def _of_visits(places, radius, path):
    """Violation of the places to visit: by how many radii the legs pass each too far away."""
    violation = 0.0
    for k in range(places.shape[0]):
        least = np.inf
        for b in range(path.shape[0] - 1):
            along, square = 0.0, 0.0
            for d in range(3):
                step = path[b + 1, d] - path[b, d]
                along += step * (places[k, d] - path[b, d])
                square += step * step
            share = min(max(along / square, 0.0), 1.0) if square > 0 else 0.0
            gap = 0.0
            for d in range(3):
                gap += (path[b, d] + share * (path[b + 1, d] - path[b, d]) - places[k, d]) ** 2
            least = min(least, gap)
        violation += max(0.0, sqrt(least) / radius - 1.0 - _SLACK)
    return violation


@njit(cache=True, nogil=True)
def of_path(scene, path, speed, heard):
    """Carbon, noise and violation without coverage; violation is -1 for what is no number.

    speed : (N,) and heard : (receptors,) are written
    """
    n = path.shape[0]
    for b in range(n):
        for d in range(3):
            if not np.isfinite(path[b, d]):
                return 0.0, 0.0, -1.0
    ground, clear, lowest_z, highest_z, limits = (
        scene.ground, scene.clear, scene.lowest_z, scene.highest_z, scene.limits)
    length, noise, violation = 0.0, 0.0, 0.0
    for b in range(n):
        more, broken = _of_point(ground, limits, path, b)
        noise += more
        violation += broken
        if b > 0:
            more, broken = _of_leg(clear, lowest_z, highest_z, limits, path, b)
            length += more
            violation += broken
        if b > 1:
            violation += _of_corner(limits.cos_turn, path, b - 1)
    violation += max(0.0, scene.duration_share - 1.0)                    # (15)
    violation += _of_visits(scene.must_visit, scene.visit_radius, path)
    carbon, broken = of_energy(scene.multirotor, scene.carbon, path, length, speed)
    if scene.by_level:
        heard[:] = 0.0
        for b in range(n):
            add_sound(scene.receptors, scene.sound, path[b, 0], path[b, 1], path[b, 2], 1.0, heard)
        noise = exposure(scene.receptors, scene.sound, heard, n)
    return carbon, noise, violation + broken


@njit(cache=True, nogil=True)
def of_energy(craft, carbon, path, length, speed):
    """f2, and violation of what the battery holds; speed : (N,) is written"""
    if carbon.energy_limit_wh <= 0:     # by distance
        return carbon.per_km * length / 1000.0, 0.0                      # (8)
    energy = flight_energy(craft, path, speed)
    return (energy * carbon.per_wh,
            max(0.0, energy / carbon.energy_limit_wh - 1.0 - _SLACK))


@njit(cache=True, nogil=True)
def score(camera, floor_km2, carbon, noise, violation, worth, out):
    """Writes f1 in km², f2, f3, F and G; worth is the weighted number of cells and faces seen."""
    if violation < 0:
        out[0], out[1], out[2], out[3], out[4] = 0.0, 0.0, 0.0, np.inf, 1e9
        return
    f1 = 1e-6 * camera.cell * camera.cell * worth
    if f1 <= 0.0:
        violation += 1.0
    elif f1 < floor_km2 * (1.0 - 1e-9):
        violation += 1.0 - f1 / floor_km2
    out[0], out[1], out[2], out[4] = f1, carbon, noise, violation
    if f1 <= 0:
        out[3] = np.inf
    elif camera.paper > 0:
        out[3] = carbon * noise / f1                                     # (11), to the letter
    else:
        out[3] = carbon * (noise + 1.0) / f1


# --- energy and sound: what can stand for length and altitude ------------------------------------

@njit(cache=True, nogil=True)
def electric_power(craft, level, climb):
    """Electrical W at a level airspeed and a rate of climb, m/s; see power.py for the formulae."""
    drag = 0.5 * AIR_DENSITY * craft.drag_area * level * level
    thrust = sqrt(craft.weight * craft.weight + drag * drag)
    hover = thrust / (2.0 * AIR_DENSITY * craft.rotor_area)     # induced velocity at rest, squared
    half = 0.5 * level * level
    induced = hover / sqrt(sqrt(half * half + hover * hover) + half)
    shaft = (thrust * induced + craft.profile_power * (1.0 + 3.0 * (level / craft.tip_speed) ** 2)
             + drag * level + craft.weight * max(climb, 0.0))
    return shaft / craft.efficiency


@njit(cache=True, nogil=True)
def _power_along(craft, east, north, up, speed):
    """W at a speed over ground along a unit vector."""
    x, y = speed * east - craft.wind_east, speed * north - craft.wind_north
    return electric_power(craft, sqrt(x * x + y * y), speed * up)


@njit(cache=True, nogil=True)
def _energy_of_ramp(craft, east, north, up, first, last):
    """J of a change of speed at the drone's acceleration: two-point Gauss-Legendre."""
    middle, aside = 0.5 * (first + last), 0.5 * (last - first) / sqrt(3.0)
    return abs(last - first) / craft.acceleration * 0.5 * (
        _power_along(craft, east, north, up, middle - aside)
        + _power_along(craft, east, north, up, middle + aside))


@njit(cache=True, nogil=True)
def flight_energy(craft, path, speed):
    """Wh of a flight at the speeds of profile.speed_profile, which are written to speed (N,)."""
    n, a = path.shape[0], craft.acceleration
    speed[:] = craft.max_speed
    speed[0] = speed[n - 1] = 0.0
    before, ux, uy, uz = 0.0, 0.0, 0.0, 0.0
    for b in range(n - 1):
        dx, dy, dz = (path[b + 1, 0] - path[b, 0], path[b + 1, 1] - path[b, 1],
                      path[b + 1, 2] - path[b, 2])
        length = sqrt(dx * dx + dy * dy + dz * dz)
        if craft.time_step > 0:
            cruise = length / craft.time_step
            speed[b], speed[b + 1] = min(speed[b], cruise), min(speed[b + 1], cruise)
        scale = 1.0 / max(length, 1e-9)
        vx, vy, vz = dx * scale, dy * scale, dz * scale
        if b > 0:
            cosine = min(max(ux * vx + uy * vy + uz * vz, -1.0), 1.0)
            half = max(sqrt(0.5 * (1.0 + cosine)), 1e-6)         # cosine of half the turn
            speed[b] = min(speed[b], sqrt(a * CORNER_CUT_M / max(1.0 / half - 1.0, 1e-9)),
                           sqrt(speed[b - 1] ** 2 + 2.0 * a * before))
        before, ux, uy, uz = length, vx, vy, vz
    energy = 0.0
    for b in range(n - 2, -1, -1):
        dx, dy, dz = (path[b + 1, 0] - path[b, 0], path[b + 1, 1] - path[b, 1],
                      path[b + 1, 2] - path[b, 2])
        length = sqrt(dx * dx + dy * dy + dz * dz)
        last = speed[b + 1]
        speed[b] = first = min(speed[b], sqrt(last * last + 2.0 * a * length))
        if length <= 1e-9:
            energy += craft.time_step * _power_along(craft, 0.0, 0.0, 0.0, 0.0)
            continue
        vx, vy, vz = dx / length, dy / length, dz / length
        cruise = craft.max_speed
        if craft.time_step > 0:
            cruise = min(cruise, length / craft.time_step)
        peak = min(cruise, sqrt(a * length + 0.5 * (first * first + last * last)))
        ramps = (2.0 * peak * peak - first * first - last * last) / (2.0 * a)
        energy += (_energy_of_ramp(craft, vx, vy, vz, first, peak)
                   + _energy_of_ramp(craft, vx, vy, vz, peak, last)
                   + max(length - ramps, 0.0) / max(peak, 1e-9)
                   * _power_along(craft, vx, vy, vz, peak))
    return energy / 3600.0


@njit(cache=True, nogil=True)
def add_sound(receptors, sound, x, y, z, sign, heard):
    """Adds (1) or takes away (-1) what one track point sends to each receptor; see noise.py.

    heard : (R,) sums of 10^(L/10)
    """
    decay = sound.absorption * 0.23025850929940458      # ln(10) / 10
    for r in range(receptors.shape[0]):
        dx, dy, dz = x - receptors[r, 0], y - receptors[r, 1], z - receptors[r, 2]
        square = max(dx * dx + dy * dy + dz * dz, 1.0)
        heard[r] += sign * sound.source / square * exp(-decay * (sqrt(square) - 1.0))


@njit(cache=True, nogil=True)
def exposure(receptors, sound, heard, n):
    """f3 as level: by how many dB the mean over n points is above the threshold, times weight."""
    total, silent = 0.0, n * 10.0 ** (0.1 * sound.threshold)
    for r in range(receptors.shape[0]):
        if heard[r] > silent:
            total += receptors[r, 3] * 10.0 * log10(heard[r] / silent)
    return total


# --- what is seen ------------------------------------------------------------------------------

@intrinsic
def popcount(typing, word):
    """Number of bits that are set in an int64."""
    def generate(context, builder, signature, arguments):
        count = builder.module.declare_intrinsic("llvm.ctpop", [ir.IntType(64)])
        return builder.call(count, arguments)
    return types.int64(types.int64), generate


@njit(cache=True, nogil=True)
def cone_over(surface, drop):
    """(nx, ny) highest z at which what stands around a cell can block a line of sight from it.

    drop : by which a cone that stands upside down over each other column falls per cell. Two
    passes over neighbours, in which ways are up to 8.3 % longer than the crow flies.
    """
    nx, ny = surface.shape
    # a line enters a column up to 0.71 cells before its centre
    cone = surface + 0.71 * drop
    beside = np.full((nx, ny), -np.inf)
    straight, across = drop / 1.083, drop * sqrt(2.0) / 1.083
    for turn in range(2):
        for a in range(nx):
            for b in range(ny):
                i, j, s = (a, b, -1) if turn == 0 else (nx - 1 - a, ny - 1 - b, 1)
                for di, dj in ((s, -1), (s, 0), (s, 1), (0, s)):
                    if 0 <= i + di < nx and 0 <= j + dj < ny:
                        fall = across if di != 0 and dj != 0 else straight
                        near = max(cone[i + di, j + dj], beside[i + di, j + dj])
                        beside[i, j] = max(beside[i, j], near - fall)
    return beside


@njit(cache=True, nogil=True)
def _blocked(surface, i, j, z, u, v, height, tallest):
    """Does a column stand in the line from cell (i, j) at z to (u, v, height), in cells?

    Visits every cell that the line crosses (Amanatides & Woo 1987) until it is higher than all
    around. The line rises, so that a column is in the way iff it is higher than the line where
    that enters its cell.
    """
    dx, dy, dz = u - (i + 0.5), v - (j + 0.5), height - z
    step_x, step_y = (1 if dx > 0 else -1), (1 if dy > 0 else -1)
    # share of the line at the next border and from border to border
    next_x = 0.5 / abs(dx) if dx != 0 else np.inf
    next_y = 0.5 / abs(dy) if dy != 0 else np.inf
    width_x, width_y = 2 * next_x, 2 * next_y
    a, b = i, j
    nx, ny = surface.shape
    while True:
        if next_x < next_y:
            share = next_x
            a += step_x
            next_x += width_x
        else:
            share = next_y
            b += step_y
            next_y += width_y
        if share >= 1.0 or a < 0 or b < 0 or a >= nx or b >= ny:
            return False
        level = z + dz * share
        if level >= tallest:
            return False
        if surface[a, b] > level:
            return True


@njit(cache=True, nogil=True)
def view(surface, tallest, camera, x, y, height, bits, head):
    """Writes the bitmap of what is seen from a point: (2), (4), (5).

    bits : flat int64 out; head : (4,) int out, first row, rows, first word, words of a row
    """
    nx, ny = surface.shape
    cell, square_slope, square_slant = camera.cell, camera.slope**2, camera.slant**2
    paper, occlusion = camera.paper > 0, camera.occlusion > 0
    u, v = (x - camera.x0) / cell, (y - camera.y0) / cell
    head[0], head[1], head[2], head[3] = 0, 0, 0, 0
    if not (0 <= u < nx and 0 <= v < ny) or not height > camera.bottom:
        return
    r = min((height - camera.bottom) * camera.slope, camera.reach) / cell
    i0, i1 = max(0, int(u - r)), min(nx, int(u + r) + 1)
    first, last = max(0, int(v - r)), min(ny, int(v + r) + 1)
    k0 = first >> 6
    words = ((last - 1) >> 6) - k0 + 1
    head[0], head[1], head[2], head[3] = i0, i1 - i0, k0, words
    for at in range((i1 - i0) * words):
        bits[at] = 0
    for i in range(i0, i1):
        row = (i - i0) * words - k0
        beside = (i + 0.5 - u) ** 2
        # of the row, only what lies in the circle of the radius
        w = sqrt(max(r * r - beside, 0.0)) + 1e-6
        for j in range(max(first, int(v - w)), min(last, int(v + w) + 1)):
            z = surface[i, j]
            q = height - z
            square = (beside + (j + 0.5 - v) ** 2) * cell * cell
            if q <= 0 or square > q * q * square_slope:
                continue
            if paper:
                if q > camera.slant:
                    continue
            elif square + q * q > square_slant:
                continue
            top = tallest[i, j]
            if occlusion and top > z and _blocked(surface, i, j, z, u, v, height, top):
                continue
            bits[row + (j >> 6)] |= np.int64(1) << (j & 63)


@njit(cache=True, nogil=True)
def course_at(path, b):
    """Unit vector level along the leg that leaves track point b, or arrives at the last one."""
    b = min(b, path.shape[0] - 2)
    dx, dy = path[b + 1, 0] - path[b, 0], path[b + 1, 1] - path[b, 1]
    length = sqrt(dx * dx + dy * dy)
    if length < 1e-9:
        return 1.0, 0.0
    return dx / length, dy / length


@njit(cache=True, nogil=True)
def _borders(start, length):
    """Of a line along one axis of a grid: its first cell, which way it goes on, and the shares of
    it at the next border and from border to border (Amanatides & Woo 1987)."""
    cell = int(floor(start))
    if length > 0:
        return cell, 1, (cell + 1 - start) * (1.0 / length), 1.0 / length
    if length < 0:
        return cell, -1, (start - cell) * (1.0 / -length), 1.0 / -length
    return cell, -1, np.inf, np.inf


@njit(cache=True, nogil=True)
def _lowest_free(solid, i, j, u, v, height, low, high):
    """Least z at (i, j), of a wall's free side, from which (u, v, height) is in view.

    In cells and metres. Every column on the way asks for a z of its own, at the border where the
    line is lower over it. Looks no further once above high.
    """
    nx, ny = solid.shape
    dx, dy = u - i, v - j
    a, step_x, next_x, width_x = _borders(i, dx)
    b, step_y, next_y, width_y = _borders(j, dy)
    share = 0.0
    while 0 <= a < nx and 0 <= b < ny:
        leave = min(next_x, next_y)
        top = solid[a, b]
        rising = min(low + share * (height - low), low + min(leave, 1.0) * (height - low))
        if top > rising:
            low = max(low, (top - share * height) / (1.0 - share))
            if leave < 1.0:
                low = max(low, (top - leave * height) / (1.0 - leave))
            elif top >= height:
                return np.inf
            if low > high:
                return low
        if leave >= 1.0:
            return low
        share = leave
        if next_x < next_y:
            a += step_x
            next_x += width_x
        else:
            b += step_y
            next_y += width_y
    return low


@njit(cache=True, nogil=True)
def _lowest_over(ground, camera, i, j, u, v, height, low, high):
    """As _lowest_free, over ground that is bilinear between its nodes.

    Between two lines of nodes that is a parabola along the way. With r the share of the way that
    is left it asks for a z of p / r + q + c r, which is most at an end, or at r² = p / c.
    """
    most_a, most_b = ground.shape[0] - 1, ground.shape[1] - 1
    x, y = (i - camera.ground_x) / camera.ground_cell, (j - camera.ground_y) / camera.ground_cell
    dx, dy = (u - i) / camera.ground_cell, (v - j) / camera.ground_cell
    a, step_x, next_x, width_x = _borders(x, dx)
    b, step_y, next_y, width_y = _borders(y, dy)
    share = 0.0
    while True:
        leave = min(next_x, next_y, 1.0)
        # beyond the nodes it goes on level
        a0, a1 = min(max(a, 0), most_a), min(max(a + 1, 0), most_a)
        b0, b1 = min(max(b, 0), most_b), min(max(b + 1, 0), most_b)
        z, zx, zy, zxy = ground[a0, b0], ground[a1, b0], ground[a0, b1], ground[a1, b1]
        if max(z, zx, zy, zxy) > low + (share if height > low else leave) * (height - low):
            zx, zy, zxy = zx - z, zy - z, zxy - zx - zy + z
            east, north = x - a, y - b
            c = zxy * dx * dy
            slope = zx * dx + zy * dy + zxy * (east * dy + north * dx)
            p = z + zx * east + zy * north + zxy * east * north + slope + c - height
            q = height - slope - 2.0 * c
            first, last = 1.0 - share, 1.0 - leave
            low = max(low, p / first + q + c * first)
            if last > 0.0:
                low = max(low, p / last + q + c * last)
            elif p >= 0.0:
                return np.inf
            if p < 0.0 and c < 0.0 and last * last < p / c < first * first:
                low = max(low, q - 2.0 * sqrt(p * c))
            if low > high:
                return low
        if leave >= 1.0:
            return low
        share = leave
        if next_x < next_y:
            a += step_x
            next_x += width_x
        else:
            b += step_y
            next_y += width_y


@njit(cache=True, nogil=True)
def view_walls(solid, ground, runs, offsets, camera, x, y, z, course_x, course_y, spans):
    """Faces of walls that the camera for facades sees from a point on a course.

    solid to camera : of scene.walls; spans : (S, 3) int32 out, run, first face, face after
        the last. What is seen of a run is one piece, because cone, range and sight are convex.

    Returns the number of spans.
    """
    cell = camera.cell
    ex = camera.level * (course_x * camera.cos_yaw - course_y * camera.sin_yaw)
    ey = camera.level * (course_x * camera.sin_yaw + course_y * camera.cos_yaw)
    u, v, reach = (x - camera.x0) / cell, (y - camera.y0) / cell, camera.reach / cell
    edge = camera.block
    found = 0
    uneven = ground.size > 1
    if not (0 <= u < solid.shape[0] and 0 <= v < solid.shape[1]):
        return found
    for p in range(max(0, int(floor((u - reach) / edge))),
                   min(offsets.shape[0], int(floor((u + reach) / edge)) + 1)):
        for q in range(max(0, int(floor((v - reach) / edge))),
                       min(offsets.shape[1] - 1, int(floor((v + reach) / edge)) + 1)):
            for w in range(offsets[p, q], offsets[p, q + 1]):
                side = runs[w, 2]
                out_x = 1.0 if side == 0 else (-1.0 if side == 1 else 0.0)
                out_y = 1.0 if side == 2 else (-1.0 if side == 3 else 0.0)
                # just outside the wall
                i, j = runs[w, 0] + 0.5 + 0.501 * out_x, runs[w, 1] + 0.5 + 0.501 * out_y
                dx, dy = (i - u) * cell, (j - v) * cell
                facing = -(dx * out_x + dy * out_y)
                square, ahead = dx * dx + dy * dy, dx * ex + dy * ey
                # no height of it is near, in the cone or faces the camera enough
                if facing <= 0 or facing < camera.cos_incidence * sqrt(square) or square > (
                        camera.reach * camera.reach):
                    continue
                if abs(camera.down) < camera.cos_half and (ahead <= 0 or ahead * ahead < square * (
                        camera.cos_half * camera.cos_half - camera.down * camera.down)):
                    continue
                first, last = 0, -1
                for k in range(runs[w, 4]):
                    rise = camera.bottom + (runs[w, 3] + k + 0.5) * cell - z
                    far = sqrt(square + rise * rise)
                    if (far <= camera.reach and facing >= camera.cos_incidence * far
                            and ahead + rise * camera.down >= camera.cos_half * far):
                        if last < 0:
                            first = k
                        last = k
                if last < 0:
                    continue
                base = camera.bottom + (runs[w, 3] + 0.5) * cell
                high = base + last * cell
                low = _lowest_free(solid, i, j, u, v, z, base + first * cell, high)
                if uneven and low <= high:
                    low = _lowest_over(ground, camera, i, j, u, v, z, low, high)
                while first <= last and base + first * cell < low - 1e-9:
                    first += 1
                if first <= last:
                    spans[found, 0] = w
                    spans[found, 1], spans[found, 2] = runs[w, 5] + first, runs[w, 5] + last + 1
                    found += 1
    return found


@njit(cache=True, nogil=True)
def mark_walls(scene, path, stamps, stamp):
    """Stamps the faces of walls seen along a path; the weight of those, each once.

    stamps : (faces,)
    """
    walls, total = scene.walls, 0.0
    spans = np.empty((walls.most, 3), np.int32)
    for b in range(path.shape[0]):
        course_x, course_y = course_at(path, b)
        found = view_walls(walls.solid, walls.ground, walls.runs, walls.offsets, walls.camera,
                           path[b, 0], path[b, 1], path[b, 2], course_x, course_y, spans)
        for s in range(found):
            for face in range(spans[s, 1], spans[s, 2]):
                if stamps[face] != stamp:
                    stamps[face] = stamp
                    total += walls.weights[spans[s, 0]]
    return total


@njit(cache=True, nogil=True)
def mark_seen(scene, points, stamps, stamp):
    """Stamps the cells seen from the points; the weight of those, each once.

    In the paper's literal reading (1) each as often as it is seen. The same conditions as in view:
    in a function of their own they take twice as long.
    """
    surface, tallest, weights, camera = scene.surface, scene.tallest, scene.weights, scene.camera
    nx, ny = surface.shape
    cell, square_slope, square_slant = camera.cell, camera.slope**2, camera.slant**2
    paper, occlusion, total = camera.paper > 0, camera.occlusion > 0, 0.0
    centres, in_view = np.arange(ny) + 0.5, np.empty(ny, np.bool_)
    for n in range(points.shape[0]):
        u, v = (points[n, 0] - camera.x0) / cell, (points[n, 1] - camera.y0) / cell
        height = points[n, 2]
        if not (0 <= u < nx and 0 <= v < ny) or not height > camera.bottom:
            continue
        r = min((height - camera.bottom) * camera.slope, camera.reach) / cell
        first, last = max(0, int(v - r)), min(ny, int(v + r) + 1)
        for i in range(max(0, int(u - r)), min(nx, int(u + r) + 1)):
            beside = (i + 0.5 - u) ** 2
            w = sqrt(max(r * r - beside, 0.0)) + 1e-6
            j0, j1 = max(first, int(v - w)), min(last, int(v + w) + 1)
            if occlusion:
                for j in range(j0, j1):
                    if stamps[i, j] == stamp:
                        continue        # most was seen from the points before
                    z = surface[i, j]
                    q = height - z
                    square = (beside + (j + 0.5 - v) ** 2) * cell * cell
                    if q <= 0 or square > q * q * square_slope or square + q * q > square_slant:
                        continue
                    top = tallest[i, j]
                    if top > z and _blocked(surface, i, j, z, u, v, height, top):
                        continue
                    stamps[i, j] = stamp
                    total += weights[i, j]
                continue
            # without lines of sight the conditions are the work: several at once, no branches
            tops, aside = surface[i, j0:j1], centres[j0:j1]
            for k in range(len(tops)):
                q = height - tops[k]
                square = (beside + (aside[k] - v) ** 2) * cell * cell
                near = q <= camera.slant if paper else square + q * q <= square_slant
                in_view[k] = (q > 0) & (square <= q * q * square_slope) & near
            for j in range(j0, j1):
                if in_view[j - j0] and (paper or stamps[i, j] != stamp):
                    stamps[i, j] = stamp
                    total += weights[i, j]
    return total


@njit(cache=True, nogil=True)
def evaluate_exact(scene, paths, stamps, wall_stamps, stamp, out):
    """Scores of (Q, N, 3) paths into (Q, 5); stamps above stamp are used."""
    speed, heard = np.empty(paths.shape[1]), np.empty(scene.receptors.shape[0])
    camera = scene.camera
    for q in range(paths.shape[0]):
        carbon, noise, violation = of_path(scene, paths[q], speed, heard)
        worth = 0.0
        if violation >= 0:
            if scene.see_ground:
                worth = mark_seen(scene, paths[q], stamps, stamp + q + 1)
            if scene.see_walls:
                worth += mark_walls(scene, paths[q], wall_stamps, stamp + q + 1)
        score(camera, scene.floor_km2, carbon, noise, violation, worth, out[q])


# --- the table of views ------------------------------------------------------------------------

@njit(cache=True, nogil=True)
def _place(keys, key):
    """Where a key is in the hash table, or would go."""
    mask = len(keys) - 1
    at = (key * np.int64(-7046029254386353131) >> 20) & mask
    while keys[at] != key and keys[at] != -1:
        at = (at + 1) & mask
    return at


@njit(cache=True, nogil=True)
def index_keys(keys, slots, key_of):
    """Fills an empty hash table."""
    for n in range(len(key_of)):
        at = _place(keys, key_of[n])
        keys[at], slots[at] = key_of[n], n


@njit(cache=True, nogil=True)
def _new_view(surface, tallest, camera, i, j, k, slot, bits, heads):
    """Makes the record of a box."""
    nx, ny = surface.shape
    # a box at the border has its centre outside, but the point is inside
    x = min(camera.x0 + (i + 0.5) * KEY_M, camera.x0 + nx * camera.cell - 1e-6)
    y = min(camera.y0 + (j + 0.5) * KEY_M, camera.y0 + ny * camera.cell - 1e-6)
    view(surface, tallest, camera, x, y, camera.bottom + (k + 0.5) * KEY_UP_M, bits[slot],
         heads[slot])


@njit(cache=True, nogil=True)
def _join(canvas, stride, heads, bits, slot, low, high):
    """ORs a record into the canvas; low and high: words touched of each BAND rows."""
    i0, rows, k0, words = heads[slot, 0], heads[slot, 1], heads[slot, 2], heads[slot, 3]
    for band in range(i0 // BAND, (i0 + rows - 1) // BAND + 1):
        low[band] = min(low[band], k0)
        high[band] = max(high[band], k0 + words)
    at = i0 * stride + k0
    if words == 1:
        for r in range(rows):
            canvas[at + r * stride] |= bits[slot, r]
    elif words == 2:
        for r in range(rows):
            canvas[at + r * stride] |= bits[slot, 2 * r]
            canvas[at + r * stride + 1] |= bits[slot, 2 * r + 1]
    else:
        for r in range(rows):
            for k in range(words):
                canvas[at + r * stride + k] |= bits[slot, r * words + k]


@njit(cache=True, nogil=True)
def _count(canvas, stride, planes, low, high, i0, i1, sums):
    """Adds the bits of the canvas in each plane to the sums, and clears the canvas."""
    for band in range(i0 // BAND, (i1 - 1) // BAND + 1):
        for i in range(max(i0, band * BAND), min(i1, (band + 1) * BAND)):
            for k in range(i * stride + low[band], i * stride + high[band]):
                word = canvas[k]
                for p in range(planes.shape[0]):
                    sums[p] += popcount(word & planes[p, k])
                canvas[k] = 0
        low[band], high[band] = stride, 0


@njit(cache=True, nogil=True)
def _count_one(canvas, stride, plane, low, high, i0, i1):
    """As _count, for one plane."""
    total = 0
    for band in range(i0 // BAND, (i1 - 1) // BAND + 1):
        for i in range(max(i0, band * BAND), min(i1, (band + 1) * BAND)):
            for k in range(i * stride + low[band], i * stride + high[band]):
                total += popcount(canvas[k] & plane[k])
                canvas[k] = 0
        low[band], high[band] = stride, 0
    return total


@njit(cache=True, nogil=True)
def evaluate_by_table(scene, paths, first, keys, slots, bits, heads, used, key_of, state, canvas,
                      low, high, planes, unit, out):
    """Scores of (Q, N, 3) paths from the first on into (Q, 5).

    Returns the number of paths that are done; fewer than all if the table is full.
    """
    n = paths.shape[1]
    nx, ny = scene.surface.shape
    stride = canvas.shape[0] // nx
    surface, tallest, camera = scene.surface, scene.tallest, scene.camera
    cell, x0, y0, bottom = camera.cell, camera.x0, camera.y0, camera.bottom
    per_box = cell / KEY_M
    at = np.empty(n, np.int64)
    speed, heard = np.empty(n), np.empty(scene.receptors.shape[0])
    sums = np.zeros(planes.shape[0], np.int64)
    for q in range(first, paths.shape[0]):
        path = paths[q]
        carbon, noise, violation = of_path(scene, path, speed, heard)
        if violation < 0:
            score(camera, scene.floor_km2, carbon, noise, violation, 0.0, out[q])
            continue
        state[1] += 1
        found, i0, i1 = 0, nx, 0
        for b in range(n):
            u, v = (path[b, 0] - x0) / cell, (path[b, 1] - y0) / cell
            if not (0 <= u < nx and 0 <= v < ny) or path[b, 2] <= bottom:
                continue
            i, j = np.int64(u * per_box), np.int64(v * per_box)
            k = np.int64((path[b, 2] - bottom) / KEY_UP_M)
            key = (k << 40) | (i << 20) | j
            place = _place(keys, key)
            if keys[place] == key:
                slot = np.int64(slots[place])
            else:
                slot = state[0]
                if slot >= len(used):
                    return q
                _new_view(surface, tallest, camera, i, j, k, slot, bits, heads)
                keys[place], slots[place], key_of[slot] = key, slot, key
                state[0] += 1
            used[slot] = state[1]
            at[found] = slot
            found += 1
        sums[:] = 0
        for f in range(found):
            slot = at[f]
            _join(canvas, stride, heads, bits, slot, low, high)
            i0, i1 = min(i0, heads[slot, 0]), max(i1, heads[slot, 0] + heads[slot, 1])
            if camera.paper > 0:         # (1): each as often as it is seen
                _count(canvas, stride, planes, low, high, i0, i1, sums)
        if planes.shape[0] == 1:
            sums[0] += _count_one(canvas, stride, planes[0], low, high, i0, i1)
        else:
            _count(canvas, stride, planes, low, high, i0, i1, sums)
        worth = 0.0
        for p in range(len(sums)):
            worth += sums[p] * unit * (1 << p)
        score(camera, scene.floor_km2, carbon, noise, violation, worth, out[q])
    return paths.shape[0]


# --- local search: one path, of which a few points change at a time -----------------------------

@njit(cache=True, nogil=True)
def _add_view(counts, weights, again, bits, head, sign):
    """Adds (1) or takes away (-1) one view; by how much the weight of what is seen changes."""
    change = 0.0
    for r in range(head[1]):
        i = head[0] + r
        for k in range(head[3]):
            word = bits[r * head[3] + k]
            while word != 0:
                low = word & -word
                j = 64 * (head[2] + k) + popcount(low - 1)
                word ^= low
                before = counts[i, j]
                counts[i, j] = before + sign
                if again or (before == 0 if sign > 0 else before == 1):
                    change += weights[i, j]
    return sign * change


@njit(cache=True, nogil=True)
def _add_walls(counts, weights, spans, found, sign):
    """As _add_view, for the spans of faces that view_walls found."""
    change = 0.0
    for s in range(found):
        for face in range(spans[s, 1], spans[s, 2]):
            before = counts[face]
            counts[face] = before + sign
            if before == 0 if sign > 0 else before == 1:
                change += weights[spans[s, 0]]
    return sign * change


@njit(cache=True, nogil=True)
def _into_band(ground, limits, path, b):
    """Moves track point b up or down into the altitude band, on whose end most paths lie."""
    nx, ny = ground.shape
    i = min(max(int(floor((path[b, 0] - limits.x0) / limits.cell)), 0), nx - 1)
    j = min(max(int(floor((path[b, 1] - limits.y0) / limits.cell)), 0), ny - 1)
    path[b, 2] = min(max(path[b, 2], ground[i, j] + limits.min_altitude),
                     ground[i, j] + limits.max_altitude)


@njit(cache=True, nogil=True)
def anneal(scene, path, moves, sizes, widths, heat, seed, counts, arms, best, out):
    """Annealed smooth bumps on the points of one path, each re-evaluated in O(changed points).

    path : (N, 3) in and out, the current path; best : (N, 3) out, the best one on the way
    sizes : (2,) standard deviation of a bump level and up, metres, and widths : (2,) least and
        largest half width in points, both as they are at the beginning
    heat : (3,) temperature at the first and after the last move of the whole search as share of
        F, and the share of the search that is over; and (4th) the share that these moves are
    counts : (nx, ny) int16 zeros, and zeros again at the end
    arms : (3, 3 * WIDTH_CLASSES) in and out, of the kinds of bump (up, level, both) by width:
        how often it was better and was tried, both fading, and the stride. What is often better
        is tried more often. Ones at the beginning.
    out : (2, 5) scores of the path and of the best

    Returns the number of moves made; none are made if the ends leave nothing to move.
    """
    n = path.shape[0]
    ground, clear, lowest_z, highest_z, limits = (
        scene.ground, scene.clear, scene.lowest_z, scene.highest_z, scene.limits)
    surface, tallest, weights, camera = scene.surface, scene.tallest, scene.weights, scene.camera
    again = camera.paper > 0
    np.random.seed(seed)
    reach = int(camera.reach / camera.cell) + 2
    size = (2 * reach + 1) * ((2 * reach + 1) // 64 + 2)
    # two records for each point: the one in use and the one that is tried
    bits, heads = np.zeros((2 * n, size), np.int64), np.zeros((2 * n, 4), np.int64)
    side = np.zeros(n, np.int64)
    noise, at_point = np.zeros(n), np.zeros(n)
    legs, at_leg, at_corner = np.zeros(n), np.zeros(n), np.zeros(n)
    kept = np.empty((5, n))
    before = np.empty((n, 3))
    walls, receptors, sound = scene.walls, scene.receptors, scene.sound
    see_ground, see_walls, by_level = scene.see_ground, scene.see_walls, scene.by_level
    wall_counts = np.zeros(walls.faces, np.int16)
    spans = np.empty((2 * n if see_walls else 0, walls.most, 3), np.int32)
    spans_found = np.zeros(2 * n, np.int64)
    speed, heard = np.empty(n), np.zeros(receptors.shape[0])
    heard_before = heard.copy()
    worth = 0.0
    for b in range(n):
        if see_ground:
            view(surface, tallest, camera, path[b, 0], path[b, 1], path[b, 2], bits[2 * b],
                 heads[2 * b])
            worth += _add_view(counts, weights, again, bits[2 * b], heads[2 * b], 1)
        if see_walls:
            course_x, course_y = course_at(path, b)
            spans_found[2 * b] = view_walls(
                walls.solid, walls.ground, walls.runs, walls.offsets, walls.camera, path[b, 0],
                path[b, 1], path[b, 2], course_x, course_y, spans[2 * b])
            worth += _add_walls(wall_counts, walls.weights, spans[2 * b], spans_found[2 * b], 1)
        if by_level:
            add_sound(receptors, sound, path[b, 0], path[b, 1], path[b, 2], 1.0, heard)
        noise[b], at_point[b] = _of_point(ground, limits, path, b)
        if b > 0:
            legs[b], at_leg[b] = _of_leg(clear, lowest_z, highest_z, limits, path, b)
        if 0 < b < n - 1:
            at_corner[b] = _of_corner(limits.cos_turn, path, b)
    always = max(0.0, scene.duration_share - 1.0)
    trial = np.empty(5)

    broken = (always + at_point.sum() + at_leg.sum() + at_corner.sum()
              + _of_visits(scene.must_visit, scene.visit_radius, path))
    carbon, over_limit = of_energy(scene.multirotor, scene.carbon, path, legs.sum(), speed)
    f3 = exposure(receptors, sound, heard, n) if by_level else noise.sum()
    score(camera, scene.floor_km2, carbon, f3, broken + over_limit, worth, out[0])
    out[1] = out[0]
    best[:] = path
    promise = LEAST_PROMISE + arms[0] / arms[1]
    for move in range(moves):
        over = heat[2] + heat[3] * move / moves
        shrink = 0.05 + 0.95 * (1.0 - over)
        centre = np.random.randint(0, n)
        drawn = np.random.random() * promise.sum()
        arm = 0
        while arm < len(promise) - 1 and drawn > promise[arm]:
            drawn -= promise[arm]
            arm += 1
        kind, size_class = arm // WIDTH_CLASSES, arm % WIDTH_CLASSES
        width = widths[0] * (widths[1] / widths[0]) ** (
            (size_class + np.random.random()) / WIDTH_CLASSES)
        stride = arms[2, arm]
        east, north, up = np.random.normal(), np.random.normal(), np.random.normal()
        east *= sizes[0] * shrink * stride * (kind != 0)
        north *= sizes[0] * shrink * stride * (kind != 0)
        up *= sizes[1] * shrink * stride * (kind != 1)
        first, last = max(1, int(centre - width) + 1), min(n - 2, int(centre + width))
        if last < first:
            continue
        low, high = first - 1, min(n, last + 3)     # terms that may change: low <= b < high
        for b in range(low, high):
            kept[0, b], kept[1, b], kept[2, b] = noise[b], at_point[b], legs[b]
            kept[3, b], kept[4, b] = at_leg[b], at_corner[b]
        for b in range(first, last + 1):
            share = 0.5 + 0.5 * np.cos(np.pi * (b - centre) / width)
            before[b] = path[b]
            path[b, 0] += share * east
            path[b, 1] += share * north
            path[b, 2] += share * up
            _into_band(ground, limits, path, b)
            noise[b], at_point[b] = _of_point(ground, limits, path, b)
        for b in range(first, last + 2):
            legs[b], at_leg[b] = _of_leg(clear, lowest_z, highest_z, limits, path, b)
        for b in range(max(1, first - 1), min(n - 1, last + 2)):
            at_corner[b] = _of_corner(limits.cos_turn, path, b)
        broken = (always + at_point.sum() + at_leg.sum() + at_corner.sum()
                  + _of_visits(scene.must_visit, scene.visit_radius, path))
        carbon, over_limit = of_energy(scene.multirotor, scene.carbon, path, legs.sum(), speed)
        broken += over_limit
        better, seen = False, worth
        if broken <= out[0, 4]:     # else worse whatever it sees: by Deb's rules G comes first
            # the course changes at the point before too, and at the goal with the last leg
            turned, end = first, last + 1
            if see_walls:
                turned, end = first - 1, n if last == n - 2 else last + 1
            for b in range(turned, end):
                old, new = 2 * b + side[b], 2 * b + 1 - side[b]
                if see_ground:
                    view(surface, tallest, camera, path[b, 0], path[b, 1], path[b, 2], bits[new],
                         heads[new])
                    seen += _add_view(counts, weights, again, bits[new], heads[new], 1)
                    seen += _add_view(counts, weights, again, bits[old], heads[old], -1)
                if see_walls:
                    course_x, course_y = course_at(path, b)
                    spans_found[new] = view_walls(
                        walls.solid, walls.ground, walls.runs, walls.offsets, walls.camera,
                        path[b, 0], path[b, 1], path[b, 2], course_x, course_y, spans[new])
                    seen += _add_walls(wall_counts, walls.weights, spans[new], spans_found[new], 1)
                    seen += _add_walls(wall_counts, walls.weights, spans[old], spans_found[old],
                                       -1)
            if by_level:
                heard_before[:] = heard
                for b in range(first, last + 1):
                    add_sound(receptors, sound, before[b, 0], before[b, 1], before[b, 2], -1.0,
                              heard)
                    add_sound(receptors, sound, path[b, 0], path[b, 1], path[b, 2], 1.0, heard)
                f3 = exposure(receptors, sound, heard, n)
            else:
                f3 = noise.sum()
            score(camera, scene.floor_km2, carbon, f3, broken, seen, trial)
            if trial[4] > 0 or out[0, 4] > 0:
                better = trial[4] < out[0, 4] or (trial[4] == out[0, 4] and trial[3] <= out[0, 3])
            else:
                warm = abs(out[1, 3]) * heat[0] * (heat[1] / heat[0]) ** over
                better = trial[3] <= out[0, 3] or np.random.random() < np.exp(
                    (out[0, 3] - trial[3]) / warm)
            if by_level and not better:
                heard[:] = heard_before
            for b in range(turned, end):
                old, new = 2 * b + side[b], 2 * b + 1 - side[b]
                if better:
                    side[b] = 1 - side[b]
                    continue
                if see_ground:
                    _add_view(counts, weights, again, bits[old], heads[old], 1)
                    _add_view(counts, weights, again, bits[new], heads[new], -1)
                if see_walls:
                    _add_walls(wall_counts, walls.weights, spans[old], spans_found[old], 1)
                    _add_walls(wall_counts, walls.weights, spans[new], spans_found[new], -1)
        arms[0, arm] *= FADING
        arms[1, arm] = arms[1, arm] * FADING + 1.0
        if better:
            if trial[3] < out[0, 3] or trial[4] < out[0, 4]:
                arms[0, arm] += 1.0
            worth = seen
            out[0] = trial
            arms[2, arm] = min(stride * 1.1, 3.0)
            if (out[0, 4] < out[1, 4] or (out[0, 4] == out[1, 4] and out[0, 3] < out[1, 3])):
                out[1] = out[0]
                best[:] = path
        else:
            arms[2, arm] = max(stride * 0.97, 0.03)
            for b in range(first, last + 1):
                path[b] = before[b]
            for b in range(low, high):
                noise[b], at_point[b], legs[b] = kept[0, b], kept[1, b], kept[2, b]
                at_leg[b], at_corner[b] = kept[3, b], kept[4, b]
        promise[arm] = LEAST_PROMISE + arms[0, arm] / arms[1, arm]
    for b in range(n):
        _add_view(counts, weights, again, bits[2 * b + side[b]], heads[2 * b + side[b]], -1)
    return moves


# --- many legs and views at once, for graphs -----------------------------------------------------

@njit(cache=True, nogil=True)
def layer_edges(scene, here, there, moves, free):
    """Which moves from the nodes of one layer of a graph to those of the next keep all limits.

    here, there : (A, C, 3) nodes; moves : (M, 2) steps in a and c; free : (A, C, M) bool out
    """
    clear, lowest_z, highest_z, limits = (
        scene.clear, scene.lowest_z, scene.highest_z, scene.limits)
    leg = np.empty((2, 3))
    nx, ny = clear.shape
    for a in range(here.shape[0]):
        for c in range(here.shape[1]):
            leg[0] = here[a, c]
            u, v = (leg[0, 0] - limits.x0) / limits.cell, (leg[0, 1] - limits.y0) / limits.cell
            inside = 0 <= u < nx and 0 <= v < ny and clear[int(u), int(v)] <= leg[0, 2]
            for m in range(len(moves)):
                b, d = a + moves[m, 0], c + moves[m, 1]
                free[a, c, m] = False
                if inside and 0 <= b < here.shape[0] and 0 <= d < here.shape[1]:
                    leg[1] = there[b, d]
                    free[a, c, m] = _of_leg(clear, lowest_z, highest_z, limits, leg, 1)[1] <= 0.0


@njit(cache=True, nogil=True)
def views(surface, tallest, camera, points, bits, heads):
    """Bitmaps of what is seen from (N, 3) points: bits (N, words), heads (N, 4)."""
    for n in range(len(points)):
        view(surface, tallest, camera, points[n, 0], points[n, 1], points[n, 2], bits[n], heads[n])
