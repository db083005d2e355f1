"""Figures of a benchmark as text, and who is told apart from the baseline in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_partitions.wording import counted
from server.benchmark.statistics import SIGNIFICANT, Difference, Estimate, pairs_needed

MOST_VALUES = 5
"""Seeds up to which every value stands beside its mean."""
MISSING = "–"


def estimate_parts(found: Estimate | None, digits: int, seeds: Sequence[int]) -> tuple[str, str]:
    """Return a mean; and the values of `seeds`, in their order, with the interval.

    Values stand there for a single partition and model, and few seeds. Where all are the same, the mean says it.
    """
    if found is None:
        return MISSING, ""
    return f"{found.mean:.{digits}f}", _spread(found, f".{digits}f", seeds)


def estimate_text(found: Estimate | None, digits: int, seeds: Sequence[int]) -> str:
    """Return a mean with its values and interval."""
    return " ".join(part for part in estimate_parts(found, digits, seeds) if part)


def difference_parts(found: Difference | None, seeds: Sequence[int]) -> tuple[str, str]:
    """Return a mean difference; and its values, interval, wins and p-value with the least that was possible."""
    if found is None:
        return MISSING, ""
    said = [_spread(found.estimate, "+.3f", seeds)]
    if found.wins is not None:
        said.append(f"better in {found.wins}/{found.estimate.num_cells}")
    if found.p_value is not None and found.least_p is not None:
        said.append(f"p {_p_text(found.p_value)} (least possible {_p_text(found.least_p).removeprefix('= ')})")
    return f"{found.estimate.mean:+.3f}", ", ".join(part for part in said if part)


def difference_text(found: Difference | None, seeds: Sequence[int]) -> str:
    """Return a mean difference with all that stands beside it."""
    value, rest = difference_parts(found, seeds)
    return value + ("" if not rest else f" {rest}" if rest.startswith(("(", "[")) else f", {rest}")


def _spread(found: Estimate, style: str, seeds: Sequence[int]) -> str:
    if len(set(found.cells.values())) == 1 and found.num_cells > 1:
        return ""
    said = []
    places = {(partition, model) for partition, model, _ in found.cells}
    if len(places) == 1 and 1 < len(seeds) <= MOST_VALUES:
        (place,) = places
        values = [found.cells.get((*place, seed)) for seed in seeds]
        said.append(f"({', '.join(MISSING if value is None else format(value, style) for value in values)})")
    if found.interval is not None:
        said.append(f"[{found.interval[0]:{style}}, {found.interval[1]:{style}}]")
    return " ".join(said)


def _p_text(p_value: float) -> str:
    return "< 0.001" if p_value < 0.0005 else f"= {p_value:.3f}"


def verdict(differences: Mapping[str, Difference], baseline: str, places: int) -> str:
    """Say who is told apart from the baseline by KID; where nobody is, whether anybody could have been.

    Parameters
    ----------
    differences
        Of the strategies that are compared, their p-values adjusted for all of them.
    baseline
        Its name.
    places
        Partitions and models of the table.

    Returns
    -------
    Empty where nothing is compared.
    """
    compared = {
        name: (one, one.p_value, one.least_p)
        for name, one in differences.items()
        if one.p_value is not None and one.least_p is not None
    }
    if not compared:
        return ""
    apart = {name: one for name, (one, p_value, _) in compared.items() if p_value < SIGNIFICANT}
    able = [name for name, (_, _, least) in compared.items() if least < SIGNIFICANT]
    least = _p_text(min(least for _, _, least in compared.values())).removeprefix("= ")
    count = counted(len(compared), "comparison")
    if not able:
        needed = -(-pairs_needed(len(compared)) // places)
        return (
            f"No strategy could have been told apart from {baseline} by KID, whatever the figures are: with so few "
            f"seeds the least p that was possible is {least}, for {count}. That none is says nothing about the "
            f"strategies; {counted(needed, 'seed')} would be the least that can."
        )
    rest = len(able) - len(apart)
    powerless = len(compared) - len(able)
    said = []
    for word, names in (
        ("better", [name for name, one in apart.items() if (one.wins or 0) > (one.losses or 0)]),
        ("worse", [name for name, one in apart.items() if (one.wins or 0) <= (one.losses or 0)]),
    ):
        if names:
            said.append(f"Measurably {word} than {baseline} by KID (p < {SIGNIFICANT}): {', '.join(names)}.")
    if not apart:
        said.append(
            f"No strategy is measurably better or worse than {baseline} by KID, and one could have been: the least p "
            f"that was possible is {least}, for {count}."
        )
    elif rest:
        said.append(f"{'The other is' if rest == 1 else 'The others are'} not told apart from it, and could have been.")
    if powerless:
        unable = [name for name in compared if name not in able]
        said.append(f"Too few cells to be told apart, whatever the figures are: {', '.join(unable)}.")
    return " ".join(said)
