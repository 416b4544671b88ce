"""What can go wrong between a client and the API. A fault hits the next requests that fit, then it is used up."""

import re
from dataclasses import dataclass, field


@dataclass
class Fault:
    """A failure. `on` is a pattern searched in "VERB /path"; `times` counts the requests that it still hits."""

    kind: str  # before the request is handled: slow, or instead: drop, answer; after it was handled: lose, garbage
    on: str = ""
    times: int = 1
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0

    def hits(self, verb: str, path: str) -> bool:
        return self.times > 0 and bool(re.search(self.on, f"{verb} {path}"))


def status(code: int, on: str = "", times: int = 1, retry_after: str = "", body: str = "") -> Fault:
    """A gateway answers instead of the API: in words of its own, not in JSON. The request has no effect."""
    headers = {"Retry-After": retry_after} if retry_after else {}
    text = body or "upstream connect error or disconnect/reset before headers"
    return Fault("answer", on, times, code, headers, text.encode())


def slow(seconds: float, on: str = "", times: int = 1) -> Fault:
    """The request waits before it is handled; it has its effect although the client may be gone."""
    return Fault("slow", on, times, seconds=seconds)


def drop(on: str = "", times: int = 1) -> Fault:
    """The connection breaks before the request is handled. urllib3 repeats a GET or DELETE three times: use times=4."""
    return Fault("drop", on, times)


def lose(on: str = "", times: int = 1) -> Fault:
    """The request has its effect, and the connection breaks before the answer."""
    return Fault("lose", on, times)


def garbage(on: str = "", times: int = 1, body: str = "<html>Sign in</html>", status: int = 200) -> Fault:
    """The request has its effect, and what comes back is not the API's answer, as from a proxy's login page."""
    return Fault("garbage", on, times, status, body=body.encode())
