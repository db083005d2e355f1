"""Whether training images were copied, and what gives them away, in full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.evaluation.attacks import copies_sentence, read_membership, words_of
from server.report.curves import Estimate, Picture, draw_estimates
from server.report.numerals import MISSING, between, exact, with_interval
from server.report.run_record import RunRecord, entries, interval, not_measured, number, section, text
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

LATER_ATTACKS = ("thumbnails", "upload_smallest")
"""What earlier versions did not try, and say nothing of."""
_SHORT = {
    "null_control": "control (real images)",
    "generator": "generated images",
    "thumbnails": "the same, by thumbnails",
    "upload_smallest": "smallest hospital's upload",
    "upload_largest": "largest hospital's upload",
}


def _attacks(score: object) -> dict[str, tuple[str, str]]:
    """Return what an attacker has, and what it looks at, by attack."""
    spoken = words_of(score)
    return {
        "null_control": (
            "Real test images in the generated ones' place",
            "the control: what is found here is no copying",
        ),
        "generator": ("Generated images", "nearness to a generated image, by features"),
        "thumbnails": ("Generated images, small", "nearness to a generated image, by thumbnails of 8 x 8"),
        "networks": (spoken.holder.capitalize(), spoken.looks_at),
        "upload_smallest": ("The smallest hospital's upload", spoken.sent),
        "upload_largest": ("The largest hospital's upload", spoken.sent),
    }


def membership_table(authenticity: Mapping[str, Any]) -> Table:
    """Lay out the attacks."""
    membership = read_membership(authenticity)
    rows = []
    for key, (label, note) in _attacks(membership.get("score")).items():
        if key not in membership and key in LATER_ATTACKS:
            continue
        attack = section(membership, key)
        site = text(attack, "site")
        head = named(label, f"{note}, {site}" if site else note)
        if number(attack, "auc") is None:
            rows.append([head, missing(not_measured(attack) or "Not recorded.", span=6)])
            continue
        rows.append([head, *_figures_of_attack(attack)])
    return Table(
        name="membership",
        caption="Membership inference: can training images be told from held-out ones?",
        columns=(Column("An attacker has", is_numeric=False), *_ATTACK_COLUMNS),
        bodies=[Body(rows)],
        note="A pure copier: training images in the generated ones' place, as many of them. Found: training images "
        "that the attack is sure of when it may take one held-out image of a hundred for one; 1 % is chance.",
    )


_ATTACK_COLUMNS = (
    Column("Area", "0.5 gives nothing away"),
    Column("95 % interval"),
    Column("A pure copier", "its area"),
    Column("Found", "at 1 % false alarms"),
    Column("Training images"),
    Column("Held-out images"),
)


def _figures_of_attack(attack: Mapping[str, Any]) -> list[Cell]:
    return [
        value(number(attack, "auc")),
        Cell(content=between(interval(attack, "interval")), is_numeric=True),
        value(number(attack, "copier", "auc")),
        value(number(attack, "tpr"), "percent"),
        value(number(attack, "num_members"), "count"),
        value(number(attack, "num_non_members"), "count"),
    ]


def by_class_table(authenticity: Mapping[str, Any]) -> Table | None:
    """Lay out what generated images give away of each class; None where that was not asked."""
    membership = read_membership(authenticity)
    bodies = []
    for key, heading in (("generator", "By features"), ("thumbnails", "By thumbnails")):
        found = section(membership, key, "by_class")
        rows = [
            [named(str(name)), missing(not_measured(entry), span=6)]
            if not_measured(entry)
            else [named(str(name)), *_figures_of_attack(entry)]
            for name, entry in ((name, section(found, name)) for name in found)
        ]
        if rows:
            bodies.append(Body(rows, heading))
    if not bodies:
        return None
    return Table(
        name="membership-by-class",
        caption="Membership inference from generated images, within each class",
        columns=(Column("Class", is_numeric=False), *_ATTACK_COLUMNS),
        bodies=bodies,
    )


def flag_of_copies(authenticity: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the flag in a few words, what it rests on, and how it is to be shown; all empty where there is none."""
    copies, searched = section(authenticity, "copies"), number(authenticity, "num_generated")
    if not copies or searched is None:
        return "", "", ""
    subject, verdict, evidence = copies_sentence(copies, int(searched)).split(": ", 2)
    chosen = text(authenticity, "num_generated_chosen_by")
    # Anything but a search that found nothing is to be seen.
    style = "valid" if copies.get("flagged") is False and not copies.get("nearer_to_held_out") else "not-valid"
    searched_by = f" Searched: {int(searched):,} ({chosen})." if chosen else ""
    return f"{subject[:1].upper()}{subject[1:]}: {verdict}:", f"{evidence}{searched_by}", style


def membership_picture(authenticity: Mapping[str, Any]) -> Picture | None:
    """Draw the areas of the attacks."""
    membership = read_membership(authenticity)
    rows = []
    for key, (label, _) in _attacks(membership.get("score")).items():
        area = number(membership, key, "auc")
        if area is not None:
            short = _SHORT.get(key, label.lower())
            around = interval(membership, key, "interval")
            rows.append(Estimate(short, area, around, is_main=key != "null_control"))
    return draw_estimates(
        "membership-picture",
        "Membership inference",
        rows,
        axis="area under the ROC curve",
        reference=("0.5: nothing is given away", 0.5),
    )


