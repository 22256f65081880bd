/* Makes the n-th change of files below a folder fail, or ends the process there: loaded with LD_PRELOAD.
 *
 *   cc -shared -fPIC -O2 -o faults.so faults.c -ldl
 *
 * fault_arm(folder, n, action, copies, every) counts from then on. A change is a call that creates, writes, cuts,
 * renames, removes or syncs a file, whoever makes it: Python, NumPy, HDF5, TensorFlow. The n-th of them fails or ends
 * the process; or, before every change whose number divides by `every`, the folder is copied to copies/NUMBER.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COUNT, KILL, NO_SPACE, IO_ERROR, SNAPSHOT };

extern char **environ;
static char folder[PATH_MAX], copies[PATH_MAX];
static atomic_long calls, target, step;
static atomic_int action, armed;
static char last[PATH_MAX + 64];

void fault_arm(const char *below, long n, int what, const char *where, long every) {
  armed = 0;
  snprintf(folder, sizeof folder, "%s", below);
  snprintf(copies, sizeof copies, "%s", where);
  calls = 0;
  target = n;
  action = what;
  step = every;
  last[0] = 0;
  armed = below[0] != 0;
}
long fault_calls(void) { return calls; }
const char *fault_last(void) { return last; }

static int below(const char *path) {
  char whole[PATH_MAX];
  if (!path || !folder[0]) return 0;
  if (path[0] != '/') {
    if (!getcwd(whole, sizeof whole)) return 0;
    strncat(whole, "/", sizeof whole - strlen(whole) - 1);
    strncat(whole, path, sizeof whole - strlen(whole) - 1);
    path = whole;
  }
  return strncmp(path, folder, strlen(folder)) == 0;
}

static int descriptor_below(int fd, char *path) {
  char name[64];
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(name, path, PATH_MAX - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return below(path);
}

static void copy(long number) {
  char target_folder[PATH_MAX + 32];
  snprintf(target_folder, sizeof target_folder, "%s/%ld", copies, number);
  char *command[] = {"cp", "-a", folder, target_folder, NULL};
  pid_t child;
  if (posix_spawnp(&child, "cp", NULL, NULL, command, environ) == 0) waitpid(child, NULL, 0);
}

/* Whether this call is to fail, with errno set. */
static int fails(const char *call, const char *path) {
  long number = ++calls;
  if (action == SNAPSHOT && number % step == 0) copy(number);
  if (number != target) return 0;
  snprintf(last, sizeof last, "%s %s", call, path);
  if (action == KILL) kill(getpid(), SIGKILL);
  errno = action == IO_ERROR ? EIO : ENOSPC;
  return action == NO_SPACE || action == IO_ERROR;
}

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define ON_DESCRIPTOR(fd, name) \
  char path[PATH_MAX]; \
  if (armed && descriptor_below(fd, path) && fails(name, path)) return -1
#define ON_PATH(path, name) \
  if (armed && below(path) && fails(name, path)) return -1
#define WRITES(flags) ((flags) & (O_CREAT | O_TRUNC))
#define MODE(flags) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list list; \
    va_start(list, flags); \
    mode = va_arg(list, mode_t); \
    va_end(list); \
  }

int open(const char *path, int flags, ...) {
  MODE(flags)
  REAL(open);
  if (WRITES(flags)) ON_PATH(path, "open");
  return real(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
  MODE(flags)
  REAL(open64);
  if (WRITES(flags)) ON_PATH(path, "open");
  return real(path, flags, mode);
}
int openat(int at, const char *path, int flags, ...) {
  MODE(flags)
  REAL(openat);
  if (at == AT_FDCWD && WRITES(flags)) ON_PATH(path, "open");
  return real(at, path, flags, mode);
}
FILE *fopen(const char *path, const char *mode) {
  REAL(fopen);
  if (armed && (mode[0] == 'w' || mode[0] == 'a') && below(path) && fails("open", path)) return NULL;
  return real(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
  REAL(fopen64);
  if (armed && (mode[0] == 'w' || mode[0] == 'a') && below(path) && fails("open", path)) return NULL;
  return real(path, mode);
}
ssize_t write(int fd, const void *data, size_t size) {
  REAL(write);
  ON_DESCRIPTOR(fd, "write");
  return real(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
  REAL(pwrite);
  ON_DESCRIPTOR(fd, "write");
  return real(fd, data, size, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
  REAL(pwrite64);
  ON_DESCRIPTOR(fd, "write");
  return real(fd, data, size, offset);
}
ssize_t writev(int fd, const struct iovec *data, int count) {
  REAL(writev);
  ON_DESCRIPTOR(fd, "write");
  return real(fd, data, count);
}
size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
  REAL(fwrite);
  char path[PATH_MAX];
  if (armed && fileno(file) > 2 && descriptor_below(fileno(file), path) && fails("write", path)) return 0;
  return real(data, size, count, file);
}
int ftruncate(int fd, off_t size) {
  REAL(ftruncate);
  ON_DESCRIPTOR(fd, "truncate");
  return real(fd, size);
}
int ftruncate64(int fd, off64_t size) {
  REAL(ftruncate64);
  ON_DESCRIPTOR(fd, "truncate");
  return real(fd, size);
}
int fsync(int fd) {
  REAL(fsync);
  ON_DESCRIPTOR(fd, "sync");
  return real(fd);
}
int rename(const char *from, const char *to) {
  REAL(rename);
  ON_PATH(to, "rename");
  return real(from, to);
}
int unlink(const char *path) {
  REAL(unlink);
  ON_PATH(path, "unlink");
  return real(path);
}
int unlinkat(int at, const char *path, int flags) {
  REAL(unlinkat);
  char base[PATH_MAX], whole[2 * PATH_MAX];
  if (armed && at != AT_FDCWD && descriptor_below(at, base)) {
    snprintf(whole, sizeof whole, "%s/%s", base, path);
    if (fails("unlink", whole)) return -1;
  }
  return real(at, path, flags);
}
int rmdir(const char *path) {
  REAL(rmdir);
  ON_PATH(path, "rmdir");
  return real(path);
}
int mkdir(const char *path, mode_t mode) {
  REAL(mkdir);
  ON_PATH(path, "mkdir");
  return real(path, mode);
}
