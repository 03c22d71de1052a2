"""Markdown tables, for results and studies alike."""

from collections.abc import Sequence

from tabulate import tabulate


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]], right: int | Sequence[bool] = 1) -> str:
    """A table, without a line's end behind it.

    Args:
        header, lines: the cells, as text.
        right: which columns are flush right: of each whether it is, or the number of the first that is.
    """
    flush = [index >= right for index in range(len(header))] if isinstance(right, int) else right
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in (header, *lines)]
    return tabulate(escaped[1:], headers=escaped[0], tablefmt="pipe", disable_numparse=True,
                    colalign=["right" if right else "left" for right in flush])
