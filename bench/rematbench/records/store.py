"""A run's folder: raw records appended as they come, and the CSV derived from them.

results/<suite>-<timestamp>/measurements.jsonl   raw, with samples; the last line of a key is its row
                            results.csv          one line a row, `rematbench.records.columns`
                            environment.json     what every row of the run shares
                            suite.toml           the suite as run, overrides included
results/latest -> the run last begun
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from rematbench.errors import FigureError, StorageError
from rematbench.placement.placement import first_problem
from rematbench.reading import parse_json, read_bytes, read_text
from rematbench.records.columns import COLUMNS, cell_text, cells_of, csv_lines
from rematbench.records.measurement import Environment, Measurement

RECORDS = "measurements.jsonl"


class Store:
    """One run's folder, open for writing; what is in it survives whatever ends the run.

    Attributes:
        folder: the run's folder.
        environments: what the rows share, by device.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environments = _read_environments(folder / "environment.json")
        self._rows = {row.key: row for row in read_measurements(folder)}

    @property
    def measurements(self) -> list[Measurement]:
        """Every row so far, in the order they were first measured."""
        return list(self._rows.values())

    @classmethod
    def begin(cls, folder: Path, suite_toml: str) -> Store:
        """Open a folder for a new run and keep the suite as run.

        Raises:
            StorageError: the folder already holds a run, or cannot be written.
        """
        made_folder(folder)
        if os.path.lexists(folder / RECORDS):
            raise StorageError(f"{folder} already holds a run: choose another folder, or go on with it by --resume")
        write_whole(folder / "suite.toml", suite_toml)
        write_whole(folder / RECORDS, "")
        return cls(folder)

    @classmethod
    def resume(cls, folder: Path, suite_toml: str) -> Store:
        """Open a run's folder to go on with it; a line that a crash cut short is dropped.

        The CSV is derived anew: a full disk or a kill may have come between a row's record and its line there.

        Raises:
            StorageError: there is no run, it is of another suite or other settings, or the folder cannot be written.
        """
        store = cls(folder)
        kept = folder / "suite.toml"
        if _content(kept) != suite_toml.encode():
            raise StorageError(f"{folder} ran another suite, or with other settings: give the same, or begin a new run")
        store._replace(RECORDS, "".join(map(_line, store._rows.values())))
        store._derive()
        return store

    def keep_environment(self, device: str, environment: Environment) -> None:
        """Note what the rows of a device share.

        Raises:
            StorageError: the folder already has rows from another environment.
        """
        before = self.environments.get(device)
        changes = _changes(before, environment) if before and self._rows else ""
        if changes:
            raise StorageError(f"{self.folder} was measured in another environment ({changes}): begin a new run")
        self.environments[device] = environment
        shared = {name: entry.model_dump() for name, entry in self.environments.items()}
        self._replace("environment.json", json.dumps(shared, indent=2) + "\n")

    def add(self, measurement: Measurement) -> None:
        """Append a row, or a fuller version of one, and then bring the CSV up to date, which is derived from it.

        Raises:
            StorageError: it cannot be written; every earlier row is still whole, and `resume` derives the CSV again.
        """
        self._append(_line(measurement))
        self._rows[measurement.key] = measurement
        self._derive()

    def _derive(self) -> None:
        self._replace("results.csv", csv_text(self.measurements))

    def drop(self, measurement: Measurement) -> None:
        """Take a row away, from the records too.

        Raises:
            StorageError: it cannot be written; the row is still there.
        """
        rest = {key: row for key, row in self._rows.items() if key != measurement.key}
        self._replace(RECORDS, "".join(map(_line, rest.values())))
        self._rows = rest
        self._replace("results.csv", csv_text(self.measurements))

    def _append(self, line: str) -> None:
        path = self.folder / RECORDS
        with _explained(path), opened_to_append(path) as file:
            whole = file.tell()
            rest = memoryview(line.encode())
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(whole)
                raise

    def _replace(self, name: str, text: str) -> None:
        write_whole(self.folder / name, text)


