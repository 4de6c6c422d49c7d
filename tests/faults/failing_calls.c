/* Preloaded into a process, this counts its system calls that change files below one directory, and at a chosen one kills
 * the process (before the call, after it, or with a write half done) or lets the call fail. The package under test is the
 * one that users get: it has no fail points of its own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode { COUNT, KILL_BEFORE, KILL_AFTER, KILL_TORN, FAIL };

static char directory[PATH_MAX];
static long countdown;
static enum mode chosen;
static int failure;
static int report = -1;

/* Arm: at the `at`-th call (from 1) do `mode`; names of the calls are written to `report_fd`,
 * for COUNT those of all that were done. */
void faults_arm(const char *below, long at, int mode, int error, int report_fd)
{
    snprintf(directory, sizeof directory, "%s", below);
    countdown = at;
    chosen = mode;
    failure = error;
    report = report_fd;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void tell(const char *call, const char *path)
{
    char line[2 * PATH_MAX + 32];
    int length = snprintf(line, sizeof line, "%s %s\n", call, path);
    if (report >= 0 && length > 0 && REAL(write)(report, line, (size_t)length) < 0)
        abort();
}

/* Whether this call is the chosen one. */
static int is_chosen(const char *call, const char *path)
{
    size_t length = strlen(directory);
    if (length == 0 || strncmp(path, directory, length) != 0)
        return 0;
    path += length;
    if (chosen == COUNT || __atomic_sub_fetch(&countdown, 1, __ATOMIC_SEQ_CST) != 0)
        return 0;
    tell(call, path);
    if (chosen == KILL_BEFORE)
        kill(getpid(), SIGKILL);
    return 1;
}

/* For COUNT: a call that has been done. */
static void tell_done(const char *call, const char *path)
{
    size_t length = strlen(directory);
    int error = errno;
    if (chosen == COUNT && length && strncmp(path, directory, length) == 0)
        tell(call, path + length);
    errno = error;
}

static const char *path_of(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return path;
}

static const char *path_at(int fd, const char *name, char *path)
{
    if (name[0] == '/' || fd == AT_FDCWD)
        return name;
    path_of(fd, path);
    size_t length = strlen(path);
    snprintf(path + length, PATH_MAX - length, "/%s", name);
    return path;
}

/* Do the call, or what was chosen instead of it. */
#define CALL(call, path, invocation)                    \
    do {                                                \
        int is_it = is_chosen(call, path);              \
        if (is_it && chosen == FAIL) {                  \
            errno = failure;                            \
            return -1;                                  \
        }                                               \
        __auto_type result = invocation;                \
        if (is_it)                                      \
            kill(getpid(), SIGKILL);                    \
        if (result >= 0)                                \
            tell_done(call, path);                         \
        return result;                                  \
    } while (0)

#define OPEN(name)                                                              \
    int name(const char *path, int flags, ...)                                  \
    {                                                                           \
        va_list rest;                                                           \
        va_start(rest, flags);                                                  \
        mode_t mode = va_arg(rest, mode_t);                                     \
        va_end(rest);                                                           \
        if (!(flags & O_CREAT))                                                 \
            return REAL(name)(path, flags, mode);                               \
        CALL("create", path, REAL(name)(path, flags, mode));                    \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                            \
    int name(int fd, const char *path, int flags, ...)                          \
    {                                                                           \
        char whole[PATH_MAX];                                                   \
        va_list rest;                                                           \
        va_start(rest, flags);                                                  \
        mode_t mode = va_arg(rest, mode_t);                                     \
        va_end(rest);                                                           \
        if (!(flags & O_CREAT))                                                 \
            return REAL(name)(fd, path, flags, mode);                           \
        CALL("create", path_at(fd, path, whole), REAL(name)(fd, path, flags, mode)); \
    }
OPENAT(openat)
OPENAT(openat64)

int mkdir(const char *path, mode_t mode) { CALL("mkdir", path, REAL(mkdir)(path, mode)); }

static const char *below(const char *path)
{
    size_t length = strlen(directory);
    return length && strncmp(path, directory, length) == 0 ? path + length : path;
}

/* Told as "rename <to> <- <from>", or "<->" where the two change places. */
#define RENAME(to, from, arrow, invocation)                                     \
    do {                                                                        \
        char both[2 * PATH_MAX + 8];                                            \
        snprintf(both, sizeof both, "%s %s %s", to, arrow, below(from));        \
        CALL("rename", both, invocation);                                       \
    } while (0)

int rename(const char *from, const char *to) { RENAME(to, from, "<-", REAL(rename)(from, to)); }

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    char whole_from[PATH_MAX], whole_to[PATH_MAX];
    RENAME(path_at(to_fd, to, whole_to), path_at(from_fd, from, whole_from), flags & RENAME_EXCHANGE ? "<->" : "<-",
           REAL(renameat2)(from_fd, from, to_fd, to, flags));
}

void sync(void)
{
    if (directory[0] && chosen == COUNT)
        tell("sync", "");
    REAL(sync)();
}

int unlink(const char *path) { CALL("unlink", path, REAL(unlink)(path)); }
int rmdir(const char *path) { CALL("rmdir", path, REAL(rmdir)(path)); }

int unlinkat(int fd, const char *path, int flags)
{
    char whole[PATH_MAX];
    CALL(flags & AT_REMOVEDIR ? "rmdir" : "unlink", path_at(fd, path, whole), REAL(unlinkat)(fd, path, flags));
}

#define ON_FILE(name, call, parameters, arguments)              \
    int name parameters                                         \
    {                                                           \
        char path[PATH_MAX];                                    \
        if (!directory[0])                                      \
            return REAL(name) arguments;                        \
        CALL(call, path_of(fd, path), REAL(name) arguments);    \
    }
ON_FILE(fsync, "fsync", (int fd), (fd))
ON_FILE(fdatasync, "fsync", (int fd), (fd))
ON_FILE(fchmod, "chmod", (int fd, mode_t mode), (fd, mode))
ON_FILE(ftruncate, "truncate", (int fd, off_t length), (fd, length))
ON_FILE(ftruncate64, "truncate", (int fd, off64_t length), (fd, length))

ssize_t write(int fd, const void *bytes, size_t count)
{
    char path[PATH_MAX];
    if (!directory[0])
        return REAL(write)(fd, bytes, count);
    int is_it = is_chosen("write", path_of(fd, path));
    if (is_it && chosen == FAIL) {
        errno = failure;
        return -1;
    }
    if (is_it && chosen == KILL_TORN)
        count /= 2;
    ssize_t written = REAL(write)(fd, bytes, count);
    if (is_it)
        kill(getpid(), SIGKILL);
    if (written >= 0)
        tell_done("write", path);
    return written;
}

ssize_t writev(int fd, const struct iovec *pieces, int count)
{
    char path[PATH_MAX];
    if (!directory[0])
        return REAL(writev)(fd, pieces, count);
    int is_it = is_chosen("write", path_of(fd, path));
    if (is_it && chosen == FAIL) {
        errno = failure;
        return -1;
    }
    if (is_it && chosen == KILL_TORN) {
        /* The first pieces, and half of the last of these. */
        struct iovec torn[64];
        int some = count > 64 ? 64 : (count + 1) / 2;
        memcpy(torn, pieces, (size_t)some * sizeof *pieces);
        torn[some - 1].iov_len /= 2;
        (void)!REAL(writev)(fd, torn, some);
        kill(getpid(), SIGKILL);
    }
    ssize_t written = REAL(writev)(fd, pieces, count);
    if (is_it)
        kill(getpid(), SIGKILL);
    if (written >= 0)
        tell_done("write", path);
    return written;
}
