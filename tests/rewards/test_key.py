"""The API key against servers that repeat it: no piece of it is told, however they spell it."""

import base64
import html
import json
import logging
import re
from urllib.parse import quote, unquote

import pytest

from lfpc_jax.rewards.judge import Claim, Judge, JudgeSettings
from support.judge_server import JudgeServer, raw, say, send, status

KEY = "sk-Zq7Lw9xTr4Vb2Nm8Kc5Jd1Hg6Fp3Ys0"
PIECE = 8
CLAIM = Claim("What color is the bag?", "red", "crimson")

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


def told(text: str) -> set[str]:
    """Pieces of the key, or of a spelling of it, that a text holds, as it stands or decoded."""
    decoded = html.unescape(unquote(re.sub(r"\\+u(\w{4})", lambda m: chr(int(m[1], 16)), text)))
    forms = [text, decoded, re.sub(r"\s", "", decoded), decoded[::-1]]
    forms += [re.sub(r"\\n|\s", "", form) for form in forms]
    known = set().union(*(pieces(spelling) for spelling in SPELLINGS.values()))
    return {piece for piece in known for form in forms if piece.casefold() in form.casefold()}


@pytest.mark.parametrize("name", SERVERS)
def test_no_piece_of_the_key_is_told(tmp_path, monkeypatch, caplog, capfd, name):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with JudgeServer(lambda index, claim: SERVERS[name]) as server:
        chosen = JudgeSettings(
            server.url, "judge-1", str(tmp_path), key_variable="JUDGE_KEY",
            attempts=2, first_wait=0.01, reply_seconds=5.0, batch_seconds=10.0,
        )  # fmt: skip
        judge = Judge(chosen)
        with pytest.raises(ValueError, match="judge-1") as refused:
            judge.check()
        (verdict,) = judge.verdicts([CLAIM])
        assert server.requests[0][2]["Authorization"] == f"Bearer {KEY}"
        server.behave = lambda index, claim: say("yes")
        assert judge.verdicts([CLAIM])[0].right is True
    assert verdict.right is None
    assert server.url in verdict.fault.reason
    kept = "".join(file.read_text() for file in tmp_path.iterdir())
    everything = [str(refused.value), repr(verdict), kept, caplog.text, *capfd.readouterr()]
    everything += [repr(judge), str(judge), repr(chosen), repr(refused.value.__context__)]
    assert not set().union(*map(told, everything))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_such_a_piece_would_be_found(spelling):
    """The search above, by what it must find."""
    assert told(f"no chat completion in {SPELLINGS[spelling]!r}")
    assert not told("http://127.0.0.1:36623/v1, model judge-1: HTTP 401 Unauthorized (attempt 1)")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (status(401, body=b'{"error": {"code": "invalid_api_key"}}'),
         "HTTP 401 Unauthorized, invalid_api_key (attempt 1); check the API key in the environment "
         "variable JUDGE_KEY"),
        (status(404, body=b'{"error": {"type": "model_not_found"}}'),
         "HTTP 404 Not Found, model_not_found (attempt 1); check that base_url"),
        (raw(b"<html>busy</html>"), "no chat completion: 17 bytes, no JSON"),
        (raw(b'{"choices": []}'), "15 bytes, JSON without choices[0].message.content as a text"),
        (say("<think>Well"), "neither yes nor no, but 11 characters that begin to think aloud"),
        (say("Certainly"), "neither yes nor no, but 9 characters (attempt 2); take a model"),
        (line("nonsense"), "no connection (BadStatusLine) (attempt 2); check that the server runs"),
    ],
)  # fmt: skip
def test_a_failure_names_its_cause_without_the_servers_words(tmp_path, monkeypatch, reply, said):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with JudgeServer(lambda index, claim: reply) as server:
        chosen = JudgeSettings(
            server.url, "m", str(tmp_path), key_variable="JUDGE_KEY", attempts=2, first_wait=0.01
        )
        (verdict,) = Judge(chosen).verdicts([CLAIM])
    assert said in verdict.fault.reason
