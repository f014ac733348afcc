//! What a helper knows of the world around it.

use std::any::TypeId;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::client::Client;
use super::traits::{Helper, Interface};
use crate::app::declare::{Birthplace, Declaration, Neighbours, Publish, Work};
use crate::error::Result;
use crate::ipc::frame;

/// A helper's way to its subscribers and to other helpers. Cheap to clone.
pub struct Context<H> {
    inner: Rc<Inner>,
    helper: PhantomData<fn() -> H>,
}

struct Inner {
    declaration: Declaration,
    neighbours: &'static Neighbours,
    state_dir: PathBuf,
    publish: Rc<dyn Publish>,
    note: Box<dyn Fn(&str) -> bool>,
    /// The last note: saying it again says nothing.
    noted: RefCell<String>,
}

impl<H> Clone for Context<H> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), helper: PhantomData }
    }
}

impl<H: Helper> Context<H> {
    pub(super) fn new(place: Birthplace) -> Self {
        let Birthplace { declaration, neighbours, state_dir, publish, note } = place;
        let noted = RefCell::default();
        Self { inner: Rc::new(Inner { declaration, neighbours, state_dir, publish, note, noted }), helper: PhantomData }
    }

    /// The name the helper was declared with.
    pub fn name(&self) -> &'static str {
        self.inner.declaration.name
    }

    /// What this process calls itself: `helper nest generation 1`.
    pub(super) fn caller(&self) -> &str {
        &self.inner.neighbours.caller
    }

    /// What the application gives this process to run.
    #[cfg(feature = "schedule")]
    pub(super) fn given<T: 'static>(&self) -> Option<&'static T> {
        self.inner.declaration.given?.downcast_ref()
    }

    #[cfg(feature = "schedule")]
    pub(super) fn neighbours(&self) -> &'static Neighbours {
        self.inner.neighbours
    }

    /// Tells every subscriber. Never waits: one that does not keep up is told by a new
    /// [snapshot](Helper::snapshot) later.
    pub fn publish(&self, event: &H::Event) {
        match frame::encoded(event) {
            Ok(encoded) => self.inner.publish.publish(&encoded),
            Err(error) => log::error!("an event cannot be encoded and is lost: {error}"),
        }
    }

    /// What `status` shows beside this helper's state, in at most 200 characters: how its upstream is.
    ///
    /// It is for what changes now and then; a helper that changes it thousands of times a second
    /// is ended.
    pub fn note(&self, text: &str) {
        if *self.inner.noted.borrow() != text && (self.inner.note)(text) {
            text.clone_into(&mut self.inner.noted.borrow_mut());
        }
    }

    /// A directory for what must survive a restart of this process. It is there, and this process
    /// may write it; other helpers of the same daemon see it too, so begin names with the helper's.
    pub fn state_dir(&self) -> &Path {
        &self.inner.state_dir
    }

    /// A client of another helper; `None` if the [configuration does not want it](Helper::is_wanted).
    ///
    /// # Errors
    /// The name is not among those this helper [asks](Helper::ASKS), or means another type.
    pub fn helper<O: Interface>(&self, name: &'static str) -> Result<Option<Client<O>>> {
        if !H::ASKS.contains(&name) {
            return Err(format!("{} asks for {name}, which is not in its ASKS", self.name()).into());
        }
        if self.inner.neighbours.unwanted.contains(&name) {
            return Ok(None);
        }
        Client::of(self.inner.neighbours, name).map(Some)
    }
}

impl Neighbours {
    /// The helper of this name and type; of what type another program is only its client knows.
    pub(super) fn find<H: Interface>(&self, name: &str) -> Result<&Declaration> {
        if self.unwanted.contains(&name) {
            return Err(format!("the helper {name:?} is not wanted by this configuration").into());
        }
        let Some(found) = self.wanted.iter().find(|known| known.name == name) else {
            let names: Vec<&str> = self.wanted.iter().map(|known| known.name).collect();
            let known = if names.is_empty() { "there is none".to_owned() } else { names.join(", ") };
            let what = "was declared by App::helper, nor does the configuration start one";
            return Err(format!("no helper {name:?} {what}: {known}").into());
        };
        match found.work {
            Work::Own(own) if own.kind != TypeId::of::<H>() => {
                Err(format!("the helper {name:?} is no {}", std::any::type_name::<H>()).into())
            }
            Work::Own(_) | Work::Foreign(_) => Ok(found),
        }
    }
}
