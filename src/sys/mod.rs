//! The kernel, as far as neither std nor nix wraps it.
//!
//! The only room with `unsafe`. Every block says why it is sound; everything that leaves this
//! room is safe to call. Nothing here decides anything.
#![allow(unsafe_code)]

pub(crate) mod abort;
pub(crate) mod build;
pub(crate) mod descriptors;
pub(crate) mod files;
pub(crate) mod memory;
pub(crate) mod passing;
pub(crate) mod privileges;
pub(crate) mod process;
pub(crate) mod random;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod title;
