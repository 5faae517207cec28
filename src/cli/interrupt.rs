//! Ctrl-C, SIGTERM and SIGHUP.
//!
//! Where a loop has said that it looks at [`requested`], the first signal asks it to come to an end: a run stops with a
//! checkpoint, a server with its answers given. In every other place, and at the second signal, the program ends at once
//! with exit code 130, after what it was writing is removed.

use super::printer::Printer;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

static REQUESTED: AtomicBool = AtomicBool::new(false);
static QUITTING: AtomicBool = AtomicBool::new(false);
static LISTENERS: AtomicUsize = AtomicUsize::new(0);
/// What is said at the first signal.
static ANSWER: Mutex<Option<String>> = Mutex::new(None);

/// Installs the handler; to be called once, by `main`. Where the system has no handlers, signals end the program as they
/// always do, and the next one cleans up.
pub fn listen() {
    // `nohup` ignores SIGHUP on behalf of the program it starts: a closed terminal must not end that one.
    let hangup_is_ignored = is_ignored(libc::SIGHUP);
    if ctrlc::set_handler(on_signal).is_ok() && hangup_is_ignored {
        // SAFETY: SIG_IGN is a valid disposition of SIGHUP.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    }
}

fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: a null action only asks; `old` is plain data that the call fills.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut old) == 0 && old.sa_sigaction == libc::SIG_IGN
    }
}

/// While this lives, somebody looks at [`requested`].
#[derive(Debug)]
pub struct Listening(());

impl Listening {
    /// Begins to listen; `answer` is what the first signal prints, if anything.
    pub fn begin(answer: Option<&str>) -> Listening {
        *ANSWER.lock().unwrap_or_else(PoisonError::into_inner) = answer.map(str::to_string);
        LISTENERS.fetch_add(1, Ordering::SeqCst);
        Listening(())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        LISTENERS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether a signal asked the program to come to an end.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// Waits for the end of a program that a signal is ending: its errors from now on are about files that were removed.
pub fn wait_if_quitting() {
    while QUITTING.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

fn on_signal() {
    if !REQUESTED.swap(true, Ordering::SeqCst) && LISTENERS.load(Ordering::SeqCst) > 0 {
        if let Some(answer) = &*ANSWER.lock().unwrap_or_else(PoisonError::into_inner) {
            Printer::new(false).note(format!("\n{answer}"));
        }
        return;
    }
    QUITTING.store(true, Ordering::SeqCst);
    shearling_staging::remove_all();
    if LISTENERS.load(Ordering::SeqCst) == 0 {
        Printer::new(false).note("\nstopped; nothing half-written is left: to start over, give the command again");
    }
    // Not `exit`: its clean-up would pull the ground from under threads that still compute.
    // SAFETY: ends the program.
    unsafe { libc::_exit(130) }
}
