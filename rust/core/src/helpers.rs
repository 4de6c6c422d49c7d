//! Threads that help with large copies: none at import, made on first use, one set per process (a forked child makes its own).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use crate::job::Job;
use crate::thread_core::CoreAvoided;

static HELPERS: RwLock<Option<Arc<Helpers>>> = RwLock::new(None);

/// Some threads, and the jobs that they are asked to help with.
pub struct Helpers {
    pid: u32,
    asked: Arc<Asked>,
    threads: Vec<Helper>,
}

struct Helper {
    thread: JoinHandle<()>,
    core: CoreAvoided,
}

struct Asked {
    jobs: Mutex<VecDeque<Arc<Job>>>,
    /// Which helpers sleep, or are about to.
    idle: Vec<AtomicBool>,
    ended: AtomicBool,
}

impl Asked {
    fn jobs(&self) -> MutexGuard<'_, VecDeque<Arc<Job>>> {
        // The queue is valid after every statement.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, me: usize) {
        loop {
            // Before looking: whoever asks after that look finds this helper idle, and wakes it.
            self.idle[me].store(true, Ordering::Release);
            let job = self.jobs().pop_front();
            match job {
                Some(job) => {
                    self.idle[me].store(false, Ordering::Release);
                    job.help();
                }
                None if self.ended.load(Ordering::Acquire) => return,
                None => std::thread::park(),
            }
        }
    }
}

impl Helpers {
    fn new(pid: u32, count: usize) -> std::io::Result<Self> {
        let idle = (0..count).map(|_| AtomicBool::new(true)).collect();
        let asked = Arc::new(Asked { jobs: Mutex::default(), idle, ended: AtomicBool::new(false) });
        // From here on whatever was begun ends with it, also where a thread cannot be had.
        let mut helpers = Self { pid, asked, threads: Vec::with_capacity(count) };
        for me in 0..count {
            let asked = Arc::clone(&helpers.asked);
            let thread = std::thread::Builder::new().name(format!("iltools-{me}")).spawn(move || asked.serve(me))?;
            helpers.threads.push(Helper { thread, core: CoreAvoided::default() });
        }
        Ok(helpers)
    }

    /// Ask so many helpers to join a job; whoever is busy looks at it afterwards.
    pub(crate) fn ask(&self, count: usize, job: &Arc<Job>) {
        let mut jobs = self.asked.jobs();
        if jobs.len() > self.threads.len() {
            // They were busy, or had no core, for longer than whoever asked.
            jobs.retain(|job| job.is_open());
        }
        jobs.extend(std::iter::repeat_n(job, count).cloned());
        drop(jobs);
        let idle = self.threads.iter().zip(&self.asked.idle);
        for (helper, _) in idle.filter(|(_, idle)| idle.swap(false, Ordering::AcqRel)).take(count) {
            helper.core.avoid_that_of_the_caller(&helper.thread);
            helper.thread.thread().unpark();
        }
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        self.asked.ended.store(true, Ordering::Release);
        self.threads.iter().for_each(|helper| helper.thread.thread().unpark());
    }
}

/// At least `count` helpers of this process. Never waits for a lock, which a fork may have left taken.
pub fn helpers_of_this_process(count: usize) -> Option<Arc<Helpers>> {
    let pid = std::process::id();
    if let Ok(current) = HELPERS.try_read()
        && let Some(helpers) = current.as_ref()
        && helpers.pid == pid
        && helpers.threads.len() >= count
    {
        return Some(Arc::clone(helpers));
    }
    let helpers = Arc::new(Helpers::new(pid, count).ok()?);
    if let Ok(mut current) = HELPERS.try_write()
        && let Some(old) = current.replace(Arc::clone(&helpers))
        && old.pid != pid
    {
        // The parent's threads do not exist here: they can be neither asked nor ended.
        std::mem::forget(old);
    }
    Some(helpers)
}
