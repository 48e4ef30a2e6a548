"""Files of a dataset on the Hub, all of one commit, that are fetched when they are first read.

Without a bound they go where the client keeps everything, and stay. With one they go into a cache of lattok's own in
that folder, where those that were not used for longest make room for others; what the client's cache has is used and
never removed. Threads and processes may share both:

    who reads a file        holds a shared lock on it, and says when
    who makes room          removes only files that nobody holds, one process after the other
    who fetches a file      has claimed its size before: a file called SIZE-DIGEST, locked until it has come
"""

import inspect
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from lattok.hub import client
from lattok.utils import checks, files
from lattok.utils.parallel import Abandoned, check_wanted
from lattok.utils.untrusted import safe_path

OWN = "lattok-bounded"  # folder of what may be removed again, below that of the client
ASKED_AT_ONCE = 1000  # files in a question to the Hub
FORGOTTEN_S = 3600.0  # since the last byte of a download whose process was killed
AGAIN_S = 60.0  # until a file that could not be fetched is asked for again
TRIES = 8  # to take hold of a file before somebody else needs its room
DIGEST = re.compile("[0-9a-f]{40,64}")
BLOB = re.compile(rf"{DIGEST.pattern}(\.[0-9a-f]+)?(\.incomplete)?")


class RemoteFile(NamedTuple):
    size: int
    digest: str  # of its content


class LocalFiles:
    """Where the files of a dataset are: all of them on this machine."""

    commit: str | None = None  # of the Hub

    def at_hand(self, path: Path) -> AbstractContextManager[Path]:
        """Give the place of a file on this machine, where it stays until the context is left."""
        return nullcontext(path)

    def fetch_all(self) -> None:
        """Bring every file here, for those who list or copy them."""

    def sizes(self, paths: Iterable[Path]) -> dict[Path, int]:
        """Return sizes in bytes, as far as they can be told."""
        return {path: path.stat().st_size for path in paths if path.is_file()}


