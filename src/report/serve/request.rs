//! What a request asks for, from its head. As little of HTTP/1 as one page takes: a body is noticed, never read.

/// The head of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// `GET` and the like, as it was sent.
    pub(super) method: String,
    /// What follows the method: a path, or anything else.
    pub(super) target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// Reads a head; `None` where it is none of HTTP/1.
    pub(super) fn parse(head: &[u8]) -> Option<Request> {
        // A cookie may be in any encoding; what we compare with is ASCII.
        let head = String::from_utf8_lossy(head);
        let mut lines = head.split("\r\n");
        let mut first = lines.next()?.split(' ');
        let (method, target, version) = (first.next()?, first.next()?, first.next()?);
        if first.next().is_some() || !version.starts_with("HTTP/1.") {
            return None;
        }
        let headers = lines.map(header).collect::<Option<Vec<_>>>()?;
        Some(Request { method: method.to_string(), target: target.to_string(), headers })
    }

    /// The value of a header; `None` where it is not there, or more than once.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.values(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// Whether a body follows, or is said to.
    pub(super) fn has_body(&self) -> bool {
        self.values("Transfer-Encoding").next().is_some() || self.values("Content-Length").any(|bytes| bytes != "0")
    }

    fn values<'a, 'b>(&'a self, name: &'b str) -> impl Iterator<Item = &'a str> + use<'a, 'b> {
        self.headers.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

fn header(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    is_name.then(|| (name.to_string(), value.trim().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_taken_apart() {
        let request = Request::parse(b"GET / HTTP/1.1\r\nhost:  a:1 \r\nX: 1\r\nx: 2\r\nCookie: \xff").unwrap();
        assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/"));
        assert_eq!(request.header("Host"), Some("a:1"));
        assert_eq!((request.header("X"), request.header("Accept")), (None, None), "twice, not at all");
        assert!(!request.has_body());
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for head in [
            &b""[..],
            b"GET /",
            b"GET / HTTP/2",
            b"GET / a HTTP/1.1",
            b"\x16\x03\x01",
            b"GET / HTTP/1.1\r\nno colon",
            b"GET / HTTP/1.1\r\n: no name",
            b"GET / HTTP/1.1\r\nHost : a",
        ] {
            assert_eq!(Request::parse(head), None, "{}", String::from_utf8_lossy(head));
        }
    }

    #[test]
    fn a_body_is_noticed_however_it_is_said() {
        for (header, has_body) in [
            ("Content-Length: 0", false),
            ("Content-Length: 1", true),
            ("content-length: 9223372036854775807", true),
            ("Content-Length: 0\r\nContent-Length: 5", true),
            ("Content-Length: what", true),
            ("Transfer-Encoding: chunked", true),
        ] {
            let request = Request::parse(format!("GET / HTTP/1.1\r\n{header}").as_bytes()).unwrap();
            assert_eq!(request.has_body(), has_body, "{header}");
        }
    }
}
