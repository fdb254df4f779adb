/*
 * option.c - socket options and ioctl.
 *
 * Callers: the program. Before a socket is placed, its options are set on the kernel socket, with
 * the kernel's checks, and noted for the stack. The shim keeps time-outs and options that concern
 * calls.
 */
#include "preload.h"
#include "option.h"

#include <linux/filter.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#define RCVTIMEO_NEW 66 /* names that an older C library lacks; here the values are the same */
#define SNDTIMEO_NEW 67

/* The time-out that the option is; or NULL. */
static int64_t *timeout_of(struct sock *s, int name)
{
    return name == SO_RCVTIMEO || name == RCVTIMEO_NEW   ? &s->rcvtimeo
           : name == SO_SNDTIMEO || name == SNDTIMEO_NEW ? &s->sndtimeo
                                                         : NULL;
}

static int set_local(struct sock *s, int level, int name, const void *val, socklen_t len)
{
    if (level != SOL_SOCKET)
        return 0;
    int64_t *limit = timeout_of(s, name);
    if (limit) {
        struct timeval tv;
        if (len < sizeof(tv))
            return -EINVAL;
        memcpy(&tv, val, sizeof(tv));
        if (tv.tv_usec < 0 || tv.tv_usec >= 1000000)
            return -EDOM;
        int64_t ns = tv.tv_sec < 0 ? 1 : tv.tv_sec * FFL_NS_PER_SEC + tv.tv_usec * 1000;
        *limit = ns;
        return 1;
    }
    if (name == SO_REUSEPORT && len >= sizeof(int))
        s->reuse_port = *(const int *)val != 0;
    if (name == SO_SELECT_ERR_QUEUE && len >= sizeof(int))
        s->reports_pri = *(const int *)val != 0;
    if (name == SO_LINGER && len >= sizeof(struct linger)) {
        struct linger l;
        memcpy(&l, val, sizeof(l));
        s->abort = l.l_onoff && l.l_linger == 0;
    }
    return 0;
}

/* SO_ATTACH_REUSEPORT_CBPF ends with its socket's program: nothing of it is left to set. */
static void forget_program(struct sock *s)
{
    for (struct option **p = &s->opts; *p;) {
        struct option *o = *p;
        if (o->level == SOL_SOCKET && o->name == SO_ATTACH_REUSEPORT_CBPF) {
            *p = o->next;
            free(o);
        } else {
            p = &o->next;
        }
        s->opts_end = p;
    }
}

/* The option, with a copy of a program that its value points to. */
static struct option *copy_option(int level, int name, const void *val, socklen_t len)
{
    const struct ffl_option *row = ffl_option_find(level, name);
    struct sock_fprog p = {0};
    if (row && row->kind == FFL_OPTION_PROGRAM)
        memcpy(&p, val, sizeof(p)); /* as long as that: the kernel has taken it */
    size_t bytes = p.len * sizeof(*p.filter), data = (len + 7u) & ~7u;
    struct option *o = malloc(sizeof(*o) + data + bytes);
    if (!o)
        return NULL;
    *o = (struct option){.level = level, .name = name, .len = len};
    memcpy(o->data, val, len);
    if (p.len) {
        memcpy(o->data + data, p.filter, bytes);
        p.filter = (struct sock_filter *)(void *)(o->data + data);
        memcpy(o->data, &p, sizeof(p));
    }
    return o;
}

static int note(struct sock *s, int level, int name, const void *val, socklen_t len)
{
    /* Reading back loses the index. */
    bool in_part = level == IPPROTO_IP && name == IP_MULTICAST_IF;
    if (!in_part && ffl_carry_note(s->noted, level, name))
        return 0;
    if (level == SOL_SOCKET && name == SO_DETACH_REUSEPORT_BPF)
        forget_program(s);
    if (level == SOL_SOCKET && (name == SO_DETACH_FILTER || name == SO_DETACH_REUSEPORT_BPF))
        return 0; /* a filter that is still there is read back */
    struct option *o = copy_option(level, name, val, len);
    if (!o)
        return -ENOMEM;
    *s->opts_end = o;
    s->opts_end = &o->next;
    return 0;
}

API int setsockopt(int fd, int level, int name, const void *val, socklen_t len)
{
    real_start();
    uint8_t copy[FFL_OPT_MAX];
    struct sock *s = sock_enter(fd);
    if (!s)
        return real.setsockopt(fd, level, name, val, len);
    int rc = (int)len < 0 ? -EINVAL : 0;
    len = len < sizeof(copy) ? len : sizeof(copy);
    if (rc == 0 && !user_copy(copy, val, len))
        rc = -EFAULT;
    if (rc < 0)
        return (int)leave(rc);
    val = copy;
    if (!s->session) {
        rc = real.setsockopt(fd, level, name, val, len) < 0 ? -errno : 0;
        if (rc == 0 && set_local(s, level, name, val, len) == 0)
            rc = note(s, level, name, val, len);
    } else {
        rc = set_local(s, level, name, val, len);
        if (rc == 0)
            rc = ffl_client_setsockopt(s->session->c, s->h, level, name, val, len);
        if (rc == 0) /* for a new stack socket in its place: shutdown.c */
            (void)ffl_carry_note(s->noted, level, name);
        if (rc > 0)
            rc = 0;
    }
    const struct ffl_option *row = rc == 0 ? ffl_option_find(level, name) : NULL;
    s->reports |= row && row->flags & FFL_OPTION_REPORT;
    return (int)leave(rc);
}

static int give_option(void *val, socklen_t *len, socklen_t room, const void *data, socklen_t n)
{
    n = n < room ? n : room;
    return user_copy(val, data, n) && user_copy(len, &n, sizeof(n)) ? 0 : -EFAULT;
}

