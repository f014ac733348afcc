//! The peers of `scripts/bench log`: producers that log into one file, each way as it is commonly done.
//!
//! `peer-log produce WAY PRODUCER FILE WARM-UP COUNT` logs lines of 150 bytes: some to warm up, and when a
//! line comes on standard input as many as are counted. It prints what it took as JSON. WAY is `append` (one
//! write of O_APPEND each), `env_logger` (to standard error, a pipe of `collect`) or `tracing`
//! (tracing-appender, non-blocking, told to lose nothing).
//! `peer-log collect FILE` writes what comes on standard input to the end of the file.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{BufRead, Read, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Bytes of a line, and what each way adds to the message.
const LINE_LEN: usize = 150;
const APPEND_FRAME_LEN: usize = "[1700000000.000000 INFO  bench] \n".len();
const ENV_LOGGER_FRAME_LEN: usize = "[2023-11-14T22:13:20Z INFO  bench] \n".len();
const TRACING_FRAME_LEN: usize = "2023-11-14T22:13:20.000000Z  INFO bench: \n".len();

/// Records that are formatted to see how long that takes.
const FORMATTED: u64 = 50_000;

/// Bytes that are read at once; a pipe holds as many.
const READ_MAX: usize = 64 * 1024;

const TARGET: &str = "bench";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["collect", file] => collect(file),
        ["produce", way, producer, file, warm_up, count] => {
            let producer = Producer::new(way, producer.parse()?, file)?;
            producer.run(warm_up.parse()?, count.parse()?)
        }
        _ => Err("usage: peer-log produce WAY PRODUCER FILE WARM-UP COUNT | collect FILE".into()),
    }
}

fn open(file: &str) -> Result<File> {
    Ok(File::options().append(true).create(true).open(file)?)
}

fn collect(file: &str) -> Result<()> {
    let (mut file, mut input, mut buffer) = (open(file)?, std::io::stdin().lock(), vec![0; READ_MAX]);
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok(()),
            count => file.write_all(&buffer[..count])?,
        }
    }
}

struct Producer {
    number: u16,
    message_len: usize,
    way: Way,
}

enum Way {
    Append { file: File, line: String },
    EnvLogger,
    Tracing { _guard: tracing_appender::non_blocking::WorkerGuard },
}

impl Producer {
    fn new(way: &str, number: u16, file: &str) -> Result<Self> {
        let (way, frame_len) = match way {
            "append" => (Way::Append { file: open(file)?, line: String::new() }, APPEND_FRAME_LEN),
            "env_logger" => {
                env_logger::Builder::new().parse_filters("info").init();
                (Way::EnvLogger, ENV_LOGGER_FRAME_LEN)
            }
            "tracing" => {
                let path = Path::new(file);
                let (directory, name) = (path.parent().ok_or("no directory")?, path.file_name().ok_or("no name")?);
                let appender = tracing_appender::rolling::never(directory, name);
                let (writer, guard) =
                    tracing_appender::non_blocking::NonBlockingBuilder::default().lossy(false).finish(appender);
                tracing_subscriber::fmt().with_writer(writer).with_ansi(false).init();
                (Way::Tracing { _guard: guard }, TRACING_FRAME_LEN)
            }
            _ => return Err(format!("no way {way:?}").into()),
        };
        Ok(Self { number, message_len: LINE_LEN - frame_len, way })
    }

    fn run(mut self, warm_up: u64, count: u64) -> Result<()> {
        let formatting_ns = self.formatting();
        (0..warm_up).try_for_each(|number| self.say(number))?;
        println!("ready");
        std::io::stdin().lock().read_line(&mut String::new())?;
        let began_ns = nanoseconds(ClockId::CLOCK_MONOTONIC);
        let before = nanoseconds(ClockId::CLOCK_PROCESS_CPUTIME_ID);
        (warm_up..warm_up + count).try_for_each(|number| self.say(number))?;
        // What a thread of this process still writes is written when it is told to end.
        drop(self.way);
        let cpu_ns = nanoseconds(ClockId::CLOCK_PROCESS_CPUTIME_ID) - before;
        println!(r#"{{"began_ns":{began_ns},"cpu_ns":{cpu_ns},"formatting_ns":{formatting_ns}}}"#);
        Ok(())
    }

    fn message(&self, number: u64) -> Message {
        Message { producer: self.number, number, len: self.message_len }
    }

    fn say(&mut self, number: u64) -> Result<()> {
        let message = self.message(number);
        match &mut self.way {
            Way::Append { file, line } => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
                line.clear();
                writeln!(line, "[{}.{:06} INFO  {TARGET}] {message}", now.as_secs(), now.subsec_micros())?;
                file.write_all(line.as_bytes())?;
            }
            Way::EnvLogger => log::info!(target: TARGET, "{message}"),
            Way::Tracing { .. } => tracing::info!(target: TARGET, "{message}"),
        }
        Ok(())
    }

    /// Nanoseconds of the processor for formatting a message into memory that is there.
    fn formatting(&self) -> f64 {
        let (mut scratch, before) = (String::new(), nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID));
        for number in 0..FORMATTED {
            scratch.clear();
            let _ = write!(scratch, "{}", std::hint::black_box(self.message(number)));
            std::hint::black_box(&scratch);
        }
        (nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID) - before) as f64 / FORMATTED as f64
    }
}

/// The message that forebay's workers log too.
struct Message {
    producer: u16,
    number: u64,
    len: usize,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { producer, number, len } = self;
        let (order, took_us) = (number * 7 % 1_000_000, number * 31 % 100_000);
        write!(f, "{producer}:{number:08} GET /orders/{order:06} 200 {took_us:05} us ")?;
        f.write_str(&PAD[..len - FRAME_LEN])
    }
}

/// What the message has before it is filled up.
const FRAME_LEN: usize = "0:00000000 GET /orders/000000 200 00000 us ".len();
const PAD: &str = "from the house at the corner, by the usual way and in the usual time, as always, and so on";

fn nanoseconds(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
