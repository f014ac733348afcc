//! `check`: reads the configuration and loads the application once, as a start would, and says what
//! is wrong; nothing is bound and nobody is served.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};

use super::program::{self, Load};
use super::{Identity, targets};
use crate::contract::ids::Generation;
use crate::contract::orders::{Manifest, ORDER_LEN_MAX, ZygoteOrder, ZygoteReport};
use crate::error::{Chain, Context, Error, Exit};
use crate::ipc::frame::{self, Decoder};
use crate::settings::{Overrides, Settings, count_of_workers};
use crate::sys::{memory, passing};

/// Looks at everything; what is fine is said in a line.
///
/// All mistakes are told: the application's sections are looked at also where the master's own part
/// is wrong.
pub(crate) fn check(identity: Identity, file: Option<&Path>, overrides: &Overrides) -> Result<String, Error> {
    let (settings, mistakes) = Settings::read(file, overrides);
    let only_configuration = !mistakes.is_empty();
    let verdict = if settings.is_well_formed && (!only_configuration || settings.service().is_ok()) {
        load(identity, &settings, only_configuration)
    } else {
        Ok(None)
    };
    if only_configuration {
        let ours = mistakes.to_string();
        return Err(match verdict {
            Err(theirs) if theirs.exit == Exit::Config => Error::new(Exit::Config, format!("{ours}\n{theirs}")),
            Ok(_) | Err(_) => Error::new(Exit::Config, ours),
        });
    }
    let manifest = verdict?;
    look_at_the_log(&settings)?;
    let risk = program::path().ok().and_then(|program| program::risk(&program));
    let odd: String = risk.into_iter().chain(overrides.odd()).map(|odd| format!("\nwarning: {odd}")).collect();
    Ok(summary(&settings, manifest.as_ref()) + &odd)
}

/// All that is wrong with its files, as the first of them would end a start.
fn look_at_the_log(settings: &Settings) -> Result<(), Error> {
    let wrong = targets::look(settings);
    let Some(exit) = wrong.first().map(|first| first.exit) else { return Ok(()) };
    let lines: Vec<String> = wrong.iter().map(|error| Chain(error).to_string()).collect();
    Err(Error::new(exit, lines.join("\n")))
}

fn summary(settings: &Settings, manifest: Option<&Manifest>) -> String {
    let file = settings.file.as_ref().map_or_else(|| "the defaults".to_owned(), |file| file.display().to_string());
    let addresses: Vec<String> =
        settings.listeners().iter().filter_map(|listener| Some(listener.address.as_ref()?.to_string())).collect();
    let names = manifest.into_iter().flat_map(|manifest| &manifest.helpers).map(|offer| offer.name.to_string());
    let names: Vec<String> = names.collect();
    let helpers = if names.is_empty() { String::new() } else { format!(", helpers {}", names.join(", ")) };
    let user = settings.user.as_ref().map_or_else(String::new, |user| format!(", as user {user}"));
    let workers = count_of_workers(settings.workers);
    format!("{file}: fine: {workers} on {}{user}{helpers}", addresses.join(" "))
}

/// Starts a zygote as a master would, hears its verdict, and lets it go.
fn load(identity: Identity, settings: &Settings, only_configuration: bool) -> Result<Option<Manifest>, Error> {
    let cannot = || "cannot load the application".to_owned();
    let load = Load::open(&program::path()?, settings, None, |_| false)?;
    let (control, theirs) = UnixStream::pair().or_refused(cannot)?;
    let output = io::stderr().as_fd().try_clone_to_owned().or_refused(cannot)?;
    let pid = load.start_zygote(identity.name, theirs.into(), output).or_refused(cannot)?;
    // A lock that nobody else looks at.
    let lock_file = File::from(memory::sealed_bytes("children.lock", b"").or_refused(cannot)?);
    let order = ZygoteOrder::Load {
        generation: Generation(1),
        filter: settings.log_level.clone(),
        log_socket: None,
        config_path: settings.file.clone(),
        files: load.files(),
        only_configuration,
        has_ring: false,
        secure: load.secure(),
    };
    let mut out = Vec::new();
    frame::encode(&order, &mut out);
    let given: Vec<BorrowedFd<'_>> = load.given(&lock_file).into_iter().chain(load.secure_files()).collect();
    let sent = passing::send(control.as_fd(), &out, &given).or_refused(cannot);
    let verdict = sent.and_then(|_| hear(&control, settings));
    // One that has loaded ends when nobody is there any more; one that has not is told so.
    drop(control);
    if verdict.as_ref().is_ok_and(Option::is_none) {
        let _ = kill(pid, Signal::SIGKILL);
    }
    let how = waitpid(pid, None).or_refused(cannot)?;
    match verdict? {
        Some(ZygoteReport::Loaded(manifest)) => Ok(Some(manifest)),
        Some(ZygoteReport::Refused { reason, misconfigured: true }) => Err(Error::new(Exit::Config, reason)),
        Some(ZygoteReport::Refused { .. }) if only_configuration => Ok(None),
        Some(ZygoteReport::Refused { reason, misconfigured: false }) => {
            Err(Error::new(Exit::Failed, format!("the application refuses: {reason}")))
        }
        Some(ZygoteReport::Forked { .. } | ZygoteReport::ForkFailed { .. }) => {
            Err(Error::new(Exit::Bug, "the zygote answers what nobody has asked"))
        }
        None => {
            let limit = settings.timeouts.ready.as_secs_f64();
            Err(Error::new(
                Exit::Failed,
                match how {
                    WaitStatus::Exited(_, code) => format!("the application ended while it loaded: exited with {code}"),
                    _ => format!("the application did not load within {limit} s"),
                },
            ))
        }
    }
}

/// The zygote's first report. `None`: it is silent, or gone.
fn hear(control: &UnixStream, settings: &Settings) -> Result<Option<ZygoteReport>, Error> {
    let cannot = || "cannot hear the zygote".to_owned();
    let deadline = Instant::now() + settings.timeouts.ready;
    let mut decoder = Decoder::new(ORDER_LEN_MAX);
    let mut buffer = [0; 4096];
    loop {
        if let Some(body) = decoder.next().or_refused(cannot)? {
            return frame::decode(body).map(Some).or_refused(cannot);
        }
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let left = u16::try_from(left).unwrap_or(u16::MAX);
        if left == 0 {
            return Ok(None);
        }
        let mut polled = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
        if poll(&mut polled, left).or_refused(cannot)? == 0 {
            continue;
        }
        match (&*control).read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(count) => decoder.feed(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error).or_refused(cannot),
        }
    }
}