def _content(path: Path) -> bytes | None:
    """Return a file's content; None where there is none to read."""
    try:
        return read_bytes(path)
    except OSError:
        return None


def _read_environments(path: Path) -> dict[str, Environment]:
    try:
        return _ENVIRONMENTS.validate_python(parse_json(read_text(path)))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise StorageError(f"{path} is not as rematbench writes it: begin a new run") from error


_ENVIRONMENTS: TypeAdapter[dict[str, Environment]] = TypeAdapter(dict[str, Environment])


def _changes(before: Environment, now: Environment) -> str:
    fields = [name for name in Environment.model_fields if getattr(before, name) != getattr(now, name)]
    return ", ".join(f"{name} {getattr(before, name)!r}, now {getattr(now, name)!r}" for name in fields)


def _line(measurement: Measurement) -> str:
    return measurement.model_dump_json(exclude_none=True) + "\n"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an `OSError` about a path into one sentence."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: {error.strerror or error}; is the disk full or the folder not writable?"
        ) from error


def opened_to_append(path: Path) -> FileIO:
    """Open a file to append to, made if it was not there; never through a link, nor a pipe that nobody may read from.

    In a shared or a stranger's folder either may stand where the file is meant.

    Raises:
        StorageError: it is no file of its own, or cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with _explained(path):
        try:
            file = FileIO(os.open(path, flags, 0o666), "ab")
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
            raise StorageError(f"{path} is a link or a pipe and no file: remove it, or begin a new run") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise StorageError(f"{path} is a device or a pipe and no file: remove it, or begin a new run")
    return file


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and rename it, so that nobody ever sees half of it.

    The temporary name cannot be guessed and is made by this call alone: what another user puts in a shared folder is
    never written through. A file that was there keeps its mode; where the path was a link, the link is replaced.
    What is no file but takes what is written to it, as a pipe or `/dev/stdout`, is written to where it stands.

    Raises:
        StorageError: it cannot be written; what was there before still is.
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    if _is_stream(path):
        with _explained(path), os.fdopen(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC), "wb") as stream:
            os.set_blocking(stream.fileno(), True)  # only the opening must not wait: for a reader, who may never come
            stream.write(data)
        return
    temporary = _beside(path)
    with _explained(path):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                _keep_mode(path, descriptor)
                file.write(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Find out before long work whether `write_whole` could write a file, and leave nothing behind.

    Raises:
        StorageError: it could not.
    """
    if _is_stream(path):
        return
    temporary = _beside(path)
    with _explained(path):
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        temporary.unlink()


def _beside(path: Path) -> Path:
    """Return a temporary name in a file's folder that nobody can guess, short whatever the file's own name is."""
    with _explained(path), suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            raise StorageError(f"{path} is a folder: give the name of a file")
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise StorageError(f"{path} is a device: give the name of a file")
    return path.with_name(f".rematbench.{secrets.token_hex(8)}")


def _is_stream(path: Path) -> bool:
    """Tell what must never be replaced by a file: root could do that to `/dev/null`, for everyone.

    A link is only followed where the system itself keeps them.
    """
    with suppress(OSError):
        mode = path.lstat().st_mode
        return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) or (stat.S_ISLNK(mode) and path.parent in _SYSTEM_LINKS)
    return False


_SYSTEM_LINKS = (Path("/dev"), Path("/dev/fd"))
"""Where `/dev/stdout` stands, and what shells make of `>(…)`."""


def _keep_mode(path: Path, descriptor: int) -> None:
    with suppress(OSError):  # there was none, or the file system has no modes
        before = path.lstat().st_mode
        if stat.S_ISREG(before):
            os.fchmod(descriptor, stat.S_IMODE(before))


