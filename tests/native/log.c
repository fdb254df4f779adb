/* log.c - the log: it waits for nobody, and what one says uses up nobody else's lines. */
#include "harness.h"

#include "base.h"

#include <fcntl.h>
#include <sys/socket.h>

static void fill(int fd)
{
    char text[512];
    memset(text, '.', sizeof(text));
    int flags = fcntl(fd, F_GETFL);
    CHECK_EQ(fcntl(fd, F_SETFL, flags | O_NONBLOCK), 0);
    while (write(fd, text, sizeof(text)) > 0)
        continue;
    CHECK_EQ(fcntl(fd, F_SETFL, flags), 0); /* from now on a write would wait, for ever */
}

/* Everything that is there to be read. */
static char *drain(int fd)
{
    static char got[1 << 21];
    size_t n = 0;
    ssize_t k;
    CHECK_EQ(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    while (n < sizeof(got) - 1 && (k = read(fd, got + n, sizeof(got) - 1 - n)) > 0)
        n += (size_t)k;
    got[n] = '\0';
    return got;
}

static void nobody_reads(int to, int from)
{
    fill(to);
    ffl_log_open(to, FFL_LOG_WARNING);
    for (int i = 0; i < 5; i++)
        ffl_log(FFL_LOG_WARNING, "not to be had");
    CHECK(!strstr(drain(from), "not to be had"));
    ffl_log(FFL_LOG_WARNING, "the next");
    const char *got = drain(from);
    if (!strstr(got, "(5 lines left out) the next"))
        FAIL("it says: %s", got);
    ffl_log_open(-1, FFL_LOG_WARNING);
    close(to);
    close(from);
}

TEST(log_that_nobody_reads)
{
    int p[2];
    CHECK_EQ(pipe2(p, O_CLOEXEC), 0);
    nobody_reads(p[1], p[0]);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p), 0);
    nobody_reads(p[1], p[0]);
}

static unsigned count(const char *text, const char *what)
{
    unsigned n = 0;
    for (; (text = strstr(text, what)); text++)
        n++;
    return n;
}

TEST(log_limits_are_apart)
{
    struct ffl_log_limit loud = {0}, quiet = {0};
    int p[2];
    CHECK_EQ(pipe2(p, O_CLOEXEC), 0);
    ffl_log_open(p[1], FFL_LOG_INFO);
    for (int i = 0; i < 1000; i++)
        ffl_log_within(&loud, FFL_LOG_WARNING, "loud");
    for (int i = 0; i < 5; i++)
        ffl_log_within(&quiet, FFL_LOG_WARNING, "quiet");
    ffl_log(FFL_LOG_WARNING, "general");
    ffl_log_within(&quiet, FFL_LOG_DEBUG, "not at this level");
    ffl_log_open(-1, FFL_LOG_INFO);
    const char *got = drain(p[0]);
    CHECK(count(got, "loud") > 0 && count(got, "loud") < 100);
    CHECK_EQ(count(got, "quiet"), 5);
    CHECK_EQ(count(got, "general"), 1);
    CHECK_EQ(count(got, "not at"), 0);
    loud.since -= 2 * FFL_NS_PER_SEC; /* another second */
    ffl_log_open(p[1], FFL_LOG_INFO);
    ffl_log_within(&loud, FFL_LOG_WARNING, "again");
    ffl_log_open(-1, FFL_LOG_INFO);
    CHECK(strstr(drain(p[0]), "lines left out) again"));
    close(p[0]);
    close(p[1]);
}
