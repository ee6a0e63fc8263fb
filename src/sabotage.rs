//! Mistakes on purpose, to see that the crash suite notices them.
//!
//! Built with `RUSTFLAGS="--cfg thinmeta_sabotage"` the crate makes the one
//! mistake that `THINMETA_SABOTAGE` names; built otherwise there is nothing to
//! make. `make crash-can-fail` goes through all of them.

/// Whether this mistake is to be made.
#[cfg(thinmeta_sabotage)]
pub(crate) fn sabotaged(mistake: &str) -> bool {
    use std::sync::LazyLock;
    static MISTAKE: LazyLock<String> =
        LazyLock::new(|| std::env::var("THINMETA_SABOTAGE").unwrap_or_default());
    *MISTAKE == mistake
}

/// No mistake is made.
#[cfg(not(thinmeta_sabotage))]
#[inline(always)]
pub(crate) const fn sabotaged(_mistake: &str) -> bool {
    false
}
