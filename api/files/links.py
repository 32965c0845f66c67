"""Links to what agents have made: absolute, signed, and valid for some time.

They are made when an answer is shown, by whichever replica shows it, and always the same. Nothing
that is stored contains one.
"""

from __future__ import annotations

from urllib.parse import quote

from api.http.files_host import LINKS_AT
from infra.runtime.links import LinkSigner
from infra.runtime.sealing import secrets_in
from infra.runtime.settings import Settings
from infra.wire.errors import FileNotKept, LinkExpired
from infra.wire.events import Artifact
from infra.wire.ids import FileId


class FileLinks:
    """Makes links and reads them."""

    def __init__(self, signer: LinkSigner, *, base_url: str | None) -> None:
        """`base_url`: where browsers reach this API; None if nobody knows. Then there are no
        links."""
        self._signer = signer
        self._base_url = base_url

    @classmethod
    def of(cls, settings: Settings) -> FileLinks:
        """As the settings say."""
        assert settings.secret is not None, "a replica has a secret"
        secrets = secrets_in(settings.secret.get_secret_value())
        if settings.old_secrets is not None:
            secrets += secrets_in(settings.old_secrets.get_secret_value())
        signer = LinkSigner(secrets)
        return cls(signer, base_url=settings.files_url or settings.public_url)

    def link(self, made: Artifact) -> str | None:
        """The link to a file; None if nobody knows where browsers reach this API."""
        if self._base_url is None:
            return None
        token = self._signer.token(made.file, expires_ms=made.expires_ms)
        name = quote(made.path.rpartition("/")[2], safe="")
        return f"{self._base_url}{LINKS_AT}/{token}/{name}"

    def file_of(self, token: str, *, now_ms: int) -> FileId:
        """The file that a link names. Raises `FileNotKept` if the link is none of ours, and
        `LinkExpired`."""
        found = self._signer.read(token)
        if found is None:
            raise FileNotKept("a link that is none of ours")
        file, expires_ms = found
        if expires_ms <= now_ms:
            raise LinkExpired(file)
        return file
