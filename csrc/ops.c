/* The steps. Each does one thing to the process that runs it, and says 0 or -errno.
 *
 * Rules:
 * 1. Raw system calls only: no libc, no memory but the plan's and the stack's.
 * 2. A path inside a root that somebody else wrote is resolved with openat2 and used through the
 *    descriptor it gave; never checked and then named again.
 * 3. Every write to /proc goes through a descriptor of a procfs, without crossing into a mount
 *    that was put on top of one of its files (RESOLVE_NO_XDEV; CVE-2025-52881). */
#include "plan.h"

#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/signal.h>
#include <linux/sockios.h>
#include <linux/stat.h>
#include <linux/uio.h>

#define PYC_EEXIST 17
#define PYC_EINVAL 22
#define PYC_ENOTDIR 20
#define PYC_ENAMETOOLONG 36
#define PATH_LIMIT 4096
#define MNT_DETACH 2
#define LAST_SIGNAL 64

enum op {
#define OP(name, operands) OP_##name,
#include "ops.def"
#undef OP
    OP_COUNT
};

#define INT(i) (step->operand[i])
#define FD(i) (launch->slot[step->operand[i]])
#define STR(i) (launch->base + step->operand[i])
#define NO_MAGIC (RESOLVE_NO_MAGICLINKS | RESOLVE_IN_ROOT)

static long open_at(int dirfd, const char *path, uint64_t flags, uint64_t resolve)
{
    struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = resolve};
    return sys(openat2, dirfd, path, &how, sizeof how);
}

static long write_all(int fd, const char *content, uint64_t length)
{
    /* The kernel's pseudo files take a value in one write or not at all. */
    long n = sys(write, fd, content, length);
    return n < 0 ? n : (uint64_t)n == length ? 0 : -5 /* EIO */;
}

static long write_proc(int procfd, const char *path, const char *content, uint64_t length)
{
    long error, fd = open_at(procfd, path, O_WRONLY,
                             RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS);
    if (fd < 0)
        return fd;
    error = write_all((int)fd, content, length);
    (void)sys(close, fd); /* the write has said what there was to say */
    return error;
}

/* "PID/FILE" of the clone. Returns the length, or 0 when it does not fit. */
static int child_path(char *buffer, int size, int32_t pid, const char *file)
{
    char digits[12];
    int n = 0, at = 0, length = (int)text_length(file);

    do
        digits[n++] = (char)('0' + pid % 10);
    while ((pid /= 10));
    if (n + 1 + length + 1 > size)
        return 0;
    while (n)
        buffer[at++] = digits[--n];
    buffer[at++] = '/';
    memcpy(buffer + at, file, (size_t)length + 1);
    return at + length;
}

static long do_write_child_proc(struct launch *launch, const struct plan_step *step)
{
    char path[64];

    if (!child_path(path, sizeof path, launch->child, STR(1)))
        return -PYC_ENAMETOOLONG;
    return write_proc(FD(0), path, STR(2), INT(3));
}

/* The descriptor of the directory that holds `path`, and the last name. */
static long open_parent(int rootfd, const char *path, const char **ret_name)
{
    char parent[PATH_LIMIT];
    size_t length = text_length(path), cut = length;

    if (length >= sizeof parent)
        return -PYC_ENAMETOOLONG;
    while (cut && path[cut - 1] != '/')
        cut--;
    *ret_name = path + cut;
    if (!cut)
        return open_at(rootfd, ".", O_PATH | O_DIRECTORY, NO_MAGIC);
    memcpy(parent, path, cut);
    parent[cut] = '\0';
    return open_at(rootfd, parent, O_PATH | O_DIRECTORY, NO_MAGIC);
}

static long do_make_directory(struct launch *launch, const struct plan_step *step)
{
    const char *name;
    long error, parentfd = open_parent(FD(0), STR(1), &name);

    if (parentfd < 0)
        return parentfd;
    error = sys(mkdirat, parentfd, name, INT(2));
    (void)sys(close, parentfd); /* a directory descriptor: nothing to lose */
    return error == -PYC_EEXIST ? 0 : error;
}

static long do_make_file(struct launch *launch, const struct plan_step *step)
{
    const char *name;
    long error, fd, parentfd = open_parent(FD(0), STR(1), &name);

    if (parentfd < 0)
        return parentfd;
    fd = sys(openat, parentfd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, INT(2));
    (void)sys(close, parentfd); /* a directory descriptor: nothing to lose */
    if (fd < 0)
        return fd == -PYC_EEXIST ? 0 : fd;
    error = INT(4) ? write_all((int)fd, STR(3), INT(4)) : 0;
    (void)sys(close, fd); /* tmpfs: nothing is written back */
    return error;
}

