/* A disk that fails: loaded before libc (LD_PRELOAD), it counts the calls that change files below a folder, and lets the
   n-th of them, and those after it, fail with an error number. See tests/faults.py, which builds and arms it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char below[PATH_MAX];
static atomic_long calls;
static long first, last; /* of the calls that fail, from 1 on */
static int number;       /* the error; 0: only count */
static int creating;     /* only the calls fail that make a file or folder that is not there */

/* Arms the layer: calls `from` to `to` below `folder` fail with `error`; all of them, or those alone that create. */
void faults_arm(const char *folder, long from, long to, int error, int only_creating) {
  strncpy(below, folder, sizeof below - 1);
  first = from, last = to, number = error, creating = only_creating;
  calls = 0;
}

/* Returns how many calls were counted since. */
long faults_calls(void) { return calls; }

static int inside(const char *path) {
  size_t length = strlen(below);
  return length && !strncmp(path, below, length) && (path[length] == '/' || !path[length]);
}

static int fails(int creates) {
  long call = ++calls;
  if (!number || call < first || call > last || (creating && !creates)) return 0;
  errno = number;
  return 1;
}

/* `creates`: the call makes the path where it is not there. */
static int path_fails(int folder, const char *path, int creates) {
  char full[PATH_MAX];
  if (!below[0] || !path) return 0;
  if (path[0] != '/') {
    char link[64];
    ssize_t length;
    if (folder == AT_FDCWD)
      strcpy(link, "/proc/self/cwd");
    else
      snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    length = readlink(link, full, sizeof full - 1);
    if (length < 0 || length + strlen(path) + 2 > sizeof full) return 0;
    full[length] = '/';
    strcpy(full + length + 1, path);
    path = full;
  }
  return inside(path) && fails(creates && faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW));
}

static int open_fails(int descriptor) {
  char link[64], full[PATH_MAX];
  ssize_t length;
  if (!below[0]) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  length = readlink(link, full, sizeof full - 1);
  if (length < 0) return 0;
  full[length] = 0;
  return inside(full) && fails(0);
}

#define NEXT(name) \
  static __typeof__(name) *next; \
  if (!next) next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define CHANGES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
#define MODE \
  mode_t mode = 0; \
  if (flags & (O_CREAT | O_TMPFILE)) { \
    va_list arguments; \
    va_start(arguments, flags); \
    mode = va_arg(arguments, mode_t); \
    va_end(arguments); \
  }

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    NEXT(name); \
    MODE \
    return CHANGES(flags) && path_fails(AT_FDCWD, path, flags & O_CREAT) ? -1 : next(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
  int name(int folder, const char *path, int flags, ...) { \
    NEXT(name); \
    MODE \
    return CHANGES(flags) && path_fails(folder, path, flags & O_CREAT) ? -1 : next(folder, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name) \
  FILE *name(const char *path, const char *how) { \
    NEXT(name); \
    return strpbrk(how, "wa+") && path_fails(AT_FDCWD, path, 1) ? NULL : next(path, how); \
  }
FOPEN(fopen)
FOPEN(fopen64)

#define FROM_DESCRIPTOR(type, name, parameters, arguments) \
  type name parameters { \
    NEXT(name); \
    return open_fails(descriptor) ? -1 : next arguments; \
  }
FROM_DESCRIPTOR(ssize_t, write, (int descriptor, const void *from, size_t size), (descriptor, from, size))
FROM_DESCRIPTOR(ssize_t, pwrite, (int descriptor, const void *from, size_t size, off_t at), (descriptor, from, size, at))
FROM_DESCRIPTOR(ssize_t, pwrite64, (int descriptor, const void *from, size_t size, off_t at), (descriptor, from, size, at))
FROM_DESCRIPTOR(ssize_t, writev, (int descriptor, const struct iovec *from, int size), (descriptor, from, size))
FROM_DESCRIPTOR(int, fsync, (int descriptor), (descriptor))
FROM_DESCRIPTOR(int, fdatasync, (int descriptor), (descriptor))
FROM_DESCRIPTOR(int, ftruncate, (int descriptor, off_t size), (descriptor, size))
FROM_DESCRIPTOR(int, ftruncate64, (int descriptor, off_t size), (descriptor, size))

int posix_fallocate(int descriptor, off_t at, off_t size) { /* returns its error */
  NEXT(posix_fallocate);
  return open_fails(descriptor) ? number : next(descriptor, at, size);
}
int posix_fallocate64(int descriptor, off_t at, off_t size) {
  NEXT(posix_fallocate64);
  return open_fails(descriptor) ? number : next(descriptor, at, size);
}

int mkdir(const char *path, mode_t mode) {
  NEXT(mkdir);
  return path_fails(AT_FDCWD, path, 1) ? -1 : next(path, mode);
}
int rename(const char *from, const char *to) {
  NEXT(rename);
  return path_fails(AT_FDCWD, to, 0) ? -1 : next(from, to);
}
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
  NEXT(renameat);
  return path_fails(to_folder, to, 0) ? -1 : next(from_folder, from, to_folder, to);
}
int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned int flags) {
  NEXT(renameat2);
  return path_fails(to_folder, to, 0) ? -1 : next(from_folder, from, to_folder, to, flags);
}
