"""The Hub, seen from one place: keywords of loading and pushing, downloads, and what went wrong in words."""

import errno
import glob
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, TypeVar, get_type_hints

import torch
from typing_extensions import TypedDict

from lattok.utils import checks
from lattok.utils.commands import DATASET, MODEL
from lattok.utils.devices import check_device
from lattok.utils.parallel import check_wanted
from lattok.utils.untrusted import safe_path, typed

FilePath = str | os.PathLike[str]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
COMMIT = re.compile("[0-9a-f]{40}")
REPO = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)  # to push to
LICENSE = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
ASSETS = Path(__file__).resolve().parents[1] / "assets"
SAMPLES = {  # what comes with the package, by the names under which it is loaded and opened
    "sample/dataset": "metaworld_sample",
    "sample/lam": "models/lam",
    "sample/idm": "models/idm",
    "sample/policy": "models/policy",
    "sample/tokenizer": "models/tokenizer",
    "sample/fast": "models/fast",
    "sample/beast": "models/beast",
    "sample/toast": "models/toast",
    "sample/bins": "models/bins",
}
WEB = {"model": "https://huggingface.co", "dataset": "https://huggingface.co/datasets"}
LOG_IN = "log in (`hf auth login`), set HF_TOKEN, or give `token`"
NETWORK_FIELDS = ("backbone", "features", "language", "decoder")  # of configurations, which may name a network
AGAIN = "Check the network and run it again: what has arrived is kept."
DTYPES = ("float32", "bfloat16", "float16")
PATIENCE_S = 900.0  # to wait in all where the Hub asks for pauses: three of the spans that it counts requests in
Answer = TypeVar("Answer")


class HubOptions(TypedDict, total=False):
    """Keywords of huggingface_hub for what is on the Hub; for a local folder only `subfolder` means something.

    They are for the artefact or dataset itself. Networks that a model names are fetched by timm and transformers, which
    read HF_TOKEN, HF_HOME and HF_HUB_OFFLINE.
    """

    # of an account, or whether to use the stored one; default: if there is one
    token: str | bool | None
    cache_dir: str | os.PathLike | None  # default: HF_HOME
    force_download: bool
    local_files_only: bool  # only what is in the cache
    proxies: dict | None  # where the installed huggingface_hub still has them; otherwise set HTTPS_PROXY
    subfolder: str | None  # of the repository, or of the local folder


class LoadOptions(HubOptions, total=False):
    """What loading a model takes besides its name and revision."""

    device: str | None  # auto, cpu, cuda:1, mps, or what else torch knows; default: where it was built, the CPU
    backbone: str | os.PathLike | None  # the folder of a policy's base model
    dtype: str | torch.dtype | None  # of a policy's weights: one of DTYPES


class PushOptions(TypedDict, total=False):
    """What a push takes besides the name of the repository."""

    commit_message: str | None
    revision: str | None  # a branch, made where it is not there
    create_pr: bool  # the commit becomes a pull request to the main branch
    private: bool | None
    token: str | None
    license: str | None  # such as "apache-2.0", for the card
    dry_run: bool  # say what would be sent, and send nothing