class HubFiles(LocalFiles):
    """Files of a commit on the Hub, some of them here: below `folder`, the snapshot that the client made of it."""

    def __init__(self, repo_id: str, folder: Path, options: Mapping[str, Any], cache_gb: float | None = None):
        """`options` are keywords of huggingface_hub; of what is fetched at most `cache_gb` of 10^9 bytes are kept."""
        self.repo_id, self.folder, self.commit = repo_id, folder, folder.name
        self._options, self._limit = dict(options), None if cache_gb is None else int(cache_gb * 1e9)
        self._known: dict[Path, RemoteFile] = {}
        self._failed: dict[Path, tuple[float, str]] = {}  # when, and why
        if self._limit is not None:
            self._check_locks()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.repo_id!r}, {self.commit!r})"  # no options: a token may be there

    @contextmanager
    def at_hand(self, path: Path) -> Iterator[Path]:
        """Give the place of a file; one that is not here yet is fetched. Raises `LattokError` where that fails."""
        if path.exists():
            yield path
        elif self._limit is None:
            yield self._fetched(path)
        else:
            with self._held(path) as place:
                yield place

    def fetch_all(self) -> None:
        """Bring every file here, whatever the bound: several at once, into the client's own cache."""
        client.download("dataset", self.repo_id, self.commit, None, self._options, "dataset")

    def sizes(self, paths: Iterable[Path]) -> dict[Path, int]:
        """Return sizes as the Hub says them; where it cannot be asked, those of files that are here."""
        paths = list(paths)
        try:
            return {path: stored.size for path, stored in self.stored(paths).items()}
        except checks.LattokError:
            return super().sizes(paths)

    def stored(self, paths: Iterable[Path]) -> dict[Path, RemoteFile]:
        """Return what the Hub says of files, fetching none; those that it does not have are left out."""
        paths = list(dict.fromkeys(paths))
        self._known |= {path: found for path in paths if path not in self._known and (found := self._seen(path))}
        unknown = [path for path in paths if path not in self._known]
        for start in range(0, len(unknown), ASKED_AT_ONCE):
            names = {self._name(path): path for path in unknown[start : start + ASKED_AT_ONCE]}
            self._known |= {names[name]: found for name, found in self._asked(list(names)) if name in names}
        return {path: self._known[path] for path in paths if path in self._known}

    def _asked(self, names: list[str]) -> Iterator[tuple[str, RemoteFile]]:
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        try:
            self._check_online()
            ask = HfApi(token=self._options.get("token")).get_paths_info
            found = client.patient(ask, self.repo_id, names, revision=self.commit, repo_type="dataset")
        except Abandoned:
            raise
        except Exception as error:  # see lattok.hub.client
            client.fail("dataset", self.repo_id, self.commit, error, "dataset", file=names[0])
        for each in found:
            if isinstance(each, RepoFile):
                yield each.path, RemoteFile(each.size, each.blob_id if each.lfs is None else each.lfs.sha256)

    def _check_online(self) -> None:
        from huggingface_hub.errors import OfflineModeIsEnabled

        if self._options.get("local_files_only"):
            raise OfflineModeIsEnabled

    def _check_not_failed(self, path: Path) -> None:
        """Raise an error about a file again for a while: many episodes lie in it, and each attempt may take long."""
        when, why = self._failed.get(path, (0.0, ""))
        if time.time() - when < AGAIN_S:
            raise checks.LattokError(why)

    def _fail(self, path: Path, error: Exception) -> NoReturn:
        try:
            client.fail("dataset", self.repo_id, self.commit, error, "dataset", file=self._name(path))
        except checks.LattokError as said:
            self._failed[path] = time.time(), str(said)
            raise

    def _seen(self, path: Path) -> RemoteFile | None:
        """Return what a cache says of a file: it is a link there, to one that is called by its digest."""
        place = path if path.exists() or self._limit is None else self._kept(path)
        if place is None or not place.is_symlink() or not place.exists():
            return None
        digest = Path(os.readlink(place)).name
        return RemoteFile(place.stat().st_size, digest) if DIGEST.fullmatch(digest) else None

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _fetched(self, path: Path, **where: Any) -> Path:
        """Return the place of a file that the client has fetched, or had already."""
        from huggingface_hub import hf_hub_download

        self._check_not_failed(path)
        name, options = self._name(path), client.given(self._options) | _quiet() | where
        options |= {"repo_type": "dataset", "revision": self.commit, "subfolder": None}
        try:
            place = Path(client.patient(hf_hub_download, self.repo_id, name, **options))
        except Abandoned:
            raise
        except Exception as error:  # see lattok.hub.client
            self._fail(path, error)
        return safe_path(place.parents[name.count("/")], place, str(path))

    @contextmanager
    def _held(self, path: Path) -> Iterator[Path]:
        """Hold a file in the cache that has a bound."""
        for _ in range(TRIES):
            if (place := self._kept(path) or self._claimed(path)) is None:
                continue
            try:
                file = open(place, "rb")  # noqa: SIM115
            except FileNotFoundError:  # somebody has made room
                continue
            with file:
                files.lock(file, wait=True, shared=True)
                if files.same_file(file, place):
                    with suppress(OSError):  # another user's
                        os.utime(place, ns=(time.time_ns(), place.stat().st_mtime_ns))
                    yield place
                    return
        hint = "Others use the same cache. Give a larger one, or another `cache_dir`."
        checks.fail("cache_gb", f"room for {self._name(path)}", f"none in {TRIES} tries", hint)

    def _claimed(self, path: Path) -> Path | None:
        """Make room for a file and fetch it; None where somebody else did while this waited."""
        assert self._limit is not None
        stored = self._known[path] = self._known.get(path) or self._size_of(path)
        if stored.size > self._limit:
            expected = f"at least {stored.size / 1e9:.3g}, the size of {self._name(path)}"
            checks.fail("cache_gb", expected, self._limit / 1e9, "Files are kept as a whole.")
        claim = self._cache / "claims" / f"{stored.size}-{stored.digest}"
        try:
            with open(claim, "ab") as mine:
                files.lock(mine, wait=True)
                if not files.same_file(mine, claim) or self._kept(path) is not None:
                    return None
                try:
                    with open(self._cache / "lock", "ab") as turn:
                        files.lock(turn, wait=True)
                        _make_room(self._cache, self._limit)
                    return self._fetched(path, cache_dir=self._cache)
                finally:
                    claim.unlink(missing_ok=True)
        except OSError as error:
            self._fail(path, error)

    def _size_of(self, path: Path) -> RemoteFile:
        """Ask for one file, which has a time limit; asking for many has none."""
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

        self._check_not_failed(path)
        try:
            self._check_online()
            url = hf_hub_url(self.repo_id, self._name(path), repo_type="dataset", revision=self.commit)
            token, limit = self._options.get("token"), constants.HF_HUB_ETAG_TIMEOUT
            facts = client.patient(get_hf_file_metadata, url, token=token, timeout=limit)
        except Abandoned:
            raise
        except Exception as error:  # see lattok.hub.client
            self._fail(path, error)
        return RemoteFile(facts.size or 0, facts.etag or "")

    def _kept(self, path: Path) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        name = self._name(path)
        found = try_to_load_from_cache(self.repo_id, name, self._cache, self.commit, repo_type="dataset")
        return safe_path(Path(found).parents[name.count("/")], Path(found), name) if isinstance(found, str) else None

    @property
    def _cache(self) -> Path:
        from huggingface_hub import constants

        return Path(self._options.get("cache_dir") or constants.HF_HUB_CACHE).expanduser() / OWN

    def _check_locks(self) -> None:
        """Refuse a bound that nothing could keep, before anything is fetched."""
        try:
            (self._cache / "claims").mkdir(parents=True, exist_ok=True)
            with open(self._cache / "lock", "ab") as file:
                files.lock(file, wait=True)
        except OSError as error:
            hint = "Leave it out, or choose another `cache_dir`."
            checks.fail("cache_gb", "a cache whose files can be locked", f"{self._cache}: {error.strerror}", hint)


