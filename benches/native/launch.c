/* Runs one command and reports on it: wall time, CPU time, peak memory, exit status.
 *
 *   launch FD COMMAND [ARGUMENT...]     writes "STATUS WALL_NS USER_NS SYSTEM_NS PEAK_KB\n" to FD
 *
 * Needed because Linux carries the peak memory of the process that forks over to the one it
 * starts: measured from Python, nothing would read below Python's own size.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static long long nanoseconds(struct timeval t)
{
	return t.tv_sec * 1000000000LL + t.tv_usec * 1000LL;
}

int main(int argc, char **argv)
{
	struct rusage use;
	long long start, end;
	int status, fd;
	pid_t child;

	if (argc < 3)
		return 2;
	fd = atoi(argv[1]);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	start = now();
	child = fork();
	if (child < 0)
		return 2;
	if (child == 0) {
		execvp(argv[2], argv + 2);
		_exit(errno == ENOENT ? 127 : 126);
	}
	while (wait4(child, &status, 0, &use) < 0)
		if (errno != EINTR)
			return 2;
	end = now();
	status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	dprintf(fd, "%d %lld %lld %lld %ld\n", status, end - start, nanoseconds(use.ru_utime),
		nanoseconds(use.ru_stime), use.ru_maxrss);
	return 0;
}
