"""Servers that repeat an API key, in many spellings, and the search for any piece of it."""

import base64
import html
import json
import re
from urllib.parse import quote, unquote

from support.judge_server import raw, say, send, status

KEY = "sk-Zq7Lw9xTr4Vb2Nm8Kc5Jd1Hg6Fp3Ys0"
PIECE = 8

SPELLINGS = {
    "plain": KEY,
    "json": "".join(f"\\u{ord(c):04x}" for c in KEY),
    "percent": "".join(f"%{ord(c):02X}" for c in KEY),
    "html": "".join(f"&#{ord(c)};" for c in KEY),
    "hex": KEY.encode().hex(),
    "base64": base64.b64encode(KEY.encode()).decode(),
    "backwards": KEY[::-1],
    "a line each": "\n".join(KEY),
    "cut in two": f"{KEY[:17]}\n{KEY[17:]}",
    "half": KEY[:17],
    "upper": KEY.upper(),
    "twice escaped": "".join(f"\\\\u{ord(c):04x}" for c in KEY),
}


def line(text: str, *more: str):
    """A reply from the status line on; what stands there is the server's whole say."""

    def behave(handler):
        handler.close_connection = True
        handler.wfile.write("\r\n".join([text, *more, "", ""]).encode())

    return behave


def with_header(name: str, value: str, code: int = 503):
    return lambda handler: send(handler, code, b"", [(name, value)])


SERVERS = {
    "reason": line(f"HTTP/1.1 401 {KEY}", "Content-Length: 0"),
    "reason of a retry": line(f"HTTP/1.1 503 {KEY}", "Content-Length: 0"),
    "reason of a 200": line(f"HTTP/1.1 200 {KEY}", "Content-Length: 0"),
    "status": line(f"HTTP/1.1 {KEY} no"),
    "version": line(f"HTTP/{KEY} 200 OK"),
    "protocol": line(f"{KEY} 200 OK"),
    "status line": line(f"wrong key {KEY}"),
    "no http": line(KEY),
    "long line": line(f"HTTP/1.1 401 {KEY * 3000}"),
    "many headers": line("HTTP/1.1 401 no", *[f"X-{n}: {KEY}" for n in range(200)]),
    "long header": line("HTTP/1.1 401 no", f"X-Key: {KEY * 3000}"),
    "header": with_header("X-Key", KEY),
    "header's name": with_header(KEY, "1"),
    "wait": with_header("Retry-After", KEY),
    "place": with_header("Location", f"http://{KEY}/", 301),
    "challenge": with_header("WWW-Authenticate", f'Bearer error="{KEY}"', 401),
    "length": line("HTTP/1.1 200 OK", f"Content-Length: {KEY}", "", KEY),
    "chunk": line("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", KEY, KEY),
    "cut short": line("HTTP/1.1 200 OK", "Content-Length: 9999", "", KEY),
    "error's code": status(401, body=json.dumps({"error": {"code": KEY, "type": KEY}}).encode()),
    "error's key": status(401, body=json.dumps({"error": {KEY: KEY}}).encode()),
    "why it ended": raw(
        json.dumps(
            {"choices": [{"message": {"content": "hm"}, "finish_reason": KEY}]}
        ).encode()
    ),
    "no completion": raw(json.dumps({KEY: KEY}).encode()),
    "key as a key": raw(json.dumps({"choices": {KEY: KEY}}).encode()),
}  # fmt: skip
for _name, _text in SPELLINGS.items():
    SERVERS[f"{_name}, content"] = say(f"yes {_text}")
    SERVERS[f"{_name}, body"] = raw(f"wrong key: {_text}".encode())
    SERVERS[f"{_name}, json"] = raw(f'{{"choices": "{_text}"}}'.encode())
    SERVERS[f"{_name}, refusal"] = status(401, body=f'{{"error": "{_text}"}}'.encode())
    SERVERS[f"{_name}, code"] = status(500, body=f'{{"error": {{"code": "{_text}"}}}}'.encode())
SERVERS["page"] = raw(f"<html>{quote(KEY)}</html>".encode())


def pieces(text: str) -> set[str]:
    return {text[at : at + PIECE] for at in range(len(text) - PIECE + 1)}


KNOWN = set().union(*(pieces(spelling) for spelling in SPELLINGS.values()))


def told(text: str) -> set[str]:
    """Pieces of the key, or of a spelling of it, that a text holds, as it stands or decoded."""
    decoded = html.unescape(unquote(re.sub(r"\\+u(\w{4})", lambda m: chr(int(m[1], 16)), text)))
    forms = [text, decoded, re.sub(r"\s", "", decoded), decoded[::-1]]
    forms += [re.sub(r"\\n|\s", "", form) for form in forms]
    folded = [form.casefold() for form in forms]
    return {piece for piece in KNOWN if any(piece.casefold() in form for form in folded)}
