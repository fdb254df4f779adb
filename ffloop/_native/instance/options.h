/*
 * options.h - the instance executable's command line.
 *
 * Callers: main.c. One table drives the parser and --help; a test compares the manual page with it.
 */
#ifndef FFL_OPTIONS_H
#define FFL_OPTIONS_H

#include "instance.h"

/* Parses into `o`, which has the defaults. Strings point into argv, or live as long as the process.
 * --help and --version exit with 0; a wrong option is named, and exits with 2. */
void options_parse(int argc, char **argv, struct ffl_instance_opts *o);

#endif
