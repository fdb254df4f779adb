/* route.c - see route.h. */
#include "route.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define MAPPED_BITS 96

/* The text's begin after blanks; *end moves to before the blanks behind it. */
static const char *trim(const char *p, const char **end)
{
    while (p < *end && strchr(FFL_BLANKS, *p))
        p++;
    while (*end > p && strchr(FFL_BLANKS, (*end)[-1]))
        (*end)--;
    return p;
}

/* A copy of the trimmed text, if there is room. */
static bool copy(char *out, size_t len, const char *p, const char *end)
{
    p = trim(p, &end);
    if ((size_t)(end - p) >= len)
        return false;
    memcpy(out, p, (size_t)(end - p));
    out[end - p] = '\0';
    return true;
}

static const char *parse_bits(const char *text, unsigned most, unsigned *bits)
{
    *bits = 0;
    for (const char *p = text; *p; p++) {
        if (*p < '0' || *p > '9' || p - text > 2)
            return "the bits after / are not a number";
        *bits = *bits * 10 + (unsigned)(*p - '0');
    }
    if (!*text)
        return "the bits after / are missing";
    return *bits <= most ? NULL : most == 32 ? "more than 32 bits" : "more than 128 bits";
}

static bool host_bits(struct ffl_addr *a, unsigned bits)
{
    bool any = false;
    for (unsigned i = bits; i < (a->family == AF_INET ? 32u : 128u); i++) {
        uint8_t bit = (uint8_t)(0x80 >> i % 8);
        any |= a->ip[i / 8] & bit;
        a->ip[i / 8] &= (uint8_t)~bit;
    }
    return any;
}

#define HINT 96 /* room for a sentence that parse_network makes */

static const char *parse_network(char *text, struct ffl_route_rule *r, char *hint)
{
    char *slash = strchr(text, '/');
    if (slash)
        *slash++ = '\0';
    r->net = (struct ffl_addr){.family = strchr(text, ':') ? AF_INET6 : AF_INET};
    if (inet_pton(r->net.family, text, r->net.ip) != 1)
        return "the network is not an IPv4 or IPv6 address";
    unsigned most = r->net.family == AF_INET ? 32 : 128;
    const char *wrong = slash ? parse_bits(slash, most, &r->bits) : NULL;
    if (!slash)
        r->bits = most;
    if (wrong)
        return wrong;
    struct ffl_addr plain = ffl_addr_plain(&r->net);
    if (plain.family != r->net.family && r->bits >= MAPPED_BITS) {
        r->net = plain;
        r->bits -= MAPPED_BITS;
    }
    if (!host_bits(&r->net, r->bits))
        return NULL;
    char net[INET6_ADDRSTRLEN];
    inet_ntop(r->net.family, r->net.ip, net, sizeof(net));
    snprintf(hint, HINT, "bits are set behind the network's: is %s/%u meant?", net, r->bits);
    return hint;
}

/* NULL, or a sentence that says what is malformed. */
static const char *parse_rule(const char *p, const char *end, struct ffl_route_rule *r, char *hint)
{
    char network[64], where[16];
    const char *equals = memchr(p, '=', (size_t)(end - p));
    if (!equals)
        return "there is no =";
    if (!copy(where, sizeof(where), equals + 1, end) ||
        (strcasecmp(where, "stack") != 0 && strcasecmp(where, "kernel") != 0))
        return "what follows = is neither stack nor kernel";
    r->stack = strcasecmp(where, "stack") == 0;
    if (!copy(network, sizeof(network), p, equals))
        return "the network is not an IPv4 or IPv6 address";
    return parse_network(network, r, hint);
}

int ffl_route_parse(struct ffl_route *r, const char *source, const char *text, char *why,
                    size_t whylen)
{
    char hint[HINT];
    r->n = 0;
    for (const char *p = text; *p; p += strspn(p, ",")) {
        const char *next = p + strcspn(p, ","), *end = next, *wrong;
        p = trim(p, &end);
        if (p < end &&
            (wrong = r->n == FFL_ROUTE_RULES ? "there are more than 64 rules"
                                             : parse_rule(p, end, &r->rule[r->n], hint))) {
            r->n = 0;
            snprintf(why, whylen, "%s: '%.*s' is not NETWORK/BITS=stack or =kernel: %s", source,
                     (int)(end - p), p, wrong);
            return -EINVAL;
        }
        r->n += p < end;
        p = next;
    }
    return 0;
}

bool ffl_route_polls(const char *stack)
{
    return strcmp(stack, "fstack") == 0;
}

bool ffl_route_on_stack(const struct ffl_route *r, const char *stack, const struct ffl_addr *a)
{
    const struct ffl_addr plain = ffl_addr_plain(a);
    for (unsigned i = 0; i < r->n; i++)
        if (ffl_addr_within(&plain, &r->rule[i].net, r->rule[i].bits))
            return r->rule[i].stack;
    return !ffl_route_polls(stack) || !ffl_addr_loopback(&plain);
}

/* Is all of loopback the stack's by rule? */
static bool has_loopback(const struct ffl_route *r, const struct ffl_addr *a, unsigned bits)
{
    for (unsigned i = 0; i < r->n; i++)
        if (r->rule[i].bits <= bits && ffl_addr_within(a, &r->rule[i].net, r->rule[i].bits))
            return true;
    return false;
}

bool ffl_route_all(const struct ffl_route *r, const char *stack)
{
    static const struct ffl_addr four = {.family = AF_INET, .ip = {127, [3] = 1}};
    static const struct ffl_addr six = {.family = AF_INET6, .ip = {[15] = 1}};
    for (unsigned i = 0; i < r->n; i++)
        if (!r->rule[i].stack)
            return false;
    return !ffl_route_polls(stack) || (has_loopback(r, &four, 8) && has_loopback(r, &six, 128));
}

bool ffl_route_same_kernel(const char *stack)
{
    return strcmp(stack, "host") == 0;
}
