"""The head of the report: a sentence and a few rows for each judgement, and the place among yardsticks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from server.evaluation.attacks import read_membership, words_of
from server.report.authenticity import LATER_ATTACKS
from server.report.curves import Estimate, Picture, draw_estimates
from server.report.gain import gain_sentence
from server.report.judgements import (
    SHORT_YARDSTICKS,
    authenticity_sentence,
    diversity_sentence,
    fidelity_sentence,
    predictive_sentence,
    second_sentences,
    speed_sentence,
    with_article,
)
from server.report.numerals import between, figure
from server.report.run_record import RunRecord, entries, interval, not_measured, number, section, text
from server.report.scores import BETTER, SCORES, last_validation_kid, yardsticks_of
from server.report.tables import (
    Body,
    Cell,
    Column,
    Table,
    missing,
    named,
    value,
    words,
)

ARMS = {
    "real": "real images",
    "synthetic": "synthetic images alone",
    "real+synthetic": "real and synthetic images",
    "rare": "real images, and synthetic ones of rare classes",
    "gaussian": "images drawn from Gaussians alone",
    "real+gaussian": "real images, and ones drawn from Gaussians",
    "real+permuted": "real images, and synthetic ones with permuted labels",
}
"""What classifiers are trained on, by arm."""


def sentences(record: RunRecord) -> list[tuple[str, str, bool]]:
    """Return name, sentence and whether it was measured, for each judgement."""
    test, utility = section(record.summary, "test"), section(record.summary, "utility")
    extractor = text(test, "extractor")
    balance = section(utility, "recognised", "class_balance")
    found = []
    for name, key, say in (
        ("What hospitals gain", "gain", lambda: gain_sentence(section(record.summary, "gain"))),
        (
            "Fidelity",
            "test",
            lambda: " ".join(
                (
                    fidelity_sentence(test, yardsticks_of(record, extractor), last_validation_kid(record, extractor)),
                    second_sentences(test),
                )
            ).rstrip(),
        ),
        ("Diversity", "test", lambda: diversity_sentence(test, balance)),
        (
            "Speed of training",
            "speed",
            lambda: speed_sentence(section(record.summary, "speed"), device=device_of(record)),
        ),
        ("Predictive ability", "utility", lambda: predictive_sentence(utility)),
        (
            "Authenticity",
            "authenticity",
            lambda: authenticity_sentence(section(record.summary, "authenticity")),
        ),
    ):
        why = record.why_missing(key)
        last = _last_validation(record) if why and name == "Fidelity" else ""
        if key == "gain" and why and record.setting("evaluation.gain") is not True:
            continue  # it was not asked for
        found.append((name, f"Not measured. {why}{last}" if why else say(), not why))
    return found


def _last_validation(record: RunRecord) -> str:
    judged = [line for line in record.scores if number(line, "kid") is not None]
    if not judged:
        return ""
    kid, at = number(judged[-1], "kid"), number(judged[-1], "round")
    return f" The last KID on validation images is {figure(kid)}, at round {at} ({record.extractor})."


def device_of(record: RunRecord) -> str:
    """Name what the run was computed on."""
    device, processor = text(record.environment, "device"), text(record.environment, "processor")
    cores = number(record.environment, "cores")
    if device and device != "cpu":
        return device
    return f"{processor} ({cores} cores)" if processor and cores else processor


def verdict_table(record: RunRecord) -> Table:
    """Lay out every judgement's figures beside those of real images."""
    columns = (
        Column("Figure", is_numeric=False),
        Column("This generator"),
        Column("95 % interval"),
        Column("Real images", "in the same place"),
        Column("Reading", is_numeric=False),
    )
    bodies = [
        _test_body(record, "Fidelity", ("kid", "fid", "precision", "density")),
        _test_body(record, "Diversity", ("recall", "coverage", "vendi", "spread", "balance")),
        _speed_body(record),
        _utility_body(record),
        _authenticity_body(record),
    ]
    return Table(
        name="verdict",
        caption="The judgements, each beside what real images score in the generator's place",
        columns=columns,
        bodies=bodies,
    )


def _verdict_row(
    label: str,
    amount: float | None,
    around: tuple[float, float] | None,
    real: float | None,
    reading: str,
    *,
    note: str = "",
    style: str = "figure",
) -> list[Cell]:
    return [
        named(label, note),
        value(amount, style),
        Cell(content=between(around, style), is_numeric=True),
        value(real, style),
        words(reading),
    ]


def _empty_body(heading: str, why: str) -> Body:
    return Body([[named("All figures"), missing(why, span=4)]], heading, "not measured")


