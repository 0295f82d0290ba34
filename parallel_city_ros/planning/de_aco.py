"""The default planner: what differential evolution and the ants' layered graph do best, together.

1. Seeds: dynamic programming over layered graphs as the ants have, for several weightings of the
   objectives, with layers close together and far apart: nodes are track points, and those left
   over gather where it is quiet. Loops and waves where the way from start to goal is not enough
   to see.
2. Where there is no such graph, differential evolution, L-SHADE (Tanabe & Fukunaga 2014), on the
   controls of a B-spline; parents are drawn by pheromone that good ones deposit generation by
   generation.
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
from parallel_city_ros.planning.layered import (
    LATERAL_M,
    RISE_M,
    VIEW_CELL_M,
    LayeredGraph,
    best_walk,
)
from parallel_city_ros.planning.rrt import rrt_paths
from parallel_city_ros.planning.search import Search, Steps, resample, smooth
from parallel_city_ros.planning.spacing import filled
from parallel_city_ros.planning.spline import BEYOND, Spline
from parallel_city_ros.planning.wandering import round_paths, wandering_paths
from parallel_city_ros.settings import check, setting

FIRST_TREES = 4         # paths before the graph is made: something to fly in no time
NOISE_WEIGHTS, COVERAGE_WEIGHTS = 16, (0.5, 1.0, 2.0)
LAYER_STEPS_M = 20.0, 30.0, 40.0    # between layers, as long as there are points enough
LINEARISATIONS = 6      # of F around a seed, each a dynamic programme
TREE_SMOOTHING = 8      # passes, of the tree that a graph is laid along
TUBES = (4.0, 2.5), (2.0, 1.25)    # m between nodes, aside and up, around the best walk
FINE_VIEW_CELL_M = 2.0
MEMORY = 6              # of L-SHADE
ELITES = 0.11           # share of the population that are elites, without pheromone
ARCHIVE = 1.4           # size of the archive in populations
JITTER = np.array([12.0, 12.0, 5.0])    # m, of copies of seeds
BUMP_LEVEL, BUMP_UP = 8.0, 5.0          # m, standard deviation at the beginning
HEAT = 0.004, 3e-5      # of the annealing, as share of F
WALK_HEAT = 0.0015      # at the beginning where it starts from a walk over the graph
WIDEST_BUMP = 0.12      # half width, of the track points
SLICE_CELLS = 1.7e7     # moves x points x cells of a view between two looks at the clock
HALVINGS = (0.15, 0.35) # shares of the annealing after which the worse half of the paths is left


@dataclass(frozen=True, kw_only=True)
class DeAcoConfig:
    population: int = setting(60, "paths at the beginning of the evolution", low=8)
    controls: int = setting(14, "free controls of the B-spline", low=4)
    evolution_share: float = setting(0.1, "share of the evaluations that the evolution has",
                                     low=0, high=1)
    evolve_always: bool = setting(False, "whether the evolution runs where the graph gave seeds, "
                                  "too")
    annealed: int = setting(2, "paths whose annealing begins without seeds of the graph", low=1)
    pheromone_importance: float = setting(4.0, "exponent when elites are drawn", low=0)
    evaporation_rate: float = setting(0.1, "per generation", low=0, high=1)
    use_graph: bool = setting(True, "whether the layered graph gives seeds")
    use_pheromone: bool = setting(True, "whether parents are drawn by pheromone")

    def __post_init__(self):
        check(self)


class DeAco(Search):
    _walked = False     # whether the graph gave seeds

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
        if config.evolution_share > 0 and (config.evolve_always or not self._walked):
            more = rrt_paths(evaluator, config.population // 4, rng, self.stopped)
            seeds.add(more, (yield more).cost)
            yield from self._evolve(seeds)
        yield from self._anneal(seeds)

    # 1. seeds

    def _graph_seeds(self, seeds: _Seeds) -> Steps:
        evaluator = self.evaluator
        counts = LayeredGraph.layer_counts(evaluator.task, LAYER_STEPS_M)
        walks = None
        for count in counts:
            graph = LayeredGraph.between_ends(evaluator, self.stopped, count)
            found = yield from self._walks_over(graph, seeds)
            if found.best is not None and (walks is None or found.best[0] < walks.best[0]):
                walks = found
        if walks is None and not self.stopped():    # the ends lie too deep: along the best tree
            way = resample(smooth(seeds.best(1, apart=0.0)[0], TREE_SMOOTHING), counts[0] + 1)
            found = yield from self._walks_over(LayeredGraph.around(
                evaluator, way, LATERAL_M, RISE_M, self.stopped), seeds)
            walks = found if found.best is not None else None
        self._walked = walks is not None
        for lateral, rise in TUBES:
            if walks is None or self.stopped():
                return
            tube = _Walks(self, LayeredGraph.around(
                evaluator, walks.best[1], lateral, rise, self.stopped), FINE_VIEW_CELL_M)
            tube.weights = walks.weights[:1]
            yield from self._linearise(tube, seeds, 2)
            if tube.best is not None and tube.best[0] < walks.best[0]:
                walks = tube

    def _walks_over(self, graph: LayeredGraph, seeds: _Seeds
                    ) -> Generator[np.ndarray, Scores, _Walks]:
        """Walks for several weightings of the objectives."""
        evaluator, task = self.evaluator, self.evaluator.task
        walks = _Walks(self, graph, VIEW_CELL_M)
        cell, camera = evaluator.grid.resolution, evaluator.scene.camera
        distance = float(np.linalg.norm(np.subtract(task.goal, task.start)))
        swath = 2 * min(camera.reach, task.max_altitude * camera.slope) * distance / cell**2
        quietest, loudest = walks.noise_range()
        for level in np.geomspace(quietest, loudest, NOISE_WEIGHTS):
            for share in COVERAGE_WEIGHTS:
                walks.add(share * swath, 1.05 * distance, level * (task.track_points + 2))
        yield from walks.scored(seeds)
        yield from self._linearise(walks, seeds, 4)
        return walks

    def _linearise(self, walks: _Walks, seeds: _Seeds, count: int) -> Steps:
        """F is a quotient: its logarithm is linear around a path, which gives the next weights."""
        for _ in range(LINEARISATIONS):
            for weights in walks.weights[:count]:
                walks.add(*weights)
            if not walks.found:
                return
            yield from walks.scored(seeds)

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
        count, heat_at_first = (1, WALK_HEAT) if self._walked else (self.config.annealed, HEAT[0])
        paths = list(seeds.best(count, apart=10.0))
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
                heat = np.array([heat_at_first, HEAT[1], share, now / total])
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


class _Walks:
    """Best walks over a layered graph for several weights of the objectives.

    best : cost and (K + 1, 3) nodes of the best so far, None if there is none
    weights : (f1 in cells, f2 in metres, f3) of the walks scored last, the best first
    """

    def __init__(self, search: Search, graph: LayeredGraph, view_cell: float):
        self._search, self._graph = search, graph
        self._gains = graph.gains(search.stopped, view_cell) if graph.connected else None
        if self._gains is not None:
            self._lengths, self._noise = graph.lengths(), graph.noise()
        self.found: list[np.ndarray] = []
        self.best: tuple[float, np.ndarray] | None = None
        self.weights: list[tuple[float, float, float]] = []
        self._known: set[bytes] = set()

    def noise_range(self) -> tuple[float, float]:
        """Least and largest noise of a node that makes some; 1 and 1 if none does."""
        if self._gains is None or not (self._noise > 0).any():
            return 1.0, 1.0
        return float(self._noise[self._noise > 0].min()), float(self._noise.max() + 1)

    def add(self, f1_cells: float, f2_m: float, f3: float) -> None:
        """The walk that is best where an objective is dear by its inverse, if it is new."""
        if self._gains is None or self._search.stopped():
            return
        a, c = best_walk(self._graph, self._gains, self._lengths, self._noise, 1 / f2_m, 1 / f3,
                         1 / f1_cells)
        if (key := a.tobytes() + c.tobytes()) not in self._known:
            self._known.add(key)
            self.found.append(self._graph.path(a, c))

    def scored(self, seeds: _Seeds) -> Steps:
        """Has the walks that were found evaluated and puts them among the seeds."""
        if not self.found:
            return
        task, cell = self._search.evaluator.task, self._search.evaluator.grid.resolution
        paths = np.array([filled(walk, self._search.evaluator) for walk in self.found])
        scores = yield paths
        seeds.add(paths, scores.cost)
        order = np.argsort(scores.cost, kind="stable")
        k = order[0]
        if self.best is None or scores.cost[k] < self.best[0]:
            self.best = float(scores.cost[k]), self.found[k]
        self.weights = [(max(scores.coverage_km2[k], 1e-9) * 1e6 / cell**2,
                         max(scores.carbon[k], 1e-9) * 1000 / task.drone.carbon_per_km,
                         max(scores.noise_m[k], 0.0) + 1) for k in order]
        self.found = []


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
