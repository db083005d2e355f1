"""A judgement in a few lines, for the screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from server.evaluation.attacks import ATTACKS, copies_sentence, read_membership, words_of
from server.evaluation.gain import GAIN_IS_OFF


def describe_judgement(judged: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each judgement.

    Parameters
    ----------
    judged
        With ``test``, ``gain``, ``utility`` and ``authenticity``; see :class:`server.evaluation.judge.Judge`.
    """
    if "gain" in judged:  # earlier versions did not ask for it
        yield from _gain_lines(judged["gain"])
    test = judged["test"]
    yield (
        f"{test['num_generated']:,} generated against {test['num_real']:,} real {test['part']} images, "
        f"{test['num_draws']} times ({test['extractor']}):"
    )
    real = test["real"]
    yield (
        f"  fidelity   KID {_range(test, 'kid')} (real {_figure(real['kid'])}), FID {_range(test, 'fid')} "
        f"(real {_figure(real['fid'])}), precision {_range(test, 'precision')} (real {_figure(real['precision'])})"
    )
    yield (
        f"  diversity  recall {_range(test, 'recall')} (real {_figure(real['recall'])}), coverage "
        f"{_range(test, 'coverage')} (real {_figure(real['coverage'])}), Vendi {_range(test, 'vendi')} "
        f"(real {_figure(real['vendi'])})"
    )
    yield from second_lines(test)
    if test["fid_caveat"]:
        yield f"  {test['fid_caveat']}"
    if "too" in (classes := test.get("classes_say", "")):
        yield f"  {classes}"
    yield from _utility_lines(judged["utility"])
    yield from _authenticity_lines(judged["authenticity"])


