"""Tables of edges: text files with columns, and pandas' data frames."""

from __future__ import annotations

import csv
import gzip
import io
import math
import sys
from collections.abc import Hashable, Sequence
from pathlib import Path

from ..errors import InputError, lookup
from .files import is_number, read_bytes

DELIMITERS = (",", "\t", ";", " ")


def read_table(table: object, source: Hashable, target: Hashable, weight: Hashable | None,
               delimiter: str | None) -> tuple[list[tuple], list[float] | None]:
    """The pairs of nodes in the rows of a table, and their weights.

    Raises:
        InputError: for a file or a column that is not there, or a row that is incomplete.
    """
    pandas = sys.modules.get("pandas")  # whoever has a data frame has imported it
    if pandas is not None and isinstance(table, pandas.DataFrame):
        if delimiter is not None:
            raise InputError("a delimiter is for files; a data frame has its columns already.")
        read = [_frame_column(table, name) for name in (source, target, weight) if name is not None]
        lines = None
    elif isinstance(table, (str, Path)):
        lines, read = _file_columns(Path(table), [name for name in (source, target, weight) if name is not None],
                                    delimiter)
    else:
        raise InputError(f"expected the path of a table or a pandas.DataFrame, got {type(table).__name__}.")

    def where(row: int) -> str:
        return f"row {row} of the data frame" if lines is None else f"{table}, line {lines[row]}"

    ends = [_names(column, where, called) for column, called in zip(read, (source, target))]
    if isinstance(table, (str, Path)) and all(is_number(name) for column in read[:2] for name in column):
        ends = [[int(name) for name in column] for column in read[:2]]
    weights = None if weight is None else _weights(read[2], where, weight)
    return list(zip(*ends)), weights


def _frame_column(frame, name: Hashable) -> list:
    known = {str(column): column for column in frame.columns}
    if name not in frame.columns:
        lookup("column", name, known)
        raise InputError(f"the data frame has no column {name!r}.")
    column = frame[name]
    if column.ndim != 1:
        raise InputError(f"the data frame has more than one column {name!r}.")
    return column.tolist()


def _file_columns(path: Path, names: Sequence[Hashable], delimiter: str | None) -> tuple[list[int], list[list[str]]]:
    """The numbers of the lines with a row, and the columns of these names (or numbers, counted from 0)."""
    content = read_bytes(path)
    try:
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a table of UTF-8 text: {error}.") from None
    places = _places(names)
    if delimiter is None:
        delimiter = _delimiter(path, text, names, places is not None)
    elif not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n':
        raise InputError(f"a delimiter is one character, got {delimiter!r}.")
    # strict: a quotation mark that is never closed would swallow the rest of the file
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True,
                      skipinitialspace=delimiter == " ")
    lines: list[int] = []
    columns: list[list[str]] = [[] for _ in names]
    width = 0
    try:
        for row in rows:
            row = [cell.strip() for cell in row]
            if delimiter == " ":
                row = [cell for cell in row if cell]
            if not any(row) or row[0].startswith("#"):
                continue
            if places is None:
                places, width = [_place(path, row, name) for name in names], len(row)
                continue
            width = width or len(row)
            if len(row) != width or max(places) >= width:
                raise InputError(f"{path}, line {rows.line_num} has {len(row)} columns; expected "
                                 f"{max(width, max(places) + 1)}.")
            lines.append(rows.line_num)
            for column, place in zip(columns, places):
                column.append(row[place])
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num} cannot be read: {error}.") from None
    if places is None:
        raise InputError(f"{path} has no line of column names.")
    return lines, columns


def _places(names: Sequence[Hashable]) -> list[int] | None:
    """The names, if they are the places of columns."""
    places = [name for name in names if isinstance(name, int) and not isinstance(name, bool) and name >= 0]
    return places if len(places) == len(names) else None


def _delimiter(path: Path, text: str, names: Sequence[Hashable], by_place: bool) -> str:
    """What makes the columns appear in the first line that is neither empty nor a comment."""
    first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    split = {mark: [cell.strip().strip('"') for cell in first.split(mark)] for mark in DELIMITERS}
    if by_place:
        return max(DELIMITERS, key=lambda mark: len(list(filter(None, split[mark]))))
    return max(DELIMITERS, key=lambda mark: (sum(name in split[mark] for name in names), len(split[mark])))


def _place(path: Path, header: list[str], name: Hashable) -> int:
    if not isinstance(name, str):
        raise InputError(f"columns must be all names or all numbers (counted from 0), got {name!r}.")
    if header.count(name) > 1:
        raise InputError(f"{path} has more than one column {name!r}.")
    return header.index(lookup("column", name, {cell: cell for cell in header}))


def _names(values: Sequence, where, called: Hashable) -> list[Hashable]:
    names = []
    for row, value in enumerate(values):
        try:
            if isinstance(value, (bool, float)) or value is None or value == "":
                raise TypeError
            hash(value)
        except TypeError:
            raise InputError(f"{where(row)}: {value!r} in the column {called!r} is no name of a node, which is text "
                             "or a whole number.") from None
        names.append(value)
    return names


def _weights(values: Sequence, where, called: Hashable) -> list[float]:
    weights = []
    for row, value in enumerate(values):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number) or isinstance(value, bool):
            raise InputError(f"{where(row)}: the weight {value!r} in the column {called!r} is no finite number.")
        weights.append(number)
    return weights