def measured_with(test: Mapping[str, Any]) -> str:
    """Say what the figures of a test are of: extractor, resolution, counts."""
    parts = [text(test, "extractor")]
    features, resolution = number(test, "num_features"), number(test, "resolution")
    if features is not None:
        parts.append(f"{features:,} features")
    if resolution is not None:
        parts.append(f"{resolution} px")
    generated, real = number(test, "num_generated"), number(test, "num_real")
    if generated is not None and real is not None:
        draws = number(test, "num_draws")
        times = f", {draws:,} draws" if draws is not None else ""
        parts.append(f"{generated:,} generated and {real:,} real {text(test, 'part') or 'test'} images{times}")
    return "; ".join(part for part in parts if part)


def _test_body(record: RunRecord, heading: str, names: Sequence[str]) -> Body:
    why = record.why_missing("test")
    if why:
        return _empty_body(heading, why)
    test = section(record.summary, "test")
    nearest = section(test, "nearest_k")
    rows = []
    for name in names:
        if name == "balance":
            rows.append(_balance_row(record))
            continue
        label, better = ("Vendi score", "real") if name == "vendi" else SCORES[name]
        note = {
            "kid": "kernel distance; figures are ranked by it",
            "fid": text(test, "fid_caveat") or "Fréchet distance",
            "precision": _of_neighbours("generated images among real ones", number(nearest, "precision")),
            "density": _of_neighbours("how deep among them", number(nearest, "density")),
            "recall": _of_neighbours("real images among generated ones", number(nearest, "precision")),
            "coverage": _of_neighbours("real images with a generated one near", number(nearest, "density")),
            "vendi": "effective number of different images",
            "spread": "distance of images of one class, generated / real",
        }[name]
        rows.append(
            _verdict_row(
                label,
                number(test, name),
                interval(test, f"{name}_interval"),
                number(test, "real", name),
                BETTER[better],
                note=note,
            )
        )
    return Body(rows, heading, measured_with(test))


def _of_neighbours(what: str, k: float | None) -> str:
    return what if k is None else f"{what}, k = {k}"


def _balance_row(record: RunRecord) -> list[Cell]:
    label, note = "Class balance", "total variation between classes asked for and seen by classifiers"
    recognised = record.summary.get("utility")
    balance = section(recognised, "recognised", "class_balance", "total_variation")
    if number(balance, "mean") is None:
        why = record.why_missing("utility") or not_measured(section(recognised, "recognised")) or "Not recorded."
        return [named(label, note), missing(why, span=4)]
    return _verdict_row(
        label, number(balance, "mean"), interval(balance, "interval"), None, "0 is as asked for", note=note
    )


def _speed_body(record: RunRecord) -> Body:
    heading = "Speed of training"
    why = record.why_missing("speed")
    if why:
        return _empty_body(heading, why)
    speed = section(record.summary, "speed")
    rows = [
        _verdict_row("Training images a second", number(speed, "images_per_second"), None, None, BETTER["high"]),
        _verdict_row(
            "Time for 1,000 images", number(speed, "seconds_per_1000_images"), None, None, BETTER["low"],
            style="seconds",
        ),
    ]  # fmt: skip
    for entry in entries(speed, "time_to_kid"):
        label = f"Time to the KID of {with_article(text(entry, 'yardstick'))}"
        reach = f"validation KID below {figure(number(entry, 'kid'))}"
        if entry.get("not_reached") is True:
            rows.append([named(label, reach), missing("not reached", span=4)])
        else:
            at = number(entry, "round")
            note = f"{reach}, by round {at:,}" if at is not None else reach
            rows.append(
                _verdict_row(label, number(entry, "seconds"), None, None, BETTER["low"], note=note, style="seconds")
            )
    return Body(rows, heading, device_of(record))


def _utility_body(record: RunRecord) -> Body:
    heading = "Predictive ability"
    why = record.why_missing("utility")
    if why:
        return _empty_body(heading, why)
    utility = section(record.summary, "utility")
    rows: list[list[Cell]] = []
    for metric, label, reading in (
        ("balanced_accuracy", "Balanced accuracy", BETTER["high"]),
        ("macro_auroc", "Macro AUROC", BETTER["high"]),
        ("melanoma_sensitivity_at_90_specificity", "Melanoma sensitivity at 90 % specificity", BETTER["high"]),
    ):
        for arm in ("synthetic", "real+synthetic", "rare"):
            found = section(utility, "arms", arm)
            if not found:
                continue
            note = f"trained on {ARMS[arm]}"
            if not_measured(found):
                if metric == "balanced_accuracy":
                    rows.append([named(label, note), missing(not_measured(found), span=4)])
                continue
            spread = section(found, metric)
            if number(spread, "mean") is None:
                continue
            rows.append(
                _verdict_row(
                    label,
                    number(spread, "mean"),
                    interval(spread, "interval"),
                    number(utility, "arms", "real", metric, "mean"),
                    reading,
                    note=note,
                )
            )
    recognised = section(utility, "recognised")
    label = "Recognised as the class asked for"
    if number(recognised, "mean", "mean") is None:
        rows.append([named(label), missing(not_measured(recognised) or "Not recorded.", span=4)])
    else:
        rows.append(
            _verdict_row(
                label,
                number(recognised, "mean", "mean"),
                interval(recognised, "mean", "interval"),
                number(utility, "arms", "real", "balanced_accuracy", "mean"),
                f"a guess reaches {figure(number(recognised, 'chance'))}",
                note="by classifiers trained on real images; mean over classes",
            )
        )
    seeds, tested = number(utility, "num_seeds"), number(utility, "num_test_images")
    note = text(utility, "classifier")
    if seeds is not None and tested is not None:
        note += f", {seeds} seeds; {tested:,} real test images; real images: the same classifiers trained on them"
    return Body(rows, heading, note)


