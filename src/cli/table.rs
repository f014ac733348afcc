//! `status` for people.

use std::fmt::Write;

use crate::contract::status::{ListenerStatus, LogStatus, RaisedStatus, RefusedStatus, Status, TargetStatus};

/// The table, without a last line break.
pub(super) fn of(program: &str, status: &Status) -> String {
    let mut out = String::new();
    let shown = |listener: &ListenerStatus| format!("{}{}", listener.address, if listener.tls { " (TLS)" } else { "" });
    let addresses: Vec<String> = status.listeners.iter().map(shown).collect();
    let _ = writeln!(
        out,
        "{program} {}: {}, pid {}, generation {}, up {}, listening on {}",
        status.version,
        status.state,
        status.pid,
        status.generation,
        duration(status.uptime_s),
        addresses.join(" "),
    );
    if let Some(last) = &status.last_reload {
        let _ = writeln!(out, "last reload: {last}");
    }
    if let Some(log) = &status.log {
        let _ = writeln!(out, "log: {}", log_in_short(log));
    }
    out.push('\n');
    let mut rows = vec![
        ["", "PID", "GEN", "STATE", "CONNS", "REQUESTS", "RESTARTS", "RSS", "TURN MAX", "LAST TURN", "UP", "LAST EXIT"]
            .map(str::to_owned),
    ];
    for worker in &status.workers {
        rows.push([
            format!("worker {}", worker.slot),
            pid(worker.pid),
            worker.generation.to_string(),
            worker.state.clone(),
            worker.connections.to_string(),
            worker.requests.to_string(),
            worker.restarts.to_string(),
            format!("{:.1} MB", worker.rss_bytes as f64 / 1e6),
            format!("{} ms", worker.longest_turn_ms),
            ago(worker.last_turn_ms),
            duration(worker.uptime_s),
            worker.last_exit.clone().unwrap_or_default(),
        ]);
    }
    for helper in &status.helpers {
        rows.push([
            helper.name.clone(),
            pid(helper.pid),
            helper.generation.to_string(),
            match &helper.note {
                Some(note) => format!("{} ({note})", helper.state),
                None => helper.state.clone(),
            },
            helper.connections.to_string(),
            helper.requests.to_string(),
            helper.restarts.to_string(),
            format!("{:.1} MB", helper.rss_bytes as f64 / 1e6),
            format!("{} ms", helper.longest_turn_ms),
            ago(helper.last_turn_ms),
            duration(helper.uptime_s),
            helper.last_exit.clone().unwrap_or_default(),
        ]);
    }
    out.push_str(&aligned(&rows));
    out
}

/// Where the log goes, and what is out of order.
fn log_in_short(log: &LogStatus) -> String {
    let mut said: Vec<String> = log.targets.iter().map(target_in_short).collect();
    let refused = log.refused.total();
    if refused > 0 {
        said.push(format!("{refused} records refused"));
    }
    said.extend(log.raised.as_ref().map(|raised| format!("{} for {} more", raised.filter, duration(raised.left_s))));
    said.join(", ")
}

fn target_in_short(target: &TargetStatus) -> String {
    let lost = (target.lost > 0).then(|| format!("{} lost", target.lost));
    let odd: Vec<String> = lost.into_iter().chain(target.trouble.clone()).collect();
    if odd.is_empty() { target.name.clone() } else { format!("{} ({})", target.name, odd.join("; ")) }
}

/// The log for people, without a last line break.
pub(super) fn of_log(log: &LogStatus) -> String {
    let mut out = format!("level: {}", log.level);
    if let Some(RaisedStatus { filter, left_s }) = &log.raised {
        let _ = write!(out, ", and {filter} for {} more", duration(*left_s));
    }
    let RefusedStatus { error, warn, info, debug, trace } = log.refused;
    let levels = [(error, "error"), (warn, "warn"), (info, "info"), (debug, "debug"), (trace, "trace")];
    let each: Vec<String> =
        levels.iter().filter(|(count, _)| *count > 0).map(|(count, level)| format!("{count} {level}")).collect();
    let each = if each.is_empty() { String::new() } else { format!(" ({})", each.join(", ")) };
    let (produced, taken, refused) = (log.produced, log.taken, log.refused.total());
    let _ = write!(out, "\nrecords: {produced}, of which {taken} are taken and {refused} refused{each}");
    if log.transport == "socket" {
        out.push_str(", as far as they have come over the socket");
    }
    let mut rows = vec![["TARGET", "KIND", "WRITTEN", "LOST", "STATE"].map(str::to_owned)];
    for target in &log.targets {
        let kind = if target.access { format!("{}, access", target.kind) } else { target.kind.clone() };
        rows.push([
            target.name.clone(),
            kind,
            target.written.to_string(),
            target.lost.to_string(),
            target.trouble.clone().unwrap_or_else(|| "well".to_owned()),
        ]);
    }
    format!("{out}\n\n{}", aligned(&rows))
}

fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn pid(pid: Option<u32>) -> String {
    pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())
}

fn ago(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{:.1} s ago", ms as f64 / 1e3))
}

fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str, lost: u64, trouble: Option<&str>) -> TargetStatus {
        TargetStatus {
            name: name.to_owned(),
            kind: "file".to_owned(),
            access: false,
            written: 7,
            lost,
            trouble: trouble.map(str::to_owned),
        }
    }

    #[test]
    fn of_the_log_only_what_is_odd_is_said_in_short() {
        let mut log = LogStatus {
            transport: "ring".to_owned(),
            level: "info".to_owned(),
            raised: None,
            produced: 20,
            refused: RefusedStatus { error: 0, warn: 0, info: 0, debug: 0, trace: 0 },
            taken: 20,
            targets: vec![target("console", 0, None), target("/a.log", 0, None)],
        };
        assert_eq!(log_in_short(&log), "console, /a.log");
        log.targets[1] = target("/a.log", 3, Some("no space"));
        log.refused.debug = 2;
        log.raised = Some(RaisedStatus { filter: "hyper=debug".to_owned(), left_s: 42.04 });
        let short = "console, /a.log (3 lost; no space), 2 records refused, hyper=debug for 42.0 s more";
        assert_eq!(log_in_short(&log), short);
        let whole = "level: info, and hyper=debug for 42.0 s more\n\
            records: 20, of which 20 are taken and 2 refused (2 debug)\n\n\
            TARGET   KIND  WRITTEN  LOST  STATE\n\
            console  file  7        0     well\n\
            /a.log   file  7        3     no space";
        assert_eq!(of_log(&log), whole);
        log.transport = "socket".to_owned();
        assert!(of_log(&log).contains("\nrecords: 20, of which 20 are taken and 2 refused (2 debug), as far as they"));
    }

    #[test]
    fn times_read_well() {
        let table = [(0.25, "0.2 s"), (61.0, "1 min 1 s"), (7260.0, "2 h 1 min"), (200_000.0, "2 d 7 h")];
        for (seconds, text) in table {
            assert_eq!(duration(seconds), text);
        }
    }
}
