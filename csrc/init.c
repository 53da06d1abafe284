/* PID 1 of a container: starts the payload, reaps, keeps the clock, tells the application.
 *
 * Rules:
 * 1. What is inside can stop neither this loop nor its report: signals are taken from a signalfd
 *    and count only when they come from outside the pid namespace; nothing here blocks on a
 *    descriptor that the inside holds.
 * 2. The report is written once, after everything else in the container is dead and reaped. */
#include "plan.h"

#include <linux/capability.h>
#include <linux/fcntl.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/signal.h>
#include <linux/signalfd.h>
#include <linux/time.h>
#include <linux/wait.h>

#define NANOSECONDS 1000000000ull
#define PAYLOAD_STACK 65536

struct watch {
    struct launch *launch;
    long main_pid;
    int main_status;
    int main_ended;
    int is_init;
    uint32_t reason;
    uint64_t started;
    uint64_t cpu_before; /* a joined program is charged with what it uses itself */
    struct rusage joined;
};

static uint64_t now(void)
{
    struct timespec time = {0};
    (void)sys(clock_gettime, 1 /* CLOCK_MONOTONIC */, &time); /* cannot fail: a valid clock */
    return (uint64_t)time.tv_sec * NANOSECONDS + (uint64_t)time.tv_nsec;
}

static uint64_t nanoseconds(const struct __kernel_old_timeval *time)
{
    return (uint64_t)time->tv_sec * NANOSECONDS + (uint64_t)time->tv_usec * 1000;
}

/* Init. The tree's CPU time from its cgroup; where there is none, what has been reaped so far. */
static uint64_t cpu_time(const struct watch *watch)
{
    const struct plan_header *header = watch->launch->header;
    char text[96];
    uint64_t value = 0;
    struct rusage usage = {0};
    long n;

    if (header->cpu_slot >= SLOTS) {
        (void)sys(getrusage, RUSAGE_CHILDREN, &usage);
        return nanoseconds(&usage.ru_utime) + nanoseconds(&usage.ru_stime);
    }
    n = sys(pread64, watch->launch->slot[header->cpu_slot], text, sizeof text, 0);
    for (long i = 0; i < n && text[i] != '\n'; i++) {
        if (text[i] >= '0' && text[i] <= '9')
            value = value * 10 + (uint64_t)(text[i] - '0');
    }
    return header->cpu_format == CPU_STAT_USEC ? value * 1000 : value;
}

/* Init. Everything in the namespace but itself; in a joined container only the program. */
static void kill_everything(const struct watch *watch)
{
    /* ESRCH: nobody is left. */
    (void)sys(kill, watch->is_init ? -1 : watch->main_pid, SIGKILL);
}

static void end(struct watch *watch, uint32_t reason)
{
    if (watch->reason == END_EXIT && !watch->main_ended)
        watch->reason = reason;
    kill_everything(watch);
}

/* Init. Returns whether children are left. */
static int reap(struct watch *watch, int options)
{
    for (;;) {
        int status = 0;
        struct rusage usage = {0};
        long pid = sys(wait4, -1, &status, options, &usage);

        if (pid == -PYC_EINTR)
            continue;
        if (pid < 0)
            return 0; /* ECHILD */
        if (pid == 0)
            return 1;
        if (pid == watch->main_pid && !watch->main_ended) {
            watch->main_ended = 1;
            watch->main_status = status;
            watch->joined = usage;
        }
    }
}

__attribute__((noreturn)) static void report_end(struct watch *watch)
{
    struct report report = {0};
    struct rusage usage = {0};

    if (watch->is_init)
        (void)sys(getrusage, RUSAGE_CHILDREN, &usage); /* cannot fail: valid arguments */
    else
        usage = watch->joined;
    report.type = REPORT_ENDED;
    report.reason = watch->reason;
    report.status = watch->main_status;
    report.wall = now() - watch->started;
    report.user = nanoseconds(&usage.ru_utime);
    report.system = nanoseconds(&usage.ru_stime);
    report.peak_rss = (uint64_t)usage.ru_maxrss * 1024;
    report.read_blocks = (uint64_t)usage.ru_inblock;
    report.written_blocks = (uint64_t)usage.ru_oublock;
    (void)send_report(watch->launch->control, &report); /* the application may be gone */
    leave(0);
}

