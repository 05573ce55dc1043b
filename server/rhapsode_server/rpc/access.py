"""Who may call what: by the certificate that a caller shows, and by its bearer token.

    health                          whoever's certificate has an allowed name
    listing models, Tokenize,       any token
    Detokenize, reflection
    Generate and what is like it    a token with the scope generate
    Score                           a token with the scope score
    all else                        a token with the scope admin

Without --tls-client-ca nobody is asked for a certificate, without --tokens-file nobody for a token.
"""

import hmac
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from rhapsode_server.config import ServerConfig
from rhapsode_server.errors import PermissionDenied, Unauthenticated
from rhapsode_server.rpc.call import Call
from rhapsode_server.rpc.quota import Quota
from rhapsode_server.rpc.reloading import Reloading
from rhapsode_server.tokens import Scope, Token, digest_of, read_tokens

Metadata = Iterable[tuple[str, str | bytes]]

TOKEN_KEY = "authorization"

_HEALTH = ("/grpc.health.v1.Health/", "/health")
_REFLECTION = "/grpc.reflection."
_GENERATION = "/rhapsode.v1.GenerationService"
_MODELS = "/rhapsode.v1.ModelService"
_SCOPES: Mapping[str, Scope | None] = {
    f"{_GENERATION}/Generate": Scope.GENERATE,
    f"{_GENERATION}/GenerateStream": Scope.GENERATE,
    f"{_GENERATION}/GenerateBatch": Scope.GENERATE,
    f"{_GENERATION}/Score": Scope.SCORE,
    f"{_GENERATION}/Tokenize": None,
    f"{_GENERATION}/Detokenize": None,
    f"{_MODELS}/ListModels": None,
    f"{_MODELS}/GetModel": None,
    "/v1/completions": Scope.GENERATE,
    "/v1/chat/completions": Scope.GENERATE,
    "/v1/models": None,
}
# A certificate may hold names of any length.
_MAX_NAME_LENGTH = 128


class Caller(Protocol):
    """Who calls, as gRPC's context tells it."""

    def invocation_metadata(self) -> Metadata | None:
        """Names in lower case."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What a certificate says, by gRPC's names for it."""

    def peer(self) -> str:
        """Where from, such as ipv4:10.0.0.1:4000."""


class Access:
    """Lets calls in or refuses them: all of them in where neither `tokens` nor `names`, of certificates, are given."""

    def __init__(self, tokens: Reloading[tuple[Token, ...]] | None = None, names: Collection[str] = ()) -> None:
        self._tokens = tokens
        self._names = names
        # By the digest of the token, so that they outlast a change of the file.
        self._quotas: dict[bytes, Quota] = {}

    @classmethod
    def of(cls, config: ServerConfig) -> "Access":
        """Raises ValueError for a file of tokens that cannot be used."""
        path = config.tokens_file
        tokens = Reloading("--tokens-file", [path], lambda: read_tokens(path)) if path else None
        return cls(tokens, config.tls_client_names)

    def knows(self, metadata: Metadata) -> bool:
        """Whether the token that came with a call, if one is needed, is one of ours; nothing else is looked at."""
        try:
            return self._tokens is None or bool(_token(self._tokens.value, metadata))
        except Unauthenticated:
            return False

    @contextmanager
    def admitted(self, call: Call, path: str, caller: Caller) -> Iterator[None]:
        """A call is in progress. Raises Unauthenticated, PermissionDenied and LimitReached."""
        names = _certificate_names(caller)
        call.caller = self._best(names)
        self._check_names(names)
        if self._tokens is None:
            yield
            return
        token = _token(self._tokens.value, caller.invocation_metadata() or ())
        call.caller, call.quota = token.name, self._quota(token)
        _check_scope(token, path)
        with call.quota.call():
            yield

    def check(self, path: str, caller: Caller) -> None:
        """Whether a call that is not counted may come in. Raises Unauthenticated and PermissionDenied."""
        self._check_names(_certificate_names(caller))
        if self._tokens is not None and not path.startswith(_HEALTH):
            _check_scope(_token(self._tokens.value, caller.invocation_metadata() or ()), path)

    def _best(self, names: Sequence[str]) -> str:
        """Of the names in a certificate, for the log: one that is allowed, if there is one."""
        best = min(names, key=lambda name: name not in self._names, default="")
        return best[:_MAX_NAME_LENGTH]

    def _check_names(self, names: Sequence[str]) -> None:
        if self._names and not any(name in self._names for name in names):
            raise PermissionDenied("no name in this certificate is one of those that may call here")

    def _quota(self, token: Token) -> Quota:
        quota = self._quotas.setdefault(token.digest, Quota())
        quota.limit(token.rate, token.concurrency)
        return quota


def needed_scope(path: str) -> Scope | None:
    """None: any token will do. A method that nobody thought of here is for operators."""
    return None if path.startswith(_REFLECTION) else _SCOPES.get(path, Scope.ADMIN)


def _check_scope(token: Token, path: str) -> None:
    scope = needed_scope(path)
    if scope is not None and scope not in token.scopes:
        raise PermissionDenied(f"this call needs the scope {scope}, which the token of {token.name} does not have")


def _token(tokens: Sequence[Token], metadata: Metadata) -> Token:
    """Compares with each of them, and each in constant time. Raises Unauthenticated."""
    digest = digest_of(_bearer(metadata))
    found = [token for token in tokens if hmac.compare_digest(token.digest, digest)]
    if not found:
        raise Unauthenticated("the token is not one of this server's, or not any more")
    return found[0]


def _bearer(metadata: Metadata) -> str:
    values = [str(value) for key, value in metadata if key == TOKEN_KEY]
    if len(values) > 1:
        # A proxy and the server might each look at another one.
        raise Unauthenticated("there are several values of authorization; send one")
    scheme, _, token = (values or [""])[0].partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("a token is needed; send it as metadata: authorization: Bearer TOKEN")
    return token


def _certificate_names(caller: Caller) -> list[str]:
    """Subject alternative names; the common name of a certificate that has none (RFC 6125, 6.4.4)."""
    found = caller.auth_context()
    names = found.get("x509_subject_alternative_name") or found.get("x509_common_name") or ()
    return [name.decode("utf-8", "replace") for name in names]
