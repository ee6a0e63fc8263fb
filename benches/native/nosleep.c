/* Preloaded into a peer, cuts every sleep to 1 ms.
 *
 * The 1.x check and ls run a progress thread that sleeps 0.5 s at a time and is joined at the end,
 * so that their wall time is rounded up to half seconds. What is left with this is their work.
 */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static struct timespec cut(const struct timespec *asked)
{
	struct timespec most = {0, 1000000};

	return asked->tv_sec > 0 || asked->tv_nsec > most.tv_nsec ? most : *asked;
}

int nanosleep(const struct timespec *asked, struct timespec *left)
{
	struct timespec t = cut(asked);

	return (int)syscall(SYS_nanosleep, &t, left);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *asked, struct timespec *left)
{
	struct timespec t = cut(asked);

	(void)flags;
	return (int)-syscall(SYS_clock_nanosleep, clock, 0, &t, left);
}
