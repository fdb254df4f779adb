/* streams.c - the C library's streams on stack sockets; see test_contract.py. */
#include "cases.h"

#include <wchar.h>

static FILE *stream(int fd, const char *mode)
{
    FILE *f = fdopen(fd, mode);
    NEED(f != NULL);
    return f;
}

static void said(const char *text)
{
    NEED(write(client, text, strlen(text)) == (ssize_t)strlen(text));
}

CASE(lines)
{
    char *line = NULL;
    size_t room = 0;
    connected();
    FILE *f = stream(server, "r");
    said("first\nsecond\nthird");
    shutdown(client, SHUT_WR);
    saw("fgets", fgets(buffer, sizeof(buffer), f) ? (long)strlen(buffer) : -1);
    ssize_t n;
    while ((n = getline(&line, &room, f)) > 0)
        printf("getline %zd %.*s\n", n, (int)strcspn(line, "\n"), line);
    printf("eof %d error %d\n", feof(f) != 0, ferror(f) != 0);
    free(line);
}

CASE(blocks)
{
    static char many[300000], got[300000];
    for (size_t i = 0; i < sizeof(many); i++)
        many[i] = (char)(i % 251);
    connected();
    FILE *out = stream(client, "w"), *in = stream(server, "r");
    pid_t pid = fork();
    if (pid == 0) {
        fclose(in);
        size_t n = fwrite(many, 1, sizeof(many), out);
        _exit(fclose(out) || n != sizeof(many));
    }
    fclose(out);
    size_t n = fread(got, 1, sizeof(got), in);
    printf("fread %zu %d\n", n, memcmp(many, got, sizeof(got)));
    saw("at the end", getc(in) == EOF && feof(in));
    ends(pid);
}

static void buffered(int how, size_t room)
{
    connected();
    FILE *f = stream(client, "r+");
    saw("setvbuf", setvbuf(f, NULL, how, room));
    fprintf(f, "%s %d\nrest", "number", 7);
    struct pollfd p = {.fd = server, .events = POLLIN};
    if (how == _IOFBF)
        saw("not sent yet", poll(&p, 1, 20));
    else
        saw("sent", poll(&p, 1, 60000));
    saw("fflush", fflush(f));
    heard(server, 13);
    NEED(write(server, "an answer\n", 10) == 10);
    saw("fgets", fgets(buffer, sizeof(buffer), f) ? (long)strlen(buffer) : -1);
}

CASE(full_buffer)
{
    buffered(_IOFBF, 4096);
}

CASE(line_buffer)
{
    buffered(_IOLBF, 4096);
}

CASE(no_buffer)
{
    buffered(_IONBF, 0);
}

CASE(wide_characters)
{
    wchar_t line[64] = L"";
    connected();
    FILE *f = stream(client, "r+");
    saw("fwprintf", fwprintf(f, L"wide %d\n", 12));
    saw("fflush", fflush(f));
    heard(server, 8);
    NEED(write(server, "back\n", 5) == 5);
    saw("fgetws", fgetws(line, 64, f) ? (long)wcslen(line) : -1);
}

CASE(printed_to_a_descriptor)
{
    volatile int wide = 3000;
    connected();
    saw("dprintf", dprintf(client, "%s-%d", "short", 1));
    heard(server, 7);
    saw("dprintf", dprintf(client, "%*d", wide, 5));
    static char wide_one[3000];
    printf("%zd %c\n", recv(server, wide_one, sizeof(wide_one), MSG_WAITALL), wide_one[2999]);
    NEED(dup2(client, 1) == 1);
    fprintf(stderr, "%d\n", printf("to the socket\n") == 14 && fflush(stdout) == 0);
    NEED(read(server, buffer, 14) == 14);
    fprintf(stderr, "%.14s", buffer);
}

CASE(errors_by_name)
{
    connected();
    NEED(dup2(client, 2) == 2);
    errno = EINVAL;
    perror("said");
    printf("%d\n", errno == EINVAL);
    perror("");
    heard(server, 40);
}

CASE(errors_stay_with_the_stream)
{
    struct linger now = {1, 0};
    signal(SIGPIPE, SIG_IGN);
    connected();
    FILE *f = stream(client, "r+");
    NEED(setsockopt(server, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0 && close(server) == 0);
    struct pollfd p = {.fd = client};
    NEED(poll(&p, 1, 60000) == 1);
    saw("fprintf", fprintf(f, "lost"));
    saw("fflush", fflush(f));
    printf("error %d\n", ferror(f) != 0);
}

CASE(a_closed_stream_ends_the_connection)
{
    connected();
    FILE *f = stream(client, "w");
    fprintf(f, "last words");
    saw("fclose", fclose(f));
    heard(server, 64);
    saw("write", write(client, "x", 1));
}

CASE(a_reopened_stream_is_the_file)
{
    connected();
    FILE *f = stream(client, "w");
    fprintf(f, "to the peer");
    f = freopen("/dev/null", "w", f);
    NEED(f != NULL);
    saw("the same number", fileno(f) == client);
    saw("fprintf", fprintf(f, "to nobody") + fflush(f));
    heard(server, 64);
}

CASE(of_a_datagram_socket)
{
    int u = socket(AF_INET, SOCK_DGRAM, 0), v = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in a = anywhere();
    NEED(bind(u, (struct sockaddr *)&a, sizeof(a)) == 0);
    a = where(u);
    NEED(connect(v, (struct sockaddr *)&a, sizeof(a)) == 0);
    FILE *f = stream(v, "w");
    fprintf(f, "one");
    saw("fflush", fflush(f));
    heard(u, 1);
    listens(); /* a test looks for a connection */
    close(connects());
    close(accept(listener, NULL, NULL));
}

/* A service as inetd starts it: standard input and output are the connection. */
CASE(a_reopened_stream_ends_the_connection)
{
    connected();
    NEED(freopen("/dev/null", "w", stream(client, "w")) != NULL); /* and is not used */
    heard(server, 64);
}

CASE(the_end_is_no_error)
{
    connected();
    FILE *f = stream(client, "r");
    char *line = NULL;
    size_t room = 0;
    NEED(write(server, "one\n", 4) == 4 && close(server) == 0);
    for (int i = 0; i < 3; i++) {
        errno = 0;
        printf("%zd", getline(&line, &room, f));
        printf(" errno %d\n", errno);
    }
}

static int service(void)
{
    char line[64];
    while (fgets(line, sizeof(line), stdin))
        printf("you said %s", line);
    return fflush(stdout) ? 1 : 0;
}

CASE(service_after_exec)
{
    connected();
    pid_t pid = fork();
    if (pid == 0) {
        dup2(server, 0);
        dup2(server, 1);
        close(server);
        close(client);
        execl("/proc/self/exe", "streams", "serve", "it", (char *)0);
        _exit(9);
    }
    close(server);
    said("one\ntwo\n");
    shutdown(client, SHUT_WR);
    heard(client, sizeof(buffer));
    ends(pid);
}

int main(int argc, char **argv)
{
    return argc == 3 ? service() : run_case(argc, argv);
}