static long do_make_symlink(struct launch *launch, const struct plan_step *step)
{
    const char *name;
    long error, parentfd = open_parent(FD(0), STR(1), &name);

    if (parentfd < 0)
        return parentfd;
    error = sys(symlinkat, STR(2), parentfd, name);
    (void)sys(close, parentfd); /* a directory descriptor: nothing to lose */
    return error;
}

static long set_attributes(int mountfd, uint64_t set, uint64_t clear, int recursive)
{
    struct mount_attr attributes = {.attr_set = set, .attr_clr = clear};
    return sys(mount_setattr, mountfd, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0),
               &attributes, sizeof attributes);
}

static long do_open_tree(struct launch *launch, const struct plan_step *step)
{
    uint64_t flags = INT(2);
    long error = 0, fd = sys(open_tree, AT_FDCWD, STR(1), flags | OPEN_TREE_CLOEXEC);

    if (fd < 0)
        return fd;
    FD(0) = (int)fd;
    if (INT(3) | INT(4))
        error = set_attributes((int)fd, INT(3), INT(4), !!(flags & AT_RECURSIVE));
    return error;
}

/* `options` is key=value or flag, each ended by NUL, the last by another; `end` is the plan's. */
static long configure(int fsfd, char *options, const char *end)
{
    while (options < end && *options) {
        size_t length = text_length(options), cut = 0;
        long error;

        while (cut < length && options[cut] != '=')
            cut++;
        if (cut < length) {
            options[cut] = '\0';
            error = sys(fsconfig, fsfd, FSCONFIG_SET_STRING, options, options + cut + 1, 0);
            options[cut] = '='; /* as it was: the plan is ours, and may be read again */
        } else {
            error = sys(fsconfig, fsfd, FSCONFIG_SET_FLAG, options, 0, 0);
        }
        if (error)
            return error;
        options += length + 1;
    }
    return sys(fsconfig, fsfd, FSCONFIG_CMD_CREATE, 0, 0, 0);
}

static long do_mount_new(struct launch *launch, const struct plan_step *step)
{
    long error, mountfd, fsfd = sys(fsopen, STR(1), FSOPEN_CLOEXEC);

    if (fsfd < 0)
        return fsfd;
    error = configure((int)fsfd, STR(3), launch->base + launch->header->size);
    mountfd = error ? error : sys(fsmount, fsfd, FSMOUNT_CLOEXEC, INT(2));
    (void)sys(close, fsfd); /* the mount has a reference of its own */
    if (mountfd < 0)
        return mountfd;
    FD(0) = (int)mountfd;
    return 0;
}

