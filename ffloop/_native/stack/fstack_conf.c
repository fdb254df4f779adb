/* fstack_conf.c - options and configuration of the F-Stack stack. See fstack_conf.h. */
#include "fstack_conf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct args { /* from the command line; NULL: not given */
    const char *conf, *proc_type, *proc_id, *eal, *iface, *driver, *addr, *gateway, *addr6,
        *gateway6, *delay, *idle_sleep, *lcore_mask;
};

static int complain(char *why, size_t len, int rc, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static int complain(char *why, size_t len, int rc, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, len, fmt, ap);
    va_end(ap);
    return rc;
}

static int split(struct args *a, const struct ffl_stack_opts *opts, char *why, size_t whylen)
{
    const struct {
        const char *key;
        const char **to;
    } keys[] = {
        {"conf", &a->conf},
        {"proc-type", &a->proc_type},
        {"proc-id", &a->proc_id},
        {"eal", &a->eal},
        {"iface", &a->iface},
        {"driver", &a->driver},
        {"addr", &a->addr},
        {"gateway", &a->gateway},
        {"addr6", &a->addr6},
        {"gateway6", &a->gateway6},
        {"pkt-tx-delay", &a->delay},
        {"idle-sleep", &a->idle_sleep},
        {"lcore-mask", &a->lcore_mask},
    };
    for (int i = 0; i < opts->argc; i++) {
        const char *eq = strchr(opts->argv[i], '=');
        size_t n = eq ? (size_t)(eq - opts->argv[i]) : 0, k = 0;
        while (k < FFL_COUNT(keys) &&
               (n != strlen(keys[k].key) || strncmp(opts->argv[i], keys[k].key, n) != 0))
            k++;
        if (!eq || k == FFL_COUNT(keys))
            return complain(why, whylen, -EINVAL, "the fstack stack has no option '%s'",
                            opts->argv[i]);
        *keys[k].to = eq + 1;
    }
    return 0;
}

static int add_eal(struct fstack_conf *c, const char *text)
{
    char *copy = strdup(text), *save = NULL;
    int rc = copy ? 0 : -ENOMEM;
    for (char *t = copy ? strtok_r(copy, " \t", &save) : NULL; t;
         t = strtok_r(NULL, " \t", &save)) {
        if (c->neal == FSTACK_MAX_EAL || !(c->eal[c->neal] = strdup(t))) {
            rc = -E2BIG;
            break;
        }
        c->neal++;
    }
    free(copy);
    return rc;
}

/* ---- checks before ff_init ----------------------------------------------------------------- */

static int check_hugepages(const struct args *a, char *why, size_t whylen)
{
    if (a->eal && strstr(a->eal, "--no-huge"))
        return 0;
    char line[512];
    bool mounted = false;
    long free_pages = 0;
    FILE *f = fopen("/proc/mounts", "re");
    while (f && fgets(line, sizeof(line), f))
        mounted |= strstr(line, " hugetlbfs ") != NULL;
    if (f)
        fclose(f);
    f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof(line), f))
        (void)sscanf(line, "HugePages_Free: %ld", &free_pages);
    if (f)
        fclose(f);
    if (!mounted)
        return complain(why, whylen, -ENODEV,
                        "no hugetlbfs is mounted: mkdir -p /dev/hugepages && mount -t hugetlbfs "
                        "nodev /dev/hugepages");
    if (free_pages == 0)
        return complain(why, whylen, -ENOMEM,
                        "no huge page is free: sysctl -w vm.nr_hugepages=512");
    return 0;
}

/* Reads the first port's addresses, for the start-up line,
 * and checks that the file is F-Stack's. */
