"""Files that may hold traces: told apart by what is in them, not by their names."""

from __future__ import annotations

import filecmp
import gzip
import tarfile
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from apportion.core.errors import ProfileTraceError
from apportion.profiles.device_trace import DeviceTrace
from apportion.profiles.kineto_events import CHUNK_BYTES, ByteStream
from apportion.profiles.kineto_trace import read_kineto
from apportion.profiles.nsys_trace import read_nsys

_GZIP: Final = b"\x1f\x8b"
_SQLITE: Final = b"SQLite format 3\x00"
_TAR_AT: Final = slice(257, 262)
_TAR: Final = b"ustar"
_OTHER_FORMS: Final = {
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; unpack it: zstd -d FILE",
    b"BZh": "is compressed by bzip2; unpack it: bunzip2 FILE",
    b'"ID","Process ID': (
        "is a table of Nsight Compute, which knows single kernels and no run: apportion trace "
        "roofline reads it"
    ),
    b"NSYSREP": "is a report of Nsight Systems; export it: nsys export --type sqlite FILE",
}


@dataclass(frozen=True, slots=True)
class TraceFile:
    """One trace: a file, or a member of a tar archive."""

    path: Path
    member: str | None = None

    @property
    def label(self) -> str:
        """Its name in tables and messages."""
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"

    def is_copy_of(self, other: TraceFile) -> bool:
        """Whether both are the same trace, byte for byte once they are unpacked."""
        if self.member != other.member:
            return False
        return filecmp.cmp(self.path, other.path, shallow=False) or _is_same(self.path, other.path)

    def read(self) -> tuple[DeviceTrace, ...]:
        """The traces in it: one, or of Nsight Systems one for each process and device.

        Raises:
            ProfileTraceError: it cannot be read, or it is no trace.
        """
        with _readable(str(self.path)):
            if _magic(self.path) == _SQLITE:
                return read_nsys(self.path, self.label)
            with _opened(self.path) as stream:
                if self.member is None:
                    return (read_kineto(stream, self.label),)
                with tarfile.open(fileobj=stream, mode="r|") as archive:
                    for entry in archive:
                        if entry.name == self.member:
                            return (read_kineto(_content(archive, entry), self.label),)
        raise ProfileTraceError(f"has no member {self.member} any more", path=self.path)


def trace_files(paths: Sequence[Path]) -> tuple[list[TraceFile], list[ProfileTraceError]]:
    """The traces behind what a user named, and what cannot be opened. Archives are unfolded."""
    found: list[TraceFile] = []
    refused: list[ProfileTraceError] = []
    for path in paths:
        try:
            found += _members(path)
        except ProfileTraceError as error:  # noqa: PERF203 - one bad file harms no other
            refused.append(error)
    return found, refused


def _members(path: Path) -> list[TraceFile]:
    if path.exists() and not path.is_file():
        raise ProfileTraceError("is no plain file; name the traces in it one by one", path=path)
    with _readable(str(path)):
        with _opened(path) as stream:
            if stream.read(512)[_TAR_AT] != _TAR:
                return [TraceFile(path)]
        with _opened(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            members = [
                TraceFile(path, entry.name)
                for entry in archive
                if entry.isfile() and entry.name.endswith((".json", ".json.gz"))
            ]
    if not members:
        raise ProfileTraceError("is an archive without any .json file", path=path)
    return members


def _is_same(one: Path, other: Path) -> bool:
    """Whether both have the same content, packed or not. It ends at the first difference."""
    try:
        with _opened(one) as first, _opened(other) as second:
            while (piece := first.read(CHUNK_BYTES)) == second.read(CHUNK_BYTES):
                if not piece:
                    return True
    except (ProfileTraceError, OSError, EOFError, zlib.error):
        pass  # who reads the file says what is wrong with it
    return False


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> ByteStream:
    content = archive.extractfile(entry)
    if content is None:
        raise ProfileTraceError("is no plain file in its archive", path=entry.name)
    return gzip.GzipFile(fileobj=content) if entry.name.endswith(".gz") else content


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_SQLITE))


@contextmanager
def _opened(path: Path) -> Generator[IO[bytes] | gzip.GzipFile, None, None]:
    """The file's content, unpacked if it is gzip."""
    magic = _magic(path)
    for prefix, remedy in _OTHER_FORMS.items():
        if magic.startswith(prefix):
            raise ProfileTraceError(remedy, path=path)
    if magic.startswith(_GZIP):
        with gzip.open(path, "rb") as unpacked:
            yield unpacked
    else:
        with path.open("rb") as file:
            yield file


@contextmanager
def _readable(where: str) -> Generator[None, None, None]:
    """Failures of the disk and of compression as errors that say what to do."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise ProfileTraceError(
            f"is cut off or damaged ({error}); copy or record it again", path=where
        ) from error
    except OSError as error:
        raise ProfileTraceError(f"cannot be read: {error.strerror or error}", path=where) from error
