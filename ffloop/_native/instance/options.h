/*
 * options.h - the instance executable's command line.
 *
 * Callers: main.c. One table gives what is parsed and what --help says; the manual page is compared
 * with it by a test.
 */
#ifndef FFL_OPTIONS_H
#define FFL_OPTIONS_H

#include "instance.h"

/* Into `o`, which has the defaults. Strings stay argv's, or are for the process's life. --help and
 * --version exit with 0, what is wrong is said and exits with 2. */
void options_parse(int argc, char **argv, struct ffl_instance_opts *o);

#endif
