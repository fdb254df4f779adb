/* option.c - the table of socket options: what every row must be, and that this kernel fits it. */
#include "harness.h"

#include "layout.h"
#include "option.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

TEST(rows)
{
    const struct ffl_option *o;
    unsigned n = 0;
    for (; (o = ffl_option_at(n)); n++) {
        CHECK(o->size > 0 && o->size <= FFL_OPT_MAX);
        CHECK(ffl_option_find(o->level, o->name) == o); /* or it stands there twice */
        unsigned both = o->flags & (FFL_OPTION_GET | FFL_OPTION_SET);
        if (o->flags & FFL_OPTION_CARRY) /* of one that no stack has: it is refused by its name */
            CHECK(!both || both == (FFL_OPTION_GET | FFL_OPTION_SET) ||
                  o->kind == FFL_OPTION_PROGRAM); /* which is read in another way */
        if (o->kind <= FFL_OPTION_HALVED)
            CHECK_EQ(o->size, sizeof(int));
        if (!both)
            CHECK_EQ(o->bsd, FFL_BSD_NONE);
        CHECK(strchr(o->text, '_'));
    }
    CHECK(n > 100);
    CHECK(!ffl_option_find(SOL_SOCKET, 9999));
    CHECK(!ffl_option_find(IPPROTO_TCP, TCP_REPAIR)); /* a privilege, and of no use over a ring */
}

/* What this kernel says of each row that can be read must fit the row. */
TEST(rows_are_the_kernels)
{
    int fd[] = {socket(AF_INET, SOCK_STREAM, 0), socket(AF_INET, SOCK_DGRAM, 0),
                socket(AF_INET6, SOCK_STREAM, 0), socket(AF_INET6, SOCK_DGRAM, 0)};
    const struct ffl_option *o;
    for (unsigned i = 0; (o = ffl_option_at(i)); i++)
        for (unsigned k = 0; k < FFL_COUNT(fd); k++) {
            uint8_t val[1024];
            socklen_t len = sizeof(val);
            if (!(o->flags & FFL_OPTION_GET) || o->name == IP_MSFILTER ||
                getsockopt(fd[k], o->level, o->name, val, &len) < 0)
                continue;
            if (len > o->size || (o->kind <= FFL_OPTION_HALVED && len != o->size))
                FAIL("%s: %u bytes, not %u", o->text, (unsigned)len, (unsigned)o->size);
        }
    for (unsigned k = 0; k < FFL_COUNT(fd); k++)
        close(fd[k]);
}
