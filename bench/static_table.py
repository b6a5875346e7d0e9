"""Tables of compiled kernels: a Markdown file per target, a section per op, a row per kernel.

They are the record itself: `write` and `read` are inverse. An op's entry is a dict of facts, as the digest of its
sources, and its "kernels", each a dict of the columns.
"""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).parent / "results/static"
WORDS = "kernel", "case"  # the columns that are not numbers


def write(path: Path, title: str, about: str, columns: list[str], entries: dict[str, dict]) -> None:
    lines = [f"# {title}: what each kernel uses", "", about, ""]
    alignment = "|" + "".join("---|" if column in WORDS else "---:|" for column in columns)
    for op, entry in sorted(entries.items()):
        facts = [f"{name} {value}" for name, value in entry.items() if name != "kernels"]
        lines += ["## " + ", ".join([op, *facts]), "", line(columns), alignment]
        lines += [line([quoted(str(row[column])) for column in columns]) for row in entry["kernels"]]
        lines.append("")
    path.write_text("\n".join(lines))


def read(path: Path) -> dict[str, dict]:
    """The entries of a table, {} where there is none."""
    entries = {}
    for section in path.read_text().split("\n## ")[1:] if path.exists() else ():
        heading, head, _, *rows = filter(None, section.splitlines())
        op, *facts = heading.split(", ")
        columns = cells(head)
        kernels = [{c: v if c in WORDS else int(v) for c, v in zip(columns, cells(row))} for row in rows]
        entries[op] = {**dict(fact.split(" ") for fact in facts), "kernels": kernels}
    return entries


def line(values: list[str]) -> str:
    return f"| {' | '.join(values)} |"


def cells(row: str) -> list[str]:
    return [cell.strip("`") for cell in row.removeprefix("| ").removesuffix(" |").split(" | ")]


def quoted(value: str) -> str:
    """As code, where Markdown would take it for a tag of HTML."""
    return f"`{value}`" if "<" in value else value
