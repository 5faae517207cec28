//! libtorch's TCPStore: keys and values that all processes of a run see. One process serves it, the others are clients; the
//! protocol is libtorch's, so torchrun's agent may be the one that serves.

use super::arguments::{milliseconds, text};
use crate::native::shim::{self, CError};
use std::ffi::{c_char, c_int};
use std::time::Duration;
use tch::TchError;

/// `c10::intrusive_ptr<c10d::Store>*`.
#[repr(C)]
pub(super) struct StoreHandle {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn shearling_store_open(
        host: *const c_char,
        port: u16,
        serves: c_int,
        timeout_ms: i64,
        out: *mut *mut StoreHandle,
        served: *mut u16,
        error: CError,
    ) -> c_int;
    fn shearling_store_under(
        store: *mut StoreHandle,
        prefix: *const c_char,
        out: *mut *mut StoreHandle,
        error: CError,
    ) -> c_int;
    fn shearling_store_set(
        store: *mut StoreHandle,
        key: *const c_char,
        bytes: *const u8,
        count: usize,
        error: CError,
    ) -> c_int;
    fn shearling_store_get(
        store: *mut StoreHandle,
        key: *const c_char,
        bytes: *mut *mut u8,
        count: *mut usize,
        error: CError,
    ) -> c_int;
    fn shearling_store_has(store: *mut StoreHandle, key: *const c_char, found: *mut c_int, error: CError) -> c_int;
    fn shearling_store_free(store: *mut StoreHandle);
}

/// A store, served by this process or by another one.
#[derive(Debug)]
pub struct Store {
    pub(super) handle: *mut StoreHandle,
    port: u16,
}

// SAFETY: c10d's stores lock inside each operation; the handle is freed once, by `drop`.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Store {
    /// Serves a store at `port`, or at a free one if that is 0; it lasts as long as this process has it.
    ///
    /// # Errors
    /// The port is taken.
    pub fn serve(host: &str, port: u16, timeout: Duration) -> Result<Store, TchError> {
        Store::open(host, port, true, timeout)
    }

    /// Connects to a store, waiting for it for at most `timeout`.
    ///
    /// # Errors
    /// Nobody serves one there.
    pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<Store, TchError> {
        Store::open(host, port, false, timeout)
    }

    fn open(host: &str, port: u16, serves: bool, timeout: Duration) -> Result<Store, TchError> {
        let (host, mut handle, mut served) = (text(host)?, std::ptr::null_mut(), 0);
        let timeout = milliseconds(timeout);
        // SAFETY: all arguments live through the call, which fills the two out-pointers.
        shim::check(|error| unsafe {
            shearling_store_open(host.as_ptr(), port, c_int::from(serves), timeout, &mut handle, &mut served, error)
        })?;
        Ok(Store { handle, port: served })
    }

    /// The port it is served at.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same store; keys lie under `prefix`.
    ///
    /// # Errors
    /// libtorch's.
    pub fn under(&self, prefix: &str) -> Result<Store, TchError> {
        let (prefix, mut handle) = (text(prefix)?, std::ptr::null_mut());
        // SAFETY: the handle is ours and alive; the call fills the out-pointer.
        shim::check(|error| unsafe { shearling_store_under(self.handle, prefix.as_ptr(), &mut handle, error) })?;
        Ok(Store { handle, port: self.port })
    }

    /// Sets a key. Others may see it a moment later.
    ///
    /// # Errors
    /// The store is out of reach.
    pub fn set(&self, key: &str, value: &str) -> Result<(), TchError> {
        let key = text(key)?;
        // SAFETY: the handle is ours, key and value live through the call.
        shim::check(|error| unsafe {
            shearling_store_set(self.handle, key.as_ptr(), value.as_ptr(), value.len(), error)
        })
    }

    /// The value of a key, if it is set.
    ///
    /// # Errors
    /// The store is out of reach.
    pub fn get(&self, key: &str) -> Result<Option<String>, TchError> {
        if !self.has(key)? {
            return Ok(None);
        }
        let (key, mut bytes, mut count) = (text(key)?, std::ptr::null_mut(), 0);
        // SAFETY: the handle is ours; the call fills both out-pointers.
        shim::check(|error| unsafe { shearling_store_get(self.handle, key.as_ptr(), &mut bytes, &mut count, error) })?;
        // SAFETY: a successful call has put `count` bytes there.
        let value = String::from_utf8_lossy(unsafe { std::slice::from_raw_parts(bytes, count) }).into_owned();
        // SAFETY: they were made with `malloc` and are ours; nothing else holds them.
        unsafe { libc::free(bytes.cast()) };
        Ok(Some(value))
    }

    /// Whether a key is set.
    ///
    /// # Errors
    /// The store is out of reach.
    pub fn has(&self, key: &str) -> Result<bool, TchError> {
        let (key, mut found) = (text(key)?, 0);
        // SAFETY: the handle is ours; the call fills the out-pointer.
        shim::check(|error| unsafe { shearling_store_has(self.handle, key.as_ptr(), &mut found, error) })?;
        Ok(found != 0)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once.
        unsafe { shearling_store_free(self.handle) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn what_one_sets_the_other_gets_under_its_prefix() {
        let served = Store::serve("127.0.0.1", 0, PATIENCE).unwrap();
        assert_ne!(served.port(), 0);
        let client = Store::connect("127.0.0.1", served.port(), PATIENCE).unwrap().under("a").unwrap();
        assert_eq!(client.get("key").unwrap(), None);
        served.set("key", "another").unwrap();
        assert_eq!(client.get("key").unwrap(), None, "other keys lie elsewhere");
        let same = served.under("a").unwrap();
        same.set("key", "ü").unwrap();
        // A set is not answered; what follows on the same connection is.
        assert_eq!(same.get("key").unwrap().as_deref(), Some("ü"));
        assert_eq!(client.get("key").unwrap().as_deref(), Some("ü"));
        assert!(client.set("zero\0byte", "").is_err());
    }

    #[test]
    fn a_port_that_nobody_serves_and_one_that_is_taken_are_errors() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(Store::serve("127.0.0.1", port, PATIENCE).is_err());
        drop(taken);
        assert!(Store::connect("127.0.0.1", port, Duration::from_secs(1)).is_err());
    }
}
