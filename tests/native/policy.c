/* policy.c - routes, variables, places, the choice of an instance,
 * options that are carried over. */
#include "harness.h"

#include "carry.h"
#include "choice.h"
#include "place.h"
#include "setting.h"
#include "spin.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* ---- routes -------------------------------------------------------------------------------- */

static struct ffl_addr address(const char *text)
{
    struct ffl_addr a = {.family = strchr(text, ':') ? AF_INET6 : AF_INET};
    CHECK_EQ(inet_pton(a.family, text, a.ip), 1);
    return a;
}

TEST(a_rule_means_what_it_says)
{
    static const struct {
        const char *rules, *stack, *to;
        bool on_stack;
    } cases[] = {
        {"", "host", "127.0.0.1", true},
        {"", "sim", "::1", true},
        {"", "fstack", "127.9.9.9", false},
        {"", "fstack", "::1", false},
        {"", "fstack", "::ffff:127.0.0.1", false},
        {"", "fstack", "0.0.0.0", true},
        {"", "fstack", "::", true},
        {"127.0.0.0/8=stack", "fstack", "127.0.0.1", true},
        {"10.0.0.0/8=stack,127.0.0.0/8=kernel", "host", "127.0.0.1", false},
        {"10.0.0.0/8=stack, 127.0.0.0/8=kernel", "host", "127.0.0.1", false},
        {" \t10.1.0.0/16 = stack ,,\n10.0.0.0/8 =kernel , ", "host", "10.1.1.1", true},
        {" \t10.1.0.0/16 = stack ,,\n10.0.0.0/8 =kernel , ", "host", "10.2.1.1", false},
        {"127.0.0.0/8=KERNEL", "host", "127.0.0.1", false},
        {"127.0.0.0/8=kernel", "host", "::ffff:127.0.0.1", false},
        {"::ffff:127.0.0.0/104=kernel", "host", "127.0.0.1", false},
        {"::ffff:127.0.0.0/104=kernel", "host", "::ffff:127.8.8.8", false},
        {"::FFFF:0:0/96=kernel", "host", "10.0.0.1", false},
        {"::/0=kernel", "host", "10.0.0.1", true},
        {"::/0=kernel", "host", "::ffff:10.0.0.1", true},
        {"0.0.0.0/0=kernel", "host", "0.0.0.0", false},
        {"0.0.0.0/0=kernel", "host", "::1", true},
        {"10.0.0.5=kernel", "host", "10.0.0.5", false},
        {"10.0.0.5=kernel", "host", "10.0.0.6", true},
        {"10.0.0.0/9=kernel", "host", "10.128.0.0", true},
        {"FE80::/10=kernel", "host", "fe80::1", false},
    };
    char why[FFL_SETTING_WHY];
    for (size_t i = 0; i < FFL_COUNT(cases); i++) {
        struct ffl_route r;
        struct ffl_addr to = address(cases[i].to);
        if (ffl_route_parse(&r, "FFLOOP_ROUTES", cases[i].rules, why, sizeof(why)) < 0)
            FAIL("%s", why);
        if (ffl_route_on_stack(&r, cases[i].stack, &to) != cases[i].on_stack)
            FAIL("'%s' on %s: %s", cases[i].rules, cases[i].stack, cases[i].to);
    }
}

TEST(all_is_the_stacks)
{
    static const struct {
        const char *rules, *stack;
        bool all;
    } cases[] = {
        {"", "host", true},
        {"10.0.0.0/8=kernel", "host", false},
        {"10.0.0.0/8=stack", "host", true},
        {"", "fstack", false}, /* loopback is the kernel's */
        {"127.0.0.0/8=stack", "fstack", false},
        {"127.0.0.1=stack,::1=stack", "fstack", false},
        {"127.0.0.0/8=stack,::1=stack", "fstack", true},
        {"0.0.0.0/0=stack,::/0=stack", "fstack", true},
        {"0.0.0.0/0=stack,::/0=stack,10.0.0.5=kernel", "fstack", false},
    };
    char why[FFL_SETTING_WHY];
    for (size_t i = 0; i < FFL_COUNT(cases); i++) {
        struct ffl_route r;
        CHECK_EQ(ffl_route_parse(&r, "routes", cases[i].rules, why, sizeof(why)), 0);
        if (ffl_route_all(&r, cases[i].stack) != cases[i].all)
            FAIL("'%s' on %s", cases[i].rules, cases[i].stack);
    }
}

