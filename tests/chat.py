"""A stand-in for a chat endpoint on loopback: answers as OpenAI's chat completions do, and fails as told first."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(answer, *failures):
    """Yield a server with `url` and `requests` [(headers, body)]. answer(messages) -> text of the model.

    failures: what comes before the first answer, each (status, body, headers).
    """
    waiting = list(failures)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.requests.append((self.path, dict(self.headers), body))
            if waiting:
                self.reply(*waiting.pop(0))
            else:
                choice = {"index": 0, "message": {"role": "assistant", "content": answer(body["messages"])}}
                usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
                self.reply(200, json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}))

        def reply(self, status, body, headers=()):
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.url = [], f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