/* Init. Nanoseconds until a clock has to be looked at, or -1. CPU time passes at most as fast as
 * there are processors; it is looked at again in no less than a millisecond. */
static int64_t until_next_look(struct watch *watch)
{
    const struct plan_header *header = watch->launch->header;
    int64_t wait = -1;

    if (header->wall_limit) {
        uint64_t passed = now() - watch->started;
        if (passed >= header->wall_limit) {
            end(watch, END_WALL_TIME);
            return 0;
        }
        wait = (int64_t)(header->wall_limit - passed);
    }
    if (header->cpu_limit) {
        uint64_t used = cpu_time(watch) - watch->cpu_before;
        int64_t left;
        if (used >= header->cpu_limit) {
            end(watch, END_CPU_TIME);
            return 0;
        }
        left = (int64_t)((header->cpu_limit - used) / (header->processors ? header->processors : 1));
        if (left < 1000000)
            left = 1000000;
        if (wait < 0 || left < wait)
            wait = left;
    }
    return wait;
}

/* Init. A command from the application; end of file is the application closing its end, which
 * ends the container as its death does. */
static void take_command(struct watch *watch)
{
    struct command command = {0};
    long n = sys(recvfrom, watch->launch->control, &command, sizeof command,
                 0x40 /* MSG_DONTWAIT */, 0, 0);

    if (n == -PYC_EAGAIN || n == -PYC_EINTR)
        return;
    if (n != (long)sizeof command) {
        end(watch, END_MANAGER_GONE);
        return;
    }
    if (command.type == 1 && !watch->main_ended)
        (void)sys(kill, watch->main_pid, command.value); /* ESRCH: it has just ended */
    if (command.type == 2)
        end(watch, END_EXIT);
}

/* Init. Signals from outside the pid namespace (si_pid 0) go on to the payload. */
static void take_signals(struct watch *watch, int signalfd)
{
    struct signalfd_siginfo info;

    while (sys(read, signalfd, &info, sizeof info) == (long)sizeof info) {
        if (info.ssi_signo != SIGCHLD && info.ssi_pid == 0 && info.ssi_code <= 0 &&
            watch->is_init && !watch->main_ended)
            (void)sys(kill, watch->main_pid, info.ssi_signo); /* ESRCH: it has just ended */
    }
}

__attribute__((noreturn)) static void watch_until_end(struct watch *watch)
{
    uint64_t all = ~0ull;
    int signalfd = (int)sys(signalfd4, -1, &all, sizeof all, O_NONBLOCK | O_CLOEXEC);
    struct pollfd fds[3] = {
        {.fd = signalfd, .events = POLLIN},
        {.fd = watch->launch->control, .events = POLLIN},
        {.fd = watch->launch->slot[SLOT_MANAGER], .events = POLLIN},
    };

    while (reap(watch, 1 /* WNOHANG */) && !watch->main_ended) {
        struct timespec time;
        int64_t wait = until_next_look(watch);

        if (wait >= 0) {
            time.tv_sec = wait / (int64_t)NANOSECONDS;
            time.tv_nsec = wait % (int64_t)NANOSECONDS;
        }
        (void)sys(ppoll, fds, 3, wait >= 0 ? &time : 0, 0, 8); /* EINTR: looks again */
        if (fds[0].revents)
            take_signals(watch, signalfd);
        if (fds[1].revents)
            take_command(watch);
        if (fds[2].revents)
            end(watch, END_MANAGER_GONE);
        if (watch->reason == END_MANAGER_GONE)
            break; /* nobody listens: leaving ends the namespace */
    }
    if (watch->is_init) {
        kill_everything(watch);
        (void)reap(watch, 0); /* waits until nobody is left: all have SIGKILL pending */
    }
    report_end(watch);
}