TEST(a_malformed_rule_is_named_and_why)
{
    static const struct {
        const char *rules, *rule, *words;
    } cases[] = {
        {"10.0.0.0/8", "'10.0.0.0/8'", "there is no ="},
        {"10.0.0.0/8=", "'10.0.0.0/8='", "neither stack nor kernel"},
        {"1.2.3.4=stack, 10.0.0.0/8=moon ", "'10.0.0.0/8=moon'", "neither stack nor kernel"},
        {"nonsense=stack", "'nonsense=stack'", "not an IPv4 or IPv6 address"},
        {"localhost=stack", "'localhost=stack'", "not an IPv4 or IPv6 address"},
        {"=stack", "'=stack'", "not an IPv4 or IPv6 address"},
        {"127.1=stack", "'127.1=stack'", "not an IPv4 or IPv6 address"},
        {"fe80::1%lo=stack", "'fe80::1%lo=stack'", "not an IPv4 or IPv6 address"},
        {"10.0.0.0 /8=stack", "'10.0.0.0 /8=stack'", "not an IPv4 or IPv6 address"},
        {"127.0.0.0/8x=kernel", "'127.0.0.0/8x=kernel'", "bits after / are not a number"},
        {"127.0.0.0/=kernel", "'127.0.0.0/=kernel'", "bits after / are missing"},
        {"127.0.0.0/-1=kernel", "'127.0.0.0/-1=kernel'", "bits after / are not a number"},
        {"127.0.0.0/255.0.0.0=kernel", "'127.0.0.0/255.0.0.0=kernel'", "are not a number"},
        {"127.0.0.0/33=kernel", "'127.0.0.0/33=kernel'", "more than 32 bits"},
        {"::/129=kernel", "'::/129=kernel'", "more than 128 bits"},
        {"127.0.0.1/8=kernel", "'127.0.0.1/8=kernel'", "is 127.0.0.0/8 meant?"},
        {"2001:db8::1/32=kernel", "'2001:db8::1/32=kernel'", "is 2001:db8::/32 meant?"},
        {"10.0.0.1/31=kernel", "'10.0.0.1/31=kernel'", "is 10.0.0.0/31 meant?"},
    };
    for (size_t i = 0; i < FFL_COUNT(cases); i++) {
        struct ffl_route r;
        char why[FFL_SETTING_WHY] = "";
        CHECK_EQ(ffl_route_parse(&r, "routes", cases[i].rules, why, sizeof(why)), -EINVAL);
        CHECK_EQ(r.n, 0); /* not even those before it */
        if (!strstr(why, cases[i].rule) || !strstr(why, cases[i].words) ||
            strncmp(why, "routes:", 7))
            FAIL("'%s': %s", cases[i].rules, why);
    }
}

TEST(there_is_a_last_rule)
{
    char text[FFL_ROUTE_RULES * 20 + 20] = "", why[FFL_SETTING_WHY];
    struct ffl_route r;
    for (int i = 0; i < FFL_ROUTE_RULES; i++)
        strcat(text, "10.0.0.0/8=stack,");
    CHECK_EQ(ffl_route_parse(&r, "routes", text, why, sizeof(why)), 0);
    CHECK_EQ(r.n, FFL_ROUTE_RULES);
    strcat(text, "10.0.0.0/8=stack");
    CHECK_EQ(ffl_route_parse(&r, "routes", text, why, sizeof(why)), -EINVAL);
    CHECK(strstr(why, "more than 64 rules"));
}

/* ---- addresses ----------------------------------------------------------------------------- */