def nearest_table(authenticity: Mapping[str, Any]) -> Table:
    """Lay out distances, AuthPct and near-duplicates beside their controls."""
    return Table(
        name="nearest",
        caption="How near generated images are to training images, beside the control",
        columns=(
            Column("Figure", is_numeric=False),
            Column("Generated images"),
            Column("Control"),
            Column("The control is", is_numeric=False),
            Column("A pure copier"),
        ),
        bodies=[
            Body(
                [
                    *_distance_rows(authenticity),
                    *_closeness_rows(authenticity),
                    *_near_duplicate_rows(section(authenticity, "near_duplicates")),
                ]
            )
        ],
    )


def _row_beside_control(
    label: str,
    note: str,
    amount: float | None,
    control: float | None,
    of: str,
    style: str,
    *,
    copier: float | None = None,
) -> list[Cell]:
    return [named(label, note), value(amount, style), value(control, style), words(of), value(copier, style)]


def _distance_rows(authenticity: Mapping[str, Any]) -> list[list[Cell]]:
    """Lay out how far generated images are from training and from held-out ones."""
    nearest = section(authenticity, "nearest")
    num_train, num_test = number(nearest, "num_train"), number(nearest, "num_test")
    as_many = f"of {num_train:,} training and {num_test:,} held-out images" if num_train and num_test else ""
    medians = [
        _row_beside_control(
            f"Median distance to the nearest {part} image",
            as_many,
            number(nearest, key),
            None,
            f"in the features of {text(authenticity, 'extractor')}",
            "figure",
        )
        for part, key in (("training", "median_to_train"), ("held-out", "median_to_test"))
    ]
    share_nearer = [
        named("Share nearer to training images", as_many),
        Cell(
            content=with_interval(number(nearest, "share_nearer_to_train"), interval(nearest, "interval")),
            is_numeric=True,
        ),
        value(number(nearest, "control_share")),
        words("half of the held-out images against the other half"),
        value(number(nearest, "copier_share")),
    ]
    return [*medians, share_nearer]


def _closeness_rows(authenticity: Mapping[str, Any]) -> list[list[Cell]]:
    """Lay out how many generated images are closer to a training image than real ones would be."""
    rows = []
    unusually_close = number(authenticity, "nearest", "share_unusually_close")
    if unusually_close is not None:
        rows.append(
            _row_beside_control(
                "Share unusually close to a training image",
                "closer than 99 % of held-out images are",
                unusually_close,
                None,
                "0.01 if nothing was copied",
                "share",
                copier=1.0,
            )
        )
    rows.append(
        _row_beside_control(
            "AuthPct",
            "per cent of images farther from their nearest training image than that is from its own",
            number(authenticity, "auth_pct"),
            number(authenticity, "auth_pct_control"),
            "held-out images",
            "figure",
            copier=0.0,
        )
    )
    return rows


def _near_duplicate_rows(near: Mapping[str, Any]) -> list[list[Cell]]:
    """Lay out how many generated images look like a real one to a perceptual hash."""
    bits = number(near, "threshold_bits")
    within = f"perceptual hashes within {bits} bits, in any orientation" if bits is not None else ""
    return [
        _row_beside_control(
            "Near-duplicates of training images",
            _compared(within, number(near, "num_train_compared")),
            number(near, "to_train"),
            number(near, "of_real_test_to_train"),
            "held-out images beside the same training images",
            "percent",
            copier=1.0,
        ),
        _row_beside_control(
            "Near-duplicates of held-out images",
            _compared(within, number(near, "num_test_compared")),
            number(near, "to_test"),
            None,
            "of fewer images, and so rarer by chance alone",
            "percent",
        ),
    ]


def _compared(within: str, compared: float | None) -> str:
    return within if compared is None else f"{within}; {compared:,} compared"


def pairs_table(record: RunRecord) -> Table | None:
    """Lay out the closest pairs; image ids only where real images may be shown."""
    authenticity = section(record.summary, "authenticity")
    pairs = entries(authenticity, "closest_pairs")
    if not pairs:
        return None
    shows_ids = record.may_show_real_images
    return Table(
        name="pairs",
        caption="The generated images closest to a training image",
        columns=(
            Column("Generated image"),
            *([Column("Training image", is_numeric=False)] if shows_ids else []),
            Column("Distance", f"features of {text(authenticity, 'extractor')}"),
            Column("Percentile", "of held-out images' distances"),
        ),
        bodies=[
            Body(
                [
                    [
                        Cell(content=exact(number(pair, "generated"), "count"), is_header=True, is_numeric=True),
                        *([words(str(pair.get("train_image_id", MISSING)))] if shows_ids else []),
                        value(number(pair, "distance")),
                        value(number(pair, "percentile")),
                    ]
                    for pair in pairs
                ]
            )
        ],
        note="Percentile: how many per cent of real held-out images lie closer to a training image than this one."
        + ("" if shows_ids else " The ids of the training images stand in summary.json, which stays where the run is."),
    )
