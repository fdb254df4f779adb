/*
 * path.c - the unix socket's place: one instance at a time, and nothing for others to swap.
 *
 * bind and listen are this file's own, so that something can happen at just that moment.
 */
#include "lab.h"

#include "../../ffloop/_native/instance/internal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static void (*after_bind)(void), (*before_listen)(void);
static char dir[64], path[128];

static void once(void (**what)(void))
{
    void (*f)(void) = *what;
    *what = NULL;
    if (f)
        f();
}

int bind(int s, const struct sockaddr *a, socklen_t len)
{
    int rc = (int)syscall(SYS_bind, s, a, len);
    if (a->sa_family == AF_UNIX)
        once(&after_bind);
    return rc;
}

int listen(int s, int backlog)
{
    once(&before_listen);
    return (int)syscall(SYS_listen, s, backlog);
}

static void make_dir(void)
{
    snprintf(dir, sizeof(dir), "/tmp/ffl-path-XXXXXX");
    CHECK(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/instance.sock", dir);
}

static int start(struct ffl_instance **in, char *why)
{
    struct ffl_instance_opts o;
    ffl_instance_opts_default(&o);
    o.stack = ffl_stack_find("sim");
    o.path = path;
    o.policy.any_user = true;
    return ffl_instance_start(in, &o, why, 256);
}

static int reach(void)
{
    struct sockaddr_un sa;
    socklen_t len;
    CHECK_EQ(ffl_unix_addr(path, &sa, &len), 0);
    int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int rc = connect(s, (struct sockaddr *)&sa, len) < 0 ? -errno : 0;
    close(s);
    return rc;
}

static void start_another(void)
{
    struct ffl_instance *in;
    char why[256] = "";
    CHECK_EQ(start(&in, why), -EADDRINUSE);
    CHECK(strstr(why, "another instance"));
}

/* The one is not there yet when the other looks: it is not taken for a dead one's leavings. */
TEST(two_starts_at_one_moment)
{
    struct ffl_instance *in;
    char why[256] = "";
    make_dir();
    before_listen = start_another;
    CHECK_EQ(start(&in, why), 0);
    CHECK(!before_listen);
    start_another();
    CHECK_EQ(reach(), 0);
    ffl_instance_free(in);
    CHECK_EQ(rmdir(dir), 0); /* nothing is left, the lock neither */
}

static char victim[128];

/* What whoever may write in the directory can do at that moment. */
static void swap(void)
{
    char aside[160];
    snprintf(aside, sizeof(aside), "%s.aside", path);
    if (rename(path, aside) < 0)
        CHECK_EQ(errno, ENOENT);
    CHECK_EQ(symlink(victim, path), 0);
}

TEST(a_link_in_its_place_changes_nothing)
{
    struct ffl_instance *in;
    struct stat st;
    char why[256] = "";
    make_dir();
    snprintf(victim, sizeof(victim), "%s/secret", dir);
    close(open(victim, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    after_bind = swap;
    CHECK_EQ(start(&in, why), 0);
    CHECK(!after_bind);
    CHECK_EQ(stat(victim, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0600);
    CHECK_EQ(lstat(path, &st), 0);
    CHECK(S_ISSOCK(st.st_mode));
    CHECK_EQ(st.st_mode & 0777, 0666);
    CHECK_EQ(reach(), 0);
    ffl_instance_free(in);
    CHECK_EQ(unlink(victim), 0);
    CHECK_EQ(rmdir(dir), 0);
}

TEST(what_it_leaves_behind)
{
    struct ffl_instance *in;
    struct stat st;
    char why[256] = "";
    make_dir();
    for (int dead = 0; dead < 2; dead++) { /* an instance's leavings are no hindrance */
        struct sockaddr_un sa;
        socklen_t len;
        CHECK_EQ(ffl_unix_addr(path, &sa, &len), 0);
        int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        CHECK_EQ(bind(s, (struct sockaddr *)&sa, len), 0);
        close(s);
        CHECK_EQ(start(&in, why), 0);
        CHECK_EQ(reach(), 0);
        ffl_instance_free(in);
        CHECK(lstat(path, &st) < 0);
    }
    CHECK_EQ(start(&in, why), 0);
    CHECK_EQ(unlink(path), 0);
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)); /* somebody else's from now on */
    ffl_instance_free(in);
    CHECK_EQ(lstat(path, &st), 0);
    CHECK_EQ(start(&in, why), -EEXIST);
    CHECK_EQ(unlink(path), 0);
    CHECK_EQ(rmdir(dir), 0);
}
