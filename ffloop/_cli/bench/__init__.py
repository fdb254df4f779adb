"""`ffloop bench`: asyncio, uvloop and ffloop compared on this machine.

`command` is the command and its tables, `measure` runs servers and load, `chart` draws. `server.py`
and `client.py` are programs, run by their paths, so that a server of asyncio or uvloop imports
nothing of ffloop.
"""
