"""CSV and TSV: their first lines tell how the columns are parted and how fractions are written."""

from __future__ import annotations

import codecs
import csv
import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.sources.tables.sizes import are_kept, check_gzip_size

_LOOKED_AT = 2**16  # bytes
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_POINT, _COMMA = (re.compile(rf"[-+]?\d*{mark}\d+([eE][-+]?\d+)?") for mark in (r"\.", ","))


@dataclass(frozen=True)
class Dialect:
    """How a file is written; ``str`` says it."""

    delimiter: str
    decimal_point: str

    def __str__(self) -> str:
        fractions = ", fractions by a comma" if self.decimal_point == "," else ""
        return f"columns parted by {_DELIMITERS[self.delimiter]}{fractions}"


def open_delimited(path: Path, files: Sequence[Path]) -> tuple[Any, list[str]]:
    """
    Types are inferred from all rows, or in files too large for that from the first ones, where numbers are float.

    :param path: the file, or the folder of files
    :return: pyarrow's data set, and how the files are written, in words
    :raises DatasetError: for another encoding than UTF-8, a column's name that is given twice, or a bomb
    """
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.dataset as ds

    for file in files:
        if file.suffix.lower() == ".gz":
            check_gzip_size(file)
    dialects = [_dialect_of(file) for file in files]
    said = list(dict.fromkeys(map(str, dialects)))
    if are_kept(files):
        tables = []
        for file, dialect in zip(files, dialects, strict=True):
            parse, convert = _options(dialect)
            tables.append(_with_partition(pc.read_csv(file, parse_options=parse, convert_options=convert), path, file))
        return ds.dataset(pa.concat_tables(tables, promote_options="permissive")), said
    options: dict[str, Any] = {"partitioning": "hive", "partition_base_dir": str(path)} if path.is_dir() else {}
    parts, schema = [], None
    for file, dialect in zip(files, dialects, strict=True):
        parse, convert = _options(dialect)
        kind = ds.CsvFileFormat(parse_options=parse, convert_options=convert)
        schema = schema or pa.schema(list(map(_wide, ds.dataset([str(file)], format=kind, **options).schema)))
        parts.append(ds.dataset([str(file)], format=kind, schema=schema, **options))
    return ds.dataset(parts), said


def _wide(field: Any) -> Any:
    """What rows further on hold, too, where the first ones hold whole numbers or none."""
    import pyarrow as pa

    return field.with_type(pa.float64()) if pa.types.is_integer(field.type) or pa.types.is_null(field.type) else field


def _options(dialect: Dialect) -> tuple[Any, Any]:
    import pyarrow.csv as pc

    # an empty text is a missing value as an empty number is
    convert = pc.ConvertOptions(decimal_point=dialect.decimal_point, strings_can_be_null=True)
    return pc.ParseOptions(delimiter=dialect.delimiter), convert


def _dialect_of(file: Path) -> Dialect:
    lines = [line for line in _first_text(file).splitlines(keepends=True) if line.strip()]
    delimiters = ["\t"] if ".tsv" in file.name.lower() else list(_DELIMITERS)
    records = {delimiter: list(islice(csv.reader(lines, delimiter=delimiter), 100)) for delimiter in delimiters}
    delimiter = max(delimiters, key=lambda mark: len(records[mark][0]) if records[mark] else 0)
    names, *rows = records[delimiter] or [[]]
    refuse_twice(names, f"{file} (its first line names the columns)")
    fields = [field.strip() for row in rows for field in row]
    by_comma = any(map(_COMMA.fullmatch, fields)) and not any(map(_POINT.fullmatch, fields))
    return Dialect(delimiter, "," if by_comma and delimiter != "," else ".")


def _first_text(file: Path) -> str:
    opened: Any = gzip.open if file.suffix.lower() == ".gz" else open
    with opened(file, "rb") as stream:
        begin = stream.read(_LOOKED_AT)
    utf16 = begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(begin, final=False)
    except UnicodeDecodeError as error:
        name = "UTF-16" if utf16 else "latin1"
        raise DatasetError(
            f"{file}: byte {error.start} is no UTF-8, as CSV has to be. Save it as UTF-8, e.g. by iconv -f {name} -t UTF-8."
        ) from error


def refuse_twice(names: Sequence[str], where: str) -> None:
    """:raises DatasetError: if two columns have one name"""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"{where}: two columns are named {', '.join(map(repr, twice))}. Rename one of them.")


def _with_partition(table: Any, path: Path, file: Path) -> Any:
    """With Hive's ``key=value`` folders between a folder and its file as columns."""
    import pyarrow as pa

    for name, _, value in (part.partition("=") for part in file.parts[len(path.parts) : -1]):
        table = table.append_column(name, pa.repeat(int(value) if value.isdigit() else value, len(table)))
    return table
