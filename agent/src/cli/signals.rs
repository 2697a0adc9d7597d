//! Signals while a command runs: we stay alive for its report, and it gets every signal that it would have got.
//!
//! What the terminal sends (SIGINT, SIGQUIT on a key) reaches the whole foreground group, the command included, so we
//! only note it. What a process sends to us alone would have gone to the command, so it is forwarded: as `sudo` does,
//! the sender tells the two apart.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction};

/// Those that end or tell a command something and can be handled. SIGTSTP and SIGCONT keep their meaning: a stopped
/// group stops us with it.
const FORWARDED: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// The command's process id while it lives, else 0.
static CHILD: AtomicI32 = AtomicI32::new(0);
/// The last signal that asks for an end.
static LAST: AtomicI32 = AtomicI32::new(0);
/// How many of those came.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The last SIGINT, SIGQUIT, SIGTERM or SIGHUP that came since the command started.
#[must_use]
pub fn last() -> Option<Signal> {
    Signal::try_from(LAST.load(Ordering::Relaxed)).ok()
}

/// How many of these came.
#[must_use]
pub fn count() -> u32 {
    COUNT.load(Ordering::Relaxed)
}

/// Whether SIGPIPE was ignored when we were started, which exec hands on (a systemd unit ignores it by default).
static PIPE_IGNORED: AtomicBool = AtomicBool::new(false);

/// Rust's runtime ignores SIGPIPE before `main`, so what we inherited is asked for before that: the C library calls what
/// this section holds before it calls the runtime.
#[used]
// SAFETY: the section is an array of functions of the C ABI that return nothing.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = note_inherited;

extern "C" fn note_inherited() {
    PIPE_IGNORED.store(is_ignored(Signal::SIGPIPE), Ordering::Relaxed);
}

fn is_ignored(signal: Signal) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only asks; `sigaction` fills the whole struct or fails, and zeroes are a valid one.
    unsafe {
        libc::sigaction(signal as i32, std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Signal mask and dispositions as we inherited them, with every signal blocked until [`Inherited::release`].
#[derive(Debug)]
pub(super) struct Inherited {
    mask: SigSet,
    /// Of [`FORWARDED`], which our parent had set to be ignored: exec hands that on.
    ignored: [bool; FORWARDED.len()],
}

impl Inherited {
    /// Blocks all signals and notes what was.
    pub(super) fn block() -> nix::Result<Self> {
        let mut mask = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut mask))?;
        let ignored = FORWARDED.map(is_ignored);
        Ok(Self { mask, ignored })
    }

    /// Unblocks what was not blocked before. Async-signal-safe.
    pub(super) fn release(&self) {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None);
    }

    /// In the child: gives each signal the disposition that it would have without us. Async-signal-safe.
    pub(super) fn restore_dispositions(&self) {
        for (signal, ignored) in FORWARDED.into_iter().zip(self.ignored) {
            set(signal, if ignored { SigHandler::SigIgn } else { SigHandler::SigDfl });
        }
        let ignored = PIPE_IGNORED.load(Ordering::Relaxed);
        set(Signal::SIGPIPE, if ignored { SigHandler::SigIgn } else { SigHandler::SigDfl });
    }
}

/// Our handlers, in place while a command lives.
#[derive(Debug)]
pub(super) struct Forwarding(());

impl Forwarding {
    /// Sets the handlers. A signal that our parent had us ignore stays ignored, by the command too.
    pub(super) fn start(pid: libc::pid_t) -> Self {
        LAST.store(0, Ordering::Relaxed);
        COUNT.store(0, Ordering::Relaxed);
        CHILD.store(pid, Ordering::SeqCst);
        for signal in FORWARDED {
            set(signal, SigHandler::SigAction(forward));
        }
        Self(())
    }

    /// Ends forwarding; the handlers stay, so that a signal during our report does not cut it. Call it before the
    /// child is reaped.
    pub(super) fn stop(&self) {
        CHILD.store(0, Ordering::SeqCst);
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.stop();
    }
}

fn set(signal: Signal, handler: SigHandler) {
    // SA_RESTART: nothing of ours should fail because the terminal changed its size.
    let action = SigAction::new(handler, SaFlags::SA_RESTART | SaFlags::SA_SIGINFO, SigSet::empty());
    // SAFETY: the handlers that are installed here are `forward`, which is async-signal-safe, or none.
    let _ = unsafe { sigaction(signal, &action) };
}

extern "C" fn forward(number: i32, information: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if matches!(number, libc::SIGINT | libc::SIGQUIT | libc::SIGTERM | libc::SIGHUP) {
        LAST.store(number, Ordering::Relaxed);
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
    let child = CHILD.load(Ordering::SeqCst);
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo. A code of 0 or below is a process, above it the
    // kernel (`SI_FROMUSER` in include/uapi/asm-generic/siginfo.h).
    let (from_process, sender) = unsafe { ((*information).si_code <= 0, (*information).si_pid()) };
    // A command that signals its own group has its signal already.
    if child > 0 && from_process && sender != child {
        // SAFETY: system call without pointers. errno is put back for whom we interrupted.
        unsafe {
            let errno = *libc::__errno_location();
            libc::kill(child, number);
            *libc::__errno_location() = errno;
        }
    }
}

/// Ends this process by a signal. Returns when the signal's default is not to end.
pub(super) fn raise_default(signal: Signal) {
    set(signal, SigHandler::SigDfl);
    let mut only = SigSet::empty();
    only.add(signal);
    let _ = pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&only), None);
    let _ = nix::sys::signal::raise(signal);
}