def _authenticity_body(record: RunRecord) -> Body:
    heading = "Authenticity"
    why = record.why_missing("authenticity")
    if why:
        return _empty_body(heading, why)
    authenticity = section(record.summary, "authenticity")
    nearest, near = section(authenticity, "nearest"), section(authenticity, "near_duplicates")
    rows = [
        _verdict_row(
            "Nearer to training than to held-out images",
            number(nearest, "share_nearer_to_train"),
            interval(nearest, "interval"),
            number(nearest, "control_share"),
            "0.5 is no copying",
            note="share of generated images",
        ),
        _verdict_row(
            "AuthPct",
            number(authenticity, "auth_pct"),
            None,
            number(authenticity, "auth_pct_control"),
            "as real images is no copying; junk has more",
            note="per cent of images farther from their nearest training image than that is from its own",
        ),
    ]
    rows += _membership_rows(authenticity)
    bits = number(near, "threshold_bits")
    rows.append(
        _verdict_row(
            "Near-duplicates of training images",
            number(near, "to_train"),
            None,
            number(near, "of_real_test_to_train"),
            "as rare as among real images is no copying",
            note=f"hashes within {bits} bits" if bits is not None else "",
            style="percent",
        )
    )
    note = text(authenticity, "extractor")
    if authenticity.get("valid") is not True:
        note = f"cannot be read as evidence, see the sentence above; {note}"
    return Body(rows, heading, note)


def _membership_rows(authenticity: Mapping[str, Any]) -> list[list[Cell]]:
    membership = read_membership(authenticity)
    control = number(membership, "null_control", "auc")
    rows = []
    for key, label in (
        ("generator", "Membership guessed from generated images"),
        ("networks", f"Membership guessed from the {words_of(membership.get('score')).name}"),
        ("upload_smallest", "Membership guessed from the smallest hospital's upload"),
        ("upload_largest", "Membership guessed from the largest hospital's upload"),
    ):
        if key not in membership and key in LATER_ATTACKS:
            continue
        attack = section(membership, key)
        site = text(attack, "site")
        if number(attack, "auc") is None:
            rows.append([named(label, site), missing(not_measured(attack) or "Not recorded.", span=4)])
            continue
        rows.append(
            _verdict_row(
                label,
                number(attack, "auc"),
                interval(attack, "interval"),
                control if key == "generator" else None,
                _reading_of_area(attack),
                note=f"area under the ROC curve, {site}" if site else "area under the ROC curve",
            )
        )
    return rows


def _reading_of_area(attack: Mapping[str, Any]) -> str:
    copier = number(attack, "copier", "auc")
    return "0.5 gives nothing away" + ("" if copier is None else f", a pure copier {figure(copier)}")


def ruler(record: RunRecord) -> Picture | None:
    """Draw the generator's KID among the yardsticks'."""
    test = section(record.summary, "test")
    extractor = text(test, "extractor")
    kid, label = number(test, "kid"), "this generator"
    around, real = interval(test, "kid_interval"), number(test, "real", "kid")
    part = "test"
    if kid is None:
        extractor, part = record.extractor, "validation"
        scores = [line for line in record.scores if number(line, "kid") is not None]
        if not scores:
            return None
        kid = number(scores[-1], "kid")
        real, label = None, f"this generator, round {number(scores[-1], 'round')}"
    assert kid is not None
    floor = SHORT_YARDSTICKS["kid_floor"]
    known = yardsticks_of(record, extractor, SHORT_YARDSTICKS)
    if real is not None:
        known[floor] = real
    rows = [Estimate(label_, amount, is_main=False) for label_, amount in known.items()]
    rows.append(Estimate(label, kid, around))
    rows.sort(key=lambda row: row.value)
    against = (
        "This generator and real images are judged on test images, the others on validation images."
        if part == "test" and real is not None
        else f"This generator is judged on {part} images, the others on validation images."
    )
    return draw_estimates(
        "ruler",
        "Where this generator stands",
        rows,
        axis="KID, lower is better",
        is_logarithmic=True,
        caption=f"Blurred: real images by way of so many pixels. {against} All of {extractor}.",
    )