TEST(who_would_get_a_packet)
{
    static const struct {
        const char *a, *b;
        bool overlap, v6only; /* both of them */
    } cases[] = {
        {"10.0.0.1", "10.0.0.1", 1, 1}, {"10.0.0.1", "10.0.0.2", 0, 0},
        {"0.0.0.0", "10.0.0.1", 1, 1},  {"::", "::1", 1, 1},
        {"::", "10.0.0.1", 1, 0},       {"::", "0.0.0.0", 1, 0},
        {"0.0.0.0", "::1", 0, 0},       {"::ffff:10.0.0.1", "10.0.0.1", 1, 1},
        {"::1", "127.0.0.1", 0, 0},     {"::ffff:0.0.0.0", "10.0.0.1", 1, 1},
    };
    for (size_t i = 0; i < FFL_COUNT(cases); i++) {
        struct ffl_addr a = address(cases[i].a), b = address(cases[i].b);
        if (ffl_addr_overlap(&a, false, &b, false) != cases[i].overlap ||
            ffl_addr_overlap(&b, false, &a, false) != cases[i].overlap ||
            ffl_addr_overlap(&a, true, &b, true) != cases[i].v6only ||
            ffl_addr_overlap(&b, true, &a, true) != cases[i].v6only)
            FAIL("%s and %s", cases[i].a, cases[i].b);
        CHECK(ffl_addr_overlap(&a, true, &b, false) == cases[i].v6only || b.family == AF_INET6);
        b.port_be = 1;
        CHECK(!ffl_addr_overlap(&a, false, &b, false));
    }
}

TEST(sockaddr_there_and_back)
{
    static const char *const texts[] = {"10.1.2.3", "fe80::1", "::", "0.0.0.0"};
    struct sockaddr_storage ss;
    struct ffl_addr back;
    uint32_t len;
    for (size_t i = 0; i < FFL_COUNT(texts); i++) {
        struct ffl_addr a = address(texts[i]);
        a.port_be = htons(80);
        a.scope_id = a.family == AF_INET6 ? 3 : 0;
        CHECK_EQ(ffl_addr_to_sockaddr(&a, &ss, &len), 0);
        ffl_addr_from_sockaddr(&back, &ss, len);
        CHECK(memcmp(&a, &back, sizeof(a)) == 0);
        ffl_addr_from_sockaddr(&back, &ss, a.family == AF_INET ? len - 1 : 23);
        CHECK_EQ(back.family, AF_UNSPEC);
    }
    ffl_addr_from_sockaddr(&back, &ss, 1);
    CHECK_EQ(back.family, AF_UNSPEC);
    CHECK_EQ(ffl_addr_to_sockaddr(&(struct ffl_addr){.family = AF_UNIX}, &ss, &len), -EAFNOSUPPORT);
}

/* ---- variables ----------------------------------------------------------------------------- */

static const struct ffl_setting *row_of(const char *variable)
{
    for (unsigned i = 0; ffl_setting_at(i); i++)
        if (strcmp(ffl_setting_at(i)->variable, variable) == 0)
            return ffl_setting_at(i);
    FAIL("%s", variable);
}

TEST(values_that_are_taken)
{
    static const struct {
        const char *variable, *value;
        int64_t number;
    } cases[] = {
        {"FFLOOP_SPIN_US", "auto", FFL_SPIN_AUTO},
        {"FFLOOP_SPIN_US", " FOREVER ", FFL_SPIN_FOREVER},
        {"FFLOOP_SPIN_US", "0", 0},
        {"FFLOOP_POOL_KIB", " 4096\n", 4096},
        {"FF_NB_FSTACK_INSTANCE", "1024", 1024},
        {"FF_INITIAL_LCORE_ID", "0x4", 4},
        {"FF_INITIAL_LCORE_ID", "f0", 0xf0},
        {"FFLOOP_TIMEOUT_MS", "2147483647", 2147483647},
        {"FF_INITIAL_LCORE_ID", "8000000000000000", INT64_MIN},
    };
    char why[FFL_SETTING_WHY];
    struct ffl_config c;
    for (size_t i = 0; i < FFL_COUNT(cases); i++) {
        const struct ffl_setting *row = row_of(cases[i].variable);
        ffl_config_init(&c);
        CHECK_EQ(ffl_config_set(&c, row, "x", cases[i].value, why, sizeof(why)), 0);
        CHECK_EQ(*(int64_t *)((char *)&c + row->field), cases[i].number);
    }
    CHECK_EQ(ffl_config_set(&c, row_of("FFLOOP_RECONNECT"), "x", "No", why, sizeof(why)), 0);
    CHECK(!c.reconnect);
    CHECK_EQ(ffl_config_set(&c, row_of("FF_MULTI_SC"), "x", "TRUE", why, sizeof(why)), 0);
    CHECK(c.multi_sc);
    CHECK_EQ(ffl_config_set(&c, row_of("FFLOOP_STACK"), "x", "FStack", why, sizeof(why)), 0);
    CHECK(strcmp(c.stack, "fstack") == 0);
}

