//! How libtorch's threads wait for one another: they spin for a moment, then they sleep.
//!
//! OpenMP's threads meet at the end of every operation. The runtime that libtorch for Linux brings (libgomp) lets a
//! thread that has nothing to do spin for milliseconds. On a machine of one's own that saves the waking. Beside one other busy
//! process it is ruinous: threads spin through the time slices that the thread they wait for should have. So here they
//! spin only about as long as waking takes ([`SPIN_COUNT`]); docs/native.md has the reasons, and
//! `tests/bench/waiting.py` measures it.
//!
//! libgomp reads its settings when it is loaded, before `main`, and has no function to change them. The environment
//! cannot be changed before that either: libc takes over the one of the stack after `.preinit_array` and before libgomp
//! starts. So the program starts itself once more, with the variables set, from `.preinit_array`: there the libraries
//! are mapped, but their constructors (a fifth of a second in libtorch) have not run, and starting again costs a few
//! milliseconds. The process stays the same one.
//!
//! A setting of the user's own stays as it is.

use std::ffi::CStr;

/// Turns of the loop in which a thread waits before it sleeps.
pub const SPIN_COUNT: u32 = 2_000;

/// What is set. `KMP_BLOCKTIME` is for a libtorch with Intel's or LLVM's runtime, in milliseconds.
const SETTINGS: [&CStr; 2] = [c"GOMP_SPINCOUNT=2000", c"KMP_BLOCKTIME=1"];

/// Variables with which a user says how threads wait.
const VARIABLES: [&str; 4] = ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"];

/// How threads wait, in words: for `doctor`.
pub fn describe() -> String {
    let ours: Vec<String> = SETTINGS.iter().map(|setting| setting.to_string_lossy().into_owned()).collect();
    let set = |name: &&str| std::env::var(name).ok().map(|value| format!("{name}={value}"));
    let found: Vec<String> = VARIABLES.iter().filter_map(set).collect();
    match found.as_slice() {
        [] => "as libtorch's OpenMP runtime does by itself".to_string(),
        found if found.iter().all(|setting| ours.contains(setting)) => {
            format!("a moment spinning, then asleep ({})", found.join(", "))
        }
        found => format!("as the environment says: {}", found.join(", ")),
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub use early::start_again;

/// What runs before every library's constructors.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod early {
    use super::{SETTINGS, VARIABLES};
    use std::ffi::{CStr, c_char, c_int};
    use std::ptr::null;

    /// More variables than anybody has.
    const MOST_VARIABLES: usize = 1 << 16;

    /// An entry of `.preinit_array`: starts this program again with [`SETTINGS`], unless the environment says already how
    /// threads wait. Returns where that is so, or where it cannot be done.
    ///
    /// # Safety
    /// The dynamic loader calls it, with the arrays that a process starts with. libc has not begun: no `std::env` here.
    pub unsafe extern "C" fn start_again(
        _count: c_int,
        arguments: *const *const c_char,
        variables: *const *const c_char,
    ) {
        // SAFETY: the loader's array of strings, with a null at its end; the strings live as long as the process.
        let Some(given) = (unsafe { strings(variables) }) else { return };
        if given.iter().any(|entry| decides(entry)) || !is_main_program() {
            return;
        }
        let mut environment: Vec<*const c_char> = given.iter().chain(&SETTINGS).map(|entry| entry.as_ptr()).collect();
        environment.push(null());
        let mut file = [0; libc::PATH_MAX as usize];
        // SAFETY: the buffer is longer than what may be written, so that a zero ends it.
        unsafe { libc::readlink(PROGRAM.as_ptr(), file.as_mut_ptr(), file.len() - 1) };
        // By its own name, by which `ps` then knows it; by way of /proc where its file has been replaced meanwhile.
        for program in [file.as_ptr(), PROGRAM.as_ptr()] {
            // SAFETY: strings and arrays that end in zero and outlive the call. It returns only if nothing happened.
            unsafe { libc::execve(program, arguments, environment.as_ptr()) };
        }
    }

    const PROGRAM: &CStr = c"/proc/self/exe";

    /// The strings of an array that ends in null.
    unsafe fn strings(array: *const *const c_char) -> Option<Vec<&'static CStr>> {
        let mut found = Vec::new();
        if array.is_null() {
            return None;
        }
        for index in 0..MOST_VARIABLES {
            // SAFETY: within the array, whose end has not come.
            let entry = unsafe { *array.add(index) };
            if entry.is_null() {
                return Some(found);
            }
            // SAFETY: the caller's array holds strings.
            found.push(unsafe { CStr::from_ptr(entry) });
        }
        None
    }

    /// Whether `NAME=value` says how threads wait.
    fn decides(entry: &CStr) -> bool {
        let name = entry.to_bytes().split(|byte| *byte == b'=').next();
        name.is_some_and(|name| VARIABLES.iter().any(|variable| variable.as_bytes() == name))
    }

    /// Whether /proc/self/exe is this program, and not a loader that was told to run it (`ld.so ./shearling`).
    fn is_main_program() -> bool {
        // SAFETY: it reads a number. A loader that was started as a program has no loader of its own: no base.
        unsafe { libc::getauxval(libc::AT_BASE) != 0 }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_the_variables_of_waiting_decide() {
            assert!(decides(c"OMP_WAIT_POLICY=active") && decides(c"GOMP_SPINCOUNT=") && decides(c"KMP_BLOCKTIME=0"));
            assert!(
                !decides(c"OMP_NUM_THREADS=2") && !decides(c"PATH=/GOMP_SPINCOUNT") && !decides(c"OMP_WAIT_POLICYX=1")
            );
        }

        #[test]
        fn an_array_of_strings_is_read_to_its_end() {
            let array = [c"A=1".as_ptr(), c"B=".as_ptr(), null(), c"C=3".as_ptr()];
            assert_eq!(unsafe { strings(array.as_ptr()) }.unwrap(), [c"A=1", c"B="]);
            assert!(unsafe { strings(null()) }.is_none());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_carry_the_numbers_and_settle_the_question() {
        assert_eq!(SETTINGS[0].to_string_lossy(), format!("GOMP_SPINCOUNT={SPIN_COUNT}"));
        for setting in SETTINGS {
            let name = setting.to_str().unwrap().split('=').next().unwrap();
            assert!(VARIABLES.contains(&name), "{name}: otherwise the program would start itself for ever");
        }
    }
}