static long do_mount_attach(struct launch *launch, const struct plan_step *step)
{
    long error, targetfd = open_at(FD(1), STR(2), O_PATH, NO_MAGIC | INT(3));

    if (targetfd < 0)
        return targetfd;
    error = sys(move_mount, FD(0), "", targetfd, "",
                MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
    (void)sys(close, targetfd); /* O_PATH: nothing to lose */
    return error;
}

/* A bind over one file or directory of our own procfs; what is not there needs no mask. */
static long do_mask_proc(struct launch *launch, const struct plan_step *step)
{
    long error = sys(fchdir, FD(0));

    if (!error)
        error = sys(mount, STR(2), STR(1), 0, 4096 /* MS_BIND */, 0);
    return error == -PYC_ENOENT ? 0 : error;
}

static long do_seal_proc(struct launch *launch, const struct plan_step *step)
{
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
    long error = sys(fchdir, FD(0));

    if (!error)
        error = sys(mount, STR(1), STR(1), 0, 4096 | 16384 /* MS_BIND | MS_REC */, 0);
    if (error == -PYC_ENOENT)
        return 0;
    if (!error)
        error = sys(mount_setattr, AT_FDCWD, STR(1), AT_RECURSIVE, &attributes, sizeof attributes);
    return error;
}

/* The old root is stacked below the new one and then let go, whole (pivot_root(2), NOTES). */
static long do_pivot_root(struct launch *launch, const struct plan_step *step)
{
    long error = sys(fchdir, FD(0));

    if (!error)
        error = sys(pivot_root, ".", ".");
    if (!error)
        error = sys(umount2, ".", MNT_DETACH);
    return error ? error : sys(chdir, "/");
}

static long do_set_propagation(struct launch *launch, const struct plan_step *step)
{
    struct mount_attr attributes = {.propagation = INT(1)};
    return sys(mount_setattr, AT_FDCWD, STR(0), AT_RECURSIVE, &attributes, sizeof attributes);
}

static long do_raise_loopback(void)
{
    struct { /* struct ifreq: linux/if.h wants libc's headers */
        char name[16];
        short flags;
        char rest[22];
    } request = {.name = "lo", .flags = 1 /* IFF_UP */};
    long error, fd = sys(socket, 2 /* AF_INET */, 2 /* SOCK_DGRAM */ | O_CLOEXEC, 0);

    if (fd < 0)
        return fd;
    error = sys(ioctl, fd, SIOCSIFFLAGS, &request);
    (void)sys(close, fd); /* a datagram socket that sent nothing */
    return error;
}

static long do_await_parent(struct launch *launch)
{
    char byte;
    long n = sys(read, launch->rendezvous[0], &byte, 1);
    return n == 1 ? 0 : n < 0 ? n : -32; /* EPIPE: the launcher has failed, and said why */
}

/* Launcher. The application has done its share (newuidmap); its end closed means that it has not. */
static long do_await_application(int controlfd)
{
    char byte;
    long n = sys(read, controlfd, &byte, 1);
    return n == 1 ? 0 : n < 0 ? n : -32; /* EPIPE */
}

static long send_message(int control, const struct report *report, int passfd)
{
    union {
        struct {
            size_t length;
            int level, type, fd;
        } header;
        char space[24]; /* CMSG_SPACE(sizeof(int)) on 64 bits */
    } ancillary = {.header = {.length = 20, .level = 1 /* SOL_SOCKET */, .type = 1 /* SCM_RIGHTS */,
                              .fd = passfd}};
    struct iovec part = {.iov_base = (void *)report, .iov_len = sizeof *report};
    struct {
        void *name;
        int name_length;
        struct iovec *parts;
        size_t part_count;
        void *control;
        size_t control_length;
        int flags;
    } message = {.parts = &part, .part_count = 1};
    long n;

    if (passfd >= 0) {
        message.control = &ancillary;
        message.control_length = sizeof ancillary;
    }
    n = sys(sendmsg, control, &message, 0x4000 /* MSG_NOSIGNAL */);
    return n < 0 ? n : 0;
}

int send_report(int control, const struct report *report)
{
    return (int)send_message(control, report, -1);
}

int report_failure(struct launch *launch, int step, int error)
{
    struct report report = {.type = REPORT_FAILED, .step = step, .error = error};
    return send_report(launch->control, &report);
}

static long do_send_child(struct launch *launch)
{
    struct report report = {.type = REPORT_CHILD, .pid = launch->child};
    return send_message(launch->control, &report, launch->childfd);
}

static long do_ready(struct launch *launch)
{
    struct report report = {.type = REPORT_READY};
    return send_report(launch->control, &report);
}

/* Bounding set first: dropping from it takes CAP_SETPCAP, which the second half takes away. */
static long do_limit_capabilities(uint64_t bounding, uint64_t permitted, uint64_t ambient)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    long error;

    for (int capability = 0; capability < 64; capability++) {
        if (bounding >> capability & 1)
            continue;
        error = sys(prctl, PR_CAPBSET_DROP, capability, 0, 0, 0);
        if (error == -PYC_EINVAL)
            break; /* past the last one that this kernel knows */
        if (error)
            return error;
    }
    for (int i = 0; i < 2; i++) {
        data[i].effective = data[i].permitted = (uint32_t)(permitted >> (32 * i));
        data[i].inheritable = (uint32_t)(ambient >> (32 * i));
    }
    error = sys(capset, &header, data);
    for (int capability = 0; !error && capability < 64; capability++) {
        if (ambient >> capability & 1)
            error = sys(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0);
    }
    return error;
}

