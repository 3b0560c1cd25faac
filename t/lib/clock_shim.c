/*
 * clock_shim.c: for t/039_clock.pl, loaded before libc into a server: its wall clock is so many seconds
 * off as the file ORBIT_CLOCK_FILE says, at any moment.  The monotonic clock is left alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *offset;
static int	(*real_clock_gettime) (clockid_t, struct timespec *);

static void __attribute__((constructor))
Init(void)
{
	const char *file = getenv("ORBIT_CLOCK_FILE");
	int			fd = file ? open(file, O_RDONLY) : -1;
	void	   *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(*offset), PROT_READ, MAP_SHARED, fd, 0);

	real_clock_gettime = (int (*) (clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
	if (map == MAP_FAILED || real_clock_gettime == NULL)
		abort();
	close(fd);
	offset = map;
}

int
clock_gettime(clockid_t id, struct timespec *t)
{
	int			result = real_clock_gettime(id, t);

	if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
		t->tv_sec += *offset;
	return result;
}

int
gettimeofday(struct timeval *restrict t, void *restrict zone)
{
	struct timespec now;

	if (clock_gettime(CLOCK_REALTIME, &now) != 0)
		return -1;
	t->tv_sec = now.tv_sec;
	t->tv_usec = now.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *t)
{
	struct timespec now;

	(void) clock_gettime(CLOCK_REALTIME, &now);
	if (t != NULL)
		*t = now.tv_sec;
	return now.tv_sec;
}
