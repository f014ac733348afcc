//! Session tickets, so that a client that comes back is spared the whole handshake, whichever worker it meets.
//!
//! A ticket is what rustls needs to know of the session, sealed by AES-256-GCM: the key's id (8 bytes), a nonce (12),
//! the ciphertext, the tag (16). Id and listener are authenticated with it: a ticket of one listener is nothing to another,
//! whose certificates are others. Nonces are random, which 2^32 tickets of one key bear (NIST SP 800-38D, section 8.3):
//! 99,000 in each second of its period.
//!
//! A client can do what it likes with a ticket: what does not open means a whole handshake, whatever is wrong with it,
//! and nothing of it is looked at before the tag is found right. Whoever has a key reads the sessions of TLS 1.2 that its
//! tickets are of, and can pose as this server to clients that come back; so keys are never on a disk, live a day (see
//! `contract::tickets`), and workers, who have the certificates' private keys anyway, can read but not write them.
//! Sessions of TLS 1.3 stay secret, as every one agrees on a key of its own.

use std::sync::Arc;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use tokio_rustls::rustls::server::ProducesTickets;

use crate::contract::tickets::{Key, KeyReader, PERIOD_MS};
use crate::contract::time::monotonic_ms;
use crate::sys::random;

/// The longest session that is sealed, in bytes: without certificates of clients they have some hundred.
const SESSION_LEN_MAX: usize = 1024;

const ID_LEN: usize = size_of::<u64>();
const HEAD_LEN: usize = ID_LEN + NONCE_LEN;

/// The longest ticket that is looked at.
const TICKET_LEN_MAX: usize = HEAD_LEN + SESSION_LEN_MAX + MAX_TAG_LEN;

/// What is authenticated with every ticket besides its key's id and its listener: this format.
const FORMAT: &[u8] = b"forebay session ticket 1";

/// Seals the tickets of one listener.
#[derive(Debug)]
pub(super) struct Ticketer {
    keys: Arc<KeyReader>,
    listener: String,
    now_ms: fn() -> u64,
}

impl Ticketer {
    pub(super) fn new(keys: Arc<KeyReader>, listener: &str) -> Self {
        Self { keys, listener: listener.to_owned(), now_ms: monotonic_ms }
    }

    /// What is authenticated and not sealed. What stands before the name has always the same length.
    fn associated(&self, key: &Key) -> Aad<Vec<u8>> {
        Aad::from([FORMAT, &key.id.to_be_bytes(), self.listener.as_bytes()].concat())
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    /// In seconds. A ticket that was sealed with a key's last act lives so long, an earlier one longer.
    fn lifetime(&self) -> u32 {
        const { (PERIOD_MS / 1000) as u32 }
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        if session.len() > SESSION_LEN_MAX {
            return None;
        }
        let key = self.keys.current((self.now_ms)())?;
        let mut nonce = [0; NONCE_LEN];
        random::fill(&mut nonce).ok()?;
        let mut ticket = [&key.id.to_be_bytes(), &nonce[..], session].concat();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = &mut ticket[HEAD_LEN..];
        let tag = cipher(&key)?.seal_in_place_separate_tag(nonce, self.associated(&key), sealed).ok()?;
        ticket.extend(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_LEN_MAX {
            return None;
        }
        let (id, rest) = ticket.split_first_chunk()?;
        let (nonce, sealed) = rest.split_first_chunk()?;
        let key = self.keys.find(u64::from_be_bytes(*id), (self.now_ms)())?;
        let mut session = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let len = cipher(&key)?.open_in_place(nonce, self.associated(&key), &mut session).ok()?.len();
        session.truncate(len);
        Some(session)
    }
}

fn cipher(key: &Key) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, &key.bytes).ok().map(LessSafeKey::new)
}

#[cfg(test)]
mod tests;
