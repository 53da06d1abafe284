/* Raw system calls for the launcher: no libc, no TLS, no errno. Every function returns what the
 * kernel returned: a result, or -errno. */
#ifndef PYCONTAINER_SYS_H
#define PYCONTAINER_SYS_H

#include <stddef.h>
#include <stdint.h>
#include <asm/unistd.h>
#include <linux/types.h>

/* Numbers newer than some kernel headers; the same on every architecture (generic table). */
#ifndef __NR_pidfd_send_signal
#define __NR_pidfd_send_signal 424
#endif
#ifndef __NR_open_tree
#define __NR_open_tree 428
#define __NR_move_mount 429
#define __NR_fsopen 430
#define __NR_fsconfig 431
#define __NR_fsmount 432
#endif
#ifndef __NR_pidfd_open
#define __NR_pidfd_open 434
#endif
#ifndef __NR_clone3
#define __NR_clone3 435
#endif
#ifndef __NR_close_range
#define __NR_close_range 436
#endif
#ifndef __NR_openat2
#define __NR_openat2 437
#endif
#ifndef __NR_mount_setattr
#define __NR_mount_setattr 442
#endif

#if defined(__x86_64__)
static inline long sys6(long nr, long a, long b, long c, long d, long e, long f)
{
    long ret;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}
#elif defined(__aarch64__)
static inline long sys6(long nr, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = nr;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}
#else
#error "pycontainer knows the system calls of x86-64 and aarch64"
#endif

#define SYS_ARGS(a, b, c, d, e, f, ...) \
    (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f)
#define sys(name, ...) sys6(__NR_##name, SYS_ARGS(__VA_ARGS__, 0, 0, 0, 0, 0, 0))
#define sys0(name) sys6(__NR_##name, 0, 0, 0, 0, 0, 0)

#define PYC_EINTR 4
#define PYC_EAGAIN 11
#define PYC_ENOENT 2

static inline size_t text_length(const char *text)
{
    size_t n = 0;
    while (text[n])
        n++;
    return n;
}

static inline int text_equal(const char *a, const char *b)
{
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

/* gcc may emit calls to these even in freestanding code (GCC manual, "Standards"). */
void *memset(void *to, int byte, size_t n);
void *memcpy(void *to, const void *from, size_t n);

#endif
