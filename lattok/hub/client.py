"""The Hub, seen from one place: keywords that loading takes, downloads, and what went wrong in words.

The client's own error types differ between its versions, and so do those of the HTTP package below it: they are told
apart by the names of their classes.
"""

from __future__ import annotations

import errno
import glob
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NoReturn, get_args, get_type_hints

import torch
from typing_extensions import TypedDict

from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.devices import DEVICES
from lattok.utils.untrusted import followed

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
COMMIT = re.compile("[0-9a-f]{40}")
REPO = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)  # to push to
LICENSE = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
HTTP = ("httpx", "httpx2", "httpcore", "requests", "urllib3", "aiohttp", "socket", "ssl", "hf_xet")
ASSETS = Path(__file__).resolve().parents[1] / "assets"
SAMPLES = {  # what comes with the package, by the names under which it is loaded and opened
    "sample/dataset": "metaworld_sample",
    "sample/lam": "models/lam",
    "sample/policy": "models/policy",
    "sample/tokenizer": "models/tokenizer",
}
WEB = {"model": "https://huggingface.co", "dataset": "https://huggingface.co/datasets"}
LOG_IN = "log in (`hf auth login`), set HF_TOKEN, or give `token`"
NEWER = "Set HTTPS_PROXY in the environment: newer versions of huggingface_hub take no proxies."
# reasons that leave open whether there is such an id, or a path was meant
UNSEEN = ("there is no such repository", "it is not in the cache", "the network failed")
TOKENS = "https://huggingface.co/settings/tokens"
DTYPES = ("float32", "bfloat16", "float16")
# keywords of other libraries that have no use here: values that change nothing, and the way out
REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "config": ((None,), "The configuration is the artefact's own: without it the weights mean nothing."),
    "device_map": ((None,), "Give `device`."),
    "ignore_mismatched_sizes": ((None, False), "Loading is always strict."),
    "local_dir": ((None,), "Give `cache_dir`, or load the folder that `hf download --local-dir` made."),
    "map_location": ((None,), "Give `device`."),
    "resume_download": ((None, True), "Leave it out: a download that broke off is always continued."),
    "strict": ((None, True), "Loading is always strict."),
    "torch_dtype": ((None,), "Give `dtype`."),
    "trust_remote_code": ((None, False), "Nothing in an artefact is run."),
    "use_auth_token": ((None,), "Give `token`."),
}


class HubOptions(TypedDict, total=False):
    """Keywords of huggingface_hub for what is on the Hub; for a local folder only `subfolder` means something.

    They are for the artefact or dataset itself. Networks that a model names are fetched by timm and transformers, which
    read HF_TOKEN, HF_HOME and HF_HUB_OFFLINE.
    """

    # of an account, or whether to use the stored one; default: if there is one
    token: Annotated[str | bool | None, "a token, True or False"]
    cache_dir: Annotated[str | os.PathLike | None, "a folder"]  # default: HF_HOME
    force_download: Annotated[bool, "True or False"]
    local_files_only: Annotated[bool, "True or False"]  # only what is in the cache
    proxies: Annotated[dict | None, "an object of addresses"]  # where the installed huggingface_hub still has them
    subfolder: Annotated[str | None, "a folder of the repository"]  # of the repository, or of the local folder


class LoadOptions(HubOptions, total=False):
    """What loading a model takes besides its name and revision."""

    device: Annotated[str | None, "cpu, cuda, mps or auto"]  # also cuda:1; default: where it was built, the CPU
    backbone: Annotated[str | os.PathLike | None, "a folder or a Hub id"]  # the folder of a policy's base model
    dtype: Annotated[str | torch.dtype | None, f"one of {', '.join(DTYPES)}"]  # of a policy's weights


