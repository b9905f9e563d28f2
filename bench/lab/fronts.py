"""What stands at the entry in place of a worker, as a process of its own: one that redirects
every request to the owner, and one that takes bodies from the owner by splice(2). Plain HTTP, one
request at a time on a connection.

    python fronts.py redirect ADDRESS PORT TO_ADDRESS TO_PORT
    python fronts.py splice ADDRESS PORT TO_ADDRESS TO_PORT
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import threading

# One piece of a body: what a pipe holds.
PIPE_BYTES = 1 << 20
HEAD_END = b"\r\n\r\n"


def head_of(connection: socket.socket) -> tuple[bytes, bytes]:
    """A head with its end, and what came with it; empty: the connection has ended."""
    got = b""
    while HEAD_END not in got:
        piece = connection.recv(65536)
        if not piece:
            return b"", b""
        got += piece
    end = got.index(HEAD_END) + len(HEAD_END)
    return got[:end], got[end:]


def redirect(client: socket.socket, to: tuple[str, int]) -> None:
    """Names the owner in every answer."""
    while head := head_of(client)[0]:
        path = head.split(b" ", 2)[1].decode()
        there = f"Location: http://{to[0]}:{to[1]}{path}"
        client.sendall(f"HTTP/1.1 307 Temporary Redirect\r\n{there}\r\nContent-Length: 0\r\n\r\n".encode())


def splice(client: socket.socket, to: tuple[str, int]) -> None:
    """Asks the owner and moves its answers through a pipe."""
    owner = socket.create_connection(to)
    owner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        while head := head_of(client)[0]:
            owner.sendall(head)
            answer, body = head_of(owner)
            if not answer:
                return
            fields = answer.decode().lower().split("\r\n")
            length = next(int(f.split(":")[1]) for f in fields if f.startswith("content-length:"))
            client.sendall(answer + body)
            move(owner, client, (out, into), length - len(body))
    finally:
        for end in (out, into):
            os.close(end)
        owner.close()


def move(source: socket.socket, sink: socket.socket, pipe: tuple[int, int], count: int) -> None:
    """So many bytes."""
    out, into = pipe
    while count > 0:
        held = os.splice(source.fileno(), into, min(count, PIPE_BYTES), flags=os.SPLICE_F_MOVE)
        if held == 0:
            raise ConnectionError(f"{count} bytes are missing")
        count -= held
        while held > 0:
            more = os.SPLICE_F_MORE if count else 0
            held -= os.splice(out, sink.fileno(), held, flags=os.SPLICE_F_MOVE | more)


def serve(act: str, at: tuple[str, int], to: tuple[str, int]) -> None:
    """Until it is ended."""
    listener = socket.create_server(at)
    print("ready", flush=True)

    def one(client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with client:
            {"redirect": redirect, "splice": splice}[act](client, to)

    while True:
        threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()


if __name__ == "__main__":
    ACT, ADDRESS, AT_PORT, TO_ADDRESS, TO_PORT = sys.argv[1:]
    serve(ACT, (ADDRESS, int(AT_PORT)), (TO_ADDRESS, int(TO_PORT)))
