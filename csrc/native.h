/* What Python may call: declarations only, read by the C compiler and by cffi.
 * Results are a non-negative number or -errno. The GIL is released around every call. */
#ifndef PYCONTAINER_NATIVE_H
#define PYCONTAINER_NATIVE_H

/* Starts the launcher: descriptor sources[i] of this process becomes i in the launcher, for all
 * i < count; -1 is closed. All others stay behind. Its pid and a pidfd of it are written where the
 * caller keeps them, so that no signal handler's exception can lose them. */
int pyc_start(int launcherfd, const int *sources, int count, int *ret_pid, int *ret_pidfd);

/* Waits at most `timeout_ms` (-1: for ever) for a packet; its length, 0 at the end, -EAGAIN when
 * none came. A descriptor that travels with it is put into *ret_fd, which is otherwise untouched. */
int pyc_receive(int socketfd, char *buffer, unsigned long length, int timeout_ms, int *ret_fd);

/* A memfd with `length` bytes of `content`, sealed against every change. Its descriptor. */
int pyc_sealed_memfd(const char *name, const char *content, unsigned long length, int executable);

int pyc_pidfd_open(int pid);
int pyc_pidfd_send_signal(int pidfd, int signal, unsigned int flags);
int pyc_setns(int fd, int namespaces);
int pyc_unshare(int flags);
int pyc_openat2(int dirfd, const char *path, unsigned long flags, unsigned long mode,
                unsigned long resolve);
int pyc_open_tree(int dirfd, const char *path, unsigned int flags);
int pyc_move_mount(int fromfd, const char *from, int tofd, const char *to, unsigned int flags);
int pyc_mount_setattr(int dirfd, const char *path, unsigned int flags, unsigned long set,
                      unsigned long clear, unsigned long propagation, int usernsfd);
int pyc_fsopen(const char *fstype);
int pyc_fsconfig(int fsfd, unsigned int command, const char *key, const char *value, int aux);
int pyc_fsmount(int fsfd, unsigned long attributes);
int pyc_umount2(const char *path, int flags);
int pyc_pivot_root(const char *new_root, const char *put_old);
int pyc_capget_effective(unsigned long *ret_effective);
int pyc_ofd_lock(int fd, long start, long length, int exclusive);
int pyc_landlock_abi(void);
int pyc_seccomp_action_available(unsigned int action);

#endif
