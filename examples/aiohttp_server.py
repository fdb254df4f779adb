"""An aiohttp app on ffloop: `python examples/aiohttp_server.py`, then `curl localhost:8080/you`.

The app is aiohttp's own hello world; only the last lines choose the loop.
Needs `pip install . aiohttp`, in a checkout.
"""

import sys

from aiohttp import web

import ffloop


async def hello(request: web.Request) -> web.Response:
    name = request.match_info.get("name", "world")
    return web.Response(text=f"hello, {name}\n")


app = web.Application()
app.add_routes([web.get("/", hello), web.get("/{name}", hello)])

if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    web.run_app(app, port=port, loop=ffloop.new_event_loop())
