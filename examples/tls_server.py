"""A TLS server: `python examples/tls_server.py`, then `curl -k https://localhost:8443/`.

The `openssl` command makes a certificate for this run.
"""

import asyncio
import contextlib
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

import ffloop

BODY = b"hello over TLS\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(BODY) + BODY


def certificate() -> ssl.SSLContext:
    """A context with a fresh self-signed certificate for localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        key, cert = Path(folder, "key.pem"), Path(folder, "cert.pem")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
            + ["-nodes", "-days", "1", "-subj", "/CN=localhost", "-keyout", key, "-out", cert],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        context.load_cert_chain(cert, key)
    return context


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(RESPONSE)
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def main(port: int) -> None:
    server = await asyncio.start_server(answer, None, port, ssl=certificate())
    print("listening on port", port, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        ffloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8443))
