"""What a client is told when it gets no answer, in OpenAI's form."""

from typing import Any

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Refused(Exception):
    """A request that is not answered: the status, what is wrong and what to do, the field, and a
    code to tell causes apart. `wait` is after how many seconds another attempt may help."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str, wait: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.wait = status, param, code, wait

    @property
    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else _TYPES[400])
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        return {"retry-after": str(self.wait)} if self.wait else {}


def invalid(message: str, param: str | None, code: str = "invalid_value") -> Refused:
    return Refused(400, message, param=param, code=code)
