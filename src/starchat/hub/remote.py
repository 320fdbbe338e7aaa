"""What a hub says of a repository, by huggingface_hub; and its refusals, in our words."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from ..errors import DownloadError, FileAccessError, StarChatError, UnsupportedFeatureError
from .cache import is_commit
from .files import RepoFile
from .names import SHORT_NAMES, HubName, is_safe
from .retries import RETRIED, Headers, Retries, asked_wait
from .settings import endpoint

T = TypeVar("T")

_ETAG = re.compile(r"(?!\.)[\w.-]{1,128}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIMEOUT_S = 20.0


class RemoteRepo:
    """A repository on a hub, asked by huggingface_hub with the token of this user."""

    def __init__(self, name: HubName, retries: Retries) -> None:
        """Raise UnsupportedFeatureError where huggingface_hub is missing."""
        try:
            import huggingface_hub
        except ImportError:
            raise UnsupportedFeatureError(
                f"{name}: is not on this machine, and fetching it needs huggingface_hub: "
                'pip install "starchat[hub]"; or give the path of a model file',
                param="path",
            ) from None
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        from .. import __version__

        self._hub = huggingface_hub
        self._name = name
        self._retries = retries
        self.headers: dict[str, str] = build_hf_headers(
            library_name="starchat", library_version=__version__
        )

    def url(self, path: str, revision: str) -> str:
        """Return where a file's bytes are."""
        url: str = self._hub.hf_hub_url(
            self._name.repo, path, revision=revision, endpoint=endpoint()
        )
        return url

    def files(self) -> tuple[str, list[RepoFile]]:
        """Return the commit of the revision, and its files with what is known of them."""
        api = self._hub.HfApi(endpoint=endpoint())
        revision = None if self._name.revision == "main" else self._name.revision
        about = self._asked(
            lambda: api.model_info(
                self._name.repo, revision=revision, files_metadata=True, timeout=_TIMEOUT_S
            )
        )
        commit = about.sha or ""
        if not is_commit(commit):
            raise self._no_hub("the commit is missing")
        files = []
        for each in about.siblings or ():
            lfs: Any = each.lfs or {}
            sha256 = str(lfs.get("sha256") or "")
            if is_safe(each.rfilename):
                size = each.size if each.size is not None else lfs.get("size")
                known = sha256 if _SHA256.fullmatch(sha256) else ""
                oid = "" if lfs else each.blob_id or ""
                files.append(RepoFile(each.rfilename, size, known, known, oid))
        return commit, files

    def with_metadata(self, file: RepoFile, commit: str) -> RepoFile:
        """Return a file with its size and its blob's name, as the hub gives them."""
        url = self.url(file.path, commit)
        about = self._asked(
            lambda: self._hub.get_hf_file_metadata(
                url, timeout=_TIMEOUT_S, headers=dict(self.headers)
            )
        )
        etag = about.etag or ""
        if not _ETAG.fullmatch(etag):
            raise self._no_hub(f"{file.path} has no ETag that can name a file")
        size = about.size if about.size is not None else file.size
        if size is None:
            raise self._no_hub(f"{file.path} has no size")
        sha256 = file.sha256 or (etag if _SHA256.fullmatch(etag) else "")
        oid = file.git_oid if file.git_oid == etag else ""
        return replace(file, size=size, etag=etag, sha256=sha256, git_oid=oid)

    def _no_hub(self, problem: str) -> DownloadError:
        text = f"{self._name}: {endpoint()} answers, but {problem}: it is no hub of Hugging Face; "
        return DownloadError(text + "check HF_ENDPOINT and the proxy", param="path")

    def _asked(self, call: Callable[[], T]) -> T:
        """Return what the hub answers; ask again where that may help."""
        while True:
            self._retries.check_wanted()
            try:
                answer = call()
            except StarChatError:
                raise
            except Exception as error:  # of huggingface_hub and of the HTTP library beneath
                response = getattr(error, "response", None)
                status = getattr(response, "status_code", None)
                if status is None:
                    raise self._unreachable(error) from None
                headers = getattr(response, "headers", {})
                if refused := refusal(status, headers, self._name):
                    raise refused from None
                self._retries.wait(f"{endpoint()} answers {status}", after_s=asked_wait(headers))
            else:
                self._retries.progressed()
                return answer

    def _unreachable(self, error: Exception) -> StarChatError:
        if isinstance(error, (ValueError, TypeError, LookupError, AttributeError)):
            return self._no_hub(f"not in its form ({type(error).__name__})")
        text = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        return DownloadError(
            f"{self._name}: is not on this machine, and {endpoint()} cannot be reached: {text}; "
            "check the network and HF_ENDPOINT, or give the path of a model file",
            param="path",
        )


def refusal(
    status: int, headers: Headers, name: HubName, path: str = ""
) -> FileAccessError | DownloadError | None:
    """Return the error for an answer of HTTP that is no file; None where a later try may help."""
    where = f"{name.repo}/{path}" if path else str(name)
    code = headers.get("X-Error-Code") or ""
    page = f"{endpoint()}/{name.repo}"
    token = "give a token by HF_TOKEN or `hf auth login`"
    if status in RETRIED:
        return None
    if code == "GatedRepo" or (status == 403 and not code):
        problem = (
            f"is gated or closed to you (HTTP {status}): ask for access on {page}, and {token}"
        )
    elif code == "RevisionNotFound":
        problem = f"the repository has no revision {name.revision}: see {page}"
    elif code == "EntryNotFound" or (status == 404 and path):
        problem = f"there is no such file (HTTP {status}): see {page}"
    elif status == 401 and "credentials" in (headers.get("X-Error-Message") or ""):
        problem = f"the token is not valid (HTTP 401): {token}, or unset HF_TOKEN"
    elif status == 401:
        problem = f"does not exist, or is private (HTTP 401): check the name; if private, {token}"
    elif status == 404:
        problem = "there is no such repository (HTTP 404): check the name; short names are "
        problem += ", ".join(SHORT_NAMES)
    elif status == 403:
        problem = f"is closed to you (HTTP 403, {code}): {token}"
    else:
        return DownloadError(f"{where}: the server answers HTTP {status}", param="path")
    return FileAccessError(f"{where}: {problem}", param="path")
