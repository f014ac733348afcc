//! What zygotes offer: their helpers, checked, and the sockets of these.
//!
//! A manifest is input, and so are the names in it. A socket is bound with the first good manifest
//! that names its helper, and stays open as long as any generation has that helper: one that is
//! restarted or handed over refuses nobody, calls wait in its socket's queue.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;

use super::run_dir::RunDir;
use crate::contract::ids::{Generation, HELPERS_MAX, HelperName};
use crate::contract::orders::{self, HelperOffer, Manifest};
use crate::error::{Chain, Error};

/// The longest version or build, in bytes: a build id, or what people write.
const VERSION_LEN_MAX: usize = 128;

/// The helpers of every generation that has said which it has, each in start order.
#[derive(Default)]
pub(super) struct Offers {
    of: BTreeMap<Generation, Vec<HelperOffer>>,
    sockets: BTreeMap<HelperName, UnixListener>,
}

/// Why a manifest is of no use.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    /// No zygote of ours says this.
    Broken(String),
    /// A socket cannot be made.
    Unable(String),
}

impl Offers {
    /// Takes in what a generation's zygote says of itself; binds what is new. `digest` tells one
    /// offer's configuration from another's.
    pub(super) fn take(
        &mut self,
        generation: Generation,
        manifest: &Manifest,
        run_dir: &RunDir,
        digest: impl Fn(&HelperOffer) -> u64,
    ) -> Result<Vec<HelperOffer>, Refusal> {
        let known: Option<Vec<HelperName>> = self.of.get(&generation).map(|offers| names(offers).collect());
        check(manifest, known.as_deref()).map_err(Refusal::Broken)?;
        for offer in &manifest.helpers {
            if let Entry::Vacant(place) = self.sockets.entry(offer.name) {
                let socket = run_dir.helper_socket(offer.name);
                place.insert(socket.map_err(|error| Refusal::Unable(Chain(&error).to_string()))?);
            }
        }
        let with_digest = |offer: &HelperOffer| HelperOffer { digest: digest(offer), ..offer.clone() };
        let offers: Vec<HelperOffer> = manifest.helpers.iter().map(with_digest).collect();
        self.of.insert(generation, offers.clone());
        Ok(offers)
    }

    /// Nothing of this generation lives any more; sockets that only it had go.
    pub(super) fn forget(&mut self, generation: Generation, run_dir: &RunDir) {
        self.of.remove(&generation);
        let of = &self.of;
        self.sockets.retain(|&name, _| {
            let is_offered = of.values().any(|offers| names(offers).any(|offered| offered == name));
            if !is_offered {
                run_dir.remove_helper_socket(name);
            }
            is_offered
        });
    }

    /// Those of a generation, in start order.
    pub(super) fn names(&self, generation: Generation) -> impl Iterator<Item = HelperName> {
        names(self.of.get(&generation).map(Vec::as_slice).unwrap_or_default())
    }

    /// Everyone who has a socket.
    pub(super) fn all(&self) -> impl Iterator<Item = HelperName> {
        self.sockets.keys().copied()
    }

    pub(super) fn version(&self, generation: Generation, name: HelperName) -> Option<&str> {
        let found = self.of.get(&generation)?.iter().find(|offer| offer.name == name)?;
        Some(found.version.as_str())
    }

    /// Gives this helper another socket of the same name; whoever waits in the old one connects again.
    pub(super) fn bind_anew(&mut self, name: HelperName, run_dir: &RunDir) -> Result<(), Error> {
        self.sockets.insert(name, run_dir.helper_socket(name)?);
        Ok(())
    }

    /// Whether it is another program.
    pub(super) fn is_foreign(&self, generation: Generation, name: HelperName) -> bool {
        let offers = self.of.get(&generation).into_iter().flatten();
        offers.into_iter().any(|offer| offer.name == name && offer.is_foreign)
    }

    /// The helper's own socket.
    pub(super) fn socket(&self, name: HelperName) -> Option<BorrowedFd<'_>> {
        self.sockets.get(&name).map(AsFd::as_fd)
    }
}

fn names(offers: &[HelperOffer]) -> impl Iterator<Item = HelperName> {
    offers.iter().map(|offer| offer.name)
}

