/* Stands between a process and its disk: counts what is written below a folder, fails or dies at the Nth
   such call, and writes down what was written. Loaded by LD_PRELOAD, told what to do by ctypes. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))real(#name))

/* what happens at the Nth call */
enum { NOTHING, KILL_BEFORE, KILL_AFTER, TEAR, FAIL_ONCE, FAIL_ON };

static char folder[4096], text[4096];
static size_t folder_length;
static int fault, number, error, recorder = -1;
/* calls so far, and those that failed */
static volatile int calls, failed;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* From now on, what is written below the folder whose path holds the text counts; `to` takes the record. */
void shim_arm(const char *below, const char *in, int what, int at, int code, int to) {
    snprintf(folder, sizeof folder, "%s", below);
    snprintf(text, sizeof text, "%s", in);
    fault = what, number = at, error = code, recorder = to;
    calls = failed = 0;
    folder_length = strlen(folder);
}

void shim_disarm(void) { folder_length = 0; }
int shim_calls(void) { return calls; }
int shim_failed(void) { return failed; }

static void record(const char *op, const char *path, const char *other, const void *data, int64_t size,
                   int64_t offset) {
    char head[9000];
    if (recorder < 0)
        return;
    int length = snprintf(head, sizeof head, "%s\t%s\t%s\t%lld\t%lld\n", op, path, other, (long long)size,
                          (long long)offset);
    ssize_t (*out)(int, const void *, size_t) = real("write");
    out(recorder, head, length);
    if (data != NULL)
        out(recorder, data, size);
}

/* A line of the tester's own in the record. */
void shim_mark(const char *words) {
    if (folder_length)
        record("mark", words, "", NULL, 0, 0);
}

static int counts(const char *path) {
    return folder_length && strncmp(path, folder, folder_length) == 0 &&
           (path[folder_length] == '/' || path[folder_length] == 0) && strstr(path, text) != NULL;
}

static int path_of(int descriptor, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = folder_length ? readlink(link, path, size - 1) : -1;
    path[length < 0 ? 0 : length] = 0;
    return length >= 0 && counts(path);
}

/* Before a call that counts: whether it is to fail. */
static int fails(void) {
    int n = ++calls;
    if (fault == KILL_BEFORE && n == number)
        die();
    if ((fault == FAIL_ONCE && n == number) || (fault == FAIL_ON && n >= number)) {
        failed++;
        errno = error;
        return 1;
    }
    return 0;
}

static void after(int n) {
    if (fault == KILL_AFTER && n == number)
        die();
}

static int tears(void) { return fault == TEAR && calls == number; }

#define ON_PATH(op, path, other, call)                                                                       \
    do {                                                                                                     \
        if (!counts(path))                                                                                   \
            return call;                                                                                     \
        if (fails())                                                                                         \
            return -1;                                                                                       \
        if (tears())                                                                                         \
            die();                                                                                           \
        int n = calls;                                                                                       \
        int result = call;                                                                                   \
        if (result >= 0)                                                                                     \
            record(op, path, other, NULL, 0, 0);                                                             \
        after(n);                                                                                            \
        return result;                                                                                       \
    } while (0)

#define ON_DESCRIPTOR(op, size, offset, data, half, call)                                                    \
    do {                                                                                                     \
        char path[4096];                                                                                     \
        if (!path_of(descriptor, path, sizeof path))                                                         \
            return call;                                                                                     \
        if (fails())                                                                                         \
            return -1;                                                                                       \
        int n = calls;                                                                                       \
        if (tears()) {                                                                                       \
            half;                                                                                            \
            die();                                                                                           \
        }                                                                                                    \
        __typeof__(call) result = call;                                                                      \
        if (result >= 0)                                                                                     \
            record(op, path, "", data, data == NULL ? (int64_t)(size) : (int64_t)result, offset);            \
        after(n);                                                                                            \
        return result;                                                                                       \
    } while (0)

#define NO_DATA ((const void *)NULL)

ssize_t write(int descriptor, const void *data, size_t size) {
    ON_DESCRIPTOR("write", size, -1, data, REAL(write)(descriptor, data, size / 2),
                  REAL(write)(descriptor, data, size));
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    ON_DESCRIPTOR("write", size, offset, data, REAL(pwrite)(descriptor, data, size / 2, offset),
                  REAL(pwrite)(descriptor, data, size, offset));
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset) {
    ON_DESCRIPTOR("write", size, offset, data, REAL(pwrite64)(descriptor, data, size / 2, offset),
                  REAL(pwrite64)(descriptor, data, size, offset));
}

int fsync(int descriptor) { ON_DESCRIPTOR("sync", 0, 0, NO_DATA, (void)0, REAL(fsync)(descriptor)); }

int fdatasync(int descriptor) { ON_DESCRIPTOR("sync", 0, 0, NO_DATA, (void)0, REAL(fdatasync)(descriptor)); }

int ftruncate(int descriptor, off_t size) {
    ON_DESCRIPTOR("truncate", size, 0, NO_DATA, (void)0, REAL(ftruncate)(descriptor, size));
}

int ftruncate64(int descriptor, off64_t size) {
    ON_DESCRIPTOR("truncate", size, 0, NO_DATA, (void)0, REAL(ftruncate64)(descriptor, size));
}

int rename(const char *from, const char *to) { ON_PATH("rename", from, to, REAL(rename)(from, to)); }

int unlink(const char *path) { ON_PATH("unlink", path, "", REAL(unlink)(path)); }

static int makes(const char *path, int flags) {
    struct stat there;
    return (flags & O_CREAT) && folder_length && counts(path) && stat(path, &there) != 0;
}

#define ON_OPEN(name)                                                                                        \
    int name(const char *path, int flags, ...) {                                                             \
        va_list rest;                                                                                        \
        va_start(rest, flags);                                                                               \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;                            \
        va_end(rest);                                                                                        \
        if (!makes(path, flags))                                                                             \
            return REAL(name)(path, flags, mode);                                                            \
        ON_PATH("create", path, "", REAL(name)(path, flags, mode));                                          \
    }

ON_OPEN(open)
ON_OPEN(open64)
