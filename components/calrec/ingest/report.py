"""The record of an ingest for a person: what was done to the rows, what came out, and its distributions."""

from pathlib import Path

from calrec import describe, draw
from calrec.artifacts import Manifest


def write(folder: Path, manifest: Manifest) -> None:
    """Write report.md and report.html."""
    name = f"{manifest.config['domain']}: {manifest.config['source']}"
    sentences = [*manifest.notes, *(f"Warning: {warning}" for warning in describe.warnings(manifest))]
    rules = [
        (
            rule["rule"],
            f"{rule['rows_before']:,}",
            f"{rule['rows_before'] - rule['rows_after']:,}",
            f"{rule['rows_after']:,}",
        )
        for rule in manifest.rules
    ]
    counts = [(key.replace("_", " "), value) for key, value in describe.single(manifest)]
    (folder / "report.md").write_text(
        "\n".join(
            [
                f"# {name}\n",
                *(f"- {sentence}" for sentence in sentences),
                "\n| rule | rows before | dropped | rows after |\n|---|---:|---:|---:|",
                *(f"| {' | '.join(row)} |" for row in rules),
                "\n| count | |\n|---|---:|",
                *(f"| {' | '.join(row)} |" for row in counts),
                "",
            ]
        )
    )
    sections = [
        draw.table(("", ""), [(sentence, "") for sentence in sentences]) if sentences else "",
        draw.table(("rule", "rows before", "dropped", "rows after"), rules),
        *(draw.histogram(title, bars) for title, bars in describe.histograms(manifest).items()),
        draw.table(("count", ""), counts),
    ]
    (folder / "report.html").write_text(draw.page(name, sections))