def check_options(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse by name, before anything is fetched, what loading does not know or cannot do."""
    given = {name: value for name, value in given.items() if value is not None}
    checks.known_keys("options", given, list(known))
    typed(given, LoadOptions, "")
    if given.get("device") is not None:
        check_device(str(given["device"]))
    if given.get("dtype") is not None:
        checks.one_of("dtype", str(given["dtype"]).removeprefix("torch."), DTYPES)
    if given.get("subfolder"):
        _check_subfolder(str(given["subfolder"]))


def find_local(name: Any, folder: Path = Path()) -> Path | None:
    """Return what lies on this machine under `name`, which may be relative to a folder or one of SAMPLES; else None."""
    try:
        path = folder / Path(name).expanduser()
        if path.exists():
            return path
        return ASSETS / SAMPLES[os.fspath(name)] if os.fspath(name) in SAMPLES else None
    except (OSError, RuntimeError, ValueError, TypeError):  # a name too long, or an unknown user
        return None


def _is_placeholder(name: str) -> bool:
    """Tell DATASET and path/to/dataset, as pages and commands have them, from what is somebody's."""
    return name in (DATASET, MODEL, "ROBOT", "FILMS", "FOLDER") or name.startswith(("path/to/", "/path/to/"))


def find_local_or_hub(argument: str, name: object, expected: str, hint: str = "", folder: Path = Path()) -> Path | None:
    """Return what lies on this machine under `name`; None for a Hub id. Anything else is an error."""
    place = find_local(name, folder)
    if place is None and str(name).split("/")[0] == "sample":
        known = [sample for sample in SAMPLES if (sample == "sample/dataset") == argument.startswith("dataset")]
        meant = checks.did_you_mean(str(name), known)
        checks.fail(argument, f"one of {', '.join(known)}, or {expected}", repr(name)[:200], meant)
    if place is None and not (isinstance(name, str | os.PathLike) and HUB_ID.fullmatch(os.fspath(name))):
        shown = os.fspath(name) if isinstance(name, str | os.PathLike) else name
        near = [] if argument.startswith("dataset") else [each.parent.name for each in folder.glob("*/config.json")]
        own = f"{shown} stands for your own: put its folder there." if _is_placeholder(str(shown)) else ""
        models = [sample for sample in SAMPLES if sample != "sample/dataset"]
        included = "" if argument.startswith("dataset") else f"Included are {', '.join(models)}."
        meant = own or hint or checks.did_you_mean(shown, [*near, *SAMPLES]) or included
        checks.fail(argument, expected, f"{shown!r:.200}, which is neither", meant)
    return place


def push(
    repo_id: str,
    prepare: Callable[[str], Path],
    message: str,
    options: PushOptions,
    replaces: Sequence[str],
    kind: str = "model",
    *,
    only: Sequence[str] | None = None,
    tag: str | None = None,
) -> str:
    """Upload the folder that `prepare` makes, which is told the whole name of the repository; return its address.

    `only` these files are uploaded, if they are named; others of the repository that match `replaces` go. A `tag` is
    moved to what was uploaded. `message` is that of the commit unless the options have one.
    """
    from huggingface_hub import HfApi

    revision = options.get("revision") or None
    try:
        api = HfApi(token=options.get("token"))
        private = options.get("private")
        repo = patient(api.create_repo, repo_id, repo_type=kind, private=private, exist_ok=True).repo_id
        if revision:
            patient(api.create_branch, repo, branch=revision, repo_type=kind, exist_ok=True)
        done = patient(
            api.upload_folder,
            repo_id=repo,
            repo_type=kind,
            folder_path=prepare(repo),
            revision=revision,
            create_pr=options.get("create_pr"),
            commit_message=options.get("commit_message") or message,
            allow_patterns=None if only is None else [glob.escape(name) for name in only],
            ignore_patterns=[".*", "*/.*"],  # temporary files
            delete_patterns=list(replaces),
        )
        if tag is not None and not options.get("create_pr"):
            with suppress(Exception):  # there is none yet
                patient(api.delete_tag, repo, tag=tag, repo_type=kind)
            patient(api.create_tag, repo, tag=tag, revision=revision, repo_type=kind, exist_ok=True)
        return str(done.pr_url or done.commit_url)
    except checks.LattokError:
        raise
    except Exception as error:  # those of its HTTP package have no base class in common
        fail("repo_id", repo_id, revision, error, kind, did="pushed")


def would_push(repo_id: str, folder: Path) -> str:
    """Say what a push of this folder would send, and where to."""
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
    }
    listed = ", ".join(f"{name} ({size:,} bytes)" for name, size in sizes.items() if not name.startswith("."))
    return checks.printable(f"Nothing was sent. To {repo_id} would go {listed}.")


