//! The server over real connections: who is answered, with what, and that nobody can keep it from the others or from
//! its end. What is asserted is judged when the server has stopped: a failed assertion would wait for it for ever.

use super::*;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// What `readers` gives, asked while a server of `page` ran.
fn served<T>(page: &str, readers: impl FnOnce(SocketAddr) -> T) -> T {
    let live = Live::bind(0).unwrap();
    assert!(live.address().ip().is_loopback());
    let stop = AtomicBool::new(false);
    let page = || Ok(Page { html: page.to_string(), version: "7".to_string() });
    std::thread::scope(|scope| {
        let server = scope.spawn(|| live.run(page, || stop.load(Ordering::SeqCst)));
        let seen = readers(live.address());
        stop.store(true, Ordering::SeqCst);
        server.join().unwrap().unwrap();
        seen
    })
}

/// A connection on which `request` was sent.
fn connected(address: SocketAddr, request: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    Some(stream)
}

/// The answer, empty where the connection fails.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut answer = String::new();
    let _ = connected(address, request).map(|mut stream| stream.read_to_string(&mut answer));
    answer
}

fn get(address: SocketAddr) -> String {
    format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n")
}

#[test]
fn it_answers_this_machine_and_nobody_else() {
    let cases = [
        ("GET /", "Host: OWN\r\n", "200 OK"),
        ("HEAD /", "Host: OWN\r\n", "200 OK"),
        ("GET /", "Host: OWN\r\nIf-None-Match: \"7\"\r\n", "304 Not Modified"),
        ("GET /", "Host: evil.example:PORT\r\n", "403 Forbidden"),
        ("GET /", "Host: OWN\r\nHost: evil.example:PORT\r\n", "403 Forbidden"),
        ("GET /", "", "403 Forbidden"),
        ("POST /", "Host: OWN\r\n", "405 Method"),
        ("GET /../etc/passwd", "Host: OWN\r\n", "404 Not Found"),
        ("GET", "Host: OWN\r\n", "400 Bad Request"),
        ("POST /", "Host: OWN\r\nContent-Length: 2000\r\n", "400 Bad Request"),
        ("GET /", "Host: OWN\r\nTransfer-Encoding: chunked\r\n", "400 Bad Request"),
    ];
    let answers = served("<p>planted</p>", |address| {
        let fill = |text: &str| text.replace("OWN", &address.to_string()).replace("PORT", &address.port().to_string());
        cases.map(|(first, more, _)| ask(address, &format!("{first} HTTP/1.1\r\n{}\r\n", fill(more))))
    });
    for ((first, more, status), answer) in cases.iter().zip(&answers) {
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{first} {more}: {answer}");
        let is_page = *first == "GET /" && status.starts_with("200");
        assert_eq!(answer.ends_with("<p>planted</p>"), is_page, "{first} {more}: {answer}");
    }
    assert!(answers[0].contains("ETag: \"7\"") && answers[0].contains("nosniff"), "{}", answers[0]);
    assert!(answers[1].contains("Content-Length: 14\r\n") && answers[1].ends_with("\r\n\r\n"), "{}", answers[1]);
}

#[test]
fn a_body_that_was_only_announced_takes_neither_memory_nor_the_others_time() {
    let lengths = ["9223372036854775807", "99999999999999999999999", "2000"];
    let (refused, next) = served("<p>planted</p>", |address| {
        let announce = |length: &str| {
            ask(address, &format!("POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: {length}\r\n\r\n"))
        };
        (lengths.map(announce), ask(address, &get(address)))
    });
    for answer in refused {
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    assert!(next.starts_with("HTTP/1.1 200"), "{next}");
}

#[test]
fn a_head_without_end_is_refused() {
    let answer = served("", |address| ask(address, &format!("GET / HTTP/1.1\r\nCookie: {}", "a".repeat(17 << 10))));
    // The rest of what was sent is not read, so the system may cut the answer off.
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[test]
fn silent_readers_keep_neither_the_others_nor_the_end_waiting() {
    // More than the system takes off our hands for a reader who does not read.
    let page = "planted ".repeat(4 << 20);
    let (answer, silent) = served(&page, |address| {
        let silent = [connected(address, ""), connected(address, "GET / HT"), connected(address, &get(address))];
        // They are still connected when the server stops.
        (ask(address, &get(address)), silent)
    });
    assert!(silent.iter().all(Option::is_some));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&page), "{} bytes", answer.len());
}

#[test]
fn the_own_port_of_http_may_be_left_away() {
    for (host, port, own) in [
        ("127.0.0.1", 80, true),
        ("LocalHost", 80, true),
        ("localhost:80", 80, true),
        ("127.0.0.1", 8000, false),
        ("localhost:8000", 8000, true),
        ("localhost:80", 8000, false),
        ("evil.example", 80, false),
    ] {
        assert_eq!(is_own(host, port), own, "{host} on {port}");
    }
}
