//! `status` for people.

use std::fmt::Write;

use crate::contract::status::Status;

/// The table, without a last line break.
pub(super) fn of(program: &str, status: &Status) -> String {
    let mut out = String::new();
    let addresses: Vec<&str> = status.listeners.iter().map(|listener| listener.address.as_str()).collect();
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

    #[test]
    fn times_read_well() {
        let table = [(0.25, "0.2 s"), (61.0, "1 min 1 s"), (7260.0, "2 h 1 min"), (200_000.0, "2 d 7 h")];
        for (seconds, text) in table {
            assert_eq!(duration(seconds), text);
        }
    }
}