static int scan_conf(struct fstack_conf *c, char *why, size_t whylen)
{
    char line[512], section[64] = "";
    bool dpdk = false, port = false;
    FILE *f = fopen(c->path, "re");
    if (!f)
        return complain(why, whylen, -errno, "configuration '%s': %s", c->path, strerror(errno));
    while (fgets(line, sizeof(line), f)) {
        char value[256];
        if (sscanf(line, " [%63[^]]]", section) == 1) {
            dpdk |= strcmp(section, "dpdk") == 0;
            port |= strncmp(section, "port", 4) == 0;
        } else if (sscanf(line, " lcore_mask = %255[0-9a-fA-Fx]", value) == 1) {
            c->nprocs = __builtin_popcountll(strtoull(value, NULL, 16));
        } else if (strncmp(section, "port", 4) == 0) {
            if (!c->addr[0] && sscanf(line, " addr = %255[^ \t\r\n]", value) == 1)
                snprintf(c->addr, sizeof(c->addr), "%.63s", value);
            if (!c->addr6[0] && sscanf(line, " addr6 = %255[^ \t\r\n]", value) == 1)
                snprintf(c->addr6, sizeof(c->addr6), "%.63s", value);
        }
    }
    fclose(f);
    if (!dpdk || !port)
        return complain(why, whylen, -EINVAL,
                        "configuration '%s' has no [%s] section: it is not F-Stack's config.ini",
                        c->path, dpdk ? "port0" : "dpdk");
    return 0;
}

/* ---- the short form ------------------------------------------------------------------------ */

struct net4 {
    char addr[16], mask[16], broadcast[16], gateway[16];
    char more[256]; /* further addresses in F-Stack's form: "A;B" */
};

static int parse_prefix(const char *text, int af, void *out, int max, char *host, size_t hostlen)
{
    const char *slash = strchr(text, '/');
    if (!slash || (size_t)(slash - text) >= hostlen)
        return -EINVAL;
    memcpy(host, text, (size_t)(slash - text));
    host[slash - text] = '\0';
    char *end;
    long bits = strtol(slash + 1, &end, 10);
    if (inet_pton(af, host, out) != 1 || *end || end == slash + 1 || bits < 1 || bits > max)
        return -EINVAL;
    return (int)bits;
}

/* "A/BITS[,B...]" */
static int parse_addrs(const char *text, struct in_addr *ip, struct net4 *n)
{
    char copy[320], *save = NULL, *each;
    size_t used = 0;
    struct in_addr more;
    if (snprintf(copy, sizeof(copy), "%s", text) >= (int)sizeof(copy) ||
        !(each = strtok_r(copy, ",", &save)))
        return -EINVAL;
    int bits = parse_prefix(each, AF_INET, ip, 30, n->addr, sizeof(n->addr));
    n->more[0] = '\0';
    while (bits > 0 && (each = strtok_r(NULL, ",", &save))) {
        if (inet_pton(AF_INET, each, &more) != 1 || used + strlen(each) + 2 > sizeof(n->more))
            return -EINVAL;
        used += (size_t)sprintf(n->more + used, "%s%s", used ? ";" : "", each);
    }
    return bits;
}

static int derive4(const struct args *a, struct net4 *n, char *why, size_t whylen)
{
    struct in_addr ip, x;
    int bits = parse_addrs(a->addr, &ip, n);
    if (bits < 0)
        return complain(why, whylen, -EINVAL,
                        "--addr takes A.B.C.D/BITS (1 to 30), and further addresses after commas, "
                        "not '%s'",
                        a->addr);
    uint32_t mask = htonl(~0u << (32 - bits));
    x.s_addr = mask;
    inet_ntop(AF_INET, &x, n->mask, sizeof(n->mask));
    x.s_addr = ip.s_addr | ~mask;
    inet_ntop(AF_INET, &x, n->broadcast, sizeof(n->broadcast));
    x.s_addr = htonl(ntohl(ip.s_addr & mask) + 1); /* the customary one: F-Stack needs a gateway */
    inet_ntop(AF_INET, &x, n->gateway, sizeof(n->gateway));
    if (a->gateway) {
        if (inet_pton(AF_INET, a->gateway, &x) != 1)
            return complain(why, whylen, -EINVAL, "--gateway takes A.B.C.D, not '%s'", a->gateway);
        snprintf(n->gateway, sizeof(n->gateway), "%s", a->gateway);
    }
    return 0;
}

static int print_addr6(FILE *f, const struct args *a, char *why, size_t whylen)
{
    struct in6_addr ip;
    char host[64];
    int bits = parse_prefix(a->addr6, AF_INET6, &ip, 127, host, sizeof(host));
    if (bits < 0)
        return complain(why, whylen, -EINVAL, "--addr6 takes ADDRESS/BITS, not '%s'", a->addr6);
    fprintf(f, "addr6=%s\nprefix_len=%d\n", host, bits);
    if (a->gateway6)
        fprintf(f, "gateway6=%s\n", a->gateway6);
    return 0;
}

