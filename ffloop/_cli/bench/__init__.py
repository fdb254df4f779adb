"""`ffloop bench`: asyncio, uvloop and ffloop compared on this machine.

`command` is the command and its tables, `measure` runs servers and load, `chart` draws. `server.py`
is run by its path, so that a server on asyncio or uvloop imports nothing of ffloop.
"""
