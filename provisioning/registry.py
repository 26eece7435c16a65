"""What the image registry says of a tag: one HEAD request, with the registry's own token when it wants one.

The registry is the operator's choice and is called as configured. Where it sends us for a token is its own
word, so that address passes the URL policy unless it is the registry itself. Source:
docs/reference/provisioning.md, Images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx
import structlog
from django.conf import settings

from access.url_policy import vetted_address
from config.errors import BadRequest
from config.locks import outside_transaction
from provisioning.backends.base import BackendError, ErrorClass
from workspaces.defaults import is_saas

log = structlog.get_logger(__name__)

TIMEOUT_S = 10.0
MANIFESTS = ", ".join(
    [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ]
)
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_LOCAL = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?")


class RegistryError(Exception):
    """The registry did not tell; the text is for the log and for operators."""


class NoSuchImage(RegistryError):
    """The registry answered that it has no such manifest."""


def newest_digest(runtime: str) -> str:
    """The digest of `<MOLECULE_IMAGE_REGISTRY>/workspace-template-<runtime>:latest`. Raises RegistryError."""
    return digest_of(f"{settings.MOLECULE_IMAGE_REGISTRY}/workspace-template-{runtime}:latest")


def digest_of(image: str) -> str:
    """The digest of `<host>/<path>[:<tag>][@<digest>]`. Raises RegistryError.

    A digest goes before a tag; the tag is `latest` when there is none.
    """
    outside_transaction()
    host, repository, reference = _parts(image)
    scheme = "http" if _LOCAL.fullmatch(host) else "https"  # as container engines treat a local registry
    url = f"{scheme}://{host}/v2/{repository}/manifests/{reference}"
    try:
        with httpx.Client(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False) as client:
            answer = client.head(url, headers={"Accept": MANIFESTS})
            if answer.status_code == 401:
                token = _token(client, answer.headers.get("WWW-Authenticate", ""), host, repository)
                headers = {"Accept": MANIFESTS, "Authorization": f"Bearer {token}"}
                answer = client.head(url, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RegistryError(f"{type(error).__name__} from {host}") from error
    if answer.status_code == 404:
        raise NoSuchImage(f"{host} has no {repository}:{reference}")
    digest: str = answer.headers.get("Docker-Content-Digest", "")
    if answer.status_code != 200 or not _DIGEST.fullmatch(digest):
        raise RegistryError(f"{host} answered {answer.status_code} for {repository}")
    return digest


def check_image(image: str) -> None:
    """Raise BackendError(IMAGE_UNAVAILABLE) for an image that its registry does not have.

    A registry that does not answer proves nothing: the machine tries for itself.
    """
    try:
        digest_of(image)
    except NoSuchImage as error:
        text = "the workspace's image does not exist in the registry; check its runtime and image"
        raise BackendError(ErrorClass.IMAGE_UNAVAILABLE, text, detail=str(error)) from error
    except RegistryError as error:
        log.warning("registry.not_asked", image=image, error=str(error))


def _parts(image: str) -> tuple[str, str, str]:
    """Host, repository and reference. A registry's port is no tag."""
    host, _, rest = image.partition("/")
    named, _, digest = rest.partition("@")
    folder, _, last = named.rpartition("/")
    name, _, tag = last.partition(":")
    return host, f"{folder}/{name}".lstrip("/"), digest or tag or "latest"


def _token(client: httpx.Client, challenge: str, host: str, repository: str) -> str:
    scheme, _, rest = challenge.partition(" ")
    given = dict(_PARAMETER.findall(rest))
    realm = given.get("realm", "")
    if scheme.lower() != "bearer" or not realm:
        raise RegistryError(f"{host} asks for a credential that this server cannot give")
    asked = {"scope": given.get("scope", f"repository:{repository}:pull")}
    if given.get("service"):
        asked["service"] = given["service"]
    answer = _get_vetted(client, realm, host, asked)
    try:
        body = answer.json()
        token = body.get("token") or body.get("access_token")
    except (ValueError, AttributeError):
        token = None
    if answer.status_code != 200 or not isinstance(token, str):
        raise RegistryError(f"no token for {repository}: {answer.status_code}")
    return token


def _get_vetted(client: httpx.Client, realm: str, host: str, asked: Mapping[str, str]) -> httpx.Response:
    """Ask where the registry sends us. The account goes over TLS, or to the registry itself."""
    parts = urlsplit(realm)
    url = httpx.URL(realm).copy_merge_params(asked)
    is_own = parts.netloc == host
    headers, extensions = {}, {}
    if not is_own:
        try:
            address = vetted_address(realm, is_saas=is_saas())
        except BadRequest as error:
            raise RegistryError(f"{host} sends us to an address we do not call: {error.text}") from error
        headers["Host"] = parts.netloc
        extensions = {"sni_hostname": parts.hostname} if parts.scheme == "https" else {}
        url = url.copy_with(host=str(address))
    account = (settings.GHCR_USER, settings.GHCR_TOKEN)
    auth = account if all(account) and (is_own or parts.scheme == "https") else None
    return client.get(url, headers=headers, auth=auth, extensions=extensions)
