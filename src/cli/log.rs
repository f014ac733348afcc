//! `log`: where it goes, what is logged now, more of it for a while, its files anew.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::args::LogCommand;
use super::client::Client;
use super::{LOOK_AGAIN, Whom, print, run_dir, show, table};
use crate::contract::control::{
    FOLLOWED, Follow, Followed, LOG_FOLLOW, LOG_LEVEL, LOG_REOPEN, Level, Nothing, Reopened, STATUS,
};
use crate::contract::ids::{Generation, Slot};
use crate::contract::status::Status;
use crate::contract::time::ms;
use crate::error::{Error, Exit};
use crate::log::logger::now_us;
use crate::log::loss;
use crate::log::record::{Entry, Origin};
use crate::log::writer::format::{Formatter, Look, Names};

/// How long the log's files are waited for: a log helper that hangs is replaced in that time.
const REOPEN_LIMIT: Duration = Duration::from_secs(60);

/// `log`
pub(crate) fn log(program: &str, whom: &Whom, command: LogCommand) -> Result<(), Error> {
    let run_dir = run_dir(program, whom)?;
    match command {
        LogCommand::Show { json } => {
            let status: Status = Client::connect(&run_dir)?.call(STATUS, &Nothing {})?;
            let log = status.log.ok_or_else(|| Error::new(Exit::Failed, "the daemon says nothing of its log"))?;
            if !json {
                return print(&format!("{}\n", table::of_log(&log)));
            }
            let text = serde_json::to_string(&log);
            show(&(text.map_err(|error| Error::because(Exit::Bug, "cannot write JSON", error))? + "\n")).map(drop)
        }
        LogCommand::Follow { filter, json, count } => {
            let look = if json { Look::Json } else { Look::text_on(&io::stdout()) };
            Tail::new(look, count).follow(&run_dir, &filter)
        }
        LogCommand::Level { filter, lasting } => {
            let wanted = Level { filter, for_ms: ms(lasting).max(1) };
            let Level { filter, for_ms } = Client::connect(&run_dir)?.call(LOG_LEVEL, &wanted)?;
            let lasting = Duration::from_millis(for_ms).as_secs_f64();
            print(&format!("{program}: the log's level is {filter} for {lasting} s\n"))
        }
        LogCommand::Reset => {
            let none = Level { filter: String::new(), for_ms: 0 };
            let Level { filter, .. } = Client::connect(&run_dir)?.call(LOG_LEVEL, &none)?;
            print(&format!("{program}: the log's level is {filter}, as configured\n"))
        }
        LogCommand::Reopen => reopen(program, &run_dir),
    }
}

fn reopen(program: &str, run_dir: &Path) -> Result<(), Error> {
    let mut no_step = |Nothing {}| Ok(());
    let reopened: Option<Reopened> =
        Client::connect(run_dir)?.follow(LOG_REOPEN, &Nothing {}, "", &mut no_step, REOPEN_LIMIT)?;
    let Some(Reopened { files }) = reopened else {
        let limit = REOPEN_LIMIT.as_secs();
        let what = format!("the log helper does not write to the new files within {limit} s: it will");
        return Err(Error::new(Exit::Busy, what));
    };
    if files.is_empty() {
        return print(&format!("{program}: there is no file: the log goes elsewhere\n"));
    }
    print(&format!("{program}: reopened {}\n", files.join(", ")))
}

/// The log as it goes by.
struct Tail {
    formatter: Formatter,
    /// So many records are still to be printed.
    left: u64,
    /// Whether a log helper was followed that is gone: what was logged in between is not shown.
    has_lost_one: bool,
}

impl Tail {
    fn new(look: Look, count: Option<u64>) -> Self {
        // These looks name neither.
        let names = Names { program: String::new(), host: String::new() };
        Self { formatter: Formatter::new(look, &names), left: count.unwrap_or(u64::MAX), has_lost_one: false }
    }

    /// Prints what the filter wants, over the log helper's restarts too, until there is enough or nobody reads.
    fn follow(mut self, run_dir: &Path, filter: &str) -> Result<(), Error> {
        let (mut was_there, follow) = (false, Follow { filter: filter.to_owned() });
        while self.left > 0 {
            let connected = Client::connect(run_dir).and_then(|mut client| {
                let Nothing {} = client.call(LOG_FOLLOW, &follow)?;
                Ok(client)
            });
            match connected {
                Ok(client) => {
                    if self.print_all(client)? {
                        return Ok(());
                    }
                    (was_there, self.has_lost_one) = (true, true);
                }
                Err(error) if was_there && error.exit == Exit::NotRunning => {
                    return Err(Error::new(Exit::NotRunning, "the daemon has stopped"));
                }
                // There is no log helper for a moment.
                Err(error) if was_there && error.exit == Exit::Busy => {}
                Err(error) => return Err(error),
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Prints what comes on this connection. False: it has ended before there was enough.
    fn print_all(&mut self, mut client: Client) -> Result<bool, Error> {
        while self.left > 0 {
            let Some(followed) = client.notified::<Followed>(FOLLOWED)? else { return Ok(false) };
            self.left -= 1;
            let lines = self.lines(&followed);
            if !show(&String::from_utf8_lossy(&lines))? {
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// A record as it is printed, and before it what is missing.
    fn lines(&mut self, followed: &Followed) -> Vec<u8> {
        let mut out = Vec::new();
        if std::mem::take(&mut self.has_lost_one) {
            let text = "the log helper was replaced: records are missing here, and are in the log's targets";
            self.formatter.write(&Origin::default(), &loss::entry(text, now_us()), &mut out);
        }
        if followed.missed > 0 {
            let text = format!("{} records are missing here: they were not read in time", followed.missed);
            self.formatter.write(&Origin::default(), &loss::entry(&text, now_us()), &mut out);
        }
        let origin = Origin {
            name: followed.process.clone(),
            worker: followed.worker.map(Slot),
            generation: followed.generation.map(Generation),
            pid: followed.pid,
        };
        let entry: Entry<'_> = followed.record.entry(followed.sequence);
        self.formatter.write(&origin, &entry, &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::log_record::LogRecord;

    #[test]
    fn a_record_is_shown_as_on_the_console_and_what_is_missing_before_it() {
        let mut tail = Tail::new(Look::Text { colours: false }, None);
        let mut followed = Followed {
            process: "worker 0 generation 1".to_owned(),
            worker: Some(0),
            generation: Some(1),
            pid: 42,
            sequence: 7,
            missed: 0,
            record: LogRecord::of(&Entry { target: "app", ..loss::entry("hello \x1b", 1_700_000_000_000_000) }),
        };
        let text = |tail: &mut Tail, followed: &Followed| String::from_utf8(tail.lines(followed)).expect("text");
        let line = "[2023-11-14T22:13:20Z WARN  app worker 0 generation 1] hello \\u{1b}\n";
        assert_eq!(text(&mut tail, &followed), line);
        (followed.missed, tail.has_lost_one) = (3, true);
        let lines = text(&mut tail, &followed);
        assert!(lines.contains("forebay] the log helper was replaced") && lines.ends_with(line), "{lines}");
        assert!(lines.contains("forebay] 3 records are missing here"), "{lines}");
        let mut tail = Tail::new(Look::Json, None);
        let lines = text(&mut tail, &Followed { missed: 0, ..followed });
        assert!(lines.contains(r#""process":"worker 0 generation 1","worker":0,"generation":1,"pid":42,"sequence":7"#));
    }
}
