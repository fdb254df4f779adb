"""The core, by cffi (core.cdef.txt says what is in `lib`)."""

from typing import Any

ffi: Any
lib: Any
