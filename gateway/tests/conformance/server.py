"""The server under test, over plain HTTP: no SDK in between that could forgive something."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass

TIMEOUT_S = 300


@dataclass
class Answer:
    status: int
    headers: dict
    text: str

    def json(self):
        return json.loads(self.text)

    def events(self):
        """The data of every event; comments are skipped, anything else is an error."""
        events = []
        for block in self.text.removesuffix("\n\n").split("\n\n"):
            if block.startswith(":"):
                continue
            assert block.startswith("data: ") and "\n" not in block, f"not an event: {block!r}"
            events.append(block.removeprefix("data: "))
        return events


@dataclass
class Server:
    base_url: str
    model: str
    api_key: str

    def get(self, path):
        return self._send(urllib.request.Request(self.base_url + path))

    def post(self, path, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.base_url + path, data=data, method="POST")
        request.add_header("content-type", "application/json")
        return self._send(request)

    def chat(self, **fields):
        body = {"model": self.model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
        return self.post("/v1/chat/completions", {**body, **fields})

    def complete(self, **fields):
        return self.post("/v1/completions", {"model": self.model, "prompt": "Once upon", "max_tokens": 8, **fields})

    def _send(self, request):
        request.add_header("authorization", f"Bearer {self.api_key}")
        try:
            response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, headers, response.read().decode())
