/*
 * tap.h: how the unit programs in C count and print their tests.
 */
#ifndef ORBIT_UNIT_TAP_H
#define ORBIT_UNIT_TAP_H

#include <stdbool.h>
#include <stdio.h>

static int	tests = 0;
static int	failures = 0;

static void
Ok(bool ok, const char *name)
{
	tests++;
	failures += !ok;
	printf("%s %d - %s\n", ok ? "ok" : "not ok", tests, name);
	fflush(stdout);
}

#endif							/* ORBIT_UNIT_TAP_H */
