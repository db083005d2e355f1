"""The report as one file: everything inside, nothing fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from federation.run_directory import RunDirectory, write_text
from server.evaluation.attacks import read_membership, words_of
from server.report.authenticity import (
    by_class_table,
    flag_of_copies,
    membership_picture,
    membership_table,
    nearest_table,
    pairs_table,
)
from server.report.gain import gain_picture, gain_sentence, gain_table
from server.report.groups import groups_table, sites_summary
from server.report.hospitals import failures_table, hospitals_table, partition_table
from server.report.judgements import RULES, run_sentence
from server.report.numerals import exact, figure, percent
from server.report.privacy import privacy_of
from server.report.rounds import curves, rounds_table
from server.report.run_record import RunRecord, not_measured, number, read_run, section, text
from server.report.samples import MOST_ROUNDS, Samples, read_samples
from server.report.settings import commands, environment_rows, settings_tables
from server.report.speed import bytes_table, shares, speed_table
from server.report.utility import arms_picture, arms_table, confusion_table, sensitivity_table
from server.report.verdict import ruler, sentences, verdict_table


def write_report(directory: RunDirectory) -> Path:
    """Write ``report.html`` into a run directory, of whatever is there.

    Parameters
    ----------
    directory
        Of a run that is done, failed, was interrupted, or still goes on.

    Returns
    -------
    The report's path.

    Raises
    ------
    RunDirectoryError
        If there is no run, or a file of it cannot be read. Nothing is written then.
    StorageError
        If the report cannot be written.
    """
    page = render_report(read_run(directory))
    write_text(directory.report, page)
    return directory.report


def render_report(record: RunRecord) -> str:
    """Return the report of a run as html. The same run gives the same text."""
    import jinja2

    from server.report.script import SCRIPT
    from server.report.stylesheet import STYLESHEET
    from server.report.template import TEMPLATE

    environment = jinja2.Environment(
        autoescape=True,  # names of hospitals and classes come from outside
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"exact": exact, "figure": figure, "percent": percent}
    template = environment.from_string(TEMPLATE)
    page: str = template.render(stylesheet=Markup(STYLESHEET), script=Markup(SCRIPT), **_content(record))
    return page.lstrip()


def _content(record: RunRecord) -> dict[str, Any]:
    """Return what the template shows, by the names it uses."""
    return {
        **_content_of_head(record),
        **_content_of_gain(record),
        **_content_of_rounds(record),
        **_content_of_samples(record),
        **_content_of_test(record),
        **_content_of_authenticity(record),
        **_content_of_federation(record),
        **_content_of_settings(record),
    }


def _content_of_head(record: RunRecord) -> dict[str, Any]:
    return {
        "name": str(record.setting("name")),
        "status": record.status,
        "status_sentence": run_sentence(record),
        "facts": _facts(record),
        "judgements": sentences(record),
        "rules": RULES,
        "privacy": privacy_of(record),
        "ruler": ruler(record),
        "verdict": verdict_table(record),
        "test_sentence": _test_sentence(section(record.summary, "test")),
    }


def _content_of_gain(record: RunRecord) -> dict[str, Any]:
    """Return what each hospital gains; where that was not asked for, only that."""
    gain = section(record.summary, "gain")
    why = record.why_missing("gain")
    return {
        "gain": gain,
        "no_gain": why,
        "gain_was_asked_for": record.setting("evaluation.gain") is True,
        "gain_sentence": "" if why else gain_sentence(gain),
        "gain_table": None if why else gain_table(gain),
        "gain_picture": None if why else gain_picture(gain),
    }


def _content_of_rounds(record: RunRecord) -> dict[str, Any]:
    return {
        "curves": curves(record),
        "losses_are_left_out": record.adds_noise,
        "no_curves": _why_no_curves(record),
        "other_extractors": len(record.metrics) - len(record.scores),
        "rounds": rounds_table(record),
    }


def _content_of_samples(record: RunRecord) -> dict[str, Any]:
    from jinja2.utils import htmlsafe_json_dumps

    rows = list(record.classes) if record.is_conditional else []
    if rows and record.may_show_real_images:
        rows.append("real")
    samples = read_samples(record.sheets, rows)
    return {
        "samples": samples,
        "looks_picture": _embedded(record.looks),
        "sheets_json": htmlsafe_json_dumps(_sheets(record, samples)),
        "most_rounds": MOST_ROUNDS,
        "is_conditional": record.is_conditional,
        "may_show_real_images": record.may_show_real_images,
    }


def _content_of_test(record: RunRecord) -> dict[str, Any]:
    """Return what the final test says by class and by hospital, and how useful the images are."""
    utility = section(record.summary, "utility")
    return {
        "per_class": groups_table(record, "per_class", "Class"),
        "per_site": groups_table(record, "per_site", "Hospital"),
        "sites_summary": sites_summary(record),
        "no_utility": record.why_missing("utility"),
        "utility": utility,
        "arms": arms_table(utility),
        "arms_picture": arms_picture(utility),
        "sensitivity": sensitivity_table(utility),
        "confusion": confusion_table(utility),
    }


def _content_of_authenticity(record: RunRecord) -> dict[str, Any]:
    authenticity = section(record.summary, "authenticity")
    return {
        "no_authenticity": record.why_missing("authenticity"),
        "authenticity": authenticity,
        "nearest": nearest_table(authenticity),
        "membership": membership_table(authenticity),
        "membership_by_class": by_class_table(authenticity),
        "flag_of_copies": flag_of_copies(authenticity),
        "membership_picture": membership_picture(authenticity),
        "pairs": pairs_table(record),
        "pairs_picture": _pairs_picture(record),
        "attacked_in_general": words_of(_score(record)).in_general,
        "has_pairs_file": record.closest_pairs is not None,
        "projection": not_measured(authenticity.get("projection")),
    }


def _content_of_federation(record: RunRecord) -> dict[str, Any]:
    """Return how fast training was, and who trained on what."""
    return {
        "no_speed": record.why_missing("speed"),
        "shares": shares(record),
        "time_to_kid": speed_table(record),
        "bytes": bytes_table(record),
        "partition": partition_table(record),
        "scheme": record.setting("partition.scheme"),
        "digest": text(record.partition, "digest") or "not recorded",
        "hospitals": hospitals_table(record),
        "failures": failures_table(record),
    }


def _content_of_settings(record: RunRecord) -> dict[str, Any]:
    changed, settings = settings_tables(record)
    return {
        "changed": changed,
        "settings": settings,
        "commands": commands(record),
        "environment": environment_rows(record),
        "seed": record.setting("seed"),
        "split_seed": record.setting("data.split-seed"),
        "partition_seed": record.setting("partition.seed"),
    }


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    """Return what a reader needs to know of the run before any figure."""
    told = "told the diagnosis" if record.is_conditional else "not told the diagnosis"
    hospitals = section(record.partition, "hospitals")
    images = number(record.partition, "images")
    held = f", {images:,} training images" if images is not None else ""
    num_hospitals = len(hospitals) or record.setting("partition.hospitals")
    facts = [
        ("Data", f"{record.setting('data.source')}, {record.setting('model.resolution')} px"),
        ("Model", f"{record.setting('model.name')}, {told}"),
        ("Strategy", str(record.setting("strategy.name"))),
        ("Hospitals", f"{num_hospitals:,}{held} ({record.setting('partition.scheme')})"),
        ("Extractor", text(record.summary, "test", "extractor") or record.extractor or "none used yet"),
        ("Seed", str(record.setting("seed"))),
    ]
    if created := text(record.environment, "created"):
        facts.append(("Started", created.replace("T", " ").replace("+00:00", " UTC")))
    version, commit = text(record.environment, "dermafed"), text(record.environment, "git_commit")
    if version or commit:
        facts.append(("dermafed", f"{version}{f' ({commit[:10]})' if commit else ''}".strip()))
    return facts


def _score(record: RunRecord) -> object:
    """Return by what networks score an image; where nothing was attacked, by what those of the family do."""
    stated = read_membership(section(record.summary, "authenticity")).get("score")
    return stated or (record.anatomy.membership if record.anatomy is not None else "")


def _test_sentence(test: dict[str, Any]) -> list[str]:
    """Return what must stand beside the figures of a test: preprocessing, intervals, FID's caveat."""
    said = [text(test, key) for key in ("preprocessing", "classes_say", "intervals_say", "fid_caveat")]
    labels = ("Preprocessing", "Classes", "Intervals", "FID")
    subset = number(test, "subset_size")
    sentences = [f"{label}: {words.rstrip('.')}." for label, words in zip(labels, said, strict=True) if words]
    if subset is not None:
        sentences.append(f"KID: on subsets of {subset:,} images.")
    return sentences


