/* The launcher: a program without libc that carries out a plan.
 *
 * It starts with the plan and the application's descriptors by number (plan.h), does the share of
 * the work that needs the caller's rights, clones the container's first process with all its
 * namespaces at once, and is gone. Rules:
 * 1. Nothing here decides: a plan that would need an `if` is two plans.
 * 2. Nothing here waits for what the inside can stall; the application has the deadline.
 * By hand: `_launcher` reads the plan from descriptor 4 and reports on descriptor 3. */
#include "plan.h"

#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/sched.h>
#include <linux/signal.h>
#include <linux/stat.h>

#define CLONE_FLAGS                                                                            \
    (CLONE_NEWTIME | CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | \
     CLONE_NEWPID | CLONE_NEWNET | CLONE_VFORK)
#define MAP_FAILED_ABOVE ((unsigned long)-4096)

struct clone3_arguments { /* struct clone_args, version 2 (linux/sched.h, 5.7) */
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
        set_tid_size, cgroup;
};

void *memset(void *to, int byte, size_t n)
{
    unsigned char *at = to;
    while (n--)
        *at++ = (unsigned char)byte;
    return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
    unsigned char *at = to;
    const unsigned char *source = from;
    while (n--)
        *at++ = *source++;
    return to;
}

void leave(int status)
{
    for (;;)
        sys(exit_group, status);
}

/* Anyone. A child of the application, not of the launcher, where flags has CLONE_PARENT. */
long clone_process(uint64_t flags, int cgroupfd, int *ret_pidfd)
{
    struct clone3_arguments arguments = {0};
    int pidfd = -1;
    long pid;

    arguments.flags = flags | CLONE_PIDFD;
    arguments.pidfd = (uint64_t)(uintptr_t)&pidfd;
    arguments.exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD;
    if (cgroupfd >= 0) {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = (uint64_t)cgroupfd;
    }
    pid = sys(clone3, &arguments, sizeof arguments);
    if (pid > 0)
        *ret_pidfd = pidfd;
    return pid;
}

/* Launcher. A plan comes from our own application, but a file by hand may hold anything. */
static int plan_is_sound(const struct plan_header *header, uint64_t size, const char *base)
{
    uint32_t start = 0;
    uint64_t steps_end =
        sizeof *header + (uint64_t)header->step_count * sizeof(struct plan_step);

    if (header->magic != PLAN_MAGIC || header->size != size || steps_end >= size)
        return 0;
    if (header->slot_count > SLOTS || header->slot_count < SLOT_FREE || base[size - 1] != '\0')
        return 0;
    if (header->program % 8 || header->program < steps_end || (uint64_t)header->program + 24 > size)
        return 0;
    if (header->clone_flags & ~(uint64_t)CLONE_FLAGS)
        return 0; /* shared memory or descriptors would mix the processes of a plan */
    for (int i = 0; i < SECTIONS; i++) {
        if (header->section_end[i] < start || header->section_end[i] > header->step_count)
            return 0;
        start = header->section_end[i];
    }
    return 1;
}

/* Launcher. Closed standard streams would be filled by the next open, and so reach the payload. */
static long fill_standard_streams(void)
{
    for (int fd = 0; fd < 3; fd++) {
        if (sys(fcntl, fd, F_GETFD) >= 0)
            continue;
        long got = sys(openat, AT_FDCWD, "/dev/null", O_RDWR, 0);
        if (got < 0)
            return got;
    }
    return 0;
}

/* Launcher. Descriptors from the application lose their way into other programs here. */
static long take_plan(struct launch *launch)
{
    uint64_t size;
    long address;
    struct {
        struct plan_header header;
    } *plan;

    size = (uint64_t)sys(lseek, FIRST_SLOT_FD + SLOT_PLAN, 0, 2 /* SEEK_END */);
    if (size < sizeof *plan || size > 64u << 20)
        return -22; /* EINVAL */
    address = sys(mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE,
                  FIRST_SLOT_FD + SLOT_PLAN, 0);
    if ((unsigned long)address >= MAP_FAILED_ABOVE)
        return address;
    plan = (void *)address;
    launch->base = (char *)address;
    launch->header = &plan->header;
    launch->steps = (const struct plan_step *)(address + (long)sizeof(struct plan_header));
    if (!plan_is_sound(launch->header, size, launch->base))
        return -22; /* EINVAL */
    for (int i = 0; i < SLOTS; i++)
        launch->slot[i] = -1;
    for (uint32_t i = 0; i < launch->header->slot_count; i++)
        launch->slot[i] = FIRST_SLOT_FD + (int)i;
    return sys(close_range, FIRST_SLOT_FD, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */);
}

/* The clone, in its new namespaces. */
__attribute__((noreturn)) static void be_child(struct launch *launch)
{
    (void)sys(close, launch->rendezvous[1]); /* its own end: so that it hears the launcher die */
    if (launch->header->mode == MODE_JOIN) {
        run_section(launch, SECTION_PAYLOAD);
        leave(127);
    }
    if (run_section(launch, SECTION_INSIDE))
        leave(127);
    if (launch->header->mode == MODE_BASE) {
        char byte;
        /* The application lets go by closing its end; so does its death. */
        (void)sys(read, launch->control, &byte, 1);
        leave(0);
    }
    become_init(launch);
}

__attribute__((noreturn, used)) void launcher_main(void)
{
    struct launch launch = {0};
    const struct plan_header *header;
    int cgroupfd = -1;
    uint64_t flags;
    long error;

    launch.control = FIRST_SLOT_FD + SLOT_CONTROL;
    /* A group of its own, with the clone in it until that has a session: if this process dies
     * before it could name the clone, the application finds it by the group. */
    (void)sys(setpgid, 0, 0); /* cannot fail: not a session leader, not executed by a child */
    error = fill_standard_streams();
    if (!error)
        error = take_plan(&launch);
    if (error) {
        report_failure(&launch, -1, (int)-error);
        leave(127);
    }
    header = launch.header;
    if (run_section(&launch, SECTION_OUTSIDE))
        leave(127);
    error = sys(pipe2, launch.rendezvous, O_CLOEXEC);
    if (error < 0) {
        report_failure(&launch, -2, (int)-error);
        leave(127);
    }
    if (header->cgroup_slot < SLOTS)
        cgroupfd = launch.slot[header->cgroup_slot];
    flags = header->clone_flags;
    if (header->mode != MODE_JOIN)
        flags |= CLONE_PARENT; /* the application's child; see DESIGN on who reaps */
    launch.child = (int32_t)clone_process(flags, cgroupfd, &launch.childfd);
    if (launch.child < 0) {
        report_failure(&launch, -2, -launch.child);
        leave(127);
    }
    if (launch.child == 0)
        be_child(&launch);
    (void)sys(close, launch.rendezvous[0]);
    if (run_section(&launch, SECTION_BESIDE)) {
        (void)sys(pidfd_send_signal, launch.childfd, SIGKILL, 0, 0);
        leave(127);
    }
    if (header->mode == MODE_JOIN)
        watch_payload(&launch, launch.child);
    leave(0);
}

#if defined(__x86_64__)
__asm__(".globl _start\n"
        "_start:\n"
        "    xor %ebp, %ebp\n"
        "    and $-16, %rsp\n"
        "    call launcher_main\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n"
        "_start:\n"
        "    mov x29, #0\n"
        "    mov x30, #0\n"
        "    bl launcher_main\n");
#endif
