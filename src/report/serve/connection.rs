//! The bytes of one connection: the head of a request in, an answer out, each bounded in size and time, and given up when
//! the server stops. It does not know what the bytes mean.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// How long the system waits before we look whether to stop.
const PATIENCE: Duration = Duration::from_millis(200);
/// For a whole request.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// For a whole answer: a page of two megabytes through a slow tunnel.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Cookies of other servers on this machine are in it too.
const MAX_HEAD_BYTES: usize = 16 << 10;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// A connection to a reader.
pub(super) struct Connection<'a> {
    stream: TcpStream,
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> Connection<'a> {
    pub(super) fn new(stream: TcpStream, stop: &'a (dyn Fn() -> bool + Sync)) -> Result<Connection<'a>> {
        // Some systems hand on what the listener has.
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection { stream, stop })
    }

    /// The request up to the empty line, without it; `None` when it has more than 16 KiB. What follows is not read.
    pub(super) fn read_head(&mut self) -> Result<Option<Vec<u8>>> {
        let end = Instant::now() + REQUEST_TIME;
        let (mut head, mut part) = (Vec::new(), [0; 1024]);
        while head.len() <= MAX_HEAD_BYTES {
            let count = self.until(end, |stream| stream.read(&mut part))?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            head.extend(part.iter().take(count));
            if let Some(length) = head.windows(END_OF_HEAD.len()).position(|bytes| bytes == END_OF_HEAD) {
                head.truncate(length);
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    /// Writes the answer and says that no more follows.
    pub(super) fn write(&mut self, answer: &[u8]) -> Result<()> {
        let end = Instant::now() + ANSWER_TIME;
        let mut rest = answer;
        while !rest.is_empty() {
            let count = self.until(end, |stream| stream.write(rest))?;
            rest = rest.get(count..).filter(|_| count > 0).ok_or(Error::from(ErrorKind::WriteZero))?;
        }
        self.stream.shutdown(Shutdown::Write)
    }

    /// Tries until it works, fails, or has taken too long.
    fn until(&mut self, end: Instant, mut act: impl FnMut(&mut TcpStream) -> Result<usize>) -> Result<usize> {
        while !(self.stop)() && Instant::now() < end {
            match act(&mut self.stream) {
                // A timeout of the system has one name or the other.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                }
                done => return done,
            }
        }
        Err(ErrorKind::TimedOut.into())
    }
}