def second_lines(test: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the second extractor says, where the two disagree, and the spectrum and the colours.

    Parameters
    ----------
    test
        The section ``test``; an earlier version's has nothing of this.
    """
    if second := test.get("second"):
        real = second["real"]
        yield (
            f"  second     KID {_range(second, 'kid')} (real {_figure(real['kid'])}), FID {_range(second, 'fid')} "
            f"(real {_figure(real['fid'])}), by {second['extractor']}"
        )
        for entry in second["disagreements"]:
            yield f"  the two extractors disagree: {entry['say']}"
    if spectrum := test.get("spectrum"):
        bands = ", ".join(
            f"{_figure(ratio)} to {edge}" for ratio, edge in zip(spectrum["ratio"], spectrum["to_cycles"], strict=True)
        )
        yield f"  spectrum   power beside real images', from 1 cycle across the image: {bands}"
    if colours := test.get("colours"):
        ratios = ", ".join(_figure(ratio) for ratio in colours["ratio"])
        yield f"  colours    mean red, green and blue vary from image to image {ratios} times as much as real ones'"


def describe_comparison(comparison: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a comparison; see :func:`server.evaluation.scores.compare_draws`."""
    yield "first minus second:"
    for name, entry in comparison.items():
        if isinstance(entry, Mapping) and "difference" in entry:
            interval = entry["interval"]
            between = "" if interval is None else f" [{_figure(interval[0])}, {_figure(interval[1])}]"
            yield f"  {name:<9}  {_figure(entry['difference'])}{between}"
    yield comparison["verdict"]
    if second := comparison.get("second"):
        entry = second["kid"]
        between = "" if (around := entry["interval"]) is None else f" [{_figure(around[0])}, {_figure(around[1])}]"
        yield f"by {second['extractor']}: KID {_figure(entry['difference'])}{between}: {second['verdict']}"
        if second["disagreement"]:
            yield second["disagreement"]


def _gain_lines(gain: Mapping[str, Any]) -> Iterator[str]:
    seeds = " and seeds" if gain.get("num_seeds", 1) > 1 else ""
    if "not_measured" in gain:
        if gain["not_measured"] != GAIN_IS_OFF:
            yield f"what each hospital gains: not measured: {gain['not_measured']}"
        return
    yield (
        f"what each hospital gains, balanced accuracy on {gain['num_test_images']:,} real {gain['part']} images above "
        f"the best of its own images, permuted labels and Gaussians [95 % over lesions{seeds}]:"
    )
    width = max(len("mean"), *(len(entry["name"]) for entry in gain["hospitals"]))
    for entry in gain["hospitals"]:
        own, with_it = (entry["arms"][arm]["common"]["balanced_accuracy"] for arm in ("own", "own+synthetic"))
        words = f"  {entry['name']:<{width}}  {_signed(entry['gain']['common']['balanced_accuracy'])}"
        words += f" (own {_figure(own['mean'])}, with generated images {_figure(with_it['mean'])})"
        yield words if entry["judged"] is True else f"{words}; not judged: {entry['judged']}"
    pooled, federated = (
        gain["references"][name]["common"]["balanced_accuracy"]["mean"] for name in ("pooled", "federated")
    )
    beside = f"pooled images {_figure(pooled)}, a federated classifier {_figure(federated)}"
    if "not_measured" in gain["mean"]:
        yield f"  mean: not measured: {gain['mean']['not_measured']}; {beside}"
    else:
        yield f"  {'mean':<{width}}  {_signed(gain['mean']['balanced_accuracy'])}; {beside}"


def _utility_lines(utility: Mapping[str, Any]) -> Iterator[str]:
    if "not_measured" in utility:
        yield f"classifiers: not measured: {utility['not_measured']}"
        return
    seeds = "one seed" if utility["num_seeds"] == 1 else f"{utility['num_seeds']} seeds"
    yield (
        f"classifiers ({utility['classifier']}, {seeds}) tested on "
        f"{utility['num_test_images']:,} real images, balanced accuracy and macro AUROC:"
    )
    width = max(len(name) for name in utility["arms"])
    for name, arm in utility["arms"].items():
        if "not_measured" in arm:
            yield f"  {name:<{width}}  not measured: {arm['not_measured']}"
        else:
            yield (
                f"  {name:<{width}}  {_spread(arm['balanced_accuracy'])}  {_spread(arm['macro_auroc'])}"
                f"{_beside_real(arm)}"
            )
    site = utility.get("site_alone") or {}
    if site.get("balanced_accuracy"):
        yield (
            f"  {'(the site alone)':<{width}}  {_figure(site['balanced_accuracy']['mean'])}  "
            f"{_figure(site['macro_auroc']['mean'])}, without looking at the image"
        )
    recognised = utility["recognised"]
    if "not_measured" in recognised:
        yield f"  recognised as the class asked for: not measured: {recognised['not_measured']}"
    else:
        yield (
            f"  recognised as the class asked for: {_spread(recognised['mean'])} of generated images (chance "
            f"{recognised['chance']:.3f})"
        )


def _authenticity_lines(authenticity: Mapping[str, Any]) -> Iterator[str]:
    if "not_measured" in authenticity:
        yield f"authenticity: not measured: {authenticity['not_measured']}"
        return
    if not authenticity["valid"]:
        yield f"authenticity: not valid: {authenticity['reason']}"
        # The search for copies is no part of that: it has controls of its own, and is left out where these fail.
        yield from _copies_line(authenticity)
        return
    yield (
        f"authenticity: AuthPct {authenticity['auth_pct']:.1f} (real images {authenticity['auth_pct_control']:.1f}); "
        "membership inference, AUC (0.5 leaks nothing):"
    )
    membership = read_membership(authenticity)
    labels = {name: name.replace("_", " ") for name in ATTACKS} | {"networks": words_of(membership.get("score")).name}
    # Earlier versions made fewer attacks.
    labels = {name: label for name, label in labels.items() if name in membership}
    width = max(len(label) for label in labels.values())
    for name, label in labels.items():
        attack = membership[name]
        site = f" ({attack['site']})" if "site" in attack else ""
        if "not_measured" in attack:
            yield f"  {label:<{width}} not measured: {attack['not_measured']}{site}"
        else:
            low, high = attack["interval"]
            yield f"  {label:<{width}} {attack['auc']:.3f} [{low:.3f}, {high:.3f}]{_scale(attack)}{site}"
    yield from _copies_line(authenticity)


def _copies_line(authenticity: Mapping[str, Any]) -> Iterator[str]:
    if "copies" in authenticity:
        yield f"  {copies_sentence(authenticity['copies'], authenticity['num_generated'])}"


def _scale(attack: Mapping[str, Any]) -> str:
    """Say what else is to be read beside an area, where it is known."""
    parts = []
    if "copier" in attack:
        parts.append(f"a pure copier {attack['copier']['auc']:.3f}")
    if attack.get("tpr") is not None:
        parts.append(f"finds {100 * attack['tpr']:.1f} % at 1 % false alarms")
    return f", {', '.join(parts)}" if parts else ""


def _figure(value: float | None) -> str:
    """Return three digits or so; a dash for what could not be measured."""
    if value is None:
        return "–"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _range(figures: Mapping[str, Any], name: str) -> str:
    interval = figures.get(f"{name}_interval")
    return _figure(figures[name]) + ("" if interval is None else f" [{_figure(interval[0])}, {_figure(interval[1])}]")


def _beside_real(arm: Mapping[str, Any]) -> str:
    difference = (arm.get("minus_real") or {}).get("balanced_accuracy")
    return f"  {_signed(difference)} to real" if difference else ""


def _signed(entry: Mapping[str, Any]) -> str:
    interval = entry["whole_interval"] or entry["test_interval"]
    return f"{entry['mean']:+.3f}" + ("" if interval is None else f" [{interval[0]:+.3f}, {interval[1]:+.3f}]")


def _spread(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    interval = entry["interval"]
    return f"{entry['mean']:.3f}" + ("" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]")