def _why_no_curves(record: RunRecord) -> str:
    if record.metrics:
        return ""
    return "The run never reached its first evaluation: metrics.jsonl holds no line."


def _sheets(record: RunRecord, samples: Samples) -> list[dict[str, Any]]:
    """Return what the slider needs of each round."""
    lines = {number(line, "round"): line for line in record.metrics}
    entries = []
    for sheet in samples.sheets:
        line = lines.get(sheet.round, {})
        parts = [f"Round {sheet.round:,}"]
        if (kid := number(line, "kid")) is not None:
            parts.append(f"validation KID {figure(kid)}")
        if (images := number(line, "images")) is not None:
            parts.append(f"{images:,} training images shown")
        entries.append(
            {
                "round": sheet.round,
                "caption": " · ".join(parts),
                "href": sheet.href,
                "width": sheet.width,
                "height": sheet.height,
                "pitch": sheet.pitch,
            }
        )
    return entries


def _pairs_picture(record: RunRecord) -> str:
    """Return the picture of the closest pairs, if there is one and it may be seen; it shows real images."""
    return _embedded(record.closest_pairs) if record.may_show_real_images else ""


def _embedded(picture: Path | None) -> str:
    """Return a png as a link that holds it; empty where there is none."""
    import base64

    if picture is None:
        return ""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode('ascii')}"