TEST(values_that_are_not)
{
    static const struct {
        const char *variable, *value, *words;
    } cases[] = {
        {"FFLOOP_SPIN_US", "fast", "expected a number of microseconds, 'auto' or 'forever'"},
        {"FFLOOP_SPIN_US", "-5", "microseconds"},
        {"FFLOOP_STACK", "linux", "expected 'host' or 'fstack'"},
        {"FFLOOP_KERNEL_SOCKETS", "steal", "expected 'adopt', 'both', 'kernel' or 'error'"},
        {"FFLOOP_FALLBACK", "yes", "expected 'kernel'"},
        {"FFLOOP_RECONNECT", "maybe", "expected 0 or 1"},
        {"FFLOOP_RECONNECT", "2", "expected 0 or 1"},
        {"FFLOOP_TX_CAP", "1e6", "expected a whole number (bytes) from 0 to 2147483647"},
        {"FFLOOP_TX_CAP", "2147483648", "to 2147483647"},
        {"FFLOOP_TX_CAP", "99999999999999999999", "to 2147483647"},
        {"FFLOOP_TX_CAP", "+1", "whole number"},
        {"FFLOOP_TX_CAP", "1_000", "whole number"},
        {"FF_NB_FSTACK_INSTANCE", "0", "from 1 to 1024"},
        {"FF_NB_FSTACK_INSTANCE", "1025", "from 1 to 1024"},
        {"FF_INITIAL_LCORE_ID", "0x0", "CPU mask in hexadecimal"},
        {"FF_INITIAL_LCORE_ID", "-1", "CPU mask in hexadecimal"},
        {"FF_INITIAL_LCORE_ID", "10000000000000000", "CPU mask in hexadecimal"},
        {"FFLOOP_ROUTES", "moon", "'moon'"},
    };
    struct ffl_config c, before;
    ffl_config_init(&before);
    for (size_t i = 0; i < FFL_COUNT(cases); i++) {
        char why[FFL_SETTING_WHY] = "";
        c = before;
        const struct ffl_setting *row = row_of(cases[i].variable);
        CHECK_EQ(ffl_config_set(&c, row, row->variable, cases[i].value, why, sizeof(why)), -EINVAL);
        CHECK(memcmp(&c, &before, sizeof(c)) == 0);
        if (!strstr(why, cases[i].words) ||
            strncmp(why, row->variable, strlen(row->variable)) != 0 || !strstr(why, cases[i].value))
            FAIL("%s", why);
    }
}

static int complaints;

static void count_complaint(const char *why)
{
    complaints++;
}

static const char *given[2]; /* a variable and its value */

static const char *environment(const char *variable)
{
    return strcmp(variable, given[0]) == 0 ? given[1] : NULL;
}

TEST(only_what_says_where_sockets_go_keeps_them_off)
{
    struct ffl_config c;
    for (unsigned i = 0; ffl_setting_at(i); i++) {
        const struct ffl_setting *row = ffl_setting_at(i);
        ffl_config_init(&c);
        given[0] = row->variable;
        given[1] = "/no such value/";
        complaints = 0;
        bool well = ffl_config_read(&c, row->users, environment, count_complaint);
        CHECK_EQ(complaints, row->kind != FFL_SETTING_TEXT);
        CHECK_EQ(well, row->kind == FFL_SETTING_TEXT || !row->places);
        given[1] = ""; /* as if it was not there */
        CHECK(ffl_config_read(&c, row->users, environment, count_complaint));
    }
}

