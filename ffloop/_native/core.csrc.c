/* The cffi module ffloop._native._core: the client library and nothing else (see client.h). */
#include "client.h"
#include "spin.h"
