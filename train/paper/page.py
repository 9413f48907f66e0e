"""The page of ``imgprep-train paper``, and the same content as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from imgprep.pages.page import Chart, Charts, Page, Part, Section, Table
from imgprep.progress import duration
from imgprep.wording import counted, plain
from train.paper.files import write_new
from train.paper.results import MadeItem, Results

TITLE = "The AlexNet paper, from runs of this trainer"
SMALL = (
    "Small networks on small records: only the directions of the effects can be compared with the "
    "paper, not their sizes."
)
METHOD = (
    "A claim counts as reproduced if the difference has the paper's direction and is larger than "
    "the spread of the seeds explains (Welch's t test, two-sided, 5 %), as not reproduced if it "
    "has the other direction, and else as not decidable at this scale. With many claims, one in "
    "twenty passes the test by chance."
)


def paper_page(results: Results) -> Page:
    """Lay out the results."""
    return Page(
        title=TITLE,
        lead=f"{summary_line(results)} {SMALL if results.scale == 'small' else ''}".strip(),
        facts=list(facts(results)),
        sections=[
            Section(title="Summary", text=[METHOD], parts=[summary_table(results)]),
            *(_section(each) for each in results.items),
            _commands(results),
        ],
        footer=[
            f"imgprep {results.version}. Dataset fingerprint {results.dataset.fingerprint}. "
            "The same content: paper.md, results.json."
        ],
    )


def facts(results: Results) -> Iterator[tuple[str, str]]:
    """Yield what a reader must know of the runs."""
    data = results.dataset
    finished = [each for each in results.commands if each.seconds is not None]
    yield "scale", results.scale
    yield "seeds", f"{results.seeds:,}"
    yield "dataset", data.location
    used = data.used
    yield "photographs used", f"train {used['train_images']:,}, val {used['val_images']:,}"
    yield "classes used", f"{used['classes']:,} of {data.classes:,}"
    if any(each.item.id == "fig1" for each in results.items):
        yield "figure 1", "the photographs at 32 px" if results.cifar is None else "CIFAR-10"
    yield "machine", results.machine
    yield "date", results.date.replace("T", " ").replace("+00:00", " UTC")
    yield "commands", f"{len(finished):,} of {len(results.commands):,} finished"
    yield (
        "duration",
        f"{duration(results.seconds)} (h:mm:ss) of commands, {results.side_by_side} at a time",
    )


def summary_line(results: Results) -> str:
    """Return how many items there are of each decision."""
    groups = results.by_decision()
    said = ", ".join(f"{len(items)} {decision}" for decision, items in groups.items())
    return f"{counted(len(results.items), 'item')}: {said}."


def summary_table(results: Results) -> Table:
    """Return a row for each item, grouped by decision."""
    rows = [
        [each.item.title, decision, each.result.verdict.text]
        for decision, items in results.by_decision().items()
        for each in items
    ]
    head = ["item", "decision", "found"]
    return Table(head=head, rows=rows, caption="What was found", numbers=False)


def markdown(results: Results) -> str:
    """Write the results as Markdown; of a figure, its caption and its table."""
    lines = [f"# {TITLE}", "", paper_page(results).lead, ""]
    lines += [f"- {name}: {value}" for name, value in facts(results)]
    lines += ["", "## Summary", "", METHOD, "", *table_lines(summary_table(results))]
    for each in results.items:
        lines += ["", f"## {each.item.title}", ""]
        for paragraph in _paragraphs(each):
            lines += [_escaped(paragraph), ""]
        for figure in each.result.figures:
            lines += [f"Figure: {_escaped(figure.caption)}", ""]
            if figure.table is not None:
                lines += [*table_lines(figure.table), ""]
        for table in each.result.tables:
            lines += [*table_lines(table), ""]
    lines += ["## Commands", "", "```sh", *(each.command for each in results.commands), "```"]
    return plain("\n".join(lines)) + "\n"


def write_markdown(results: Results, path: Path) -> None:
    """Write the Markdown, whole or not at all.

    Raises:
        DestinationError: the file cannot be written.
    """
    write_new(path, markdown(results).encode())


def table_lines(table: Table) -> list[str]:
    """Return a table as lines of Markdown, with its caption before it."""
    rows = [table.head, ["---"] * len(table.head), *table.rows]
    return [f"{_escaped(table.caption)}:", ""] + [
        "| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in rows
    ]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _section(made: MadeItem) -> Section:
    parts: list[Part] = []
    for figure in made.result.figures:
        parts.append(figure.part)
        if isinstance(figure.part, Chart | Charts) and figure.table is not None:
            parts.append(figure.table)
    return Section(
        title=made.item.title, text=_paragraphs(made), parts=[*parts, *made.result.tables]
    )


def _paragraphs(made: MadeItem) -> Sequence[str]:
    verdict = made.result.verdict
    said = [f"The paper: {made.item.paper}"]
    if made.item.notes:
        said.append(f"The author's notes of 2012: {made.item.notes}")
    said.append(f"{verdict.decision[0].upper()}{verdict.decision[1:]}. {verdict.text}")
    return [*said, *made.result.remarks]


def _commands(results: Results) -> Section:
    rows = [
        [
            each.name,
            "-" if each.seconds is None else duration(each.seconds),
            each.failure or "done",
            each.command,
        ]
        for each in results.commands
    ]
    table = Table(
        head=["name", "time", "end", "command"],
        rows=rows,
        caption="Each run is a command of its own, and can be typed again",
        numbers=False,
    )
    return Section(title="Commands", parts=[table])
