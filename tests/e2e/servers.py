"""Servers of this machine for a guest's network (10.0.2.2 of QEMU's user network)."""
import contextlib
import socketserver
import threading


@contextlib.contextmanager
def transfers(data):
    """(down, up, got): port `down` sends the data to whoever connects, what comes to port `up` is added to got."""
    got = []

    # a connection of its own each way: nc ends when the server does
    class Down(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(data)

    class Up(socketserver.BaseRequestHandler):
        def handle(self):
            got.append(b"".join(iter(lambda: self.request.recv(65536), b"")))

    both = [socketserver.TCPServer(("127.0.0.1", 0), h) for h in (Down, Up)]
    for s in both:
        threading.Thread(target=s.serve_forever, daemon=True).start()
    try:
        yield (*(s.server_address[1] for s in both), got)
    finally:
        for s in both:
            s.shutdown()
            s.server_close()
