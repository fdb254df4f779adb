/*
 * rights.c - the application's rights, where a stack's sockets are the kernel's.
 *
 * Callers: start.c, session.c, control.c, accept.c. An instance may have rights that its
 * applications lack. So it drops its network capabilities, and takes up, per call, those that the
 * application has (root) or a rule of the policy gives: the kernel decides. Each socket is given to
 * the application's user, since the kernel shares a port (SO_REUSEPORT) among one user's sockets;
 * where that is not allowed, the port must be free.
 */
#include "endpoint.h"
#include "group.h"
#include "peers.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/capability.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BIT(cap) (1ULL << (cap))
/* The capabilities that a call may need. CAP_CHOWN stays in force, to give sockets away. */
#define LENT                                                                                       \
    (BIT(CAP_NET_BIND_SERVICE) | BIT(CAP_NET_BROADCAST) | BIT(CAP_NET_ADMIN) | BIT(CAP_NET_RAW))

static struct {
    uint64_t effective, permitted, inheritable;
} own; /* the instance's own; effective: those in force between calls */

static bool act_with(uint64_t effective)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct d[2] = {
        {(uint32_t)effective, (uint32_t)own.permitted, (uint32_t)own.inheritable},
        {(uint32_t)(effective >> 32), (uint32_t)(own.permitted >> 32),
         (uint32_t)(own.inheritable >> 32)}};
    return syscall(SYS_capset, &h, d) == 0;
}

/* Takes up those of `caps` that the instance has. True: they are in force. */
static bool put_on(uint64_t caps)
{
    return (caps & own.permitted) && act_with(own.effective | (caps & own.permitted));
}

static void take_off(bool had)
{
    if (had && !act_with(own.effective))
        ffl_log(FFL_LOG_ERROR, "capset: %s: applications act with this instance's rights",
                strerror(errno));
}

void rights_start(struct ffl_instance *in)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct d[2];
    if (!in->o.stack->kernel || syscall(SYS_capget, &h, d) < 0)
        return;
    own.effective = (d[0].effective | (uint64_t)d[1].effective << 32) & ~LENT;
    own.permitted = d[0].permitted | (uint64_t)d[1].permitted << 32;
    own.inheritable = d[0].inheritable | (uint64_t)d[1].inheritable << 32;
    take_off((d[0].effective | (uint64_t)d[1].effective << 32) & LENT);
}

/* Is the process in another user namespace? Its root has no rights in the instance's. */
static bool foreign_root(int pid)
{
    char path[64];
    struct stat ours, its;
    snprintf(path, sizeof(path), "/proc/%d/ns/user", pid);
    return stat("/proc/self/ns/user", &ours) == 0 && stat(path, &its) == 0 &&
           (ours.st_ino != its.st_ino || ours.st_dev != its.st_dev);
}

/* Only root counts: another process may have got a capability by an exec since it connected. Root
 * of an unseen PID namespace (pid 0) has no rights, as a container's root may be reduced. Nor has a
 * process that has ended: its number may be another's by now. */
uint64_t rights_of(const struct ffl_session *s)
{
    char path[64], line[256];
    unsigned long long caps = 0;
    if (!s->in->o.stack->kernel || s->uid != 0 || foreign_root((int)s->pid))
        return 0;
    snprintf(path, sizeof(path), "/proc/%d/status", (int)s->pid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f))
        (void)sscanf(line, "CapEff: %llx", &caps); /* other lines leave it alone */
    if (f)
        (void)fclose(f);
    struct pollfd end = {.fd = s->pidfd, .events = POLLIN};
    return s->pidfd >= 0 && poll(&end, 1, 0) == 0 ? caps & LENT : 0;
}

void rights_own(struct ffl_session *s, int fd)
{
    if (s->in->o.stack->kernel && s->uid != geteuid() && !s->foreign)
        s->foreign = fchown(fd, s->uid, (gid_t)-1) < 0;
}

/* Binds without SO_REUSEPORT, so that the kernel refuses a port that is in use. */
static int bind_alone(struct endpoint *e, const struct ffl_addr *a)
{
    struct ffl_instance *in = e->s->in;
    int off = 0, on = endpoint_option(e, SOL_SOCKET, SO_REUSEPORT), rc = 0;
    if (on)
        rc = OPS(in)->setsockopt(ST(in), e->fd, SOL_SOCKET, SO_REUSEPORT, &off, sizeof(off));
    if (rc == 0)
        rc = OPS(in)->bind(ST(in), e->fd, a);
    if (on)
        (void)OPS(in)->setsockopt(ST(in), e->fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
    return rc;
}

int rights_bind(struct endpoint *e, const struct ffl_addr *a)
{
    struct ffl_instance *in = e->s->in;
    uint16_t port = ntohs(a->port_be);
    if (!in->o.stack->kernel)
        return OPS(in)->bind(ST(in), e->fd, a);
    bool given = port && in->o.policy.nports && ffl_policy_may_bind(&in->o.policy, e->s->uid, port);
    bool had = put_on(e->s->caps | (given ? BIT(CAP_NET_BIND_SERVICE) : 0));
    int rc = e->s->foreign && port && !handover_ours(e, a) ? bind_alone(e, a)
                                                           : OPS(in)->bind(ST(in), e->fd, a);
    take_off(had);
    return rc;
}

int rights_setsockopt(struct endpoint *e, const struct ffl_optarg *o)
{
    struct ffl_instance *in = e->s->in;
    bool had = put_on(e->s->caps);
    int rc = OPS(in)->setsockopt(ST(in), e->fd, o->level, o->name, o->data, o->len);
    take_off(had);
    return rc;
}
