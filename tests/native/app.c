/* app.c - see app.h. */
#include "app.h"

#include <poll.h>

struct ffl_client *attach(void)
{
    struct ffl_client *c;
    char why[256];
    struct ffl_client_opts o = {.path = lab.path, .timeout_ms = 60000};
    int rc = ffl_client_attach(&c, &o, why, sizeof(why));
    if (rc < 0)
        FAIL("attach: %s", why);
    return c;
}

int listen_on(struct ffl_client *c, struct ffl_addr *a, int window, bool shared)
{
    struct ffl_addresses addresses;
    int on = shared, h = ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0);
    CHECK(h >= 0);
    CHECK_EQ(ffl_client_setsockopt(c, h, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)), 0);
    CHECK_EQ(ffl_client_bind(c, h, a), 0);
    CHECK_EQ(ffl_client_listen(c, h, 128, FFL_F_NODELAY), 0);
    CHECK_EQ(ffl_client_accepting(c, h, window, FFL_F_ARM_NEW), 0);
    CHECK_EQ(ffl_client_addresses(c, h, &addresses), 0);
    *a = addresses.local;
    return h;
}

static struct ffl_event kept[4096];
static int nkept;

static bool keep_or_take(struct ffl_event *ev, int n, enum ffl_event_kind kind, int h,
                         struct ffl_event *found)
{
    bool have = false;
    for (int i = 0; i < n; i++) {
        if (!have && ev[i].kind == kind && (h < 0 || ev[i].handle == (uint32_t)h)) {
            *found = ev[i];
            have = true;
        } else if (nkept < (int)FFL_COUNT(kept)) {
            kept[nkept++] = ev[i];
        }
    }
    return have;
}

struct ffl_event await(struct ffl_client *c, enum ffl_event_kind kind, int h)
{
    struct ffl_event ev[64], found;
    int n = nkept;
    static struct ffl_event old[FFL_COUNT(kept)];
    memcpy(old, kept, sizeof(kept));
    nkept = 0;
    if (keep_or_take(old, n, kind, h, &found))
        return found;
    for (int64_t until = ffl_now_ns() + 60 * FFL_NS_PER_SEC; ffl_now_ns() < until;) {
        n = ffl_client_wait(c, ev, 64, -1, FFL_NS_PER_SEC);
        CHECK(n >= 0);
        if (keep_or_take(ev, n, kind, h, &found))
            return found;
    }
    FAIL("no event of kind %d for handle %d", kind, h);
}

int kernel_dial(const struct ffl_addr *a)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = a->port_be};
    memcpy(&in.sin_addr, a->ip, 4);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    CHECK_EQ(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
    struct timeval limit = {.tv_sec = 60};
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
    return fd;
}

void await_forget(void)
{
    nkept = 0;
}

void host_lab(void)
{
    lab_defaults("host");
    lab.o.pool_kib = 32 * 1024;
    lab_start("");
    lab_run();
}

void settled(unsigned sessions, unsigned sockets)
{
    int64_t until = ffl_now_ns() + 60 * FFL_NS_PER_SEC;
    while (ffl_instance_sockets(lab.in) != sockets || lab_sessions() != sessions) {
        if (ffl_now_ns() > until)
            FAIL("%u sessions and %u sockets are left, not %u and %u", lab_sessions(),
                 ffl_instance_sockets(lab.in), sessions, sockets);
        (void)poll(NULL, 0, 1);
    }
}
