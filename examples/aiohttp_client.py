"""An aiohttp client on ffloop: `python examples/aiohttp_client.py http://localhost:8080/`.

Needs `pip install . aiohttp`, in a checkout.
"""

import sys

import aiohttp

import ffloop


async def main(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as response:
            print(response.status, response.headers.get("Server", ""))
            print(await response.text())


if __name__ == "__main__":
    ffloop.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8080/"))
