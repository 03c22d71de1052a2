"""Markdown tables, for results and studies."""

from collections.abc import Sequence

from tabulate import tabulate


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]], right: int | Sequence[bool] = 1) -> str:
    """Return a Markdown table, without a final newline.

    Args:
        header, lines: texts of the cells.
        right: right-aligned columns: a flag for each column, or the index of the first.
    """
    flush = [index >= right for index in range(len(header))] if isinstance(right, int) else right
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in (header, *lines)]
    return tabulate(escaped[1:], headers=escaped[0], tablefmt="pipe", disable_numparse=True,
                    colalign=["right" if right else "left" for right in flush])
