/*
 * codec_tap.h: what the programs codec_*_test.c share: TAP output, chance that a seed
 * repeats, allocation.
 */
#ifndef CODEC_TAP_H
#define CODEC_TAP_H

#include <stdint.h>
#include <stdlib.h>

#include "tap.h"

static uint64_t seed = 20240611;
static uint64_t chance;

static inline uint32_t
Random(uint32_t below)
{
	chance ^= chance << 13;
	chance ^= chance >> 7;
	chance ^= chance << 17;
	return (uint32_t) ((chance >> 20) % below);
}

static inline void
Reseed(uint64_t salt)
{
	chance = (seed + salt) * UINT64_C(0x9e3779b97f4a7c15) | 1;
}

static inline void *
Alloc(size_t n)
{
	void	   *p = malloc(n);

	if (p == NULL && n > 0)
	{
		printf("Bail out! out of memory\n");
		exit(2);
	}
	return p;
}

#endif							/* CODEC_TAP_H */
