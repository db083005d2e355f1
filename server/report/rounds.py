"""What changed over the rounds: curves and the numbers behind them."""

from __future__ import annotations

from server.report.curves import Picture, Points, draw_curves
from server.report.judgements import (
    SHORT_YARDSTICKS,
)
from server.report.losses import loss_words, losses_of
from server.report.numerals import exact
from server.report.run_record import RunRecord, number, section, text
from server.report.scores import SCORES, yardsticks_of
from server.report.tables import (
    MOST_HOSPITALS,
    Body,
    Cell,
    Column,
    Table,
    value,
)


def curves(record: RunRecord) -> list[Picture]:
    """Draw what changed over rounds."""
    drawn = [*_curves_of_scores(record), *_curves_of_training(record), *_curves_by_group(record)]
    if record.setting("stylegan2.augmentation.name") == "ada":
        drawn.append(
            draw_curves(
                "augmentation",
                "Probability of augmentation",
                {"p": _points(record, "augmentation_p")},
                caption="Raised while the discriminator overfits; mean over hospitals.",
            )
        )
    return [picture for picture in drawn if picture is not None]


def _points(record: RunRecord, *keys: str) -> Points:
    """Return a figure by round; the keys lead to it in a line."""
    return [(int(number(line, "round") or 0), number(line, *keys)) for line in record.scores]


def _second_points(record: RunRecord) -> dict[str, Points]:
    """Return the KID by the second extractor by round; nothing where an earlier version asked none."""
    found = _points(record, "second_kid")
    return {"KID, second extractor": found} if any(value is not None for _, value in found) else {}


def _against(record: RunRecord) -> str:
    return f"Against validation images; {record.extractor}."


def _curves_of_scores(record: RunRecord) -> list[Picture | None]:
    """Draw how good the images were."""
    of = _against(record)
    caveat = text(record.summary, "test", "fid_caveat")
    return [
        draw_curves(
            "kid",
            "KID",
            {"KID": _points(record, "kid")} | _second_points(record),
            is_logarithmic=True,
            lines=yardsticks_of(record, record.extractor, SHORT_YARDSTICKS),
            caption=f"Lower is better. {of}",
        ),
        draw_curves(
            "fid",
            "FID",
            {"FID": _points(record, "fid")},
            is_logarithmic=True,
            caption=" ".join(part for part in (f"Lower is better. {of}", f"{caveat}." if caveat else "") if part),
        ),
        draw_curves(
            "prdc",
            "Precision, density, recall, coverage",
            {SCORES[name][0]: _points(record, name) for name in ("precision", "density", "recall", "coverage")},
            caption=f"Precision and density: fidelity. Recall and coverage: diversity. {of}",
        ),
    ]


def _curves_of_training(record: RunRecord) -> list[Picture | None]:
    """Draw what the hospitals told of their training, where it may be shown."""
    if record.adds_noise:
        return []
    return [
        draw_curves(
            "losses",
            "Losses",
            {loss_words(key): _points(record, key) for key in losses_of(record)},
            caption="Mean over hospitals, weighted by images. They say how training goes, not how good images are.",
        ),
        draw_curves(
            "logits",
            "Logits of the discriminator",
            {"real images": _points(record, "logit_real"), "generated images": _points(record, "logit_fake")},
            caption="Means at the hospitals' training images. Far apart: the discriminator has the upper hand.",
        ),
    ]


def _curves_by_group(record: RunRecord) -> list[Picture | None]:
    """Draw how good the images of each class and of each hospital were."""
    of = _against(record)

    def by_group(key: str) -> dict[str, Points]:
        names = list(dict.fromkeys(str(name) for line in record.scores for name in section(line, key)))
        return {name: _points(record, key, name) for name in names[:MOST_HOSPITALS]}

    return [
        draw_curves(
            "kid-by-class",
            "KID by class",
            by_group("kid_by_class"),
            is_logarithmic=True,
            caption=f"A class with too few validation images has no line. {of}",
        ),
        draw_curves(
            "kid-by-site",
            "KID by hospital",
            by_group("kid_by_site"),
            is_logarithmic=True,
            caption=f"Lower is better. {of}",
        ),
    ]


def rounds_table(record: RunRecord) -> Table | None:
    """Lay out the numbers behind the curves."""
    keys = (
        ("images", "Images shown", "count"),
        ("evaluations", "Network evaluations", "count"),
        ("kid", "KID", "figure"),
        ("kid_sd", "KID sd", "figure"),
        ("second_kid", "KID, second extractor", "figure"),
        ("fid", "FID", "figure"),
        ("precision", "Precision", "figure"),
        ("density", "Density", "figure"),
        ("recall", "Recall", "figure"),
        ("coverage", "Coverage", "figure"),
        *((key, label, "figure") for key, label in losses_of(record).items()),
        ("augmentation_p", "p", "figure"),
        ("seconds", "Time", "seconds"),
    )
    known = [entry for entry in keys if any(number(line, entry[0]) is not None for line in record.scores)]
    if not record.scores:
        return None
    return Table(
        name="rounds",
        caption=f"Evaluated rounds, against validation images ({record.extractor or 'extractor not recorded'})",
        columns=(Column("Round"), *(Column(label) for _, label, _ in known)),
        bodies=[
            Body(
                [
                    [
                        Cell(
                            content=exact(number(line, "round"), "count"),
                            sort=number(line, "round"),
                            is_header=True,
                            is_numeric=True,
                        ),
                        *(value(number(line, key), style) for key, _, style in known),
                    ]
                    for line in record.scores
                ]
            )
        ],
        is_sortable=True,
    )
