"""A FastAPI app that does not mention ffloop. In this folder, each command serves it on ffloop:

    ffloop run fastapi_app:app
    ffloop run --workers 2 fastapi_app:app
    uvicorn --loop ffloop:new_event_loop fastapi_app:app
    gunicorn -k ffloop.workers.UvicornWorker fastapi_app:app

Then `curl localhost:8000/items/3`. Needs `pip install . fastapi uvicorn`, in a checkout; the last
one `pip install gunicorn uvicorn-worker` too.
"""

import asyncio

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def loop() -> dict[str, str]:
    return {"loop": type(asyncio.get_running_loop()).__module__}


@app.get("/items/{number}")
async def item(number: int) -> dict[str, int]:
    return {"item": number}
