"""What classifiers learn from synthetic images, in full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.report.curves import Estimate, Picture, draw_estimates
from server.report.numerals import figure
from server.report.run_record import interval, not_measured, number, section, text
from server.report.tables import (
    Body,
    Column,
    Table,
    difference_cell,
    missing,
    named,
    nothing,
    spread_cell,
    value,
)


def arms_table(utility: Mapping[str, Any]) -> Table:
    """Lay out what classifiers reach with each kind of training images."""
    metrics = (
        ("balanced_accuracy", "Balanced accuracy"),
        ("macro_auroc", "Macro AUROC"),
        ("macro_auroc_within_sites", "within sites"),
        ("melanoma_sensitivity_at_90_specificity", "Melanoma sensitivity"),
        ("calibration_error", "Calibration error"),
    )
    rows = []
    for arm, found in section(utility, "arms").items():
        head = named(f"{arm}", text(found, "description"))
        if not_measured(found):
            rows.append([head, missing(not_measured(found), span=3 + len(metrics))])
            continue
        rows.append(
            [
                head,
                value(number(found, "num_train_images"), "count"),
                value(number(found, "num_synthetic_images"), "count"),
                *(spread_cell(section(found, metric), style="share") for metric, _ in metrics),
                difference_cell(section(found, "minus_real", "balanced_accuracy")),
            ]
        )
    site = section(utility, "site_alone")
    if site and not not_measured(site):
        rows.append(
            [
                named("the site alone", "A guess from where an image comes, without looking at it: a yardstick."),
                nothing(),
                nothing(),
                *(spread_cell(section(site, metric), style="share") for metric, _ in metrics),
                nothing(),
            ]
        )
    notes = {
        "macro_auroc_within_sites": "images of one site alone are compared",
        "melanoma_sensitivity_at_90_specificity": "at 90 % specificity",
        "calibration_error": "15 bins; lower is better",
    }
    return Table(
        name="arms",
        caption="Classifiers by what they were trained on, tested on real images: mean over seeds [95 % interval]",
        columns=(
            Column("Trained on", is_numeric=False),
            Column("Images"),
            Column("of them synthetic"),
            *(Column(label, notes.get(metric, "higher is better")) for metric, label in metrics),
            Column("Accuracy beside real", "95 % over test lesions and seeds"),
        ),
        bodies=[Body(rows)],
        is_sortable=True,
        note="Beside real images synthetic ones come in places of their own, so that arms differ by images alone.",
    )


def arms_picture(utility: Mapping[str, Any]) -> Picture | None:
    """Draw the balanced accuracy of each arm."""
    rows = []
    for arm in section(utility, "arms"):
        mean = number(utility, "arms", arm, "balanced_accuracy", "mean")
        if mean is not None:
            around = interval(utility, "arms", arm, "balanced_accuracy", "interval")
            rows.append(Estimate(arm, mean, around, is_main=arm != "real"))
    num_classes = len(utility.get("classes") or ()) - len(utility.get("classes_without_test_images") or ())
    return draw_estimates(
        "arms-picture",
        "Balanced accuracy by training images",
        rows,
        axis="balanced accuracy on real test images",
        reference=("what a guess reaches", 1 / num_classes) if num_classes > 0 else None,
    )


def sensitivity_table(utility: Mapping[str, Any]) -> Table | None:
    """Lay out the sensitivity of each class in each arm."""
    arms = [arm for arm, found in section(utility, "arms").items() if not not_measured(found)]
    classes = [str(name) for name in utility.get("classes") or ()]
    if not arms or not classes:
        return None
    rare = set(map(str, utility.get("rare_classes") or ()))
    rows = []
    for name in classes:
        cells = []
        for arm in arms:
            entry = section(utility, "arms", arm, "sensitivity", name)
            cells.append(spread_cell(entry, heat=number(entry, "mean"), style="share") if entry else nothing())
        rows.append([named(name, "rare in training" if name in rare else ""), *cells])
    absent = [str(name) for name in utility.get("classes_without_test_images") or ()]
    return Table(
        name="sensitivity",
        caption="Sensitivity by class and training images: mean over seeds [95 % interval]",
        columns=(Column("Class", is_numeric=False), *(Column(arm) for arm in arms)),
        bodies=[Body(rows)],
        is_sortable=True,
        note="Stronger colour: higher."
        + (f" No test image of {', '.join(absent)}: a dash stands for it." if absent else ""),
    )


def confusion_table(utility: Mapping[str, Any]) -> Table | str:
    """Lay out the classes that classifiers see in generated images, or say why it is not known."""
    recognised = section(utility, "recognised")
    confusion = recognised.get("confusion")
    classes = [str(name) for name in utility.get("classes") or ()]
    if not isinstance(confusion, list) or not classes:
        return not_measured(recognised) or "summary.json holds no such figures."
    rows = []
    for asked, line in zip(classes, confusion, strict=False):
        shares = [number(share) for share in line] if isinstance(line, list) else []
        if not shares or not sum(share or 0.0 for share in shares):
            rows.append([named(asked), missing("was not asked for: no training image shows it", span=len(classes) + 1)])
            continue
        real = section(recognised, "real_share", asked)
        rows.append(
            [
                named(asked),
                *(value(share, "share", heat=share) for share in shares),
                spread_cell(real, style="share") if real else nothing(),
            ]
        )
    total = number(recognised, "num_generated")
    of = f"{total:,} generated images for each seed; " if total is not None else ""
    return Table(
        name="confusion",
        caption="The class asked for (rows) and the class that classifiers trained on real images see (columns)",
        columns=(
            Column("Asked for", is_numeric=False),
            *(Column(name) for name in classes),
            Column("Real images", "of this class, recognised"),
        ),
        bodies=[Body(rows)],
        note=f"Shares of a row, mean over seeds. {of}chance is {figure(number(recognised, 'chance'))}. "
        "Stronger colour: higher.",
    )