/* Init's child, sharing init's memory until it executes; init stands still meanwhile. */
__attribute__((noreturn, used)) void payload_main(struct launch *launch)
{
    struct launch own = *launch; /* init's descriptors keep their numbers */

    run_section(&own, SECTION_PAYLOAD);
    launch->payload_failed = 1;
    leave(127);
}

long clone_payload(struct launch *launch, char *stack_top);
#if defined(__x86_64__)
__asm__("clone_payload:\n"
        "    mov %rdi, %r8\n"
        "    mov $0x4111, %edi\n" /* CLONE_VM | CLONE_VFORK | SIGCHLD */
        "    xor %edx, %edx\n"
        "    xor %r10d, %r10d\n"
        "    mov $56, %eax\n" /* clone */
        "    mov %r8, %r9\n"
        "    xor %r8d, %r8d\n"
        "    syscall\n"
        "    test %rax, %rax\n"
        "    jnz 1f\n"
        "    xor %ebp, %ebp\n"
        "    mov %r9, %rdi\n"
        "    and $-16, %rsp\n"
        "    call payload_main\n"
        "1:  ret\n");
#elif defined(__aarch64__)
__asm__("clone_payload:\n"
        "    mov x9, x0\n"
        "    mov x0, #0x4111\n" /* CLONE_VM | CLONE_VFORK | SIGCHLD */
        "    mov x2, #0\n"
        "    mov x3, #0\n"
        "    mov x4, #0\n"
        "    mov x8, #220\n" /* clone */
        "    svc #0\n"
        "    cbnz x0, 1f\n"
        "    mov x29, #0\n"
        "    mov x0, x9\n"
        "    bl payload_main\n"
        "1:  ret\n");
#endif

/* Init. Holds no standard stream of the payload: a reader sees the end when the payload closes. */
static void let_go_of_streams(void)
{
    for (int fd = 0; fd < 3; fd++)
        (void)sys(close, fd); /* nothing was written through it, so nothing can be lost */
}

/* Init. Of its capabilities only the one to kill what changed its ids: the rest was for set-up. */
static void keep_only_kill(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{0}};

    data[0].effective = data[0].permitted = 1u << CAP_KILL;
    (void)sys(capset, &header, data); /* cannot fail: only takes away */
}

void become_init(struct launch *launch)
{
    static char stack[PAYLOAD_STACK] __attribute__((aligned(16)));
    struct watch watch = {.launch = launch, .is_init = 1};
    struct report started = {.type = REPORT_STARTED};
    uint64_t all = ~0ull;

    (void)sys(prctl, PR_SET_DUMPABLE, 0); /* cannot fail: 0 is a valid value */
    (void)sys(rt_sigprocmask, 0 /* SIG_BLOCK */, &all, 0, 8);
    watch.started = now();
    watch.main_pid = clone_payload(launch, stack + PAYLOAD_STACK);
    if (watch.main_pid < 0) {
        report_failure(launch, -3, (int)-watch.main_pid);
        leave(127);
    }
    if (launch->payload_failed)
        leave(127); /* it has said why; the namespace ends with us */
    let_go_of_streams();
    keep_only_kill();
    (void)send_report(launch->control, &started); /* the application may be gone: seen below */
    watch_until_end(&watch);
}

/* The launcher that stays beside a program it started in a running container. */
void watch_payload(struct launch *launch, long main_pid)
{
    struct watch watch = {.launch = launch, .main_pid = main_pid};
    struct report started = {.type = REPORT_STARTED};
    uint64_t all = ~0ull;

    (void)sys(rt_sigprocmask, 0 /* SIG_BLOCK */, &all, 0, 8);
    watch.started = now();
    watch.cpu_before = cpu_time(&watch);
    let_go_of_streams();
    (void)send_report(launch->control, &started); /* the application may be gone: seen below */
    watch_until_end(&watch);
}
