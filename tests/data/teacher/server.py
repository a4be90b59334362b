"""An endpoint that answers as it is told to."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """A real HTTP server on loopback; `answer(body)` gives (status, what it sends). Keeps what it was asked."""

    def __init__(self, answer):
        self.bodies, self.headers = [], []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler):
                body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                self.bodies.append(body)
                self.headers.append(handler.headers)
                status, sent = answer(body)
                sent = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
                handler.send_response(status)
                handler.send_header("Content-Length", str(len(sent)))
                handler.send_header("Location", "/elsewhere")
                handler.end_headers()
                handler.wfile.write(sent)

            def log_message(handler, *_):
                """Nothing on the terminal."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


def choices(*texts):
    return {"choices": [{"message": {"role": "assistant", "content": text}} for text in texts]}
