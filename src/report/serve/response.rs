//! Answers as bytes of HTTP/1.1, each the last on its connection.

/// What a reader gets.
pub(super) struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    /// `None` where the status allows none.
    body: Option<Vec<u8>>,
}

impl Response {
    /// A sentence.
    pub(super) fn plain(status: u16, text: impl Into<String>) -> Response {
        Response { status, headers: Vec::new(), body: Some(text.into().into_bytes()) }
            .with("Content-Type", "text/plain; charset=utf-8")
    }

    /// The page.
    pub(super) fn html(html: String) -> Response {
        Response { status: 200, headers: Vec::new(), body: Some(html.into_bytes()) }
            .with("Content-Type", "text/html; charset=utf-8")
    }

    /// The reader has the present page.
    pub(super) fn unchanged() -> Response {
        Response { status: 304, headers: Vec::new(), body: None }
    }

    /// Adds a header.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// Status, headers and, where wanted, the body.
    pub(super) fn into_bytes(mut self, with_body: bool) -> Vec<u8> {
        if let Some(body) = &self.body {
            let length = body.len().to_string();
            self = self.with("Content-Length", length);
        }
        let answer = self.with("Cache-Control", "no-cache").with("X-Content-Type-Options", "nosniff");
        let answer = answer.with("Connection", "close");
        let mut text = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
        for (name, value) in &answer.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend(answer.body.into_iter().flatten().filter(|_| with_body));
        bytes
    }
}

/// For people who look at the connection.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        _ => "Internal Server Error",
    }
}
