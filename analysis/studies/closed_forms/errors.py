"""Table rows with deviations of samples from the truth, and their decomposition by cause."""

from collections.abc import Callable

import torch
from torch import Tensor

from analysis.studies.closed_forms import chains
from analysis.studies.closed_forms.settings import Settings
from analysis.studies.tables import Row


def error_rows(end: Callable[[bool, bool, bool], Tensor], truth: chains.Truth, settings: Settings,
               generator: torch.Generator) -> list[Row]:
    """Decompose the errors of mean, variance, weight of the first mode and energy distance, from all eight samplers."""
    results = {(p, k, n): result_of(end(p, k, n), truth, settings, generator)
               for p in (False, True) for k in (False, True) for n in (False, True)}
    single = {"floor": chains.NONE, **chains.ALONE, "total": chains.EVERY}
    rows = []
    for quantity in chains.QUANTITIES:
        if quantity == "first" and truth.first is None:
            continue
        cells = {key: None if result is None else getattr(result, quantity) for key, result in results.items()}
        for part in chains.decompose(cells):
            result = results[single[part["error"]]]
            p_value = "" if result is None or quantity != "distance" else result.p_value
            rows.append({"quantity": quantity} | part | {"p_value_alone": p_value})
    return rows


def result_of(sample: Tensor, truth: chains.Truth, settings: Settings,
              generator: torch.Generator) -> chains.Result | None:
    """Return the deviations of a sample; None if it has diverged."""
    if chains.diverged(sample):
        return None
    return chains.compare(sample, truth, settings.permutations, generator)


def result_row(result: chains.Result | None) -> Row:
    if result is None:
        return dict.fromkeys((*chains.QUANTITIES, "p_value"), chains.DIVERGED)
    return {"mean": result.mean, "variance": result.variance, "first": "" if result.first is None else result.first,
            "distance": result.distance, "p_value": result.p_value}