def _make_room(folder: Path, limit: int) -> None:
    """Remove what was not used for longest until claims and files are within the limit, but nothing that is in use."""
    claims = [path for path in (folder / "claims").glob("[0-9]*-*") if not _removed(path)]  # of the dead
    used = sum(int(path.name.split("-")[0]) for path in claims)
    found: list[tuple[int, int, str]] = []
    for place, _, names in os.walk(folder):
        for path in (os.path.join(place, name) for name in names if BLOB.fullmatch(name)):
            with suppress(FileNotFoundError):
                facts = os.lstat(path)
                coming = path.endswith(".incomplete") and time.time() - facts.st_mtime < FORGOTTEN_S  # it has a claim
                if "blobs" in Path(place).parts[-3:] and not os.path.islink(path) and not coming:
                    found.append((facts.st_atime_ns, facts.st_size, path))
    used += sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if used <= limit:
            return
        used -= size if _removed(Path(path)) else 0


def _removed(path: Path) -> bool:
    """Remove a file unless somebody holds it; whether it is gone."""
    try:
        with open(path, "r+b") as file:
            if not files.lock(file, wait=False):
                return False
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:  # another user's
        return False
    return True


@cache
def _quiet() -> dict[str, Any]:
    """Return options for progress bars that show nothing, as others are there already, and end what nobody waits for.

    Older clients do not take them.
    """
    from huggingface_hub import hf_hub_download
    from tqdm.auto import tqdm

    class NoBar(tqdm):
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **(options | {"disable": True}))

        def update(self, n: float | None = 1) -> bool | None:
            check_wanted()
            return super().update(n)

    return {"tqdm_class": NoBar} if "tqdm_class" in inspect.signature(hf_hub_download).parameters else {}
