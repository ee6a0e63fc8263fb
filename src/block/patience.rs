//! Whom all waits of one call ask, however deep below it they are.

use std::cell::RefCell;
use std::rc::Rc;

use crate::error::Result;

/// As [`Patience`](super::Patience), of a whole call.
type Ambient = Rc<dyn Fn() -> Result<()>>;

thread_local! {
    static AMBIENT: RefCell<Option<Ambient>> = const { RefCell::new(None) };
}

/// Puts back what was there before.
struct Restored(Option<Ambient>);

impl Drop for Restored {
    fn drop(&mut self) {
        AMBIENT.set(self.0.take());
    }
}

/// Runs `work`; every wait for a block in it, on this thread, asks `patience`
/// unless it was given one of its own.
pub fn with_patience<T>(
    patience: impl Fn() -> Result<()> + 'static,
    work: impl FnOnce() -> T,
) -> T {
    let _restored = Restored(AMBIENT.replace(Some(Rc::new(patience))));
    work()
}

/// Who is to be asked in this call.
pub(super) fn ambient() -> Option<Ambient> {
    AMBIENT.with_borrow(Clone::clone)
}

/// Asks the call's patience, if it has one: for waits outside this room.
///
/// # Errors
/// What it answers.
pub fn ask_patience() -> Result<()> {
    ambient().map_or(Ok(()), |ask| ask())
}
