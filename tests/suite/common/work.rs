//! How much work an input may cost.

use rustix::time::{ClockId, clock_gettime};

/// Seconds of work that any input may cost, many times what the slowest one costs on a slow machine: what doubles at every
/// node never ends, and inputs are so large that a square of their size takes minutes.
pub const MOST: f64 = 10.0;

/// What `work` gives, and the seconds that it cost this thread; a busy machine makes nothing slow.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
    };
    let start = now();
    let result = work();
    (result, now() - start)
}

/// What `work` gives; it must not cost more than [`MOST`].
pub fn soon<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (result, seconds) = timed(work);
    if seconds > 0.1 {
        println!("{what}: {seconds:.1} s");
    }
    assert!(seconds < MOST, "{what} took {seconds:.1} s");
    result
}