/// What is wrong with a manifest, if the helpers known so far are these.
fn check(manifest: &Manifest, known: Option<&[HelperName]>) -> Result<(), String> {
    let (theirs, ours) = (manifest.version, orders::VERSION);
    if theirs > ours {
        let way_out = "stop the daemon and start it with this release";
        return Err(format!(
            "needs a master that speaks version {theirs} of the orders, this one speaks {ours}: {way_out}"
        ));
    }
    let offers = &manifest.helpers;
    if offers.len() > HELPERS_MAX {
        return Err(format!("offers {} helpers, {HELPERS_MAX} are allowed", offers.len()));
    }
    for (number, offer) in offers.iter().enumerate() {
        let (name, earlier) = (offer.name, &offers[..number]);
        if earlier.iter().any(|other| other.name == name) {
            return Err(format!("offers the helper {name} twice"));
        }
        let is_line = |text: &str| text.len() <= VERSION_LEN_MAX && !text.chars().any(char::is_control);
        if !is_line(&offer.version) || !is_line(&offer.build) {
            return Err(format!("the version of its helper {name} is no line of {VERSION_LEN_MAX} bytes"));
        }
        if offer.asks.len() > HELPERS_MAX {
            return Err(format!("its helper {name} asks {} others, {HELPERS_MAX} are allowed", offer.asks.len()));
        }
        if let Some(asked) = offer.asks.iter().find(|asked| !earlier.iter().any(|other| other.name == **asked)) {
            return Err(format!("its helper {name} asks {asked}, which does not start before it"));
        }
    }
    let same = |known: &[HelperName]| {
        known.len() == offers.len() && known.iter().all(|name| offers.iter().any(|offer| offer.name == *name))
    };
    match known {
        Some(known) if !same(known) => Err("offers other helpers than the one before it".to_owned()),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn name(text: &str) -> HelperName {
        HelperName::parse(text).expect(text)
    }

    /// Helpers written as `name` or `name: asked asked`.
    fn manifest(helpers: &[&str]) -> Manifest {
        let offer = |text: &&str| {
            let (helper, asks) = text.split_once(':').unwrap_or((text, ""));
            let asks = asks.split_whitespace().map(name).collect();
            HelperOffer {
                name: name(helper),
                version: "1.2".to_owned(),
                asks,
                build: String::new(),
                is_foreign: false,
                reads_app: false,
                digest: 0,
            }
        };
        let helpers = helpers.iter().map(offer).collect();
        Manifest { version: orders::VERSION, name: "test".to_owned(), helpers, ring: 0, tickets: 0 }
    }

    #[test]
    fn a_manifest_is_good_or_says_what_is_wrong() {
        let many: Vec<String> = (0..=HELPERS_MAX).map(|number| format!("h{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let table: [(&[&str], &str); 8] = [
            (&[], ""),
            (&["nest"], ""),
            (&["nest", "hub: nest", "feed: nest hub"], ""),
            (&many[1..], ""),
            (&many, "offers 33 helpers, 32 are allowed"),
            (&["nest", "hub", "nest"], "offers the helper nest twice"),
            (&["hub: nest", "nest"], "its helper hub asks nest, which does not start before it"),
            (&["nest: nest"], "its helper nest asks nest, which does not start before it"),
        ];
        for (helpers, wrong) in table {
            let verdict = check(&manifest(helpers), None);
            assert_eq!(verdict.err().as_deref().unwrap_or_default(), wrong, "{helpers:?}");
        }
    }

    #[test]
    fn versions_are_bounded_and_plain() {
        let with = |version: &str| {
            let mut manifest = manifest(&["nest"]);
            version.clone_into(&mut manifest.helpers[0].version);
            check(&manifest, None)
        };
        assert_eq!(with(&"1".repeat(VERSION_LEN_MAX)), Ok(()));
        assert!(with(&"1".repeat(VERSION_LEN_MAX + 1)).is_err());
        assert!(with("1\x1b[2J").is_err(), "a terminal would obey it");
        let newer = Manifest { version: orders::VERSION + 1, ..manifest(&[]) };
        assert!(check(&newer, None).is_err());
    }

    #[test]
    fn a_zygote_that_is_started_again_offers_the_same() {
        let known = [name("nest"), name("hub")];
        assert_eq!(check(&manifest(&["hub", "nest"]), Some(&known)), Ok(()));
        for other in [&["nest"][..], &[], &["nest", "hub", "feed"], &["nest", "feed"]] {
            assert!(check(&manifest(other), Some(&known)).is_err(), "{other:?}");
        }
        assert!(check(&manifest(&["nest"]), Some(&[])).is_err());
    }

    /// Takes in an offer of a generation; its helpers' names, or the refusal.
    fn take(offers: &mut Offers, generation: u32, helpers: &[&str], run_dir: &RunDir) -> Result<usize, Refusal> {
        offers.take(Generation(generation), &manifest(helpers), run_dir, |_| 7).map(|taken| {
            assert!(taken.iter().all(|offer| offer.digest == 7));
            taken.len()
        })
    }

    #[test]
    fn what_is_bound_stays_bound_as_long_as_anyone_has_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let run_dir = RunDir::take(&directory.path().join("run"), Settings::new().service().expect("its own"), false)
            .expect("a run directory");
        let mut offers = Offers::default();
        assert_eq!(take(&mut offers, 1, &["nest", "hub: nest"], &run_dir), Ok(2));
        let path = run_dir.ipc_dir().join("nest.sock");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("a socket").permissions());
        assert_eq!(mode & 0o7777, 0o660, "whatever the umask");
        let waiting = std::os::unix::net::UnixStream::connect(&path).expect("somebody listens");
        assert_eq!(take(&mut offers, 1, &["nest", "hub: nest"], &run_dir), Ok(2));
        assert!(offers.socket(name("hub")).is_some() && offers.socket(name("feed")).is_none());
        assert_eq!(offers.names(Generation(1)).collect::<Vec<_>>(), [name("nest"), name("hub")]);
        assert!(matches!(take(&mut offers, 1, &["nest"], &run_dir), Err(Refusal::Broken(_))));
        // The next generation has others.
        assert_eq!(take(&mut offers, 2, &["nest", "feed"], &run_dir), Ok(2));
        offers.forget(Generation(1), &run_dir);
        assert!(offers.socket(name("hub")).is_none() && !run_dir.ipc_dir().join("hub.sock").exists());
        assert!(offers.socket(name("nest")).is_some() && path.exists());
        drop(waiting);
        run_dir.leave(offers.all());
        assert!(!path.exists() && !run_dir.ipc_dir().join("feed.sock").exists());
    }

    #[test]
    fn a_socket_that_cannot_be_bound_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let run_dir = RunDir::take(&directory.path().join("run"), Settings::new().service().expect("its own"), false)
            .expect("a run directory");
        std::fs::create_dir(run_dir.ipc_dir().join("nest.sock")).expect("something in its place");
        match take(&mut Offers::default(), 1, &["nest"], &run_dir) {
            Err(Refusal::Unable(why)) => assert!(why.contains("nest.sock"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}
