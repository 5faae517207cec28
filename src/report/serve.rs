//! A report that follows its runs: on this machine only, read only. The page asks every few seconds whether it has
//! changed; it is made anew when the files of a run have.
//!
//! Bound to 127.0.0.1. A page of another site could still make the browser ask for our address under a name of its own
//! (DNS rebinding), so any `Host` but the loopback's is refused; so is every method but GET and HEAD, and every path but
//! `/`. Nothing a request says reaches the file system.

use super::Error;
use std::net::SocketAddr;
use std::time::Duration;
use tiny_http::{Header, Method, Request, Response, Server};

/// How long to wait for a request before looking whether to stop.
const PATIENCE: Duration = Duration::from_millis(200);

/// A server on the loopback.
pub struct Live {
    server: Server,
    address: SocketAddr,
}

/// A page and what tells it from older ones.
#[derive(Clone, Debug)]
pub struct Page {
    /// The whole HTML.
    pub html: String,
    /// Changes when the page does.
    pub version: String,
}

impl Live {
    /// Takes a port; 0 takes any free one.
    pub fn bind(port: u16) -> Result<Live, Error> {
        let failed = |problem: String| Error::Serve { port, problem };
        let server = Server::http(("127.0.0.1", port)).map_err(|error| failed(error.to_string()))?;
        let address = server.server_addr().to_ip().ok_or_else(|| failed("no internet address".to_string()))?;
        Ok(Live { server, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` says so. `page` gives the present page; its errors are shown to the reader.
    ///
    /// # Errors
    /// The system no longer hands over connections.
    pub fn run(&self, mut page: impl FnMut() -> Result<Page, String>, stop: impl Fn() -> bool) -> Result<(), Error> {
        while !stop() {
            let request = self.server.recv_timeout(PATIENCE);
            let request =
                request.map_err(|error| Error::Serve { port: self.address.port(), problem: error.to_string() });
            if let Some(request) = request? {
                let answer = self.answer(&request, &mut page);
                // A reader who went away is no error.
                let _ = request.respond(answer);
            }
        }
        Ok(())
    }

    fn answer(&self, request: &Request, page: &mut impl FnMut() -> Result<Page, String>) -> Answer {
        if !matches!(request.method(), Method::Get | Method::Head) {
            return plain(405, "only GET\n");
        }
        if !header(request, "Host").is_some_and(|host| self.is_own(&host)) {
            return plain(403, "this report is served to this machine only\n");
        }
        if request.url() != "/" {
            return plain(404, "there is only one page: /\n");
        }
        match page() {
            Ok(page) => {
                let version = format!("\"{}\"", page.version);
                if header(request, "If-None-Match").as_deref() == Some(&version) {
                    return with(plain(304, ""), "ETag", &version);
                }
                let answer = Response::from_data(page.html.into_bytes());
                with(with(answer, "Content-Type", "text/html; charset=utf-8"), "ETag", &version)
            }
            Err(problem) => plain(500, &format!("{problem}\n")),
        }
    }

    fn is_own(&self, host: &str) -> bool {
        let port = self.address.port();
        [format!("127.0.0.1:{port}"), format!("localhost:{port}")].iter().any(|own| own.eq_ignore_ascii_case(host))
    }
}

type Answer = Response<std::io::Cursor<Vec<u8>>>;

fn header(request: &Request, name: &'static str) -> Option<String> {
    let found = request.headers().iter().find(|header| header.field.equiv(name));
    found.map(|header| header.value.to_string())
}

fn plain(status: u16, text: &str) -> Answer {
    with(Response::from_string(text).with_status_code(status), "Content-Type", "text/plain; charset=utf-8")
}

/// Adds a header, and those that every answer has.
fn with(answer: Answer, name: &str, value: &str) -> Answer {
    let headers = [(name, value), ("Cache-Control", "no-cache"), ("X-Content-Type-Options", "nosniff")];
    let headers = headers.into_iter().filter_map(|(name, value)| Header::from_bytes(name, value).ok());
    headers.fold(answer, |answer, header| {
        let known = answer.headers().iter().any(|known| known.field == header.field && header.value == known.value);
        if known { answer } else { answer.with_header(header) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// The answer, empty where the connection fails.
    fn ask(address: SocketAddr, request: &str) -> String {
        let mut answer = String::new();
        let stream = TcpStream::connect(address);
        let asked = stream.and_then(|mut stream| stream.write_all(request.as_bytes()).map(|()| stream));
        let _ = asked.and_then(|mut stream| stream.read_to_string(&mut answer));
        answer
    }

    #[test]
    fn it_answers_this_machine_and_nobody_else() {
        let live = Live::bind(0).unwrap();
        let address = live.address();
        assert!(address.ip().is_loopback());
        let stop = AtomicBool::new(false);
        let page = || Ok(Page { html: "<p>planted</p>".to_string(), version: "7".to_string() });
        let own = format!("Host: {address}\r\n");
        let cases = [
            ("GET /", own.clone(), "200"),
            ("GET /", format!("{own}If-None-Match: \"7\"\r\n"), "304"),
            ("GET /", format!("Host: evil.example:{}\r\n", address.port()), "403"),
            ("GET /", String::new(), "403"),
            ("POST /", own.clone(), "405"),
            ("GET /../etc/passwd", own, "404"),
        ];
        // Judged when the server has stopped: a failed assertion would wait for it for ever.
        let answers: Vec<String> = std::thread::scope(|scope| {
            let server = scope.spawn(|| live.run(page, || stop.load(Ordering::SeqCst)));
            let ask = |(first, more, _): &(&str, String, &str)| {
                ask(address, &format!("{first} HTTP/1.1\r\nConnection: close\r\n{more}\r\n"))
            };
            let answers = cases.iter().map(ask).collect();
            stop.store(true, Ordering::SeqCst);
            server.join().unwrap().unwrap();
            answers
        });
        for ((first, more, status), answer) in cases.iter().zip(&answers) {
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{first} {more}: {answer}");
            assert_eq!(answer.ends_with("<p>planted</p>"), *status == "200", "{first} {more}: {answer}");
        }
        assert!(answers[0].contains("ETag: \"7\"") && answers[0].contains("nosniff"), "{}", answers[0]);
    }
}
