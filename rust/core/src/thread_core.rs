//! On which core, and how eagerly, threads of ours run beside the loop that they work for.

use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::JoinHandle;

/// Where this process has one core, tell the scheduler that waking this thread must not interrupt whoever wakes it: it would
/// begin its gather on the core of the very loop that is to be spared it. A refusal costs only that.
///
/// Where there are others it is kept off that core, and wakes as others do: beside threads that spin on all cores, as those of
/// torch and of BLAS libraries do, it would otherwise wait for the end of a time slice.
#[allow(unsafe_code)]
pub fn stay_behind_on_an_only_core() {
    #[cfg(target_os = "linux")]
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1) {
        // SAFETY: a plain system call on the calling thread (0); the parameter is a valid struct that outlives it.
        unsafe {
            let parameter: libc::sched_param = std::mem::zeroed();
            libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameter);
        }
    }
}

/// Have this thread wake when it asked to: by default Linux lets it sleep 50 us longer, which is more than a small batch takes.
#[allow(unsafe_code)]
pub fn wake_in_time() {
    #[cfg(target_os = "linux")]
    // SAFETY: a plain system call about the calling thread; it takes a number of nanoseconds, and touches no memory of ours.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64);
    }
}

/// The core that a thread is kept away from; none at first.
///
/// Linux puts a thread that is woken where it finds an idle core, and in many virtual machines it takes none for idle: a
/// core that is halted counts as taken away by the host. The thread is then put behind the one that woke it, on the same
/// core, and gets another at some later tick, which is after the work that it was to share: measured, 0.4 to over 1.5 ms
/// against 25 µs. So a thread of ours may run wherever it might, but for the core of whoever works beside it.
#[derive(Debug)]
pub struct CoreAvoided(AtomicI32);

impl Default for CoreAvoided {
    fn default() -> Self {
        Self(AtomicI32::new(NONE))
    }
}

const NONE: i32 = -1;

impl CoreAvoided {
    /// Keep `thread` away from the core that this code runs on. Costs two system calls where that is another one than last
    /// time, and otherwise next to nothing; where a thread has no other core, or may not be moved, it stays as it is.
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    pub fn avoid_that_of_the_caller(&self, thread: &JoinHandle<()>) {
        use std::os::unix::thread::JoinHandleExt;

        // SAFETY: takes nothing and touches no memory of ours.
        let core = unsafe { libc::sched_getcpu() };
        if core < 0 || core as usize >= libc::CPU_SETSIZE as usize {
            return;
        }
        let before = self.0.swap(core, Ordering::Relaxed);
        if before == core {
            return;
        }
        let thread = thread.as_pthread_t();
        // SAFETY: a set of cores is plain bits, all zero to begin with, and both cores are numbers of bits in it; the size that is
        // handed over is its own. The handle is borrowed, so the thread was neither joined nor let go of, and its name is valid.
        unsafe {
            let mut cores: libc::cpu_set_t = std::mem::zeroed();
            if libc::pthread_getaffinity_np(thread, size_of_val(&cores), &raw mut cores) != 0 {
                return;
            }
            // What somebody else has allowed or forbidden meanwhile stays so, but for the one core that was ours to forbid.
            if before != NONE {
                libc::CPU_SET(before as usize, &mut cores);
            }
            libc::CPU_CLR(core as usize, &mut cores);
            if libc::CPU_COUNT(&cores) > 0 {
                libc::pthread_setaffinity_np(thread, size_of_val(&cores), &raw const cores);
            }
        }
    }

    /// Elsewhere the scheduler decides.
    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_self, reason = "the same call on every system")]
    pub fn avoid_that_of_the_caller(&self, _thread: &JoinHandle<()>) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(unsafe_code)]
    use std::os::unix::thread::JoinHandleExt;

    use super::*;

    fn cores_of(thread: libc::pthread_t) -> Vec<usize> {
        // SAFETY: the thread lives, and the set is plain bits of the size that is handed over.
        let cores = unsafe {
            let mut cores: libc::cpu_set_t = std::mem::zeroed();
            assert_eq!(libc::pthread_getaffinity_np(thread, size_of_val(&cores), &raw mut cores), 0);
            cores
        };
        // SAFETY: each number is that of a bit of the set.
        (0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &cores) }).collect()
    }

    fn move_to(core: usize) {
        // SAFETY: as in `cores_of`, for the calling thread.
        unsafe {
            let mut cores: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(core, &mut cores);
            assert_eq!(libc::sched_setaffinity(0, size_of_val(&cores), &raw const cores), 0);
        }
    }

    #[test]
    fn a_thread_may_run_on_every_core_but_the_callers() {
        // SAFETY: names the calling thread, and touches nothing.
        let allowed = cores_of(unsafe { libc::pthread_self() });
        let (asleep, avoided) = (std::thread::spawn(std::thread::park), CoreAvoided::default());
        for &core in &allowed {
            move_to(core);
            avoided.avoid_that_of_the_caller(&asleep);
            let others: Vec<usize> = allowed.iter().copied().filter(|&other| other != core).collect();
            assert_eq!(cores_of(asleep.as_pthread_t()), if others.is_empty() { allowed.clone() } else { others });
        }
        asleep.thread().unpark();
        asleep.join().unwrap();
    }
}
