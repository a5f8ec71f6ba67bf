"""What a credential looks like: names that announce one, words it is made of, ways to spell it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus, unquote_plus

#: what stands where a credential was, in what is printed
MASK = "[masked]"
#: characters from which on a word within a header's value may be the credential: `Bearer …`, `session=…`
SHORTEST_WORD = 12
#: keys (of fields, headers, bodies, queries) whose value is a credential, compared without case, - and _
SENSITIVE = frozenset(
    {"accesstoken", "apikey", "authorization", "clientsecret", "cookie", "credential", "credentials"}
    | {"idtoken", "passwd", "password", "privatekey", "proxyauthorization", "refreshtoken", "secret"}
    | {"session", "sessionid", "setcookie", "token", "xapikey", "xauthtoken", "xcsrftoken"}
)
#: parameters by which a server signs a URL of its own: whoever has the URL may ask for it
SIGNATURES = frozenset(
    {"hmac", "jwt", "policy", "sig", "signature", "xamzcredential", "xamzsecuritytoken", "xamzsignature"}
    | {"xgoogcredential", "xgoogsignature"}
)
#: keys of a login's body whose value is a name and no secret: it stands in records everywhere, and stays
NAMES = frozenset({"user", "username", "user_name", "login", "email", "address", "account", "device_id"})

_WORD = re.compile(rf'[^\s;,="]{{{SHORTEST_WORD},}}')


def names_a_secret(key: Any) -> bool:
    """True for a key whose value is a credential, whatever it is."""
    return isinstance(key, str) and _folded(key) in SENSITIVE


def is_signature(name: str) -> bool:
    """True for a query parameter of a server's own URL that stands for a permission."""
    return names_a_secret(name) or _folded(name) in SIGNATURES


def _folded(key: str) -> str:
    return key.lower().replace("-", "").replace("_", "")


def spellings(secret: str) -> Iterator[str]:
    """A credential as it is, and as URLs, JSON, HTML, reprs and base64 spell it; each once."""
    seen = {""}
    for form in _spellings(secret):
        if form not in seen:
            seen.add(form)
            yield form


def _spellings(secret: str) -> Iterator[str]:
    yield secret
    for quoted in (quote(secret, safe=""), quote(secret), quote_plus(secret)):
        lower = re.sub("%..", lambda found: found[0].lower(), quoted)
        yield from (quoted, lower, quote(quoted, safe=""), lower.replace("%", "%25"))
    for escaped in (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
        for form in (escaped, escaped.replace("/", "\\/")):
            # once more: JSON within JSON
            yield from (form, json.dumps(form)[1:-1])
    # a text and bytes as a traceback shows them
    for shown in (repr(secret)[1:-1], repr(secret.encode())[2:-1]):
        yield from (shown, json.dumps(shown)[1:-1])
    yield secret.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    for coded in (base64.b64encode(secret.encode()), base64.urlsafe_b64encode(secret.encode())):
        text = coded.decode()
        yield from (text, quote(text, safe=""), text.rstrip("="))


def words(value: str) -> Iterator[str]:
    """A header's value, and what in it may be the credential by itself."""
    yield value
    yield from (word for word in _WORD.findall(value) if word != value)


def signatures(url: str) -> Iterator[str]:
    """The signatures in a URL's query, as they are written there."""
    for part in url.partition("?")[2].partition("#")[0].split("&"):
        name, _, value = part.partition("=")
        if value and is_signature(unquote_plus(name)):
            yield value


def without_signatures(url: str) -> str:
    """A URL or path as it may be shown: its signatures masked, the rest untouched."""
    path, mark, query = url.partition("?")
    return path + mark + "&".join(map(_masked, query.split("&")))


def _masked(part: str) -> str:
    name, equals, value = part.partition("=")
    return f"{name}={MASK}" if value and is_signature(unquote_plus(name)) else f"{name}{equals}{value}"
