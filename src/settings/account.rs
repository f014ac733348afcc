//! Users and groups by name or number, looked up when the settings are read.

use std::fmt;

use nix::unistd::{Gid, Uid, User};

use super::key::Given;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// As it was written.
    name: String,
    pub(crate) uid: Uid,
    /// Its first group; unknown for a number that has no account.
    pub(crate) gid: Option<Gid>,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    name: String,
    pub(crate) gid: Gid,
}

impl Account {
    pub(super) fn read(given: &Given<'_>) -> Result<Self, String> {
        let cannot = |error| format!("cannot look up this user: {error}");
        if let Some(uid) = number(given)? {
            let uid = Uid::from_raw(uid);
            let found = User::from_uid(uid).map_err(cannot)?;
            return Ok(Self { name: uid.to_string(), uid, gid: found.map(|user| user.gid) });
        }
        let name = given.text()?;
        let user = User::from_name(name).map_err(cannot)?.ok_or_else(|| format!("there is no user `{name}`"))?;
        Ok(Self { name: user.name, uid: user.uid, gid: Some(user.gid) })
    }
}

impl Group {
    pub(super) fn read(given: &Given<'_>) -> Result<Self, String> {
        if let Some(gid) = number(given)? {
            return Ok(Self { name: gid.to_string(), gid: Gid::from_raw(gid) });
        }
        let name = given.text()?;
        let group =
            nix::unistd::Group::from_name(name).map_err(|error| format!("cannot look up this group: {error}"))?;
        let group = group.ok_or_else(|| format!("there is no group `{name}`"))?;
        Ok(Self { name: group.name, gid: group.gid })
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// An id, written as a number or in digits. The last one means nobody: chown(2), setuid(2).
fn number(given: &Given<'_>) -> Result<Option<u32>, String> {
    let number = match given.text() {
        Ok(text) if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) => return Ok(None),
        Ok(text) => text.parse().map_err(|_| "no id is so large".to_owned())?,
        Err(_) => given.integer().map_err(|_| "a name or a number is wanted".to_owned())?,
    };
    match u32::try_from(number) {
        Ok(id) if id != u32::MAX => Ok(Some(id)),
        Ok(_) | Err(_) => Err("an id is a number from 0 to 4294967294".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_known_by_name_and_by_number() {
        let root = Account::read(&Given::Said("root")).expect("every system has it");
        assert_eq!((root.uid, root.gid), (Uid::from_raw(0), Some(Gid::from_raw(0))));
        assert_eq!(Account::read(&Given::Said("0")).expect("a number").uid, root.uid);
        assert_eq!(Group::read(&Given::Said("root")).expect("every system has it").gid, Gid::from_raw(0));
        for wrong in ["no such user", "", "4294967295", "99999999999999999999", "-1"] {
            assert!(Account::read(&Given::Said(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(Account::read(&Given::Said("4294967294")).expect("a number").gid, None);
    }
}