static void print_conf(FILE *f, const struct args *a, const struct net4 *n)
{
    fprintf(f,
            "[dpdk]\nlcore_mask=%s\nchannel=4\npromiscuous=1\nnuma_on=0\nmemory=256\n"
            "tx_csum_offoad_skip=0\ntso=0\nvlan_strip=0\nidle_sleep=%s\npkt_tx_delay=%s\n"
            "symmetric_rss=0\nport_list=0\nfile_prefix=ffloop-%s\n\n[pcap]\nenable=0\n\n"
            "[freebsd.boot]\nhz=100\nfd_reserve=1024\nkern.ipc.maxsockets=262144\n"
            "net.inet.tcp.syncache.hashsize=4096\nnet.inet.tcp.syncache.bucketlimit=100\n"
            "net.inet.tcp.tcbhashsize=65536\nkern.ncallout=262144\nkern.features.inet6=1\n\n"
            "[freebsd.sysctl]\nkern.ipc.somaxconn=32768\nkern.ipc.maxsockbuf=16777216\n"
            "net.inet.tcp.fast_finwait2_recycle=1\nnet.inet.tcp.sendspace=65536\n"
            "net.inet.tcp.recvspace=65536\nnet.inet.tcp.sendbuf_max=16777216\n"
            "net.inet.tcp.recvbuf_max=16777216\nnet.inet.tcp.sendbuf_auto=1\n"
            "net.inet.tcp.recvbuf_auto=1\nnet.inet.tcp.sack.enable=1\nnet.inet.tcp.msl=2000\n"
            "net.inet.tcp.delayed_ack=1\nnet.inet.tcp.rfc1323=1\nnet.inet.tcp.blackhole=0\n"
            "net.inet.udp.blackhole=0\nnet.inet6.ip6.auto_linklocal=1\n"
            "net.inet6.ip6.accept_rtadv=0\nnet.inet6.ip6.dad_count=0\n\n"
            "[port0]\naddr=%s\nnetmask=%s\nbroadcast=%s\ngateway=%s\n",
            a->lcore_mask ? a->lcore_mask : "1", a->idle_sleep ? a->idle_sleep : "0",
            a->delay ? a->delay : "10", a->iface, n->addr, n->mask, n->broadcast, n->gateway);
    if (n->more[0])
        fprintf(f, "vip_addr=%s\n", n->more);
}

/* The driver's device for an interface of the kernel's, as arguments of the EAL. */
static int add_device(struct fstack_conf *c, const struct args *a, char *why, size_t whylen)
{
    static const char *const drivers[][2] = {
        {"af_packet", ",blocksz=4096,framesz=2048,framecnt=512,qpairs=1"}, {"af_xdp", ""}};
    const char *driver = a->driver ? a->driver : drivers[0][0];
    char text[160];
    size_t i = 0;
    while (i < FFL_COUNT(drivers) && strcmp(driver, drivers[i][0]) != 0)
        i++;
    if (i == FFL_COUNT(drivers))
        return complain(why, whylen, -EINVAL, "--driver takes af_packet or af_xdp, not '%s'",
                        driver);
    /* --in-memory: the huge pages are free again however the process ends */
    snprintf(text, sizeof(text), "--in-memory --no-pci --vdev=net_%s0,iface=%s%s", driver, a->iface,
             drivers[i][1]);
    return add_eal(c, text);
}

static int write_conf(struct fstack_conf *c, const struct args *a, char *why, size_t whylen)
{
    struct net4 n;
    if (!a->addr)
        return complain(why, whylen, -EINVAL, "--iface needs --addr A.B.C.D/BITS beside it");
    if (strlen(a->iface) >= IF_NAMESIZE || if_nametoindex(a->iface) == 0)
        return complain(why, whylen, -ENODEV,
                        "there is no interface '%s' in this network namespace", a->iface);
    int rc = derive4(a, &n, why, whylen);
    if (rc == 0)
        rc = add_device(c, a, why, whylen);
    if (rc < 0)
        return rc;
    c->memfd = memfd_create("ffloop-fstack-conf", MFD_CLOEXEC);
    int copy = c->memfd < 0 ? -1 : dup(c->memfd);
    FILE *f = copy < 0 ? NULL : fdopen(copy, "w");
    if (!f)
        return complain(why, whylen, -errno, "cannot write a configuration: %s", strerror(errno));
    print_conf(f, a, &n);
    rc = a->addr6 ? print_addr6(f, a, why, whylen) : 0;
    if (fclose(f) != 0 && rc == 0)
        rc = complain(why, whylen, -EIO, "cannot write a configuration");
    snprintf(c->path, sizeof(c->path), "/proc/self/fd/%d", c->memfd);
    snprintf(c->iface, sizeof(c->iface), "%s", a->iface);
    return rc;
}

