"""What a strategy tells the server of a hospital, what it shows hospitals of one another, and what it needs.

All of it follows from the facts that stand in the strategy's own file; documents and messages take it from here.

Whatever the strategy, a hospital tells its number of images and the steps that it took, and the server sees what each
hospital sends: there is no secure aggregation. And of a round with one usable reply the next global model is that
hospital's own: in simulations it may be so, at real sites a round has two replies at least.

``python -m strategies.disclosure`` prints the table of ``docs/strategies.md``; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from strategies.catalogue import STRATEGIES
from strategies.configuration import resolve


@dataclass(frozen=True)
class Disclosure:
    """Of one strategy, with its default options."""

    told: str
    """What the server learns of a hospital beside weights, number of images and steps; empty: nothing."""
    shown: str
    """What hospitals are sent of one another."""
    needs: str
    """What it cannot do without; empty: nothing."""


def disclosure_of(name: str) -> Disclosure:
    """Return what a strategy of :data:`strategies.catalogue.STRATEGIES` tells, shows and needs."""
    strategy, configuration = STRATEGIES[name], resolve([])
    settings, anatomy = configuration.strategy, configuration.anatomy
    least, rule = strategy.least_hospitals(settings)
    told = [strategy.told, "its images of each class" if strategy.counts_classes else ""]
    told += [f"`{number}`" for number in strategy.numbers(settings, anatomy)]
    needs = [
        f"{least} replies: {rule}" if least > 1 else "",
        "a generator and a discriminator" if strategy.adversarial else "",
        f"a simulation: {strategy.simulation_only}" if strategy.simulation_only else "",
    ]
    return Disclosure(_listed(told), strategy.shown, _listed(needs))


def _listed(texts: list[str]) -> str:
    return "; ".join(text for text in texts if text)


def table() -> str:
    """Return all of it as a table in Markdown."""
    lines = [
        "| `strategy.name` | the server is told of each hospital | hospitals are sent | needs |",
        "|---|---|---|---|",
    ]
    for name in STRATEGIES:
        facts = disclosure_of(name)
        lines.append(f"| `{name}` | {facts.told} | {facts.shown} | {facts.needs} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