TEST(every_variable_is_there_once)
{
    for (unsigned i = 0; ffl_setting_at(i); i++) {
        const struct ffl_setting *row = ffl_setting_at(i);
        CHECK(row->meaning && row->users && row->argument);
        CHECK(row->field < sizeof(struct ffl_config));
        for (unsigned j = 0; j < i; j++)
            CHECK(strcmp(row->variable, ffl_setting_at(j)->variable) != 0 &&
                  row->field != ffl_setting_at(j)->field);
    }
}

/* ---- the choice of an instance ------------------------------------------------------------- */

TEST(places_to_look_at)
{
    char path[FFL_CHOICE_PATH];
    setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
    CHECK_EQ(ffl_choice_place(NULL, 0, 0, path, sizeof(path)), 0);
    CHECK(strcmp(path, "/run/user/7/ffloop/instance.sock") == 0);
    CHECK_EQ(ffl_choice_place(NULL, 1, 2, path, sizeof(path)), 0);
    CHECK(strcmp(path, "/run/ffloop/instance-2.sock") == 0);
    CHECK_EQ(ffl_choice_place(NULL, 2, 0, path, sizeof(path)), -ENOENT);
    setenv("XDG_RUNTIME_DIR", "", 1);
    CHECK_EQ(ffl_choice_place(NULL, 0, 1, path, sizeof(path)), 0);
    CHECK(strcmp(path, "/run/ffloop/instance-1.sock") == 0);
    CHECK_EQ(ffl_choice_place(NULL, 1, 0, path, sizeof(path)), -ENOENT);
    CHECK_EQ(ffl_choice_place("@name", 0, 3, path, sizeof(path)), 0);
    CHECK(strcmp(path, "@name-3") == 0);
    CHECK_EQ(ffl_choice_place("/run/v1.2/x", 0, 1, path, sizeof(path)), 0);
    CHECK(strcmp(path, "/run/v1.2/x-1") == 0);
    CHECK_EQ(ffl_choice_place("@name", 1, 0, path, sizeof(path)), -ENOENT);
    CHECK_EQ(ffl_choice_place("/run/x.sock", 0, 0, path, 11), -ENAMETOOLONG);
    CHECK(ffl_choice_next(-ENOENT) && ffl_choice_next(-ECONNREFUSED) && !ffl_choice_next(-EACCES) &&
          !ffl_choice_next(0));
}

TEST(workers_take_turns)
{
    CHECK_EQ(ffl_choice_index(1, 0, 2), 1);
    CHECK_EQ(ffl_choice_index(1, 1, 2), 0);
    CHECK_EQ(ffl_choice_index(INT32_MAX, INT32_MAX, 1024), 1022);
    CHECK_EQ(ffl_choice_cpu(0, 5), -1);
    CHECK_EQ(ffl_choice_cpu(0x4, 3), 5);
    CHECK_EQ(ffl_choice_cpu(1ull << 63, 0), 63);
}

static void write_here(const char *dir, mode_t mode)
{
    CHECK_EQ(chmod(dir, mode), 0);
}

