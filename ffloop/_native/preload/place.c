/*
 * place.c - which stack and which instance a socket goes to.
 *
 * Callers: sock.c, at bind, listen or connect. With fstack, loopback stays on the kernel; rules
 * (FFLOOP_ROUTES, "NETWORK/BITS=stack|kernel", first match wins) say otherwise.
 */
#include "preload.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

struct rule {
    int family, bits;
    uint8_t ip[16];
    bool stack;
};

#define RULES 64
static struct rule rules[RULES];
static int nrules;

static bool parse(const char *text, size_t len, struct rule *r)
{
    char word[80], *what, *bits;
    if (len >= sizeof(word))
        return false;
    memcpy(word, text, len);
    word[len] = '\0';
    if (!(what = strchr(word, '=')))
        return false;
    *what++ = '\0';
    if (!(bits = strchr(word, '/')))
        bits = NULL;
    else
        *bits++ = '\0';
    *r = (struct rule){.family = strchr(word, ':') ? AF_INET6 : AF_INET};
    int most = r->family == AF_INET ? 32 : 128;
    r->bits = bits ? atoi(bits) : most;
    r->stack = !strcmp(what, "stack");
    return inet_pton(r->family, word, r->ip) == 1 && r->bits >= 0 && r->bits <= most &&
           (r->stack || !strcmp(what, "kernel"));
}

void route_start(void)
{
    const char *p = options.routes;
    while (p && *p && nrules < RULES) {
        size_t len = strcspn(p, ",");
        if (parse(p, len, &rules[nrules]))
            nrules++;
        else
            report("FFLOOP_ROUTES: '%.*s' is not NETWORK/BITS=stack or =kernel: it is not used",
                   (int)len, p);
        p += len + (p[len] == ',');
    }
}

static bool within(const struct rule *r, const struct ffl_addr *a)
{
    if (r->family != a->family || memcmp(r->ip, a->ip, (size_t)r->bits / 8) != 0)
        return false;
    int rest = r->bits % 8;
    return !rest || (r->ip[r->bits / 8] ^ a->ip[r->bits / 8]) >> (8 - rest) == 0;
}

static bool is_loopback(const struct ffl_addr *a)
{
    static const uint8_t six[16] = {[15] = 1}, mapped[13] = {[10] = 0xff, 0xff, 127};
    if (a->family == AF_INET)
        return a->ip[0] == 127;
    return !memcmp(a->ip, six, 16) || !memcmp(a->ip, mapped, 13);
}

bool route(const struct sc *sc, const struct ffl_addr *a)
{
    for (int i = 0; i < nrules; i++)
        if (within(&rules[i], a))
            return rules[i].stack;
    return !(sc->fstack && is_loopback(a));
}
