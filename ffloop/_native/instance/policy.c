/* policy.c - see policy.h. */
#include "policy.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

/* ---- parsing the policy -------------------------------------------------------------------- */

static bool whole_number(const char *text, unsigned long max, unsigned long *out)
{
    char *end;
    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *out = strtoul(text, &end, 10);
    return errno == 0 && *end == '\0' && *out <= max;
}

static int find_user(const char *user, uid_t *uid, char *why, size_t whylen)
{
    unsigned long n;
    const struct passwd *pw;
    if (whole_number(user, UINT32_MAX - 1, &n)) {
        *uid = (uid_t)n;
        return 0;
    }
    if ((pw = getpwnam(user))) {
        *uid = pw->pw_uid;
        return 0;
    }
    snprintf(why, whylen, "there is no user '%s' here; a name or a number is wanted", user);
    return -EINVAL;
}

int ffl_policy_add_user(struct ffl_policy *p, const char *user, char *why, size_t whylen)
{
    if (p->nusers == FFL_POLICY_USERS) {
        snprintf(why, whylen, "more than %d users; use a group", FFL_POLICY_USERS);
        return -E2BIG;
    }
    int rc = find_user(user, &p->users[p->nusers], why, whylen);
    if (rc == 0)
        p->nusers++;
    return rc;
}

int ffl_policy_set_group(struct ffl_policy *p, const char *group, char *why, size_t whylen)
{
    unsigned long n;
    const struct group *gr = NULL;
    if (!whole_number(group, UINT32_MAX - 1, &n) && !(gr = getgrnam(group))) {
        snprintf(why, whylen, "there is no group '%s' here; a name or a number is wanted", group);
        return -EINVAL;
    }
    p->group = gr ? gr->gr_gid : (gid_t)n;
    p->has_group = true;
    return 0;
}

static bool parse_range(char *text, struct ffl_policy_ports *rule)
{
    unsigned long first, last;
    char *dash = strchr(text, '-');
    if (dash)
        *dash++ = '\0';
    if (!whole_number(text, 65535, &first) || first == 0)
        return false;
    last = first;
    if (dash && !whole_number(dash, 65535, &last))
        return false;
    rule->first = (uint16_t)first;
    rule->last = (uint16_t)last;
    return first <= last;
}

int ffl_policy_add_ports(struct ffl_policy *p, const char *rule, char *why, size_t whylen)
{
    struct ffl_policy_ports made = {0};
    int rc = 0;
    char *text = strdup(rule), *next, *range;
    if (!text)
        return -ENOMEM;
    char *ranges = strrchr(text, '=');
    if (!ranges || ranges == text || !ranges[1]) {
        snprintf(why, whylen, "'%s' is not USER=PORT[-PORT][,...], as in www=80,8000-8999", rule);
        rc = -EINVAL;
        goto out;
    }
    *ranges++ = '\0';
    made.everyone = strcmp(text, "*") == 0;
    if (!made.everyone && (rc = find_user(text, &made.uid, why, whylen)) < 0)
        goto out;
    for (range = strtok_r(ranges, ",", &next); range; range = strtok_r(NULL, ",", &next)) {
        if (!parse_range(range, &made)) {
            snprintf(why, whylen, "'%s': a port is 1 to 65535, a range FIRST-LAST", rule);
            rc = -EINVAL;
            goto out;
        }
        if (p->nports == FFL_POLICY_PORTS) {
            snprintf(why, whylen, "more than %d ranges of ports", FFL_POLICY_PORTS);
            rc = -E2BIG;
            goto out;
        }
        p->ports[p->nports++] = made;
    }
out:
    free(text);
    return rc;
}

/* ---- asking the policy --------------------------------------------------------------------- */

mode_t ffl_policy_mode(const struct ffl_policy *p)
{
    if (p->any_user || p->nusers) /* all may connect, few may attach */
        return 0666;
    return p->has_group ? 0660 : 0600;
}

/* Was the peer in the group when it connected? The kernel knows. */
static bool in_group(int sock, gid_t group)
{
    gid_t few[64], *groups = few;
    socklen_t len = sizeof(few);
    int rc = getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, groups, &len);
    if (rc < 0 && errno == ERANGE && (groups = malloc(len)))
        rc = getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, groups, &len);
    bool found = false;
    for (size_t i = 0; rc == 0 && i < len / sizeof(gid_t); i++)
        found |= groups[i] == group;
    if (groups != few)
        free(groups);
    return found;
}

bool ffl_policy_admits(const struct ffl_policy *p, int sock, uid_t uid, gid_t gid)
{
    if (p->any_user || uid == 0 || uid == geteuid())
        return true;
    for (unsigned i = 0; i < p->nusers; i++)
        if (p->users[i] == uid)
            return true;
    return p->has_group && (gid == p->group || in_group(sock, p->group));
}

bool ffl_policy_may_bind(const struct ffl_policy *p, uid_t uid, uint16_t port)
{
    if (p->nports == 0 || port == 0)
        return true;
    for (unsigned i = 0; i < p->nports; i++) {
        const struct ffl_policy_ports *r = &p->ports[i];
        if ((r->everyone || r->uid == uid) && r->first <= port && port <= r->last)
            return true;
    }
    return false;
}
