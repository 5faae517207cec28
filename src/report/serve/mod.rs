//! A report that follows its runs: on this machine only, read only. The page asks every few seconds whether it has
//! changed; it is made anew when the files of a run have.
//!
//! ```text
//! accept ─► connection (bytes, bounded in size and time) ─► request ─► answer ─► connection
//! ```
//!
//! Bound to 127.0.0.1. A page of another site could still make the browser ask for our address under a name of its own
//! (DNS rebinding), so any `Host` but the loopback's is refused; so is every method but GET and HEAD, every path but
//! `/`, and every request with a body. Nothing a request says reaches the file system.
//!
//! Each connection has a thread and carries one request: a reader who says nothing, or takes nothing, keeps neither the
//! others nor the end waiting. That is why no HTTP library is used: a small one (tiny_http) reads the rest of a body when
//! a request is dropped, however long it is said to be and without a time limit; a large one brings an async runtime.

mod connection;
mod request;
mod response;

use super::Error;
use connection::Connection;
use request::Request;
use response::Response;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Between two looks for a connection.
const PAUSE: Duration = Duration::from_millis(50);
/// Open at the same time; more wait until one has ended. A browser opens some that it may never use.
const MAX_CONNECTIONS: usize = 32;

/// A server on the loopback.
pub struct Live {
    listener: TcpListener,
    address: SocketAddr,
}

/// A page and what tells it from older ones.
#[derive(Clone, Debug)]
pub struct Page {
    /// The whole HTML.
    pub html: String,
    /// Changes when the page does; goes into a header, so it is one line of ASCII.
    pub version: String,
}

impl Live {
    /// Takes a port; 0 takes any free one.
    pub fn bind(port: u16) -> Result<Live, Error> {
        let failed = |error: std::io::Error| Error::Serve { port, problem: error.to_string() };
        let listener = TcpListener::bind(("127.0.0.1", port)).map_err(failed)?;
        // To look at `stop` between connections.
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Live { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` says so. `page` gives the present page, to one reader at a time; its errors are shown to the
    /// reader.
    ///
    /// # Errors
    /// The system no longer hands over connections.
    pub fn run(
        &self,
        page: impl FnMut() -> Result<Page, String> + Send,
        stop: impl Fn() -> bool + Sync,
    ) -> Result<(), Error> {
        let page = Mutex::new(page);
        let (page, stop) = (&page, &stop);
        let present = move || (page.lock().unwrap_or_else(PoisonError::into_inner))();
        // Every open connection holds a clone.
        let open = Arc::new(());
        std::thread::scope(|scope| {
            while !stop() {
                let accepted = if Arc::strong_count(&open) > MAX_CONNECTIONS { None } else { self.accept()? };
                let Some(stream) = accepted else {
                    std::thread::sleep(PAUSE);
                    continue;
                };
                let held = Arc::clone(&open);
                let task = move || {
                    // A reader who went away is no error.
                    let _ = Connection::new(stream, stop).and_then(|connection| self.serve(connection, present));
                    drop(held);
                };
                // Without a thread the connection is closed, and its reader asks again.
                let _ = std::thread::Builder::new().spawn_scoped(scope, task);
            }
            Ok(())
        })
    }

    /// The next connection, if one is waiting.
    fn accept(&self) -> Result<Option<TcpStream>, Error> {
        match self.listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted => Ok(None),
                _ => Err(Error::Serve { port: self.address.port(), problem: error.to_string() }),
            },
        }
    }

    /// Reads one request and answers it.
    fn serve(
        &self,
        mut connection: Connection,
        page: impl FnOnce() -> Result<Page, String>,
    ) -> Result<(), std::io::Error> {
        let Some(head) = connection.read_head()? else {
            return connection.write(&Response::plain(431, "the request is too long\n").into_bytes(true));
        };
        let Some(request) = Request::parse(&head) else {
            return connection.write(&Response::plain(400, "that is not an HTTP request\n").into_bytes(true));
        };
        let with_body = request.method != "HEAD";
        connection.write(&self.answer(&request, page).into_bytes(with_body))
    }

    fn answer(&self, request: &Request, page: impl FnOnce() -> Result<Page, String>) -> Response {
        if request.has_body() {
            return Response::plain(400, "a request for this page has no body\n");
        }
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return Response::plain(405, "only GET\n").with("Allow", "GET, HEAD");
        }
        if !request.header("Host").is_some_and(|host| is_own(host, self.address.port())) {
            return Response::plain(403, "this report is served to this machine only\n");
        }
        if request.target != "/" {
            return Response::plain(404, "there is only one page: /\n");
        }
        match page() {
            Ok(page) => {
                let version = format!("\"{}\"", page.version);
                let known = request.header("If-None-Match") == Some(&version);
                let answer = if known { Response::unchanged() } else { Response::html(page.html) };
                answer.with("ETag", version)
            }
            Err(problem) => Response::plain(500, format!("{problem}\n")),
        }
    }
}

/// Whether a reader who asks for `host` means this server.
fn is_own(host: &str, port: u16) -> bool {
    ["127.0.0.1", "localhost"].iter().any(|own| {
        // Browsers leave HTTP's own port away.
        host.eq_ignore_ascii_case(&format!("{own}:{port}")) || (port == 80 && host.eq_ignore_ascii_case(own))
    })
}

#[cfg(test)]
mod tests;
