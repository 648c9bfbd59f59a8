//! The clients: blocking, one unix socket each, one request in flight, one write and as many reads as the answer takes.
//!
//! The same for PostgreSQL and for Redis, so that what a client costs is the same on both sides of a pair, and little: an
//! asynchronous one costs as much as what is to be measured. Lives here: sockets, and driving many clients at once. May
//! not come in here: what they ask.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::{backend::Message, frontend};

/// A connection to PostgreSQL with one prepared statement.
pub struct Postgres {
    socket: UnixStream,
    request: BytesMut,
    answer: BytesMut,
    sql: String,
}

impl Postgres {
    /// Connects to the server whose socket lies in `directory`, as the superuser, and prepares `sql`.
    pub fn prepare(directory: &Path, database: &str, sql: &str) -> Self {
        let socket = UnixStream::connect(directory.join(".s.PGSQL.5432")).unwrap();
        let (request, answer) = (BytesMut::with_capacity(8192), BytesMut::with_capacity(8192));
        let mut client = Self { socket, request, answer, sql: sql.to_owned() };
        let parameters = [("user", "postgres"), ("database", database), ("application_name", "bench")];
        frontend::startup_message(parameters, &mut client.request).unwrap();
        client.exchange();
        frontend::parse("s", sql, [], &mut client.request).unwrap();
        frontend::sync(&mut client.request);
        client.exchange();
        client
    }

    /// Runs the statement with these parameters, all as text; how many rows it answered.
    pub fn run(&mut self, parameters: &[&str]) -> usize {
        let text = |value: &&str, into: &mut BytesMut| {
            into.extend_from_slice(value.as_bytes());
            Ok(IsNull::No)
        };
        let bound = frontend::bind("", "s", [], parameters, text, [], &mut self.request);
        assert!(bound.is_ok(), "parameters fit into a message");
        frontend::execute("", 0, &mut self.request).unwrap();
        frontend::sync(&mut self.request);
        self.exchange()
    }

    /// Sends the request, and reads until the server is ready for another; how many rows came.
    fn exchange(&mut self) -> usize {
        self.socket.write_all(&self.request).unwrap();
        self.request.clear();
        let mut rows = 0;
        loop {
            match Message::parse(&mut self.answer).unwrap() {
                None => read_more(&mut self.socket, |bytes| self.answer.extend_from_slice(bytes)),
                Some(Message::ReadyForQuery(_)) => return rows,
                Some(Message::DataRow(_)) => rows += 1,
                // The server's log, printed on the way out, says which.
                Some(Message::ErrorResponse(_)) => panic!("an error instead of an answer to: {}", self.sql),
                Some(_) => {}
            }
        }
    }
}

/// A connection to Redis.
pub struct Redis {
    socket: UnixStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Redis {
    pub fn connect(socket: &Path) -> Self {
        let socket = UnixStream::connect(socket).unwrap();
        Self { socket, request: Vec::with_capacity(8192), answer: Vec::with_capacity(8192) }
    }

    /// The length of the value of `key`, which must be there.
    pub fn get(&mut self, key: &str) -> usize {
        self.command(&["GET", key]);
        let length = self.line();
        let length: usize = length.strip_prefix('$').and_then(|digits| digits.parse().ok()).expect("a value");
        while self.answer.len() < length + 2 {
            read_more(&mut self.socket, |bytes| self.answer.extend_from_slice(bytes));
        }
        self.answer.drain(..length + 2);
        length
    }

    pub fn set(&mut self, key: &str, value: &str) {
        self.command(&["SET", key, value]);
        assert_eq!(self.line(), "+OK");
    }

    fn command(&mut self, words: &[&str]) {
        self.request.clear();
        write!(self.request, "*{}\r\n", words.len()).unwrap();
        for word in words {
            write!(self.request, "${}\r\n{word}\r\n", word.len()).unwrap();
        }
        self.socket.write_all(&self.request).unwrap();
    }

    fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.answer.windows(2).position(|bytes| bytes == b"\r\n") {
                let line = String::from_utf8(self.answer[..end].to_vec()).unwrap();
                self.answer.drain(..end + 2);
                return line;
            }
            read_more(&mut self.socket, |bytes| self.answer.extend_from_slice(bytes));
        }
    }
}

fn read_more(socket: &mut UnixStream, keep: impl FnOnce(&[u8])) {
    let mut bytes = [0; 8192];
    let count = socket.read(&mut bytes).unwrap();
    assert!(count > 0, "the server has closed the connection");
    keep(&bytes[..count]);
}

/// One client's next request, given its number.
pub type Request<'a> = Box<dyn FnMut(usize) + Send + 'a>;

/// When clients stop.
#[derive(Clone, Copy)]
pub enum Until<'a> {
    After(Duration),
    /// So many requests of each client.
    Requests(usize),
    /// As soon as this is false.
    Ends(&'a AtomicBool),
}

/// Ends [`Until::Ends`] and its like when dropped: on the way out of a panic too, so that nobody waits for ever.
pub struct Ending<'a>(pub &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// What clients did together.
pub struct Load {
    /// Requests a second.
    pub rate: f64,
    /// The 99th percentile of the requests' times, in microseconds.
    pub p99: f64,
}

/// Runs all clients at once, each in a thread of its own that sends one request after another.
pub fn drive(clients: &mut [Request<'_>], until: Until<'_>) -> Load {
    let barrier = Barrier::new(clients.len());
    let work = |request: &mut Request<'_>| {
        let mut times = Vec::with_capacity(1 << 16);
        barrier.wait();
        let begun = Instant::now();
        let mut last = begun;
        loop {
            let goes_on = match until {
                Until::After(time) => last - begun < time,
                Until::Requests(count) => times.len() < count,
                Until::Ends(goes_on) => goes_on.load(Ordering::Relaxed),
            };
            if !goes_on {
                return (times, last - begun);
            }
            request(times.len());
            let now = Instant::now();
            times.push(u32::try_from((now - last).as_nanos()).unwrap_or(u32::MAX));
            last = now;
        }
    };
    let mut times = Vec::new();
    let mut rate = 0.0;
    std::thread::scope(|scope| {
        let threads: Vec<_> = clients.iter_mut().map(|client| scope.spawn(|| work(client))).collect();
        for thread in threads {
            let (own, time) = thread.join().unwrap();
            rate += own.len() as f64 / time.as_secs_f64();
            times.extend(own);
        }
    });
    let at = times.len() * 99 / 100;
    let p99 = f64::from(*times.select_nth_unstable(at).1) / 1000.0;
    Load { rate, p99 }
}
