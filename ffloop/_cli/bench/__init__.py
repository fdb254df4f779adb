"""`ffloop bench`: asyncio, uvloop and ffloop compared on this machine.

`command` is the command and its tables, `measure` runs servers and load, `chart` draws. `server.py`
is a program, run by its path, so that a server of asyncio or uvloop imports nothing of ffloop.
"""