/* ---- reading ------------------------------------------------------------------------------- */

/* text: NULL if not given. */
static int check_number(const char *key, const char *text, long max, int *v, char *why,
                        size_t whylen)
{
    char *end = NULL;
    long n = text ? strtol(text, &end, 10) : 0;
    if (text && (*end || end == text || n < 0 || n > max))
        return complain(why, whylen, -EINVAL, "--%s takes 0 to %ld, not '%s'", key, max, text);
    *v = (int)n;
    return 0;
}

static int read_args(struct fstack_conf *c, const struct args *a, char *why, size_t whylen)
{
    int us;
    if (!a->conf == !a->iface)
        return complain(
            why, whylen, -EINVAL,
            "the fstack stack needs --conf FILE (F-Stack's config.ini), or --iface NAME "
            "and --addr A.B.C.D/BITS");
    if (check_number("pkt-tx-delay", a->delay, 100, &us, why, whylen) < 0 ||
        check_number("idle-sleep", a->idle_sleep, 100000, &us, why, whylen) < 0 ||
        check_number("proc-id", a->proc_id, 127, &c->proc_id, why, whylen) < 0)
        return -EINVAL;
    const char *type = a->proc_type ? a->proc_type : "primary";
    if (strcmp(type, "primary") && strcmp(type, "secondary") && strcmp(type, "auto"))
        return complain(why, whylen, -EINVAL,
                        "--proc-type takes primary, secondary or auto, not '%s'", type);
    snprintf(c->proc_type, sizeof(c->proc_type), "%s", type);
    if (a->conf && strlen(a->conf) >= sizeof(c->path))
        return complain(why, whylen, -ENAMETOOLONG, "configuration path too long");
    if (a->conf)
        snprintf(c->path, sizeof(c->path), "%s", a->conf);
    int rc = a->conf ? 0 : write_conf(c, a, why, whylen);
    if (rc == 0 && a->eal && (rc = add_eal(c, a->eal)) < 0)
        return complain(why, whylen, rc, "--eal has too many words (%d at most)", FSTACK_MAX_EAL);
    return rc;
}

int fstack_conf_read(struct fstack_conf *c, const struct ffl_stack_opts *opts, char *why,
                     size_t whylen)
{
    struct args a = {0};
    *c = (struct fstack_conf){.memfd = -1};
    int rc = split(&a, opts, why, whylen);
    if (rc == 0)
        rc = read_args(c, &a, why, whylen);
    if (rc == 0)
        rc = scan_conf(c, why, whylen);
    if (rc == 0)
        rc = check_hugepages(&a, why, whylen);
    if (rc < 0)
        fstack_conf_free(c);
    return rc;
}

void fstack_conf_free(struct fstack_conf *c)
{
    for (int i = 0; i < c->neal; i++)
        free(c->eal[i]);
    if (c->memfd >= 0)
        close(c->memfd);
    *c = (struct fstack_conf){.memfd = -1};
}

/* DPDK's call, declared here: DPDK's headers set the compiler's flags. */
struct rte_ether_addr {
    uint8_t addr_bytes[6];
} __attribute__((aligned(2)));
int rte_eth_macaddr_get(uint16_t port_id, struct rte_ether_addr *mac_addr);

void fstack_conf_describe(const struct fstack_conf *c, int cpu, char *buf, size_t len)
{
    struct rte_ether_addr m = {{0}};
    (void)rte_eth_macaddr_get(0, &m); /* unknown: zeros */
    snprintf(buf, len,
             "F-Stack, port 0%s%s, MAC %02x:%02x:%02x:%02x:%02x:%02x, address %s%s%s, lcore %d",
             c->iface[0] ? " on " : "", c->iface, m.addr_bytes[0], m.addr_bytes[1], m.addr_bytes[2],
             m.addr_bytes[3], m.addr_bytes[4], m.addr_bytes[5], c->addr, c->addr6[0] ? " " : "",
             c->addr6, cpu);
}