TEST(a_directory_that_others_may_write_is_no_place_unless_it_is_sticky)
{
    char why[FFL_SETTING_WHY], dir[] = "place.XXXXXX", path[64];
    CHECK(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/instance.sock", dir);
    write_here(dir, 0755);
    CHECK_EQ(ffl_place_check(path, NULL, why, sizeof(why)), 0);
    write_here(dir, 01777);
    CHECK_EQ(ffl_place_check(path, NULL, why, sizeof(why)), 0);
    write_here(dir, 0777);
    CHECK_EQ(ffl_place_check(path, NULL, why, sizeof(why)), -ENOTUNIQ);
    CHECK(strstr(why, dir) && strstr(why, "every user may write"));
    CHECK_EQ(rmdir(dir), 0);
}

/* ---- options that are carried over --------------------------------------------------------- */

static bool carries(int fd, const char *stack, const uint64_t *noted, int level, int name,
                    int value)
{
    struct ffl_optarg o;
    struct ffl_carry k;
    bool found = false;
    CHECK_EQ(ffl_carry_begin(&k, fd, stack, noted), 0);
    while (ffl_carry_next(&k, &o)) {
        int v;
        memcpy(&v, o.data, sizeof(v));
        found |= o.level == level && o.name == name && v == value;
    }
    ffl_carry_end(&k);
    return found;
}

static void set(int fd, int level, int name, int value)
{
    CHECK_EQ(setsockopt(fd, level, name, &value, sizeof(value)), 0);
}

TEST(what_was_set_is_carried_over_and_nothing_else)
{
    uint64_t noted[FFL_CARRY_WORDS] = {0};
    struct ffl_optarg o;
    struct ffl_carry k;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_EQ(ffl_carry_begin(&k, fd, "host", NULL), 0);
    CHECK(!ffl_carry_next(&k, &o)); /* a fresh one has nothing to say */
    ffl_carry_end(&k);
    set(fd, SOL_SOCKET, SO_RCVBUF, 30000);
    set(fd, IPPROTO_IP, IP_TOS, 0x10);
    CHECK(carries(fd, "host", NULL, SOL_SOCKET, SO_RCVBUF, 30000));
    CHECK(carries(fd, "host", NULL, IPPROTO_IP, IP_TOS, 0x10));
    CHECK(!carries(fd, "host", noted, IPPROTO_IP, IP_TOS, 0x10)); /* nobody noted it */
    CHECK(ffl_carry_note(noted, IPPROTO_IP, IP_TOS));
    CHECK(carries(fd, "host", noted, IPPROTO_IP, IP_TOS, 0x10));
    CHECK(!carries(fd, "host", noted, SOL_SOCKET, SO_RCVBUF, 30000));
    CHECK(!ffl_carry_note(noted, IPPROTO_IP, IP_ADD_MEMBERSHIP)); /* not to be read back */
    CHECK(!ffl_carry_note(noted, 12345, 1));
    close(fd);
}

TEST(where_the_defaults_differ_they_are_carried_over_too)
{
    uint64_t noted[FFL_CARRY_WORDS] = {0};
    int fd = socket(AF_INET6, SOCK_STREAM, 0), only = 1;
    socklen_t len = sizeof(only);
    CHECK_EQ(getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, &len), 0);
    CHECK(!carries(fd, "host", noted, IPPROTO_IPV6, IPV6_V6ONLY, only));
    CHECK(carries(fd, "fstack", noted, IPPROTO_IPV6, IPV6_V6ONLY, only));
    CHECK(carries(fd, "fstack", NULL, IPPROTO_IPV6, IPV6_V6ONLY, only));
    set(fd, IPPROTO_TCP, TCP_NODELAY, 0);
    CHECK(ffl_carry_note(noted, IPPROTO_TCP, TCP_NODELAY));
    CHECK(!carries(fd, "host", noted, IPPROTO_TCP, TCP_NODELAY, 0));
    CHECK(carries(fd, "fstack", noted, IPPROTO_TCP, TCP_NODELAY, 0));
    close(fd);
}

