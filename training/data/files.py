"""Which files the names in a recipe mean, and what is in them: rows, as they are, each with its place."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from edged.errors import ConfigError, CorruptFile
from edged.store.blobs import hash_file
from edged.store.captured import Captured, whole_lines
from edged.store.paths import Layout
from edged.toml_file import KeyPath
from training.data.mistakes import Mistakes, Place
from training.run import Run, digest

#: What a source is read for; folders that hold several splits give the one of that name.
Role = Literal["train", "validation", "test"]
Kind = Literal["jsonl", "json", "csv", "parquet", "datasets", "captured"]

CAPTURED = "captured:"
_KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_SPLITS: dict[Role, tuple[str, ...]] = {
    "train": ("train",), "validation": ("validation", "valid", "val", "dev", "eval"), "test": ("test",)}
#: Of `datasets.save_to_disk`: a folder of splits, or one split.
_SEVERAL, _ONE = "dataset_dict.json", "state.json"
#: A field of CSV may be a whole document.
_FIELD_CHARACTERS = 16 << 20


class Source(Struct, frozen=True):
    """One file, or one folder of `datasets`. title: as a person knows it."""

    title: str
    path: Path
    kind: Kind


class Row(Struct, frozen=True):
    place: Place
    values: dict[str, Any]


def sources(run: Run, named: tuple[str, ...], key: KeyPath, role: Role) -> list[Source]:
    """key: where they are named in the recipe. Raises ConfigError there for what is not here, or no data."""
    return [source for index, said in enumerate(named) for source in _meant(run, said, (*key, index), role)]


def digest_of(source: Source) -> str:
    """Of its bytes, whatever it is called."""
    if source.path.is_dir():
        inside = sorted(path for path in source.path.rglob("*") if path.is_file())
        return digest([(path.relative_to(source.path).as_posix(), hash_file(path)) for path in inside])
    if source.kind == "captured":
        return hashlib.sha256(b"".join(whole_lines(source.path))).hexdigest()
    return hash_file(source.path)


def read_rows(source: Source, mistakes: Mistakes) -> Iterator[Row]:
    """What is no row becomes a mistake. Raises ConfigError, CorruptFile where the file as a whole cannot be read."""
    reader = {"jsonl": _jsonl, "captured": _captured, "json": _json, "csv": _csv, "parquet": _parquet,
              "datasets": _datasets}[source.kind]
    for row in reader(source, mistakes):
        mistakes.rows += 1
        yield row


def _meant(run: Run, said: str, key: KeyPath, role: Role) -> list[Source]:
    if said.startswith(CAPTURED):
        return _kept_answers(run, said, key)
    path = run.at(said)
    if path.is_dir():
        return _in_folder(run, said, path, key, role)
    if path.is_file():
        return [Source(said, path, _kind(run, path, key))]
    if any(mark in said for mark in "*?["):
        found = sorted(file for file in path.parent.glob(path.name) if file.is_file())
        if found:
            return [Source(f"{said.rpartition('/')[0]}/{file.name}".lstrip("/"), file, _kind(run, file, key))
                    for file in found]
    raise run.file.mistake(key, f"there is no file or folder {path}; paths count from the recipe's own folder")


def _kind(run: Run, file: Path, key: KeyPath) -> Kind:
    if (kind := _KINDS.get(file.suffix.lower())) is None:
        raise run.file.mistake(key, f"{file.name} is no data that is known here; known are {', '.join(_KINDS)}, "
                                    f"folders of `datasets` and {CAPTURED}NAME")
    return kind


def _kept_answers(run: Run, said: str, key: KeyPath) -> list[Source]:
    """Of a daemon that was told to capture answers (`edged.store.captured`)."""
    from edged.settings import load_settings

    name = said.removeprefix(CAPTURED)
    home = load_settings()[0].home
    found = Captured(Layout(home)).paths(name)
    if not found:
        raise run.file.mistake(key, f"no answers of {name} are captured in {home}; edged captures those of the models "
                                    "that its setting `capture` names. `edged captured list` tells what there is")
    return [Source(f"{said}/{file.name}", file, "captured") for file in found]


def _in_folder(run: Run, said: str, folder: Path, key: KeyPath, role: Role) -> list[Source]:
    if (folder / _ONE).is_file():
        return [Source(said, folder, "datasets")]
    names = _SPLITS[role]
    if (folder / _SEVERAL).is_file():
        splits = json.loads((folder / _SEVERAL).read_bytes()).get("splits", [])
        split = next((name for name in names if name in splits), None)
        if split is None:
            raise run.file.mistake(key, f"{said} has no split {names[0]}; it has {', '.join(splits)}. Name one of "
                                        f"them: {said.rstrip('/')}/{splits[0] if splits else 'train'}")
        return [Source(f"{said.rstrip('/')}/{split}", folder / split, "datasets")]
    files = sorted(file for place in (folder, folder / "data") for file in place.glob("*")
                   if file.suffix.lower() in _KINDS and file.name != "dataset_info.json")
    with_split = [file for file in files if _split_of(file) is not None]
    if with_split:
        files = [file for file in with_split if _split_of(file) == role]
    if not files:
        raise run.file.mistake(key, f"{said} holds no data for {role}; it has to hold files {', '.join(_KINDS)} whose "
                                    f"names begin with {names[0]} (or with no split at all), or what `datasets` saved")
    return [Source(f"{said.rstrip('/')}/{file.relative_to(folder).as_posix()}", file, _kind(run, file, key))
            for file in files]


def _split_of(file: Path) -> Role | None:
    """As hubs name files: `train-00000-of-00002.parquet`, `test.jsonl`."""
    first = file.name.lower().replace(".", "-").replace("_", "-").split("-")[0]
    return next((role for role, names in _SPLITS.items() if first in names), None)


def _jsonl(source: Source, mistakes: Mistakes) -> Iterator[Row]:
    with source.path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            place = Place(source.title, number)
            row = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if row.strip():
                yield from _decoded(row, place, mistakes)


def _captured(source: Source, mistakes: Mistakes) -> Iterator[Row]:
    """The daemon may be writing, and removing what is too old."""
    for number, line in enumerate(whole_lines(source.path), 1):
        yield from _decoded(line, Place(source.title, number), mistakes)


def _decoded(line: bytes, place: Place, mistakes: Mistakes) -> Iterator[Row]:
    try:
        values = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        mistakes.rows += 1
        mistakes.add(place, f"is not JSON ({str(error)[:200]}); each line is one object")
        return
    yield from _object(values, place, mistakes)


def _object(values: object, place: Place, mistakes: Mistakes) -> Iterator[Row]:
    if isinstance(values, dict):
        yield Row(place, values)
    else:
        mistakes.rows += 1
        mistakes.add(place, f"is no object but {type(values).__name__}; a row is {{\"column\": value, …}}")


def _json(source: Source, mistakes: Mistakes) -> Iterator[Row]:
    try:
        values = msgspec.json.decode(source.path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"is not JSON ({str(error)[:200]}); it has to be one array of objects, and a file with an "
                          "object a line ends in .jsonl", file=source.title) from None
    if not isinstance(values, list):
        raise ConfigError("has to be one array of objects; a file with an object a line ends in .jsonl",
                          file=source.title)
    for number, item in enumerate(values, 1):
        yield from _object(item, Place(source.title, number, "item"), mistakes)


def _csv(source: Source, mistakes: Mistakes) -> Iterator[Row]:
    """RFC 4180, separated as the first line is. Line numbers are those of an editor, in which a quoted field may have
    several."""
    raw = source.path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[:error.start].count(b"\n") + 1
        raise ConfigError("is not UTF-8 here; save it as UTF-8", file=source.title, line=line) from None
    limit = csv.field_size_limit(_FIELD_CHARACTERS)
    try:
        yield from _records(source, text, mistakes)
    finally:
        csv.field_size_limit(limit)


def _records(source: Source, text: str, mistakes: Mistakes) -> Iterator[Row]:
    first = text.split("\n", 1)[0]
    separator = max("\t" if source.path.suffix.lower() == ".tsv" else ",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] | None = None
    while True:
        place = Place(source.title, reader.line_num + 1)
        try:
            record = next(reader, None)
        except csv.Error as error:
            mistakes.rows += 1
            mistakes.add(place, f"is no CSV ({error}); a quote within a field is written twice")
            continue
        if record is None:
            return
        if not record:
            continue
        if header is None:
            header = [name.strip() for name in record]
            if len(set(header)) < len(header) or not all(header):
                raise ConfigError("names a column twice or not at all; the first line holds the names of the columns",
                                  file=source.title, line=1)
        elif len(record) != len(header):
            mistakes.rows += 1
            mistakes.add(place, f"has {len(record)} fields and the first line {len(header)} columns; put fields that "
                                f"hold {separator!r} in quotes")
        else:
            yield Row(place, dict(zip(header, record, strict=True)))


def _parquet(source: Source, mistakes: Mistakes) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(source.path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1000):
                for index in range(batch.num_rows):
                    number += 1
                    yield from _row(partial(_of_batch, batch, index), Place(source.title, number, "row"), mistakes)
    except (pyarrow.ArrowException, OSError) as error:
        raise CorruptFile(f"{source.title} is damaged or no Parquet file ({str(error)[:200]})") from error


def _of_batch(batch: Any, index: int) -> dict[str, Any]:
    (values,) = batch.slice(index, 1).to_pylist()
    assert isinstance(values, dict)
    return values


def _row(take: Callable[[], dict[str, Any]], place: Place, mistakes: Mistakes) -> Iterator[Row]:
    """Writers of Parquet and Arrow do not look whether a text is one."""
    try:
        values = take()
    except UnicodeDecodeError as error:
        mistakes.rows += 1
        mistakes.add(place, f"holds a text that is not UTF-8 ({error}); write the file again from texts")
    else:
        yield Row(place, values)


def _datasets(source: Source, mistakes: Mistakes) -> Iterator[Row]:
    from converters.quiet import quietly

    with quietly():
        import datasets

        try:
            rows = datasets.load_from_disk(str(source.path))
        except Exception as error:
            raise CorruptFile(f"{source.title} is no folder that `datasets` can load ({str(error)[:200]}); save it "
                              "again with save_to_disk") from error
    for index in range(len(rows)):
        yield from _row(partial(rows.__getitem__, index), Place(source.title, index + 1, "row"), mistakes)
