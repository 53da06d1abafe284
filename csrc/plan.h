/* The wire format between the application and its launcher: plans, reports and commands.
 * Little-endian, natural alignment; written by plan/encode.py and read by process.py. */
#ifndef PYCONTAINER_PLAN_H
#define PYCONTAINER_PLAN_H

#include "sys.h"

#define PLAN_MAGIC 0x31435950u /* "PYC1" */
#define STEP_OPERANDS 6
#define SLOTS 512
#define FIRST_SLOT_FD 3 /* slot i of the application arrives as descriptor 3 + i */
#define NO_SLOT 0xffffffffu

/* Slots that every launch has. */
enum { SLOT_CONTROL, SLOT_PLAN, SLOT_PROC, SLOT_MANAGER, SLOT_FREE };

/* A plan's steps stand in four runs, each carried out by one process. */
enum section {
    SECTION_OUTSIDE, /* the launcher, before the clone */
    SECTION_BESIDE,  /* the launcher, after the clone */
    SECTION_INSIDE,  /* the clone: it becomes init */
    SECTION_PAYLOAD, /* init's child: it becomes the program */
    SECTIONS
};

enum mode {
    MODE_INIT,  /* the clone becomes PID 1 and starts the payload */
    MODE_BASE,  /* the clone prepares mounts, says so, and waits to be let go */
    MODE_JOIN,  /* the clone becomes the program; the launcher stays and watches it */
};

enum cpu_format { CPU_STAT_USEC, CPUACCT_NSEC };

struct plan_header {
    uint32_t magic;
    uint32_t size;        /* of everything, and the last byte is NUL */
    uint32_t step_count;
    uint32_t section_end[SECTIONS];
    uint32_t mode;
    uint64_t clone_flags;
    uint32_t slot_count;  /* descriptors that the application gave */
    uint32_t cgroup_slot; /* for CLONE_INTO_CGROUP, or NO_SLOT */
    uint32_t cpu_slot;    /* what to read the tree's CPU time from, or NO_SLOT */
    uint32_t cpu_format;
    uint64_t wall_limit;  /* nanoseconds; 0 is none */
    uint64_t cpu_limit;   /* nanoseconds; 0 is none */
    uint32_t processors;  /* how fast CPU time can pass */
    uint32_t program;     /* offset of: count of candidates, argv, envp (3 x u64), then their
                             offsets (u64 each), argv and envp each followed by one 0 */
    int32_t fail_step;    /* test build: fail this step with fail_errno, park there, or die */
    int32_t fail_errno;
};

struct plan_step {
    uint32_t op;
    uint32_t reserved;
    uint64_t operand[STEP_OPERANDS];
};

enum report_type { REPORT_FAILED = 1, REPORT_CHILD, REPORT_STARTED, REPORT_ENDED, REPORT_READY };
enum end_reason { END_EXIT, END_WALL_TIME, END_CPU_TIME, END_MANAGER_GONE };

/* One packet on the control socket. */
struct report {
    uint32_t type;
    int32_t step;      /* REPORT_FAILED */
    int32_t error;     /* REPORT_FAILED: errno */
    int32_t pid;       /* REPORT_CHILD: as the launcher sees it; a pidfd travels with it */
    uint32_t reason;   /* REPORT_ENDED: enum end_reason */
    int32_t status;    /* REPORT_ENDED: the wait status of the payload */
    uint64_t wall, user, system; /* nanoseconds: all that init reaped */
    uint64_t peak_rss;           /* bytes: the largest single process */
    uint64_t read_blocks, written_blocks; /* of 512 bytes */
};

struct command {
    uint32_t type; /* 1: send signal `value` to the payload; 2: end everything */
    int32_t value;
};

struct launch {
    const struct plan_header *header;
    const struct plan_step *steps;
    char *base;
    int slot[SLOTS];
    int control;
    int rendezvous[2]; /* the clone reads, the launcher writes */
    int32_t child;     /* the clone's pid as the launcher sees it */
    int childfd;
    volatile int payload_failed;
};

/* ops.c */
int run_section(struct launch *launch, enum section section);
int report_failure(struct launch *launch, int step, int error);
int send_report(int control, const struct report *report);
/* init.c */
__attribute__((noreturn)) void become_init(struct launch *launch);
__attribute__((noreturn)) void watch_payload(struct launch *launch, long main_pid);
/* launcher.c */
__attribute__((noreturn)) void leave(int status);
long clone_process(uint64_t flags, int cgroupfd, int *ret_pidfd);

#endif
