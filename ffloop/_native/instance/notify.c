/* notify.c - see notify.h. */
#include "notify.h"

#include "base.h"
#include "handshake.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int manager = -1;

int notify_open(void)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un sa;
    socklen_t len;
    if (!path || !*path)
        return 0;
    int rc = path[0] == '/' || path[0] == '@' ? ffl_unix_addr(path, &sa, &len) : -EINVAL;
    unsetenv("NOTIFY_SOCKET"); /* for this process alone */
    if (rc < 0)
        return rc;
    int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s < 0)
        return -errno;
    if (connect(s, (struct sockaddr *)&sa, len) < 0) {
        rc = -errno;
        close(s);
        return rc;
    }
    manager = s;
    return 0;
}

void notify_close(void)
{
    if (manager >= 0)
        close(manager);
    manager = -1;
}

void notify_send(const char *fmt, ...)
{
    char text[512];
    if (manager < 0)
        return;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    size_t len = (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1;
    if (send(manager, text, len, MSG_NOSIGNAL) < 0)
        ffl_log(FFL_LOG_WARNING, "the service manager cannot be told: %s", strerror(errno));
}
