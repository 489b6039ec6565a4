"""Coordinates of the plots that `model.html` draws as SVG, without a plotting library or a script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gh_assets.registry import RegisteredModel
from gh_assets.registry.documents import leaderboard
from gh_assets.serving.leaderboard import Standing

WIDTH, ROW, HEIGHT = 640, 34, 220
LABEL = 96
"""Width of the labels at the ends of lines."""

POPULARITY = "popularity"
"""Name of the baseline that is drawn dashed."""

LEFT, RIGHT, TOP, BOTTOM = 96, 72, 16, 36

MAX_MARKS = 6


def round_marks(low: float, high: float) -> list[tuple[float, str]]:
    """Return round numbers from `low` to `high` for the marks of an axis, at most `MAX_MARKS`, and their labels."""
    digits = math.ceil(-math.log10(high - low)) + 1
    steps = (factor * 10.0**power for power in (-digits, 1 - digits, 2 - digits) for factor in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step <= MAX_MARKS - 1)
    decimals = max(0, -math.floor(math.log10(step)))
    marks = [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [(mark, f"{mark:.{decimals}f}") for mark in marks]


@dataclass(frozen=True)
class Bar:
    """One bar: position and width in the units of the plot, and the ends of its confidence interval if it has one."""

    label: str
    value: float
    y: float
    width: float
    low: float | None
    high: float | None
    is_current: bool


def leaderboard_plot(model: RegisteredModel) -> list[Bar]:
    """Return the scores of a model and its baselines on the same held-out users, best first."""
    metric, intervals = model.metric, model.intervals
    scores = {name: metrics[metric] for name, metrics in leaderboard(model).items() if metric in metrics}
    rows = sorted(scores.items(), key=lambda row: -row[1])
    longest = max([*scores.values(), *(ends[1] for ends in intervals.values())], default=0.0) or 1.0

    def scaled(value: float) -> float:
        return round(value / longest * (WIDTH - LEFT - RIGHT), 1)

    bars = []
    for place, (name, value) in enumerate(rows):
        ends = intervals.get(metric if name == model.name else f"{name} {metric}")
        low, high = (None, None) if ends is None else (LEFT + scaled(ends[0]), LEFT + scaled(ends[1]))
        bars.append(Bar(name, value, TOP + place * ROW, scaled(value), low, high, name == model.name))
    return bars


@dataclass(frozen=True)
class Line:
    """The metric of one model by number of known stars: its points, and the place of its label."""

    model: str
    points: Sequence[tuple[float, float]]
    kind: str
    """``current``, ``popularity`` or ``other``."""


@dataclass(frozen=True)
class KnownStars:
    """The lines, the model that is served last, so that it lies above; and the labels of the axes with their places."""

    lines: Sequence[Line]
    columns: Sequence[tuple[float, str]]
    ticks: Sequence[tuple[float, str]]


def known_stars_plot(standings: Sequence[Standing], current: str) -> KnownStars | None:
    """Return the metric of all models by number of known stars; None if it was not measured."""
    complete = [row for row in standings if None not in row.cut.values()]
    if not complete:
        return None
    highest = 1.1 * max(score or 0.0 for row in complete for score in row.cut.values()) or 1.0
    columns = list(complete[0].cut)
    width = WIDTH - LEFT - LABEL
    places = [round(LEFT + width * place / (len(columns) - 1), 1) for place in range(len(columns))]

    def scaled(value: float) -> float:
        return round(TOP + (1 - value / highest) * (HEIGHT - TOP - BOTTOM), 1)

    lines = [
        Line(
            row.model,
            list(zip(places, [scaled(score or 0.0) for score in row.cut.values()], strict=True)),
            "current" if row.model == current else "popularity" if row.model == POPULARITY else "other",
        )
        for row in complete
    ]
    order = ("other", "popularity", "current")
    return KnownStars(
        sorted(lines, key=lambda line: order.index(line.kind)),
        list(zip(places, columns, strict=True)),
        [(scaled(mark), label) for mark, label in round_marks(0.0, highest)],
    )


@dataclass(frozen=True)
class Point:
    """One registered model in the history."""

    title: str
    day: str
    value: float
    x: float
    y: float
    low: float | None
    high: float | None
    champion: bool


@dataclass(frozen=True)
class History:
    """The models in the order of registration, and the heights and labels of the grid."""

    points: Sequence[Point]
    ticks: Sequence[tuple[float, str]]


def history_plot(models: Sequence[RegisteredModel], metric: str, champions: set[tuple[str, int]]) -> History | None:
    """Return the scores of models in the order of registration, oldest first; None if none has the metric."""
    scored = [model for model in reversed(models) if model.score is not None and model.metric == metric][-40:]
    if not scored:
        return None
    values = [model.score or 0.0 for model in scored]
    ends = [model.intervals.get(metric) for model in scored]
    low = min([*values, *(pair[0] for pair in ends if pair)])
    high = max([*values, *(pair[1] for pair in ends if pair)])
    margin = max((high - low) * 0.1, 0.005)
    low, high = max(low - margin, 0.0), high + margin

    def scaled(value: float) -> float:
        return round(TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    step = (WIDTH - LEFT - 24) / max(len(scored) - 1, 1)
    points = [
        Point(
            model.title,
            f"{model.time:%Y-%m-%d}",
            value,
            round(LEFT + (step * place if len(scored) > 1 else (WIDTH - LEFT) / 2), 1),
            scaled(value),
            None if pair is None else scaled(pair[0]),
            None if pair is None else scaled(pair[1]),
            (model.name, model.version) in champions,
        )
        for place, (model, value, pair) in enumerate(zip(scored, values, ends, strict=True))
    ]
    return History(points, [(scaled(mark), label) for mark, label in round_marks(low, high)])
