"""Draws what there is something to draw of."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from bigmodel.reports.costs import costs
from bigmodel.reports.curves import curves
from bigmodel.reports.factors import factors
from bigmodel.reports.forest import forest
from bigmodel.reports.gathered import Gathered
from bigmodel.reports.pictures import save
from bigmodel.reports.searches import parallel, scatter
from bigmodel.reports.statistics import Compared

# title -> (file, picture), in reading order
PICTURES: dict[str, tuple[str, Callable[[Gathered, Sequence[Compared]], Any]]] = {
    'Differences from the baseline': ('differences', forest),
    'Learning curves': ('curves', curves),
    'What it costs': ('cost', costs),
    'Factors': ('factors', factors),
    'Search': ('search', parallel),
    'Each key of the search': ('keys', scatter),
}


def draw(
    found: Gathered, compared: Sequence[Compared], folder: pathlib.Path
) -> dict[str, pathlib.Path]:
    """Title -> PNG; those of an earlier report that no longer apply are taken away."""
    drawn = {}
    for title, (name, make) in PICTURES.items():
        path = folder / f'{name}.png'
        path.unlink(missing_ok=True)
        figure = make(found, compared)
        if figure is not None:
            save(figure, path)
            drawn[title] = path
    return drawn
