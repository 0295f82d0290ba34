"""The default planner: what differential evolution and the ants' layered graph do best, together.

1. Seeds: dynamic programming over the layered graph of the ants, for several weightings of the
   objectives; trees in bands of altitude; loops and waves where the way from start to goal is not
   enough to see.
2. Differential evolution, L-SHADE (Tanabe & Fukunaga 2014), on the controls of a B-spline; parents
   are drawn by pheromone that good ones deposit generation by generation.
3. Annealed smooth bumps on the track points themselves (Kirkpatrick et al. 1983), exact, each
   re-evaluated in the points that it changes.

doc/planner.md says what each part is worth on its own.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from parallel_city_ros.patrol.evaluator import Scores
from parallel_city_ros.patrol.kernels import WIDTH_CLASSES, anneal
from parallel_city_ros.planning.layered import LayeredGraph, best_walk
from parallel_city_ros.planning.rrt import rrt_paths
from parallel_city_ros.planning.search import Search, Steps, resample
from parallel_city_ros.planning.spline import BEYOND, Spline
from parallel_city_ros.planning.wandering import round_paths, wandering_paths
from parallel_city_ros.settings import check, setting

FIRST_TREES = 4         # paths before the graph is made: something to fly in no time
NOISE_WEIGHTS, COVERAGE_WEIGHTS = 16, (0.5, 1.0, 2.0)
LINEARISATIONS = 6      # of F around a seed, each a dynamic programme
MEMORY = 6              # of L-SHADE
ELITES = 0.11           # share of the population that are elites, without pheromone
ARCHIVE = 1.4           # size of the archive in populations
JITTER = np.array([12.0, 12.0, 5.0])    # m, of copies of seeds
BUMP_LEVEL, BUMP_UP = 8.0, 5.0          # m, standard deviation at the beginning
HEAT = 0.004, 3e-5      # of the annealing, as share of F
WIDEST_BUMP = 0.12      # half width, of the track points
SLICE_CELLS = 1.7e7     # moves x points x cells of a view between two looks at the clock
HALVINGS = (0.15, 0.35) # shares of the annealing after which the worse half of the paths is left


@dataclass(frozen=True, kw_only=True)
class DeAcoConfig:
    population: int = setting(60, "paths at the beginning of the evolution", low=8)
    controls: int = setting(14, "free controls of the B-spline", low=4)
    evolution_share: float = setting(0.1, "share of the evaluations that the evolution has",
                                     low=0, high=1)
    annealed: int = setting(2, "paths whose annealing begins", low=1)
    pheromone_importance: float = setting(4.0, "exponent when elites are drawn", low=0)
    evaporation_rate: float = setting(0.1, "per generation", low=0, high=1)
    use_graph: bool = setting(True, "whether the layered graph gives seeds")
    use_pheromone: bool = setting(True, "whether parents are drawn by pheromone")

    def __post_init__(self):
        check(self)


class DeAco(Search):
    def steps(self) -> Steps:
        seeds = yield from self.seeds()
        yield from self.search(seeds)

    def seeds(self) -> Generator[np.ndarray, Scores, _Seeds]:
        """Something to fly in no time, then whatever the task asks for."""
        evaluator, config, rng = self.evaluator, self.config, self.rng
        trees = rrt_paths(evaluator, FIRST_TREES, rng, self.stopped)
        paths = np.concatenate([self.warm_start, evaluator.straight()[None], trees])
        seeds = _Seeds(paths, (yield paths).cost)
        task = evaluator.task
        if task.must_visit:
            paths = round_paths(evaluator)
            seeds.add(paths, (yield paths).cost)
        if task.closed or task.coverage_floor > 0 or task.must_visit:
            for _ in range(max(1, min(10, self.budget // 1000))):
                paths = wandering_paths(evaluator, config.population, rng)
                seeds.add(paths, (yield paths).cost)
        if config.use_graph and not task.closed:
            yield from self._graph_seeds(seeds)
        return seeds

    def search(self, seeds: _Seeds) -> Steps:
        """What follows the seeds."""
        evaluator, config, rng = self.evaluator, self.config, self.rng
        if config.evolution_share > 0:
            more = rrt_paths(evaluator, config.population // 4, rng, self.stopped)
            seeds.add(more, (yield more).cost)
            yield from self._evolve(seeds)
        yield from self._anneal(seeds)

    # 1. seeds

    def _graph_seeds(self, seeds: _Seeds) -> Steps:
        evaluator, task = self.evaluator, self.evaluator.task
        graph = LayeredGraph(evaluator, self.stopped)
        gains = graph.gains(self.stopped) if graph.connected else None
        if gains is None:
            return
        lengths, noise = graph.lengths(), graph.noise()
        points = task.track_points + 2
        per_layer = points / (graph.layers + 1)     # track points for each node
        known = set()

        def walk(f1_cells, f2_m, f3):
            if self.stopped():
                return None
            a, c = best_walk(graph, gains, lengths, noise, 1 / f2_m, per_layer / f3, 1 / f1_cells)
            key = a.tobytes() + c.tobytes()
            if key in known:
                return None
            known.add(key)
            return resample(graph.path(a, c), points)

        cell = evaluator.grid.resolution
        distance = float(np.linalg.norm(np.subtract(task.goal, task.start)))
        camera = evaluator.scene.camera
        swath = 2 * min(camera.reach, task.max_altitude * camera.slope) * distance / cell**2
        quiet, loud = noise[noise > 0].min(initial=np.inf), noise.max()
        if not np.isfinite(quiet):
            quiet, loud = 1.0, 1.0
        found = [walk(share * swath, 1.05 * distance, level * points)
                 for level in np.geomspace(min(quiet, loud), loud + 1, NOISE_WEIGHTS)
                 for share in COVERAGE_WEIGHTS]
        found = [path for path in found if path is not None]
        if not found:
            return
        paths = np.array(found)
        scores = yield paths
        seeds.add(paths, scores.cost)
        # F is a quotient: its logarithm is linear around a path, which gives the next weights.
        for _ in range(LINEARISATIONS):
            best = np.argsort(scores.cost)[:4]
            found = [walk(max(scores.coverage_km2[k], 1e-9) * 1e6 / cell**2,
                          max(scores.carbon[k], 1e-9) * 1000 / task.drone.carbon_per_km,
                          max(scores.noise_m[k], 0.0) + 1) for k in best]
            found = [path for path in found if path is not None]
            if not found:
                return
            paths = np.array(found)
            scores = yield paths
            seeds.add(paths, scores.cost)

    # 2. evolution

    def _evolve(self, seeds: _Seeds) -> Steps:
        evaluator, config, rng = self.evaluator, self.config, self.rng
        spline = Spline(evaluator, config.controls)
        first = evaluator.evaluations
        last = first + config.evolution_share * (self.budget - first)
        chosen = seeds.best(config.population // 2, apart=5.0)
        controls = spline.encode(chosen)
        copies = controls[rng.integers(len(controls), size=config.population - len(controls))]
        copies = copies + rng.normal(size=copies.shape) * JITTER
        x = np.concatenate([controls, copies])
        lower, upper = self.lower - BEYOND, self.upper + BEYOND
        x = np.clip(x, lower, upper)
        paths = spline.decode(x, self.lower, self.upper)
        cost = (yield paths).cost
        archive = np.empty((0, *x.shape[1:]))
        factors, rates, at = np.full(MEMORY, 0.5), np.full(MEMORY, 0.5), 0
        pheromone = np.ones(len(x))
        while evaluator.evaluations + len(x) <= last and not self.late(config.evolution_share):
            if self.evaluator_changed():
                cost = (yield paths).cost
            n = len(x)
            slot = rng.integers(MEMORY, size=n)
            rate = np.clip(rng.normal(rates[slot], 0.1), 0, 1)
            factor = _cauchy(rng, factors[slot])
            rank = np.argsort(np.argsort(cost))
            if config.use_pheromone:
                pheromone = ((1 - config.evaporation_rate) * pheromone
                             + 1 - rank / max(n - 1, 1))                      # (18), by rank
                elite = pheromone ** config.pheromone_importance
                best = rng.choice(n, n, p=elite / elite.sum())
                base = rng.choice(n, n, p=pheromone / pheromone.sum())
            else:
                best = np.argsort(cost)[rng.integers(max(2, round(ELITES * n)), size=n)]
                base = rng.integers(n, size=n)
            pool = np.concatenate([x, archive])
            other = pool[rng.integers(len(pool), size=n)]
            weight = factor[:, None, None]
            mutant = x + weight * (x[best] - x) + weight * (x[base] - other)
            mutant = np.where(mutant < lower, (lower + x) / 2, mutant)
            mutant = np.where(mutant > upper, (upper + x) / 2, mutant)
            crossed = rng.random(x.shape) < rate[:, None, None]
            crossed[np.arange(n), rng.integers(x.shape[1], size=n), rng.integers(3, size=n)] = True
            trial = np.where(crossed, mutant, x)
            trial_paths = spline.decode(trial, self.lower, self.upper)
            told = (yield trial_paths).cost
            won = told < cost
            if won.any():
                gain = cost[won] - told[won]
                gain /= gain.sum()
                factors[at] = _lehmer(gain, factor[won])
                rates[at] = _lehmer(gain, rate[won])
                at = (at + 1) % MEMORY
                archive = np.concatenate([archive, x[won]])
                archive = archive[rng.permutation(len(archive))[:int(ARCHIVE * n)]]
            better = told <= cost
            x[better], cost[better], paths[better] = (
                trial[better], told[better], trial_paths[better])
            share = (evaluator.evaluations - first) / max(last - first, 1)
            keep = np.argsort(cost)[:max(4, round(config.population * (1 - share)))]
            x, cost, paths, pheromone = x[keep], cost[keep], paths[keep], pheromone[keep]
        seeds.add(paths, cost)

    # 3. annealing

    def _anneal(self, seeds: _Seeds) -> Steps:
        evaluator, rng, scene = self.evaluator, self.rng, self.evaluator.scene
        paths = list(seeds.best(self.config.annealed, apart=10.0))
        n = evaluator.task.track_points + 2
        best = [path.copy() for path in paths]
        scores = [np.empty((2, 5)) for _ in paths]
        arms = [np.ones((3, 3 * WIDTH_CLASSES)) for _ in paths]
        counts = np.zeros(scene.surface.shape, np.int16)
        widths = np.array([1.0, max(2.0, WIDEST_BUMP * n)])
        sizes = np.array([BUMP_LEVEL, BUMP_UP])
        first = evaluator.evaluations
        total = max(1, self.budget - first)
        moves = max(1, min(500, int(SLICE_CELLS / n / evaluator.view_cells)))
        halvings = list(HALVINGS)
        while evaluator.evaluations < self.budget:
            for q in range(len(paths)):
                share = (evaluator.evaluations - first) / total
                share = min(1.0, max(share, self.late_share()))
                now = min(moves, self.budget - evaluator.evaluations - 1)
                if now <= 0:
                    break
                heat = np.array([*HEAT, share, now / total])
                tried = best[q].copy()
                anneal(scene, paths[q], now, sizes, widths, heat, int(rng.integers(2**31)),
                       counts, arms[q], tried, scores[q])
                evaluator.evaluations += now
                best[q] = tried
                yield tried[None]
                if self.stopped():
                    return
            else:
                if halvings and share >= halvings[0] and len(paths) > 1:
                    halvings.pop(0)
                    order = np.lexsort(([s[1, 3] for s in scores], [s[1, 4] for s in scores]))
                    keep = order[:max(1, len(paths) // 2)]
                    paths, best, scores, arms = ([part[k] for k in keep]
                                                 for part in (paths, best, scores, arms))
                continue
            break


class _Seeds:
    """Paths found so far, with their costs."""

    def __init__(self, paths, cost):
        self._paths, self._cost = paths.copy(), cost.copy()

    def add(self, paths, cost) -> None:
        self._paths = np.concatenate([self._paths, paths])
        self._cost = np.concatenate([self._cost, cost])

    def best(self, count: int, apart: float) -> np.ndarray:
        """(<= count, N, 3) the best, each somewhere apart metres from all that are better."""
        chosen: list[np.ndarray] = []
        for k in np.argsort(self._cost, kind="stable"):
            if all(np.abs(self._paths[k] - path).max() > apart for path in chosen):
                chosen.append(self._paths[k].copy())
            if len(chosen) == count:
                break
        return np.array(chosen)


def _cauchy(rng: np.random.Generator, centre: np.ndarray) -> np.ndarray:
    """Factors of L-SHADE: Cauchy around the centre, above 0 and at most 1."""
    factor = centre + 0.1 * rng.standard_cauchy(len(centre))
    while (factor <= 0).any():
        low = factor <= 0
        factor[low] = centre[low] + 0.1 * rng.standard_cauchy(low.sum())
    return np.minimum(factor, 1.0)


def _lehmer(weights: np.ndarray, values: np.ndarray) -> float:
    """Mean of L-SHADE, which leans to the larger values."""
    return float((weights * values**2).sum() / max((weights * values).sum(), 1e-12))