static int get_option(struct sock *s, int level, int name, void *val, socklen_t *len)
{
    socklen_t room;
    if (!user_copy(&room, len, sizeof(room)))
        return -EFAULT;
    if ((int)room < 0)
        return -EINVAL;
    const int64_t *limit = level == SOL_SOCKET ? timeout_of(s, name) : NULL;
    if (limit) {
        int64_t us = *limit / 1000;
        struct timeval tv = {us / 1000000, us % 1000000};
        return give_option(val, len, room, &tv, sizeof(tv));
    }
    if (level == SOL_SOCKET && name == SO_ERROR && !dgram_ask(s))
        ffl_client_reap(s->session->c);
    if (s->type == SOCK_DGRAM)
        dgram_settle(s);
    uint8_t data[FFL_OPT_MAX];
    const struct ffl_option *row = ffl_option_find(level, name);
    uint32_t n = room < sizeof(int) ? sizeof(int) : room > sizeof(data) ? sizeof(data) : room;
    if (row && row->flags & FFL_OPTION_ASKS && !user_copy(data, val, n < room ? n : room))
        return -EFAULT;
    int rc = ffl_client_getsockopt(s->session->c, s->h, level, name, data, &n);
    bool byte =
        level == IPPROTO_IP && name != IP_MULTICAST_IF && n == sizeof(int) && room && room < n;
    if (byte && !data[1] && !data[2] && !data[3]) /* as the kernel, for IPPROTO_IP alone */
        room = 1;
    return rc < 0 ? rc : give_option(val, len, room, data, n);
}

API int getsockopt(int fd, int level, int name, void *val, socklen_t *len)
{
    real_start();
    struct sock *s = sock_enter_stack(fd);
    return s ? (int)leave(get_option(s, level, name, val, len))
             : real.getsockopt(fd, level, name, val, len);
}

/* The length of the next datagram. */
static int dgram_next(struct sock *s)
{
    struct iovec none = {.iov_base = NULL};
    struct ffl_dgram d;
    if (!sock_queued(s)) /* an error is for another call */
        return 0;
    ssize_t n = dgram_recv(s, &none, 1, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT, &d);
    return n < 0 ? 0 : (int)n;
}

/* Writes to the program's memory: 0 or -errno. */
static int give_int(void *to, int value)
{
    return user_copy(to, &value, sizeof(value)) ? 0 : -EFAULT;
}

static int give_stamp(struct sock *s, void *to, bool ns)
{
    int64_t stamp = s->type == SOCK_DGRAM ? dgram_stamp(s) : -ENOENT;
    if (stamp < 0)
        return (int)stamp;
    int64_t pair[2] = {stamp / FFL_NS_PER_SEC, stamp % FFL_NS_PER_SEC / (ns ? 1 : 1000)};
    return user_copy(to, pair, sizeof(pair)) ? 0 : -EFAULT;
}

/* The kernel's ioctl. What the placeholder, which may be a unix socket, does not know, a socket of
 * the program's kind does: interfaces' addresses. */
static int placeholder_ioctl(int fd, unsigned long what, void *arg, const struct sock *s)
{
    int domain = s->domain, type = s->type, rc = real.ioctl(fd, what, arg);
    if (rc == 0 || errno != ENOTTY)
        return rc;
    int other = real.socket(domain, type | SOCK_CLOEXEC, 0);
    if (other < 0)
        return -1;
    rc = real.ioctl(other, what, arg);
    int saved = errno;
    real.close(other);
    errno = saved;
    return rc;
}

API int ioctl(int fd, unsigned long what, ...)
{
    real_start();
    va_list ap;
    va_start(ap, what);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    struct sock *s = sock_enter(fd);
    if (!s)
        return real.ioctl(fd, what, arg);
    int rc;
    if (what == FIONCLEX)
        s->node.cloexec = false;
    switch (s->session || what == FIONBIO || what == FIOASYNC ? what : 0) {
    case FIONREAD:
        ffl_client_reap(s->session->c);
        if (s->state == SOCK_LISTENING)
            return (int)leave(-EINVAL);
        if (!sock_queued(s))
            (void)sock_look(s);
        rc = give_int(arg, s->type == SOCK_DGRAM ? dgram_next(s) : (int)sock_queued(s));
        (void)ffl_client_arm(s->session->c, s->h, 0); /* for the next FIONREAD */
        return (int)leave(rc);
    case SIOCOUTQ:
    case SIOCOUTQNSD:
        if (what == SIOCOUTQNSD && s->type == SOCK_DGRAM)
            return (int)leave(-ENOTTY);
        if (s->state == SOCK_LISTENING)
            return (int)leave(-EINVAL);
        ffl_client_reap(s->session->c);
        return (int)leave(give_int(arg, (int)ffl_client_unsent(s->session->c, s->h)));
    case SIOCATMARK:
        return (int)leave(s->type == SOCK_DGRAM ? -ENOTTY : give_int(arg, 0));
    case SIOCGSTAMP:
    case SIOCGSTAMPNS:
        return (int)leave(give_stamp(s, arg, what == SIOCGSTAMPNS));
    case FIONBIO:
        rc = real.ioctl(fd, what, arg) < 0 ? -errno : 0; /* the placeholder has the flag */
        if (rc == 0)
            s->nonblock = *(int *)arg != 0;
        return (int)leave(rc);
    case FIOASYNC:
        rc = real.ioctl(fd, what, arg) < 0 ? -errno : 0;
        return (int)leave(rc < 0 ? rc : async_set(s, fd, *(int *)arg != 0));
    default:
        rc = s->session ? placeholder_ioctl(fd, what, arg, s) : real.ioctl(fd, what, arg);
        return (int)leave(rc < 0 ? -errno : rc);
    }
}
