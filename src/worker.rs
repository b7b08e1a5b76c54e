//! A model runs in a process of its own: this program, started anew.
//!
//! TensorFlow ends its process on some graphs, and a graph can ask for all memory there is. A worker that ends so costs
//! nothing but itself: whoever waits for it says what happened, sweeps what it had begun to write, and goes on.

use std::env;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Tells a worker whose it is: the parent's process number.
const PARENT: &str = "TFGRAFT_WORKER_OF";
/// How many pools of memory glibc may have.
const POOLS: &str = "MALLOC_ARENA_MAX";

/// How long a worker may tidy up after it was asked to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the parent looks after its worker.
const LOOK: Duration = Duration::from_millis(10);

/// Requests to stop that came from outside: Ctrl-C, a signal.
static STOPS: AtomicU32 = AtomicU32::new(0);

/// Asks the worker to stop; asked again, it is ended at once. For handlers of signals.
pub fn stop() {
    STOPS.fetch_add(1, Ordering::SeqCst);
}

/// Calls `action` on Ctrl-C and SIGTERM; where that cannot be had, the system's way to end the process stays.
pub fn on_stop(action: fn()) {
    let _ = ctrlc::set_handler(action);
    #[cfg(unix)]
    if let Ok(mut signals) = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM]) {
        let _ = thread::Builder::new().name("signals".into()).spawn(move || {
            for _ in signals.forever() {
                action();
            }
        });
    }
}

/// Whether this process is a worker.
pub fn is_worker() -> bool {
    env::var_os(PARENT).is_some()
}

/// This program as a worker, without arguments. Its streams are those of this process.
pub fn command() -> Result<Command> {
    let program = env::current_exe().map_err(|e| Error::io("this program", e))?;
    let mut command = Command::new(program);
    command.env(PARENT, std::process::id().to_string());
    // The C library keeps a pool of freed memory for each thread, as large as it ever was: a third more in all.
    if env::var_os(POOLS).is_none() {
        command.env(POOLS, "2");
    }
    Ok(command)
}

/// Makes this process end when its parent does, where it is a worker, and holds it to a limit of memory.
///
/// The limit is the operating system's on what a process maps to write to (`RLIMIT_DATA`), so that nothing can outrun it.
/// Errors: [`Error::Usage`] where the system has no such limit.
pub fn adopt(memory_limit: Option<u64>) -> Result<()> {
    if let Some(parent) = env::var(PARENT).ok().and_then(|id| id.parse::<u32>().ok()) {
        end_with(parent)?;
    }
    memory_limit.map_or(Ok(()), limit)
}

#[cfg(target_os = "linux")]
fn end_with(parent: u32) -> Result<()> {
    // Without it a worker would go on writing when its parent was killed; the staging folder is safe all the same.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    // The parent may have ended before that.
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if now == Some(parent) {
        return Ok(());
    }
    Err(Error::Usage(format!("{PARENT} names process {parent}, which has ended or did not start this one")))
}

#[cfg(not(target_os = "linux"))]
fn end_with(_: u32) -> Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
fn limit(bytes: u64) -> Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    setrlimit(Resource::Data, limit)
        .map_err(|e| Error::Usage(format!("--memory-limit {bytes}: the system refuses this limit: {e}")))
}

#[cfg(not(target_os = "linux"))]
fn limit(_: u64) -> Result<()> {
    Err(Error::Usage("--memory-limit works on Linux only; use a container's limit here".into()))
}

/// Runs a worker to its end and passes requests to stop on to it.
///
/// Errors: [`Error::Io`] where it cannot be started; [`Error::Crashed`] where it was ended and nobody had asked for it.
/// The exit code otherwise; 2 where it had to be ended after a request to stop.
pub fn supervise(mut command: Command, memory_limit: Option<u64>) -> Result<i32> {
    let failed = |e: io::Error| Error::io("this program", e);
    let mut child = command.spawn().map_err(failed)?;
    let mut passed_on = 0;
    let mut deadline = None;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        let asked = STOPS.load(Ordering::SeqCst);
        if asked > passed_on {
            deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
            if passed_on == 0 {
                interrupt(&child);
            }
            passed_on = asked;
        }
        if passed_on > 1 || deadline.is_some_and(|end| Instant::now() > end) {
            let _ = child.kill();
        }
        thread::sleep(LOOK);
    };
    match status.code() {
        Some(code @ 0..=2) => Ok(code),
        // Whoever asks for an end gets one, however untidy; TensorFlow's threads do not like to be left.
        _ if passed_on > 0 => Ok(2),
        _ => Err(Error::Crashed(ended_by(status, memory_limit))),
    }
}

#[cfg(unix)]
fn interrupt(child: &Child) {
    use rustix::process::{Pid, Signal, kill_process};
    // It has not been waited for yet, so that the number is still its own.
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::INT);
    }
}

#[cfg(not(unix))]
fn interrupt(_: &Child) {}

/// How a process was ended, in words: the signal or a code that is not this program's, and what may be behind it.
pub fn ended_by(status: ExitStatus, memory_limit: Option<u64>) -> String {
    let how = match (signal(status), status.code()) {
        (Some(signal), _) => signal.to_owned(),
        // The C library does it where a thread's data find no memory.
        (None, Some(code)) => format!("a library inside of it, with exit code {code}"),
        (None, None) => status.to_string(),
    };
    match memory_limit {
        Some(bytes) => format!(
            "{how}; it was allowed {} MiB of memory (--memory-limit), which may be too little for this model",
            bytes >> 20
        ),
        None => how,
    }
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<&'static str> {
    use std::os::unix::process::ExitStatusExt;
    Some(match status.signal()? {
        4 => "SIGILL, an instruction that this processor does not know",
        6 => "SIGABRT, a check inside of TensorFlow failed or memory was refused",
        7 => "SIGBUS, a file shrank while it was read",
        8 => "SIGFPE, a division by zero",
        9 => "SIGKILL, by somebody or by the system when memory ran out",
        11 => "SIGSEGV, an access to memory that is not there",
        _ => return None,
    })
}

#[cfg(not(unix))]
fn signal(_: ExitStatus) -> Option<&'static str> {
    None
}

/// Reads `--memory-limit`: bytes, or a number with KiB, MiB or GiB.
pub fn parse_bytes(text: &str) -> std::result::Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.trim() {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err("expected bytes, or a number with KiB, MiB or GiB".to_owned()),
    };
    number
        .parse::<u64>()
        .ok()
        .filter(|&n| n > 0)
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| "expected a number of bytes above 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_with_their_unit() {
        for (text, bytes) in
            [("1", 1), ("4096", 4096), ("3KiB", 3072), ("512MiB", 512 << 20), ("2 GiB", 2 << 30)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes));
        }
        for bad in ["", "0", "GiB", "1.5GiB", "2GB", "-1", "99999999999999999999", "18446744073709551615GiB"]
        {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn an_end_by_a_signal_is_told_and_an_exit_code_passed() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            supervise(command, Some(1 << 30))
        };
        assert_eq!(shell("exit 0").ok(), Some(0));
        assert_eq!(shell("exit 1").ok(), Some(1));
        let error = shell("exit 127").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("exit code 127"), "{error}");
        let error = shell("kill -SEGV $$").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains("SIGSEGV") && text.contains("1024 MiB"), "{text}");
    }
}