TEST(what_a_refusal_means)
{
    static const struct {
        const char *stack, *text;
        int level, name, rc;
        enum ffl_carry_fate fate;
    } cases[] = {
        {"host", "SO_MARK", SOL_SOCKET, SO_MARK, -EPERM, FFL_CARRY_STAYS},
        {"fstack", "SO_MARK", SOL_SOCKET, SO_MARK, -ENOPROTOOPT, FFL_CARRY_FAILS},
        {"fstack", "SO_LINGER", SOL_SOCKET, SO_LINGER, -EINVAL, FFL_CARRY_FAILS},
        {"fstack", "IP_XFRM_POLICY", IPPROTO_IP, 17, -ENOPROTOOPT, FFL_CARRY_FAILS},
        {"fstack", "TCP_USER_TIMEOUT", IPPROTO_TCP, 18, -ENOPROTOOPT, FFL_CARRY_GOES_ON},
        {"sim", "option 99 of level 98", 98, 99, -ENOPROTOOPT, FFL_CARRY_GOES_ON},
        {"host", "option 99 of level 98", 98, 99, -ENOPROTOOPT, FFL_CARRY_STAYS},
        {"host", "SO_MARK", SOL_SOCKET, SO_MARK, -ECONNRESET, FFL_CARRY_FAILS},
    };
    for (size_t i = 0; i < FFL_COUNT(cases); i++) {
        char why[FFL_SETTING_WHY];
        int fate = ffl_carry_refused(cases[i].stack, cases[i].level, cases[i].name, cases[i].rc,
                                     why, sizeof(why));
        CHECK(strncmp(why, cases[i].text, strlen(cases[i].text)) == 0);
        CHECK_EQ(fate, cases[i].fate);
    }
}

/* Joins what `from` has joined: how often. */
static int follow(int from, int to)
{
    struct ffl_optarg o;
    struct ffl_carry k;
    int n = 0;
    CHECK_EQ(ffl_carry_begin(&k, from, "host", NULL), 0);
    while (ffl_carry_next(&k, &o)) {
        bool group = o.name >= MCAST_JOIN_GROUP && o.name <= MCAST_LEAVE_SOURCE_GROUP;
        CHECK_EQ(setsockopt(to, o.level, o.name, o.data, o.len), 0);
        n += group;
    }
    ffl_carry_end(&k);
    return n;
}

static struct sockaddr_storage in_group(const char *text)
{
    struct sockaddr_storage ss;
    struct ffl_addr a = address(text);
    uint32_t len;
    CHECK_EQ(ffl_addr_to_sockaddr(&a, &ss, &len), 0);
    return ss;
}

static int level_of(const char *group)
{
    return strchr(group, ':') ? IPPROTO_IPV6 : IPPROTO_IP;
}

static int join(int fd, const char *group)
{
    struct group_req r = {.gr_interface = 1, .gr_group = in_group(group)}; /* lo */
    return setsockopt(fd, level_of(group), MCAST_JOIN_GROUP, &r, sizeof(r)) < 0 ? -errno : 0;
}

static int with_source(int fd, int name, const char *group, const char *source)
{
    struct group_source_req r = {
        .gsr_interface = 1, .gsr_group = in_group(group), .gsr_source = in_group(source)};
    return setsockopt(fd, level_of(group), name, &r, sizeof(r)) < 0 ? -errno : 0;
}

TEST(groups_are_joined_again_with_their_sources)
{
    int from = socket(AF_INET6, SOCK_DGRAM, 0), to = socket(AF_INET6, SOCK_DGRAM, 0);
    int other = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK_EQ(join(from, "239.1.2.3"), 0);
    CHECK_EQ(join(from, "ff12::7"), 0);
    CHECK_EQ(with_source(from, MCAST_JOIN_SOURCE_GROUP, "239.1.2.4", "127.0.0.1"), 0);
    CHECK_EQ(with_source(from, MCAST_JOIN_SOURCE_GROUP, "239.1.2.4", "127.0.0.2"), 0);
    CHECK_EQ(with_source(from, MCAST_BLOCK_SOURCE, "239.1.2.3", "127.0.0.9"), 0);
    CHECK_EQ(join(other, "239.1.2.5"), 0); /* another socket's */
    CHECK_EQ(follow(from, to), 5);
    CHECK_EQ(join(to, "239.1.2.3"), -EADDRINUSE); /* it is there */
    CHECK_EQ(join(to, "ff12::7"), -EADDRINUSE);
    CHECK_EQ(with_source(to, MCAST_JOIN_SOURCE_GROUP, "239.1.2.4", "127.0.0.2"), -EADDRNOTAVAIL);
    CHECK_EQ(with_source(to, MCAST_UNBLOCK_SOURCE, "239.1.2.3", "127.0.0.9"), 0);
    close(from);
    close(to);
    close(other);
}