def made_folder(folder: Path) -> Path:
    """Return a folder, made if it was not there.

    Raises:
        StorageError: it cannot be made.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def new_folder(results: Path, suite: str, now: datetime | None = None) -> Path:
    """Make `results/<suite>-<timestamp>`, which no other run has; what is no part of a file name becomes `-`.

    Raises:
        StorageError: the results folder cannot be written.
    """
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%d-%H%M%S")
    name = re.sub(r"[^\w.-]+", "-", suite, flags=re.ASCII)
    with _explained(results):
        results.mkdir(parents=True, exist_ok=True)
        for suffix in ("", *(f"-{number}" for number in range(2, 100))):
            folder = results / f"{name}-{stamp}{suffix}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    raise StorageError(f"{results}: a hundred runs of {suite} began in the same second")


def point_latest(folder: Path) -> None:
    """Point `latest` beside the folder at it; a file system without links goes without."""
    link = folder.parent / "latest"
    temporary = folder.parent / f".latest.{os.getpid()}"
    if link.is_dir() and not link.is_symlink():
        return
    try:
        temporary.symlink_to(folder.name, target_is_directory=True)
        temporary.replace(link)
    except OSError:
        temporary.unlink(missing_ok=True)


def latest(results: Path) -> Path:
    """Return the run that `latest` points to now, by its own name: the link moves when another run begins."""
    return results / (results / "latest").resolve().name


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder for the length of a `with` block; the lock never outlives this process.

    Raises:
        StorageError: another run is writing to it, or there is no such folder.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"{folder} holds no run: {error.strerror}") from error
    try:
        _lock(folder, descriptor)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def new_run(out: Path | None, results: Path, name: str, suite: str) -> Iterator[Store]:
    """Begin a run for the length of a `with` block, held against other writers.

    Args:
        out: the folder to use; None makes one of its own in `results`, to which `latest` then points.
        name: of the suite, for the folder's name.
        suite: as it is written into the folder.

    Raises:
        StorageError: the folder cannot be made, holds a run, or is another's.
    """
    folder = made_folder(out) if out else new_folder(results, name)
    with sole_writer(folder):
        store = Store.begin(folder, suite)
        if out is None:
            point_latest(folder)
        yield store


def _lock(folder: Path, descriptor: int) -> None:
    # The folder itself, not a file in it: the kernel lets go when the process ends, however it does; nothing is left.
    # `filelock` leaves its file in every run and, where there is no flock, uses a marker that outlives a crash.
    # NFS gives an exclusive flock only on what is open for writing, which no folder can be, and goes without.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StorageError(f"{folder}: another run is writing to it; wait for its end, or begin a new run") from error
    except OSError:
        return  # a file system without locks goes without


def read_measurements(folder: Path) -> list[Measurement]:
    """Read a run's rows; a last line cut short by a crash is left out.

    Raises:
        StorageError: there are no records, or a line in their midst is none.
    """
    path = folder / RECORDS
    try:
        lines = read_bytes(path).splitlines(keepends=True)
    except OSError as error:
        raise StorageError(f"{folder} holds no run: {path.name}: {error.strerror or error}") from error
    rows: dict[tuple[str, str, str, str], Measurement] = {}
    for number, line in enumerate(lines, start=1):
        try:
            measurement = Measurement.model_validate_json(line)
        except ValidationError as error:
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise _unreadable(folder, number, error) from error
        rows[measurement.key] = measurement
    return list(rows.values())


def _unreadable(folder: Path, number: int, error: ValidationError) -> StorageError:
    where, what = f"{folder / RECORDS}, line {number}", first_problem(error)
    if error.errors()[0]["type"] in _NO_FIGURES:
        return FigureError(f"{where} has a figure that is none: {what}; nothing can be judged by that")
    csv = f"{folder / 'results.csv'} may still be read"
    return StorageError(f"{where} is no measurement of this version of rematbench ({what}); {csv}")


_NO_FIGURES = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")
"""What pydantic calls the mistakes of numbers that are of the right type."""


def csv_text(measurements: list[Measurement]) -> str:
    """Derive `results.csv`; an absent number is an empty cell."""
    header = [column.name for column in COLUMNS]
    return csv_lines([header, *(map(cell_text, cells.values()) for cells in cells_of(measurements))])
