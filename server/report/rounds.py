"""What changed over the rounds: curves and the numbers behind them."""

from __future__ import annotations

from server.report.curves import Picture, draw_curves
from server.report.judgements import (
    SHORT_YARDSTICKS,
)
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
    scores = record.scores
    extractor = record.extractor

    def points(key: str) -> list[tuple[int, float | None]]:
        return [(int(number(line, "round") or 0), number(line, key)) for line in scores]

    def by_group(key: str) -> dict[str, list[tuple[int, float | None]]]:
        names = list(dict.fromkeys(str(name) for line in scores for name in section(line, key)))
        return {
            name: [(int(number(line, "round") or 0), number(line, key, name)) for line in scores]
            for name in names[:MOST_HOSPITALS]
        }

    yardsticks = yardsticks_of(record, extractor, SHORT_YARDSTICKS)
    of = f"Against validation images; {extractor}."
    caveat = text(record.summary, "test", "fid_caveat")
    drawn = [
        draw_curves(
            "kid",
            "KID",
            {"KID": points("kid")},
            is_logarithmic=True,
            lines=yardsticks,
            caption=f"Lower is better. {of}",
        ),
        draw_curves(
            "fid",
            "FID",
            {"FID": points("fid")},
            is_logarithmic=True,
            caption=" ".join(part for part in (f"Lower is better. {of}", f"{caveat}." if caveat else "") if part),
        ),
        draw_curves(
            "prdc",
            "Precision, density, recall, coverage",
            {SCORES[name][0]: points(name) for name in ("precision", "density", "recall", "coverage")},
            caption=f"Precision and density: fidelity. Recall and coverage: diversity. {of}",
        ),
        draw_curves(
            "losses",
            "Losses",
            {"generator": points("loss_generator"), "discriminator": points("loss_discriminator")},
            caption="Mean over hospitals, weighted by images. They say how training goes, not how good images are.",
        ),
        draw_curves(
            "logits",
            "Logits of the discriminator",
            {"real images": points("logit_real"), "generated images": points("logit_fake")},
            caption="Means at the hospitals' training images. Far apart: the discriminator has the upper hand.",
        ),
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
    if record.setting("augmentation.name") == "ada":
        drawn.append(
            draw_curves(
                "augmentation",
                "Probability of augmentation",
                {"p": points("augmentation_p")},
                caption="Raised while the discriminator overfits; mean over hospitals.",
            )
        )
    return [picture for picture in drawn if picture is not None]


def rounds_table(record: RunRecord) -> Table | None:
    """Lay out the numbers behind the curves."""
    keys = (
        ("images", "Images shown", "count"),
        ("kid", "KID", "figure"),
        ("kid_sd", "KID sd", "figure"),
        ("fid", "FID", "figure"),
        ("precision", "Precision", "figure"),
        ("density", "Density", "figure"),
        ("recall", "Recall", "figure"),
        ("coverage", "Coverage", "figure"),
        ("loss_generator", "Loss G", "figure"),
        ("loss_discriminator", "Loss D", "figure"),
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