def check_options(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse by name, before anything is fetched, what loading does not know or cannot do."""
    kinds, known = get_type_hints(LoadOptions, include_extras=True), list(known)
    for name, value in given.items():
        if name in known:
            kind, expected = get_args(kinds[name])
            if not isinstance(value, kind):
                checks.fail(name, expected, repr(value)[:60])
        elif name in REFUSED:
            same, way_out = REFUSED[name]
            if not any(value is one for one in same):
                checks.fail(name, "to be left out", repr(value)[:60], way_out)
        else:
            checks.fail("options", f"keywords among {', '.join(sorted(known))}", f"{name!r:.60}")
    if given.get("proxies"):
        from huggingface_hub import snapshot_download

        if "proxies" not in inspect.signature(snapshot_download).parameters:
            checks.fail("proxies", "to be left out", repr(given["proxies"])[:60], NEWER)
    if given.get("device") is not None:
        checks.one_of("device", str(given["device"]).split(":")[0], DEVICES)
    if given.get("dtype") is not None:
        checks.one_of("dtype", str(given["dtype"]).removeprefix("torch."), DTYPES)
    if given.get("subfolder"):
        _check_subfolder(str(given["subfolder"]))


def here(name: Any, folder: Path = Path()) -> Path | None:
    """Return what lies on this machine under `name`, which may be relative to a folder or one of SAMPLES; else None."""
    try:
        path = folder / Path(name).expanduser()
        if path.exists():
            return path
        return ASSETS / SAMPLES[os.fspath(name)] if os.fspath(name) in SAMPLES else None
    except (OSError, RuntimeError, ValueError, TypeError):  # a name too long, or an unknown user
        return None


def here_or_hub(argument: str, name: Any, expected: str, hint: str = "", folder: Path = Path()) -> Path | None:
    """Return what lies on this machine under `name`; None for a Hub id. Anything else is an error."""
    place = here(name, folder)
    if place is None and str(name).split("/")[0] == "sample":
        checks.fail(argument, f"one of {', '.join(SAMPLES)}, or {expected}", repr(name)[:200])
    if place is None and not (isinstance(name, str | os.PathLike) and HUB_ID.fullmatch(os.fspath(name))):
        shown = os.fspath(name) if isinstance(name, str | os.PathLike) else name
        checks.fail(argument, expected, f"{shown!r:.200}, which is neither", hint)
    return place


def push(
    repo_id: str,
    prepare: Callable[[str], Path],
    kind: str = "model",
    *,
    only: Sequence[str] | None = None,
    replaces: Sequence[str] | None = None,
    commit_message: str,
    revision: str | None = None,
    create_pr: bool = False,
    private: bool | None = None,
    token: str | None = None,
    tag: str | None = None,
) -> str:
    """Upload the folder that `prepare` makes, which is told the whole name of the repository; return its address.

    A branch that is not there is made. `only` these files are uploaded, if they are named; others of the repository
    that match `replaces` go. A `tag` is moved to what was uploaded.
    """
    from huggingface_hub import HfApi

    place: dict[str, Any] = {} if kind == "model" else {"repo_type": kind}
    options: dict[str, Any] = {"revision": revision} if revision else {}
    options |= {"create_pr": True} if create_pr else {}
    options |= {"allow_patterns": [glob.escape(name) for name in only]} if only is not None else {}
    options |= {"delete_patterns": list(replaces)} if replaces else {}
    try:
        api = HfApi(token=token)
        repo = api.create_repo(repo_id, private=private, exist_ok=True, **place).repo_id
        if revision:
            api.create_branch(repo, branch=revision, exist_ok=True, **place)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=prepare(repo),
            commit_message=commit_message,
            ignore_patterns=[".*", "*/.*"],  # temporary files
            **options,
            **place,
        )
        if tag is not None and not create_pr:
            with suppress(Exception):  # there is none yet
                api.delete_tag(repo, tag=tag, **place)
            api.create_tag(repo, tag=tag, revision=revision, exist_ok=True, **place)
        return str(done.pr_url or done.commit_url)
    except LattokError:
        raise
    except Exception as error:  # the client's own error types differ between its versions
        fail("repo_id", repo_id, revision, error, kind, did="pushed")


def check_push(given: Mapping[str, Any]) -> None:
    """Refuse what can be seen to be wrong before anything is written or sent."""
    known = ("repo_id", "commit_message", "revision", "create_pr", "private", "token", "license")
    checks.known_keys("options", given, known)
    repo_id, named = given.get("repo_id"), given.get("license")
    if repo_id is not None and not (isinstance(repo_id, str) and REPO.fullmatch(repo_id) and ".." not in repo_id):
        checks.fail("repo_id", "a name on the Hub, such as my-name/my-model", repr(repo_id)[:100])
    if given.get("create_pr") and given.get("revision"):
        hint = "A pull request goes to the main branch."
        checks.fail("revision", "to be left out with create_pr", repr(given["revision"])[:100], hint)
    if named is not None and not (isinstance(named, str) and LICENSE.fullmatch(named)):
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
    if kind != "model":
        options["repo_type"] = kind
    if wanted is not None:
        options["allow_patterns"] = wanted
    try:
        return Path(snapshot_download(repo_id, revision=revision, **options))
    except Exception as error:  # see the top of this file
        with suppress(Exception):  # some releases do not look for a commit in the cache when they are offline
            if revision is not None and COMMIT.fullmatch(revision):
                return Path(snapshot_download(repo_id, revision=revision, **options, local_files_only=True))
        fail(argument, repo_id, revision, error, kind)


def inside(folder: Path, subfolder: str | None) -> Path:
    """Return the folder, or one below it."""
    if not subfolder:
        return folder
    _check_subfolder(subfolder)
    place = followed(folder, folder / subfolder, "`subfolder`")
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
    if did == "fetched" and not file and reason.startswith(UNSEEN):
        way_out += f" There is no folder {repo_id} here either."
    raise LattokError(f"`{argument}`: {what}{at} could not be {did}: {reason.rstrip('.')}. {way_out}") from None


def explain(
    repo_id: str, revision: str | None, error: Exception, kind: str = "model", did: str = "fetched"
) -> tuple[str, str]:
    """Say reason and way out in words: first what the Hub answered, then what happens on the way to it, and here."""
    page, causes = f"{WEB[kind]}/{repo_id}", list(_causes(error))
    names = {each.__name__ for cause in causes for each in type(cause).__mro__}
    codes = [getattr(getattr(cause, "response", None), "status_code", None) for cause in causes]
    status = next((code for code in codes if code and isinstance(code, int)), None)
    said = " ".join(map(str, causes))
    if "GatedRepoError" in names:
        return "it is gated", f"Accept the terms at {page}, and {LOG_IN}."
    if "DisabledRepoError" in names:
        return "the Hub has disabled it", f"See {page}."
    if "RevisionNotFoundError" in names:
        return f"it has no revision {revision or 'main'!r}", f"Its branches, tags and commits: {page}/commits/main"
    if "EntryNotFoundError" in names and "LocalEntryNotFoundError" not in names:
        return "it is not there", f"See {page}/tree/{revision or 'main'}; episodes can be left out with `episodes`."
    if "Invalid credentials" in said:
        return "the Hub does not know your token", f"Make another one at {TOKENS}, and {LOG_IN}."
    if did == "pushed" and status == 401 and not _logged_in():
        return "you are not logged in", f"{LOG_IN[0].upper()}{LOG_IN[1:]}."
    if "RepositoryNotFoundError" in names or status in (401, 404):
        return (
            "there is no such repository, or it is private" + ("" if _logged_in() else " and you are not logged in"),
            f"Check the name; for a private one {LOG_IN}.",
        )
    if "LocalTokenNotFoundError" in names:
        return "you are not logged in", f"{LOG_IN[0].upper()}{LOG_IN[1:]}."
    if status == 403:
        rights = "the right to write there" if did == "pushed" else f"the rights that {page} needs"
        return "your token does not allow it", f"Give a token with {rights}: {LOG_IN}."
    if status == 429:
        return "too many requests", "Wait some minutes; who is logged in may ask more often."
    if status is not None and status >= 500:
        return f"the Hub answers {status}", "Try again later."
    again = "Check the network and run it again: what has arrived is kept."
    offline = "LocalEntryNotFoundError" in names and ("has been disabled" in said or "offline mode is enabled" in said)
    if offline or "OfflineModeIsEnabled" in names:
        if did == "pushed":
            return "the Hub is switched off", "Set HF_HUB_OFFLINE=0 in the environment."
        way = f"Where there is network, run `hf download {repo_id}{'' if kind == 'model' else f' --repo-type {kind}'}`"
        return "it is not in the cache, and downloads are switched off", f"{way} and copy HF_HOME, or switch them on."
    if "IncompleteSnapshotError" in names:
        return "only a part of it is in the cache", again
    network = [each for each in causes if isinstance(each, ConnectionError | TimeoutError) or _package(each) in HTTP]
    if network:
        last = network[-1]
        return f"the network failed ({type(last).__name__}: {checks.first_line(last)[:200].rstrip('.')})", again
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        where = f" {error.filename}" if error.filename else ""
        bound = " keep less of a LeRobot dataset with `cache_gb`," if kind == "dataset" else ""
        way_out = f"Free space,{bound} or choose another `cache_dir`."
        return f"its files cannot be written{where} ({error.strerror})", way_out
    if "LocalEntryNotFoundError" in names:
        return "it is not in the cache, and the Hub cannot be reached", again
    which = str(error).startswith("Error while uploading") and len(causes) > 1  # only which file; the cause says why
    return checks.first_line(causes[1] if which else error)[:300], again


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _package(error: BaseException) -> str:
    return type(error).__module__.split(".")[0]


def _logged_in() -> bool:
    try:
        from huggingface_hub import get_token

        return get_token() is not None
    except Exception:  # a store of tokens that cannot be read holds none
        return False


def _check_subfolder(subfolder: str) -> None:
    parts = PurePosixPath(subfolder).parts
    if subfolder.startswith("/") or ".." in parts or "\0" in subfolder or any(c in subfolder for c in "*?[\\"):
        checks.fail("subfolder", "a folder of the repository, such as models/small", repr(subfolder))
