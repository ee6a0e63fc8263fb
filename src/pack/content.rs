//! What a piece is known by.

use std::fmt;

use super::table::Hash;

/// BLAKE3 of pieces; with a key, the keyed one.
///
/// Whoever sees hashes and has a guess what was stored can make sure of it. So where packs
/// are encrypted, their pieces are known by what nobody can compute without the secret.
#[derive(Clone, Default)]
pub struct ContentHash {
    key: Option<Hash>,
}

impl ContentHash {
    /// Under a secret.
    #[must_use]
    pub fn keyed(key: Hash) -> Self {
        Self { key: Some(key) }
    }

    /// Of one piece.
    #[must_use]
    pub fn of(&self, piece: &[u8]) -> Hash {
        let hash = match &self.key {
            Some(key) => blake3::keyed_hash(key, piece),
            None => blake3::hash(piece),
        };
        *hash.as_bytes()
    }
}

/// Without the secret: what is printed ends up in logs.
impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentHash")
            .field("is_keyed", &self.key.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_changes_every_hash_and_is_not_printed() {
        let (plain, keyed) = (ContentHash::default(), ContentHash::keyed([0xAB; 32]));
        assert_eq!(plain.of(b"content"), *blake3::hash(b"content").as_bytes());
        assert_ne!(keyed.of(b"content"), plain.of(b"content"));
        assert_ne!(
            keyed.of(b"content"),
            ContentHash::keyed([0xAC; 32]).of(b"content")
        );
        assert_eq!(format!("{keyed:?}"), "ContentHash { is_keyed: true }");
    }
}
