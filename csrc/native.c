/* The part of the C that lives in the application's process.
 *
 * Rules:
 * 1. Nothing here that shares the application's memory enters a namespace or cgroup of a container,
 *    except the calling thread by pyc_setns, which is what `enter` is.
 * 2. Between clone and exec the child shares memory with the application and with nothing hostile;
 *    it runs async-signal-safe calls only and the calling thread stands still (CLONE_VFORK).
 * 3. The cost of a start depends on neither the size nor the descriptors of the application: no
 *    page tables are copied (CLONE_VM), and of the descriptor table only what lies below the
 *    highest one that goes along (CLONE_FILES, then CLOSE_RANGE_UNSHARE). Where that is much, the
 *    child takes nothing along and fetches what it needs from its parent (pidfd_getfd, 5.6):
 *    10,000 descriptors below ours cost 1.1 ms otherwise. */
#define _GNU_SOURCE
#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#define UNSHARE_RANGE 2u /* CLOSE_RANGE_UNSHARE */
#define MANY_DESCRIPTORS 512
#define CHILD_STACK 65536
#define MOST_DESCRIPTORS 1024

struct start {
    int launcherfd;
    const int *sources;
    int count;
    int *moved;   /* room for count descriptors */
    int *fetched; /* the same; NULL when the table is copied */
    volatile int error;
};

static int result(long value)
{
    return value < 0 ? -errno : (int)value;
}

/* Child. Shares the application's memory. Puts every descriptor above the ones to fill, then each
 * in its place. Returns 0 or an errno. */
static int place_descriptors(struct start *start)
{
    int launcherfd = fcntl(start->launcherfd, F_DUPFD, start->count);

    if (launcherfd < 0)
        return errno;
    for (int i = 0; i < start->count; i++) {
        start->moved[i] = -1;
        if (start->sources[i] < 0)
            continue;
        start->moved[i] = fcntl(start->sources[i], F_DUPFD, start->count);
        if (start->moved[i] < 0)
            return errno;
    }
    for (int i = 0; i < start->count; i++) {
        if (start->moved[i] < 0)
            (void)close(i); /* EBADF: it was closed already */
        else if (dup2(start->moved[i], i) < 0)
            return errno;
    }
    if (dup2(launcherfd, start->count) < 0)
        return errno;
    if (syscall(SYS_close_range, start->count + 1, ~0u, 0) < 0)
        return errno;
    start->launcherfd = start->count;
    return fcntl(start->count, F_SETFD, FD_CLOEXEC) < 0 ? errno : 0;
}

/* Child. Leaves the application's table but for the standard streams, and fetches the descriptors
 * from the application, which stands still. Fails where a ptrace rule forbids it (Yama). */
static int fetch_descriptors(struct start *start)
{
    int pidfd, got;

    if (syscall(SYS_close_range, 3, ~0u, UNSHARE_RANGE) < 0)
        return errno;
    pidfd = (int)syscall(SYS_pidfd_open, getppid(), 0);
    if (pidfd < 0)
        return errno;
    for (int i = -1; i < start->count; i++) {
        int wanted = i < 0 ? start->launcherfd : start->sources[i];
        got = wanted < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, wanted, 0);
        if (wanted >= 0 && got < 0)
            return errno;
        if (i < 0)
            start->launcherfd = got;
        else
            start->fetched[i] = got;
    }
    start->sources = start->fetched;
    return 0;
}

/* Child. Copies the application's table up to the highest descriptor that goes along. */
static int copy_descriptors(const struct start *start)
{
    int highest = start->launcherfd;

    for (int i = 0; i < start->count; i++) {
        if (start->sources[i] > highest)
            highest = start->sources[i];
    }
    return syscall(SYS_close_range, highest + 1, ~0u, UNSHARE_RANGE) < 0 ? errno : 0;
}

/* Child. Shares the application's memory until the exec; async-signal-safe calls only. */
static int run_launcher(void *argument)
{
    static char *const argv[] = {"pycontainer", NULL};
    static char *const envp[] = {NULL};
    struct start *start = argument;
    struct sigaction none = {.sa_handler = SIG_DFL};

    /* A handler of the application must not run here: its memory is shared. All signals are
     * blocked; those with handlers go back to the default before the mask opens at the exec. */
    for (int signal = 1; signal < NSIG; signal++)
        (void)sigaction(signal, &none, NULL); /* EINVAL: not a signal that can be set */
    start->error = start->fetched ? fetch_descriptors(start) : copy_descriptors(start);
    if (!start->error)
        start->error = place_descriptors(start);
    if (!start->error) {
        sigset_t empty;
        sigemptyset(&empty);
        (void)sigprocmask(SIG_SETMASK, &empty, NULL); /* cannot fail: valid arguments */
        syscall(SYS_execveat, start->launcherfd, "", argv, envp, AT_EMPTY_PATH);
        start->error = errno;
    }
    _exit(127);
}

/* Clones the child and waits for its exec. */
static int start_launcher(struct start *start, int *ret_pid, int *ret_pidfd)
{
    int pidfd = -1, pid, saved;
    sigset_t all, before;
    char *stack = mmap(NULL, CHILD_STACK, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);

    if (stack == MAP_FAILED)
        return -errno;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pid = clone(run_launcher, stack + CHILD_STACK,
                CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_PIDFD | SIGCHLD, start, &pidfd);
    saved = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)munmap(stack, CHILD_STACK); /* cannot fail: our own whole mapping */
    if (pid < 0)
        return -saved;
    if (start->error) {
        siginfo_t info;
        (void)waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED); /* ECHILD: the application reaped it */
        (void)close(pidfd);
        return -start->error;
    }
    *ret_pid = pid;
    *ret_pidfd = pidfd;
    return 0;
}

