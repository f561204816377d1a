/* Loaded into a redis-server (LD_PRELOAD), this moves its wall clock: ahead of
 * the real one, or behind, by the microseconds in the file that
 * REDISTEST_CLOCK names. The monotonic clock stays as it is. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *file;
static int (*real_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void attach(void) {
  real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
  const char *name = getenv("REDISTEST_CLOCK");
  int fd = name ? open(name, O_RDONLY) : -1;
  if (fd < 0) return;
  void *at = mmap(NULL, sizeof *file, PROT_READ, MAP_SHARED, fd, 0);
  if (at != MAP_FAILED) file = at;
  close(fd);
}

static int64_t now(void) {
  struct timespec ts;
  if (!real_gettime) real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
  real_gettime(CLOCK_REALTIME, &ts);
  return ts.tv_sec * INT64_C(1000000) + ts.tv_nsec / 1000 + (file ? *file : 0);
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
  int64_t us = now();
  (void)zone;
  tv->tv_sec = us / 1000000;
  tv->tv_usec = us % 1000000;
  return 0;
}

int clock_gettime(clockid_t clock, struct timespec *ts) {
  if (clock != CLOCK_REALTIME) {
    if (!real_gettime) real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    return real_gettime(clock, ts);
  }
  int64_t us = now();
  ts->tv_sec = us / 1000000;
  ts->tv_nsec = us % 1000000 * 1000;
  return 0;
}

time_t time(time_t *out) {
  time_t seconds = now() / 1000000;
  if (out) *out = seconds;
  return seconds;
}
