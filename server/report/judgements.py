"""The sentences at the head of a report: what the figures carry, and no more.

Every sentence is made from numbers of ``summary.json`` by the rules that stand in :data:`RULES`, which the
report prints. A difference is claimed only where an interval lies on one side of what is compared; without
an interval nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from federation.metrics.intervals import wilson_interval
from server.evaluation.attacks import copies_sentence, read_membership, words_of
from server.report.numerals import duration, figure, percent
from server.report.run_record import RunRecord, entries, interval, number, section, text, widest_interval

YARDSTICKS = {
    "kid_floor": "real images",
    "kid_blurred_16": "real images blurred by way of 16 pixels",
    "kid_blurred_8": "real images blurred by way of 8 pixels",
    "kid_pca_gaussian": "a Gaussian on 64 components",
    "kid_mean_image": "the mean image",
}
"""Images whose quality is known, by the key of their KID in ``summary.json``."""

SHORT_YARDSTICKS = {
    "kid_floor": "real images",
    "kid_blurred_16": "blurred, 16 px",
    "kid_blurred_8": "blurred, 8 px",
    "kid_pca_gaussian": "PCA Gaussian",
    "kid_mean_image": "mean image",
}
"""The same in a picture."""

RULES = (
    "A figure is said to be above or below another only where its whole 95 % interval is. Where the interval "
    "contains the other, the two are said not to be told apart. Without an interval nothing is claimed.",
    "Fidelity is ranked by KID. Where the interval holds real images and every yardstick, it places nothing. The "
    "generator is called better than a yardstick only where both its interval on test images and its last KID on "
    "validation images, where the yardstick was measured, lie below; worse likewise. The distance is given as a "
    "multiple of that of real images only where theirs is above zero and below the interval.",
    "A second extractor, of another architecture and fitted to other images, is asked too. The two are said to "
    "disagree where each one's whole interval lies on another side of the KID of real images, of blurred ones or of "
    "the Gaussian, all of them on the same real images. The power spectrum and the colours need no extractor.",
    "Diversity compares recall, coverage and the Vendi score with those of as many real training images, and the "
    "within-class spread with 1. What real images score is a single figure, without an interval of its own.",
    "Speed names the hardest yardstick that validation KID fell below, and the easiest that it did not.",
    "Predictive ability compares two kinds of training images only by whether their intervals over seeds are apart.",
    "Authenticity is judged only where its own control allows it. A sign of copying is: the share of generated images "
    "nearer to training than to held-out images has an interval above 0.5; membership can be guessed from generated "
    "images with an interval above 0.5 and above the control; or near-duplicates of training images are more frequent "
    "than among real test images, by Wilson's interval. That no sign was found does not prove that nothing was copied.",
)
"""How the sentences come about."""


def fidelity_sentence(
    test: Mapping[str, Any], yardsticks: Mapping[str, float], validation_kid: float | None = None
) -> str:
    """Say how far generated images are from real ones.

    Parameters
    ----------
    test
        The section ``test``.
    yardsticks
        KID by the words of :data:`YARDSTICKS`, of the same extractor; that of real images is not used.
    validation_kid
        The last KID on the images that the yardsticks were measured on.
    """
    kid, around, real = number(test, "kid"), interval(test, "kid_interval"), number(test, "real", "kid")
    if kid is None:
        return "No KID was measured, so nothing can be said."
    if around is None:
        return f"KID {figure(kid)}{_against(real)}. One draw gives no interval, so nothing is claimed."
    low, high = around
    clauses = []
    known = {name: value for name, value in yardsticks.items() if name != YARDSTICKS["kid_floor"]}
    beaten = {name: y for name, y in known.items() if high < y and (validation_kid is None or validation_kid < y)}
    ahead = {name: y for name, y in known.items() if low > y and (validation_kid is None or validation_kid > y)}
    written = f"{figure(kid)}, {figure(low)} to {figure(high)}"
    if len(known) > 1 and not beaten and not ahead and (real is None or low <= real):
        return f"KID {written}{_against(real)}: draws spread too widely to place this generator."
    if beaten:
        name = min(beaten, key=lambda entry: beaten[entry])
        clauses.append(f"better than {name} ({figure(beaten[name])})")
    close = [f"{name} ({figure(y)})" for name, y in known.items() if name not in beaten and name not in ahead]
    if close:
        clauses.append(f"not clearly told apart from {_listed(close)}")
    if ahead:
        name = max(ahead, key=lambda entry: ahead[entry])
        clauses.append(f"worse than {name} ({figure(ahead[name])})")
    if real is not None:
        if low <= real:
            clauses.append(f"not told apart from real images ({figure(real)})")
        elif real > 0:
            clauses.append(f"about {_multiple(kid / real)} times the distance of real images ({figure(real)})")
        else:
            clauses.append(f"farther than real images, whose distance is not told apart from zero ({figure(real)})")
    if not clauses:
        return f"KID {written}; there is nothing of the same extractor to compare it with."
    return f"By KID ({written}) {'; '.join(clauses)}."


def second_sentences(test: Mapping[str, Any]) -> str:
    """Say what the second extractor, the spectrum and the colours say of fidelity; nothing where none was asked.

    Parameters
    ----------
    test
        The section ``test``.
    """
    sentences = []
    second = section(test, "second")
    if (kid := number(second, "kid")) is not None:
        around = interval(second, "kid_interval")
        between = f", {figure(around[0])} to {figure(around[1])}" if around else ""
        sentences.append(
            f"By a second extractor ({text(second, 'extractor')}) the KID is {figure(kid)}{between}"
            f"{_against(number(second, 'real', 'kid'))}."
        )
        told = [text(entry, "say") for entry in entries(second, "disagreements")]
        sentences += [f"The two extractors disagree: {words}." for words in told if words]
    bands = [
        (edge, ratio)
        for edge, ratio in zip(
            _numbers(test, "spectrum", "to_cycles"), _numbers(test, "spectrum", "ratio"), strict=False
        )
        if edge is not None and ratio is not None
    ]
    if bands:
        least, most = min(bands, key=lambda band: band[1]), max(bands, key=lambda band: band[1])
        edges = [1, *(edge for edge, _ in bands)]
        where = {edge: f"{figure(below)} to {figure(edge)} cycles" for below, edge in pairwise(edges)}
        sentences.append(
            f"Beside real images, the power at spatial frequencies is between {figure(least[1])} "
            f"({where[least[0]]} across the image) and {figure(most[1])} ({where[most[0]]})."
        )
    colours = [ratio for ratio in _numbers(test, "colours", "ratio") if ratio is not None]
    if len(colours) == 3:
        sentences.append(
            f"Images' mean red, green and blue vary {_listed([figure(ratio) for ratio in colours])} times as much as "
            "those of real images."
        )
    return " ".join(sentences)


def _numbers(test: Mapping[str, Any], *keys: str) -> list[float | None]:
    """Return a list of numbers, None for what is none."""
    found = section(test, *keys[:-1]).get(keys[-1])
    return [entry if isinstance(entry, int | float) else None for entry in found] if isinstance(found, list) else []


def diversity_sentence(test: Mapping[str, Any], class_balance: Mapping[str, Any] | None = None) -> str:
    """Say how varied generated images are beside as many real ones.

    Parameters
    ----------
    test
        The section ``test``.
    class_balance
        ``utility.recognised.class_balance``, where it was measured.
    """
    names = {"recall": "recall", "coverage": "coverage", "vendi": "Vendi score"}
    found: dict[str, list[str]] = {"below": [], "alike": [], "above": [], "unclear": []}
    for key, label in names.items():
        value, real = number(test, key), number(test, "real", key)
        if value is not None and real is not None:
            where = _compare(interval(test, f"{key}_interval"), real)
            found[where].append(f"{label} {figure(value)} against {figure(real)}")
    clauses = [
        f"{head} {_listed(found[where])}"
        for where, head in (
            ("below", "Less than real images:"),
            ("alike", "not told apart from them:" if found["below"] else "Not told apart from real images:"),
            ("above", "more than they:" if found["below"] or found["alike"] else "More than real images:"),
            ("unclear", "Without an interval, so without a claim:"),
        )
        if found[where]
    ]
    sentences = [f"{'; '.join(clauses)}."] if clauses else []
    spread, around = number(test, "spread"), interval(test, "spread_interval")
    if spread is not None:
        words = {
            "below": "Images of one class differ less from each other than real ones do",
            "above": "Images of one class differ more from each other than real ones do",
            "alike": "How much images of one class differ from each other is not told apart from real ones",
            "unclear": "Images of one class, without an interval",
        }[_compare(around, 1.0)]
        sentences.append(f"{words} ({figure(spread)} of their spread).")
    balance = number(class_balance or {}, "total_variation", "mean")
    if balance is not None:
        sentences.append(
            f"Classifiers see classes in shares that are {figure(balance)} from those asked for (total variation)."
        )
    return " ".join(sentences) or "No figure of diversity was measured, so nothing can be said."


def speed_sentence(speed: Mapping[str, Any], *, device: str = "") -> str:
    """Say how fast training was, and what quality it took how long to reach."""
    sentences = []
    per_second, per_thousand = number(speed, "images_per_second"), number(speed, "seconds_per_1000_images")
    if per_second is not None:
        where = f" on {device}" if device else ""
        thousand = f" ({duration(per_thousand)} for 1,000)" if per_thousand is not None else ""
        sentences.append(f"{figure(per_second)} training images a second{where}{thousand}.")
    known = [entry for entry in entries(speed, "time_to_kid") if number(entry, "kid") is not None]
    reached = [entry for entry in known if number(entry, "round") is not None]
    open_ = [entry for entry in known if entry.get("not_reached") is True]
    if reached:
        best = min(reached, key=lambda entry: entry["kid"])
        sentences.append(
            f"Validation KID fell below that of {with_article(text(best, 'yardstick'))} "
            f"({figure(best['kid'])}) by round {number(best, 'round'):,}, after {duration(number(best, 'seconds'))}."
        )
    if open_:
        next_ = max(open_, key=lambda entry: entry["kid"])
        others = "It did not reach that of" if reached else "Validation KID fell below no yardstick, not even that of"
        sentences.append(f"{others} {with_article(text(next_, 'yardstick'))} ({figure(next_['kid'])}).")
    return " ".join(sentences) or "Nothing was trained, so nothing can be said."


def with_article(yardstick: str) -> str:
    """Put the article before a yardstick where it takes one."""
    return yardstick if yardstick.startswith(("real", "the ", "a ")) else f"the {yardstick}"


def predictive_sentence(utility: Mapping[str, Any]) -> str:
    """Say what classifiers learn from synthetic images, beside and in place of real ones."""
    arms = section(utility, "arms")

    def of(arm: str, metric: str = "balanced_accuracy") -> tuple[float | None, tuple[float, float] | None]:
        return number(arms, arm, metric, "mean"), interval(arms, arm, metric, "interval")

    sentences = []
    (synthetic, around), (real, real_around) = of("synthetic"), of("real")
    num_classes = len(utility.get("classes") or ()) - len(utility.get("classes_without_test_images") or ())
    chance = 1 / num_classes if num_classes > 0 else None
    if synthetic is not None:
        beside = "" if real is None else f", {figure(real)} on real ones"
        guess = "" if chance is None else f"; a guess reaches {figure(chance)}"
        claim = {
            "below": "That is less than from real images",
            "above": "That is more than from real images",
            "alike": "The two are not told apart",
            "unclear": "One seed gives no interval, so no difference is claimed",
        }[_apart(around, real_around)]
        sentences.append(
            f"Trained on synthetic images alone, classifiers reach a balanced accuracy of {figure(synthetic)} on real "
            f"test images{beside}{guess}."
        )
        beyond = ""
        if chance is not None and around is not None:
            beyond = {
                "above": "more than a guess",
                "alike": "not told apart from a guess",
                "below": "less than a guess",
            }[_compare(around, chance)]
        if real is not None:
            sentences.append(f"{claim}{f', and {beyond}' if beyond and claim.startswith('That') else ''}.")
            if beyond and not claim.startswith("That"):
                sentences.append(f"Synthetic images alone give {beyond}.")
        elif beyond:
            sentences.append(f"That is {beyond}.")
    sentences += _beside_real(arms)
    melanoma = "melanoma_sensitivity_at_90_specificity"
    found, by_real = of("synthetic", melanoma)[0], of("real", melanoma)[0]
    if found is not None:
        beside = "" if by_real is None else f"; trained on real ones, {percent(by_real)}"
        sentences.append(
            f"At 90 % specificity, classifiers trained on synthetic images find {percent(found)} of real melanomas"
            f"{beside}."
        )
    return " ".join(sentences) or "No arm was measured, so nothing can be said."


_UPLOADS = (
    ("upload_smallest", "What the smallest hospital sends"),
    ("upload_largest", "What the largest hospital sends"),
)


def _beside_real(arms: Mapping[str, Any]) -> Iterator[str]:
    """Say whether synthetic images beside real ones help."""
    real = number(arms, "real", "balanced_accuracy", "mean")
    for arm, words in (
        ("real+synthetic", "Synthetic images beside all real ones"),
        ("rare", "Synthetic images of rare classes beside real ones"),
    ):
        value = number(arms, arm, "balanced_accuracy", "mean")
        if value is None or real is None:
            continue
        paired = widest_interval(arms, arm, "minus_real", "balanced_accuracy")
        around, real_around = (interval(arms, name, "balanced_accuracy", "interval") for name in (arm, "real"))
        claim = {
            "above": "help",
            "below": "harm",
            "alike": "make no difference that can be told from chance",
            "unclear": "were tested with one seed, so no difference is claimed",
        }[_compare(paired, 0.0) if paired is not None else _apart(around, real_around)]
        yield f"{words} {claim} ({figure(value)} against {figure(real)})."


def authenticity_sentence(authenticity: Mapping[str, Any]) -> str:
    """Say whether generated images look like copies of training images, and what trained networks give away."""
    groups = text(authenticity, "known_groups")
    known = f" Note: {groups.rstrip('.')}." if groups else ""
    sentences = _search_for_copies(authenticity)
    if authenticity.get("valid") is not True:
        reason = text(authenticity, "reason").rstrip(".") or "it is not said whether the figures can be read"
        # The search has controls of its own, and says so itself where these fail.
        nothing = f"Nothing {'else ' if sentences else ''}can be said about copying: {reason}."
        return " ".join([*sentences, nothing]) + known
    if not sentences:
        signs = list(_signs_of_copying(authenticity))
        found_none = "These tests found no sign of copying, which does not prove that there is none."
        sentences = [f"Signs of copying: {_listed(signs)}." if signs else found_none]
    membership = read_membership(authenticity)
    subject = words_of(membership.get("score")).subject
    for key, words in (("networks", f"{subject[:1].upper()}{subject[1:]}"), *_UPLOADS):
        area, around = number(membership, key, "auc"), interval(membership, key, "interval")
        if area is None or around is None:
            continue
        if site := text(membership, key, "site"):
            words = f"{words} ({site})"
        if around[0] > 0.5:
            sentences.append(f"{words} tells training images from held-out ones (area {_area(area, around)}).")
        else:
            sentences.append(
                f"{words} was not found to tell training images from held-out ones (area {_area(area, around)})."
            )
    return " ".join(sentences) + known


def _search_for_copies(authenticity: Mapping[str, Any]) -> list[str]:
    """Say what the search for copies found; nothing where there was none."""
    copies, searched = section(authenticity, "copies"), number(authenticity, "num_generated")
    if not copies or searched is None:
        return []
    said = copies_sentence(copies, int(searched))
    unproven = ["That does not prove that there are none."] if copies.get("flagged") is False else []
    return [said[:1].upper() + said[1:], *unproven]


def _signs_of_copying(authenticity: Mapping[str, Any]) -> Iterator[str]:
    share, around = (
        number(authenticity, "nearest", "share_nearer_to_train"),
        interval(authenticity, "nearest", "interval"),
    )
    if share is not None and around is not None and around[0] > 0.5:
        yield f"{percent(share)} of generated images lie nearer to training images than to as many held-out ones"
    membership = read_membership(authenticity)
    area, around = (
        number(membership, "generator", "auc"),
        interval(membership, "generator", "interval"),
    )
    control = number(membership, "null_control", "auc") or 0.5
    if area is not None and around is not None and around[0] > max(0.5, control):
        yield f"generated images tell who was trained on (area {_area(area, around)})"
    near, usual = (number(authenticity, "near_duplicates", key) for key in ("to_train", "of_real_test_to_train"))
    num_generated = number(authenticity, "num_generated")
    if near is not None and usual is not None and num_generated is not None and num_generated >= 1:
        low = wilson_interval(round(near * num_generated), int(num_generated))[0]
        if low > usual:
            yield (
                f"{percent(near)} of generated images are near-duplicates of training images, {percent(usual)} of real "
                "test images are"
            )


def run_sentence(record: RunRecord) -> str:
    """Say how the run ended."""
    planned, done = int(record.setting("rounds")), record.rounds_done()
    stopped = text(record.summary, "stopped_early")
    if record.status == "done" and stopped:
        return f"The run ended early, after round {done:,} of {planned:,}: {shorten(stopped).rstrip('.')}."
    if record.status == "done":
        return f"All {done:,} rounds were trained."
    reason = shorten(text(record.summary, "reason"))
    why = f": {reason}" if reason else ""
    if record.status in ("failed", "interrupted"):
        ended = "failed" if record.status == "failed" else "was interrupted"
        return f"The run {ended} after round {done:,} of {planned:,}{why.rstrip('.')}."
    return (
        f"The run has no end yet: round {done:,} of {planned:,} is the last that left a line. It is still going on, or "
        "its process was killed."
    )


def shorten(reason: str, *, most: int = 300) -> str:
    """Return what a person needs of a reason: of a traceback its first and its last line."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    if not lines:
        return ""
    is_headed = len(lines) > 1 and not lines[0].startswith("Traceback")
    short = f"{lines[0].rstrip(':')}: {lines[-1]}" if is_headed else lines[-1]
    return short if len(short) <= most else f"{short[: most - 1]}…"


def _compare(around: tuple[float, float] | None, other: float) -> str:
    """Place an interval against a figure: ``below``, ``above``, ``alike``, or ``unclear`` without an interval."""
    if around is None:
        return "unclear"
    return "below" if around[1] < other else "above" if around[0] > other else "alike"


def _apart(first: tuple[float, float] | None, second: tuple[float, float] | None) -> str:
    """Place an interval against another one."""
    if first is None or second is None:
        return "unclear"
    return "below" if first[1] < second[0] else "above" if first[0] > second[1] else "alike"


def _against(real: float | None) -> str:
    return "" if real is None else f", where real images score {figure(real)}"


def _area(area: float, around: tuple[float, float]) -> str:
    return f"{figure(area)}, {figure(around[0])} to {figure(around[1])}"


def _multiple(ratio: float) -> str:
    """Write a ratio with two significant digits: of a distance near zero no more is known."""
    if ratio < 10:
        return f"{ratio:.1f}"
    return f"{float(f'{ratio:.2g}'):,.0f}"


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