int pyc_start(int launcherfd, const int *sources, int count, int *ret_pid, int *ret_pidfd)
{
    int moved[MOST_DESCRIPTORS], fetched[MOST_DESCRIPTORS];
    struct start copying = {launcherfd, sources, count, moved, NULL, 0};
    struct start fetching = {launcherfd, sources, count, moved, fetched, 0};

    if (count > MOST_DESCRIPTORS)
        return -EMFILE;
    for (int i = 0; i < count; i++) {
        if (sources[i] < MANY_DESCRIPTORS)
            continue;
        if (!start_launcher(&fetching, ret_pid, ret_pidfd))
            return 0;
        break; /* forbidden, or no such call: the table is copied */
    }
    return start_launcher(&copying, ret_pid, ret_pidfd);
}

int pyc_receive(int socketfd, char *buffer, unsigned long length, int timeout_ms, int *ret_fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } ancillary;
    struct iovec part = {buffer, length};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &ancillary,
                             .msg_controllen = sizeof ancillary};
    struct pollfd poll_fd = {.fd = socketfd, .events = POLLIN};
    struct cmsghdr *header;
    ssize_t n = recvmsg(socketfd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    if (n < 0 && errno == EAGAIN && timeout_ms) {
        if (poll(&poll_fd, 1, timeout_ms) < 0)
            return -errno;
        n = recvmsg(socketfd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    }
    if (n < 0)
        return -errno;
    header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
        __builtin_memcpy(ret_fd, CMSG_DATA(header), sizeof *ret_fd);
    return (int)n;
}

int pyc_sealed_memfd(const char *name, const char *content, unsigned long length, int executable)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    unsigned long done = 0;
    int fd = (int)syscall(SYS_memfd_create, name, flags | (executable ? MFD_EXEC : MFD_NOEXEC_SEAL));

    if (fd < 0 && errno == EINVAL) /* before 6.3 there were no such flags */
        fd = (int)syscall(SYS_memfd_create, name, flags);
    if (fd < 0)
        return -errno;
    while (done < length) {
        ssize_t n = write(fd, content + done, length - done);
        if (n < 0 && errno != EINTR) {
            int error = errno;
            (void)close(fd); /* what was written is not wanted */
            return -error;
        }
        done += n > 0 ? (unsigned long)n : 0;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0) {
        int error = errno;
        (void)close(fd);
        return -error;
    }
    return fd;
}

int pyc_pidfd_open(int pid)
{
    return result(syscall(SYS_pidfd_open, pid, 0));
}

int pyc_pidfd_send_signal(int pidfd, int signal, unsigned int flags)
{
    return result(syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, flags));
}

int pyc_setns(int fd, int namespaces)
{
    return result(setns(fd, namespaces));
}

int pyc_unshare(int flags)
{
    return result(unshare(flags));
}

int pyc_openat2(int dirfd, const char *path, unsigned long flags, unsigned long mode,
                unsigned long resolve)
{
    struct {
        uint64_t flags, mode, resolve;
    } how = {flags | O_CLOEXEC, mode, resolve};
    return result(syscall(SYS_openat2, dirfd, path, &how, sizeof how));
}

int pyc_open_tree(int dirfd, const char *path, unsigned int flags)
{
    return result(syscall(SYS_open_tree, dirfd, path, flags | O_CLOEXEC));
}

int pyc_move_mount(int fromfd, const char *from, int tofd, const char *to, unsigned int flags)
{
    return result(syscall(SYS_move_mount, fromfd, from, tofd, to, flags));
}

int pyc_mount_setattr(int dirfd, const char *path, unsigned int flags, unsigned long set,
                      unsigned long clear, unsigned long propagation, int usernsfd)
{
    struct {
        uint64_t set, clear, propagation, usernsfd;
    } attributes = {set, clear, propagation, usernsfd < 0 ? 0 : (uint64_t)usernsfd};
    return result(syscall(SYS_mount_setattr, dirfd, path, flags, &attributes, sizeof attributes));
}

int pyc_fsopen(const char *fstype)
{
    return result(syscall(SYS_fsopen, fstype, 1 /* FSOPEN_CLOEXEC */));
}

int pyc_fsconfig(int fsfd, unsigned int command, const char *key, const char *value, int aux)
{
    return result(syscall(SYS_fsconfig, fsfd, command, key, value, aux));
}

int pyc_fsmount(int fsfd, unsigned long attributes)
{
    return result(syscall(SYS_fsmount, fsfd, 1 /* FSMOUNT_CLOEXEC */, attributes));
}

int pyc_umount2(const char *path, int flags)
{
    return result(umount2(path, flags));
}

int pyc_pivot_root(const char *new_root, const char *put_old)
{
    return result(syscall(SYS_pivot_root, new_root, put_old));
}

int pyc_capget_effective(unsigned long *ret_effective)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    if (syscall(SYS_capget, &header, data) < 0)
        return -errno;
    *ret_effective = (unsigned long)data[1].effective << 32 | data[0].effective;
    return 0;
}

int pyc_ofd_lock(int fd, long start, long length, int exclusive)
{
    struct flock lock = {.l_type = exclusive ? F_WRLCK : F_UNLCK,
                         .l_whence = SEEK_SET,
                         .l_start = start,
                         .l_len = length};
    return result(fcntl(fd, F_OFD_SETLK, &lock));
}

int pyc_landlock_abi(void)
{
    return result(syscall(SYS_landlock_create_ruleset, NULL, 0, 1 /* ..._VERSION */));
}

int pyc_seccomp_action_available(unsigned int action)
{
    return result(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
}