def check_push(repo_id: str | None, given: Mapping[str, Any]) -> None:
    """Refuse what can be seen to be wrong before anything is written or sent."""
    checks.known_keys("options", given, list(get_type_hints(PushOptions)))
    typed(dict(given), PushOptions, "")
    if repo_id is not None and not (isinstance(repo_id, str) and REPO.fullmatch(repo_id) and ".." not in repo_id):
        checks.fail("repo_id", "a name on the Hub, such as my-name/my-model", repr(repo_id)[:100])
    if given.get("create_pr") and given.get("revision"):
        hint = "A pull request goes to the main branch."
        checks.fail("revision", "to be left out with create_pr", repr(given["revision"])[:100], hint)
    named = given.get("license")
    if named is not None and not LICENSE.fullmatch(named):
        checks.fail("license", "the short name of a licence, such as apache-2.0", repr(named)[:100])


def given(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the keywords that say something, for a client that may not know the others."""
    return {name: value for name, value in (options or {}).items() if value not in (None, False) or name == "token"}


def download(
    argument: str,
    repo_id: str,
    revision: str | None,
    wanted: list[str] | None = None,
    options: Mapping[str, Any] | None = None,
    kind: str = "model",
) -> Path:
    """Return the `wanted` files of a Hub repository, in a local folder that is named by its commit."""
    from huggingface_hub import snapshot_download  # heavy, and needed for Hub ids only

    options = given(options)
    subfolder = options.pop("subfolder", None)
    if not HUB_ID.fullmatch(repo_id) or ".." in repo_id:
        checks.fail(argument, "a Hub id such as org/name", repr(repo_id))
    if revision is not None and (not isinstance(revision, str) or not revision or revision.startswith(("/", ".", "-"))):
        checks.fail("revision", "a branch, a tag or a commit", repr(revision))
    if subfolder:
        wanted = [f"{subfolder.strip('/')}/{pattern}" for pattern in wanted or ["*"]]
    options |= {"repo_type": kind, "allow_patterns": wanted}
    try:
        return Path(patient(snapshot_download, repo_id, revision=revision, **options))
    except Exception as error:  # see the top of this file
        with suppress(Exception):  # some releases do not look for a commit in the cache when they are offline
            if revision is not None and COMMIT.fullmatch(revision):
                return Path(snapshot_download(repo_id, revision=revision, **options, local_files_only=True))
        fail(argument, repo_id, revision, error, kind)


def patient(call: Callable[..., Answer], *arguments: Any, **options: Any) -> Answer:
    """Call the Hub's client; where the Hub asks for a pause, which older clients do not make, ask again after it."""
    left, end = PATIENCE_S, time.monotonic() + PATIENCE_S  # newer clients make pauses as well
    while True:
        try:
            return call(*arguments, **options)
        except Exception as error:  # those of its HTTP package have no base class in common
            if (pause := _pause(error)) is None or pause > min(left, end - time.monotonic()):
                raise
            left -= pause
        checks.note(f"the Hub asks for a pause of {pause} s")
        for _ in range(pause):
            check_wanted()
            time.sleep(1)


def _pause(error: BaseException) -> int | None:
    """Return the seconds that the Hub asks to wait, with status 429; None where it does not."""
    for cause in _causes(error):
        answer = getattr(cause, "response", None)
        if getattr(answer, "status_code", None) == 429:
            said = {str(key).lower(): str(value) for key, value in getattr(answer, "headers", {}).items()}
            found = re.fullmatch(r"\s*(\d{1,6})\s*", said.get("retry-after", ""))
            found = found or re.search(r";\s*t\s*=\s*(\d{1,6})", said.get("ratelimit", ""))
            return int(found[1]) + 1 if found else None  # a second for what was rounded
    return None


def inside(folder: Path, subfolder: str | None) -> Path:
    """Return `folder/subfolder`, which must be there and may not lead out of the folder."""
    if not subfolder:
        return folder
    _check_subfolder(subfolder)
    place = safe_path(folder, folder / subfolder, "`subfolder`")
    if not place.is_dir():
        checks.fail("subfolder", f"a folder in {folder}", repr(subfolder))
    return place


def fail(
    argument: str,
    repo_id: str,
    revision: str | None,
    error: Exception,
    kind: str = "model",
    did: str = "fetched",
    file: str = "",
) -> NoReturn:
    """Raise what the Hub's client said, of a repository or a `file` of it, as one line with reason and way out."""
    reason, way_out = explain(repo_id, revision, error, kind, did)
    what = f"{file!r} of {repo_id!r}" if file else repr(repo_id)
    at = "" if revision is None else f" at {revision}"
    away = way_out == AGAIN or reason.startswith("it is not in the cache")
    if did == "fetched" and not file and (away or reason.startswith("there is no such")):
        way_out += f" There is no folder {repo_id} here either. {checks.did_you_mean(repo_id, SAMPLES)}".rstrip()
    text = f"`{argument}`: {what}{at} could not be {did}: {reason.rstrip('.')}. {way_out}"
    if away and argument in NETWORK_FIELDS:
        raise checks.Unreachable(argument, text) from None
    raise checks.LattokError(text) from None


def explain(repo_id: str, revision: str | None, error: Exception, kind: str, did: str) -> tuple[str, str]:
    """Return reason and way out: gated, missing, no such revision, offline, a full disk; else what the client said."""
    from huggingface_hub import errors, get_token

    page, causes = f"{WEB[kind]}/{repo_id}", list(_causes(error))
    codes = [getattr(getattr(cause, "response", None), "status_code", None) for cause in causes]
    status = next((code for code in codes if code and isinstance(code, int)), None)

    def is_a(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if is_a(errors.GatedRepoError):
        return "it is gated", f"Accept the terms at {page}, and {LOG_IN}."
    if is_a(errors.RevisionNotFoundError):
        return f"it has no revision {revision or 'main'!r}", f"Its branches, tags and commits: {page}/commits/main"
    in_cache = is_a(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    if is_a(errors.EntryNotFoundError) and not in_cache:
        return "it is not there", f"See {page}/tree/{revision or 'main'}; episodes can be left out with `episodes`."
    if status in (401, 403) and (did == "pushed" or status == 403):
        right = "to write there" if did == "pushed" else f"that {page} needs"
        reason = f"your token does not allow it, or there is none ({status})"
        return reason, f"With a token of the right {right}, {LOG_IN}."
    if status == 429:
        more = f"More is allowed to those who {LOG_IN}. What has arrived is kept."
        return "the Hub was asked too often (429)", f"Wait five minutes. {more}"
    if is_a(errors.RepositoryNotFoundError) or status in (401, 404):
        reason = "there is no such repository, or it is private"
        if not get_token():
            reason += " and you are not logged in"
        return reason, f"Check the name; for a private one {LOG_IN}."
    if in_cache and not status:
        command = f"hf download {repo_id}{'' if kind == 'model' else f' --repo-type {kind}'}"
        way_out = f"Check it. Where there is network, run `{command}` and copy HF_HOME, or set HF_HUB_OFFLINE=0."
        return "it is not in the cache, and downloads are switched off or the network failed", way_out
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        bound = " keep less of a LeRobot dataset with `cache_gb`," if kind == "dataset" else ""
        way_out = f"Free space,{bound} or choose another `cache_dir`."
        return f"its files cannot be written {error.filename or ''} ({error.strerror})", way_out
    vague = in_cache or str(error).startswith("Error while uploading")  # the cause says why
    said = causes[1] if vague and len(causes) > 1 else error
    return f"{type(said).__name__}: {checks.first_line(said)[:300]}", AGAIN


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _check_subfolder(subfolder: str) -> None:
    parts = PurePosixPath(subfolder).parts
    if subfolder.startswith("/") or ".." in parts or "\0" in subfolder or any(c in subfolder for c in "*?[\\"):
        checks.fail("subfolder", "a folder of the repository, such as models/small", repr(subfolder))