static long do_set_seccomp(const char *filter, uint64_t length)
{
    struct sock_fprog program = {.len = (unsigned short)(length / sizeof(struct sock_filter)),
                                 .filter = (struct sock_filter *)filter};
    return sys(seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

struct kernel_sigaction {
    void *handler; /* 0 is SIG_DFL, 1 is SIG_IGN */
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

/* Ignored signals survive an exec (Python ignores SIGPIPE); blocked ones do too. */
static long do_reset_signals(void)
{
    struct kernel_sigaction action = {0};
    uint64_t none = 0;

    for (int signal = 1; signal <= LAST_SIGNAL; signal++) {
        if (signal != SIGKILL && signal != SIGSTOP)
            (void)sys(rt_sigaction, signal, &action, 0, 8); /* cannot fail: a valid number */
    }
    return sys(rt_sigprocmask, 2 /* SIG_SETMASK */, &none, 0, 8);
}

static long do_ignore_signals(uint64_t mask)
{
    struct kernel_sigaction action = {.handler = (void *)1};
    long error = 0;

    for (int signal = 1; !error && signal <= LAST_SIGNAL; signal++) {
        if (mask >> (signal - 1) & 1)
            error = sys(rt_sigaction, signal, &action, 0, 8);
    }
    return error;
}

static long close_on_exec(uint64_t first, uint64_t last)
{
    return first > last ? 0 : sys(close_range, first, last, CLOSE_RANGE_CLOEXEC);
}

/* Descriptors that the payload keeps, at the numbers it knows them by, sorted. All others are
 * closed by the exec. The ones to keep go above the highest number first, so that none is
 * overwritten before it is placed. */
static long do_place_descriptors(struct launch *launch, const struct plan_step *step)
{
    uint64_t count = INT(0), first = INT(1);
    const uint32_t *numbers = (const uint32_t *)STR(2);
    uint64_t above;
    long fd, error;

    if (count > SLOTS || first + count > SLOTS || count * sizeof *numbers > INT(3))
        return -PYC_EINVAL;
    above = count ? numbers[count - 1] + 1ull : 3;
    for (uint64_t i = 0; i < count; i++) {
        fd = sys(fcntl, launch->slot[first + i], F_DUPFD_CLOEXEC, above);
        if (fd < 0)
            return fd;
        launch->slot[first + i] = (int)fd;
    }
    if (count) {
        fd = sys(fcntl, launch->control, F_DUPFD_CLOEXEC, above);
        if (fd < 0)
            return fd;
        launch->control = (int)fd;
    }
    error = close_on_exec(3, ~0u);
    for (uint64_t i = 0; !error && i < count; i++) {
        fd = sys(dup3, launch->slot[first + i], numbers[i], 0);
        error = fd < 0 ? fd : 0;
    }
    return error;
}

static uint64_t *relocate(struct launch *launch, uint64_t *table, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        table[i] += (uint64_t)(uintptr_t)launch->base;
    return table + count;
}

/* Payload. As execvpe does: a name that is not there lets the next one be tried, and another error
 * is remembered. Returns only when nothing could be executed. */
static long do_execute(struct launch *launch)
{
    uint64_t *table = (uint64_t *)(launch->base + launch->header->program);
    uint64_t candidates = table[0], argc = table[1], envc = table[2];
    uint64_t *names = table + 3, *argv = names + candidates, *envp = argv + argc + 1;
    uint64_t room = (launch->header->size - launch->header->program) / sizeof *table;
    long kept = 0, error = -PYC_ENOENT;

    if (candidates > room || argc > room || envc > room || candidates + argc + envc + 5 > room)
        return -PYC_EINVAL;
    relocate(launch, names, candidates);
    relocate(launch, argv, argc);
    relocate(launch, envp, envc);
    for (uint64_t i = 0; i < candidates; i++) {
        error = sys(execve, names[i], argv, envp);
        if (error != -PYC_ENOENT && error != -PYC_ENOTDIR && !kept)
            kept = error;
    }
    return kept ? kept : error;
}

static long set_limit(uint64_t resource, uint64_t soft, uint64_t hard)
{
    struct rlimit64 limit = {soft, hard};
    return sys(prlimit64, 0, resource, &limit, 0);
}

static long run_step(struct launch *launch, const struct plan_step *step)
{
    switch (step->op) {
    case OP_unshare: return sys(unshare, INT(0));
    case OP_setns: return sys(setns, FD(0), INT(1));
    case OP_set_dumpable: return sys(prctl, PR_SET_DUMPABLE, INT(0), 0, 0, 0);
    case OP_write_proc: return write_proc(FD(0), STR(1), STR(2), INT(3));
    case OP_write_child_proc: return do_write_child_proc(launch, step);
    case OP_open_tree: return do_open_tree(launch, step);
    case OP_send_child: return do_send_child(launch);
    case OP_release_child: return write_all(launch->rendezvous[1], "", 1);
    case OP_await_parent: return do_await_parent(launch);
    case OP_cgroup_attach: return write_all(FD(0), "0", 1);
    case OP_setgroups: return sys(setgroups, INT(1) / sizeof(uint32_t), STR(0));
    case OP_setresgid: return sys(setresgid, INT(0), INT(0), INT(0));
    case OP_setresuid: return sys(setresuid, INT(0), INT(0), INT(0));
    case OP_join_session_keyring: {
        long keyring = sys(keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0);
        return keyring < 0 ? keyring : 0;
    }
    case OP_setsid: {
        long session = sys0(setsid);
        return session < 0 ? session : 0;
    }
    case OP_set_propagation: return do_set_propagation(launch, step);
    case OP_mount_new: return do_mount_new(launch, step);
    case OP_mount_attach: return do_mount_attach(launch, step);
    case OP_mount_stack:
        return sys(move_mount, FD(0), "", AT_FDCWD, STR(1), MOVE_MOUNT_F_EMPTY_PATH);
    case OP_mount_set: return set_attributes(FD(0), INT(1), INT(2), (int)INT(3));
    case OP_make_directory: return do_make_directory(launch, step);
    case OP_make_file: return do_make_file(launch, step);
    case OP_make_symlink: return do_make_symlink(launch, step);
    case OP_mask_proc: return do_mask_proc(launch, step);
    case OP_seal_proc: return do_seal_proc(launch, step);
    case OP_pivot_root: return do_pivot_root(launch, step);
    case OP_set_hostname: return sys(sethostname, STR(0), INT(1));
    case OP_raise_loopback: return do_raise_loopback();
    case OP_ready: return do_ready(launch);
    case OP_close_slot: return sys(close, FD(0));
    case OP_set_rlimit: return set_limit(INT(0), INT(1), INT(2));
    case OP_set_umask: return sys(umask, INT(0)) < 0 ? -PYC_EINVAL : 0;
    case OP_change_directory: return sys(chdir, STR(0));
    case OP_limit_capabilities: return do_limit_capabilities(INT(0), INT(1), INT(2));
    case OP_set_securebits: return sys(prctl, PR_SET_SECUREBITS, INT(0), 0, 0, 0);
    case OP_set_no_new_privs: return sys(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    case OP_set_seccomp: return do_set_seccomp(STR(0), INT(1));
    case OP_reset_signals: return do_reset_signals();
    case OP_place_descriptors: return do_place_descriptors(launch, step);
    case OP_set_process_group: return sys(setpgid, 0, INT(0));
    case OP_execute: return do_execute(launch);
    case OP_ignore_signals: return do_ignore_signals(INT(0));
    case OP_await_application: return do_await_application(FD(0));
    default: return -PYC_EINVAL;
    }
}

#ifdef PYC_FAULTS
/* Test build: a step can be told to fail, to stand still, or to die. */
static long run_step_or_fault(struct launch *launch, uint32_t index)
{
    const struct plan_header *header = launch->header;

    if (header->fail_step != (int32_t)index)
        return run_step(launch, launch->steps + index);
    if (header->fail_errno > 0)
        return -header->fail_errno;
    (void)sys(kill, sys0(getpid), header->fail_errno == -1 ? SIGSTOP : SIGKILL);
    for (;;)
        (void)sys(ppoll, 0, 0, 0, 0, 8); /* PID 1 of its namespace: SIGSTOP does nothing */
}
#else
static long run_step_or_fault(struct launch *launch, uint32_t index)
{
    return run_step(launch, launch->steps + index);
}
#endif

static int operands_are_sound(const struct launch *launch, const struct plan_step *step)
{
    static const char *const shapes[] = {
#define OP(name, operands) operands,
#include "ops.def"
#undef OP
    };
    int at = 0;

    if (step->op >= OP_COUNT)
        return 0;
    for (const char *shape = shapes[step->op]; *shape;) {
        uint64_t value = step->operand[at];
        while (*shape != ':')
            shape++;
        shape++;
        if ((*shape == 's' && shape[1] == 'l') || *shape == 'n') {
            if (value >= SLOTS)
                return 0; /* slot, newslot */
        } else if (*shape == 's' && value >= launch->header->size) {
            return 0; /* str: the plan's last byte is NUL, so every string ends */
        } else if (*shape == 'd') {
            uint64_t length = step->operand[++at];
            if (value > launch->header->size || length > launch->header->size - value)
                return 0;
        }
        at++;
        while (*shape && *shape != ' ')
            shape++;
        while (*shape == ' ')
            shape++;
    }
    return 1;
}

int run_section(struct launch *launch, enum section section)
{
    uint32_t i = section ? launch->header->section_end[section - 1] : 0;

    for (; i < launch->header->section_end[section]; i++) {
        long error = -PYC_EINVAL;
        if (operands_are_sound(launch, launch->steps + i))
            error = run_step_or_fault(launch, i);
        if (error) {
            report_failure(launch, (int)i, (int)-error);
            return (int)error;
        }
    }
    return 0;
}
