//! The tree of names: what each tree is called, where its root is, and how
//! large its values are.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block::BlockManager;
use crate::btree::{self, BTree, MAX_VALUE_BYTES, Plain, TreeType, Value, Wait};
use crate::error::{Damage, Error, Result};
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// Bytes of UTF-8 in the longest name.
pub const MAX_NAME_BYTES: usize = 232;

/// A tree in the catalogue. Source: docs/format.md, "Store".
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TreeEntry {
    /// The tree's root; counted as one reference.
    pub root: U64,
    /// Bytes of each value.
    pub value_bytes: U32,
    /// Zero.
    pub kind: U32,
    /// Bytes of the name.
    pub name_bytes: U16,
    /// Zero.
    pub padding: [u8; 6],
    /// The name in UTF-8, zeros after it.
    pub name: [u8; MAX_NAME_BYTES],
}
const _: () = assert!(size_of::<TreeEntry>() == 256);

impl Value for TreeEntry {}

impl TreeEntry {
    /// An entry for a tree.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that is empty or too long, or a size that no node holds.
    pub fn new(name: &str, root: BlockNr, value_bytes: usize) -> Result<Self> {
        check_name(name)?;
        check_value_bytes(value_bytes)?;
        let mut entry = Self::new_zeroed();
        entry.root = root.0.into();
        // Both were checked to be small.
        entry.value_bytes = u32::try_from(value_bytes).unwrap_or_default().into();
        entry.name_bytes = u16::try_from(name.len()).unwrap_or_default().into();
        entry.name[..name.len()].copy_from_slice(name.as_bytes());
        Ok(entry)
    }

    /// The name.
    pub fn name(&self, at: BlockNr) -> Result<&str, Damage> {
        let length = usize::from(self.name_bytes.get());
        let bytes = self.name.get(..length).filter(|bytes| !bytes.is_empty());
        let name = bytes.and_then(|bytes| str::from_utf8(bytes).ok());
        let found = u64::from(self.name_bytes.get());
        name.ok_or_else(|| Damage::new(at, CATALOGUE, "name", found, "1 to 232 bytes of UTF-8"))
    }
}

/// How errors call it.
const CATALOGUE: &str = "store catalogue";

/// The bytes of a value in an entry, if they can be.
fn value_bytes(entry: &TreeEntry, root: BlockNr) -> Result<usize, Damage> {
    let bytes = usize::try_from(entry.value_bytes.get()).unwrap_or(usize::MAX);
    if bytes == 0 || bytes > MAX_VALUE_BYTES {
        let found = entry.value_bytes.get();
        let expected = format!("1 to {MAX_VALUE_BYTES}");
        return Err(Damage::new(root, CATALOGUE, "value size", found, expected));
    }
    Ok(bytes)
}

/// A tree as the catalogue knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub root: BlockNr,
    pub value_bytes: usize,
}

pub(super) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        let text = format!(
            "a tree's name has 1 to {MAX_NAME_BYTES} bytes, not {}",
            name.len()
        );
        return Err(Error::Usage(text));
    }
    Ok(())
}

pub(super) fn check_value_bytes(bytes: usize) -> Result<()> {
    if bytes == 0 || bytes > MAX_VALUE_BYTES {
        let text = format!("a value has 1 to {MAX_VALUE_BYTES} bytes, not {bytes}");
        return Err(Error::Usage(text));
    }
    Ok(())
}

fn tree_type(values: &mut Plain) -> TreeType<'_> {
    TreeType {
        levels: 1,
        value_bytes: size_of::<TreeEntry>(),
        values,
    }
}

/// An empty catalogue.
pub(super) fn create(txn: &mut Transaction) -> Result<BlockNr> {
    btree::empty(txn, size_of::<TreeEntry>())
}

/// The key that a name would have if no other name had it.
fn home(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest
        .as_slice()
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Where a name is: its entry, or the key that a new one gets. Names that want
/// one key take the following ones.
fn place(
    blocks: &Arc<BlockManager>,
    root: BlockNr,
    name: &str,
) -> Result<(u64, Option<TreeEntry>)> {
    let tree: BTree<TreeEntry> = BTree::new(blocks, root);
    let mut key = home(name);
    loop {
        let Some(entry) = tree.lookup(key, Wait::Yes)? else {
            return Ok((key, None));
        };
        if entry.name(root)? == name {
            return Ok((key, Some(entry)));
        }
        key = key.wrapping_add(1);
    }
}

/// The tree of a name.
pub(super) fn find(blocks: &Arc<BlockManager>, root: BlockNr, name: &str) -> Result<Option<Known>> {
    check_name(name)?;
    let (_, entry) = place(blocks, root, name)?;
    let Some(entry) = entry else {
        return Ok(None);
    };
    Ok(Some(Known {
        root: BlockNr(entry.root.get()),
        value_bytes: value_bytes(&entry, root)?,
    }))
}

/// More names than this do not want one key: SHA-256 sees to that.
const MOST_OF_ONE_KEY: u64 = 1 << 10;

/// Whether a name is where somebody who looks for it would find it.
fn check_key(root: BlockNr, key: u64, name: &str) -> Result<(), Damage> {
    if key.wrapping_sub(home(name)) < MOST_OF_ONE_KEY {
        return Ok(());
    }
    let expected = format!("{} or a little more, of {name:?}", home(name));
    Err(Damage::new(root, CATALOGUE, "key", key, expected))
}

/// All names and their trees, by name.
pub(super) fn list(blocks: &Arc<BlockManager>, root: BlockNr) -> Result<Vec<(String, Known)>> {
    let tree: BTree<TreeEntry> = BTree::new(blocks, root);
    let mut cursor = tree.range(0, None);
    let mut all = Vec::new();
    while let Some(leaf) = cursor.next_leaf()? {
        let (keys, entries) = leaf.entries::<TreeEntry>()?;
        for (key, entry) in keys.iter().zip(entries) {
            check_key(root, key.get(), entry.name(root)?)?;
            let known = Known {
                root: BlockNr(entry.root.get()),
                value_bytes: value_bytes(entry, root)?,
            };
            all.push((entry.name(root)?.to_owned(), known));
        }
    }
    all.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    Ok(all)
}

/// Sets a name's tree, whose root's reference goes to the catalogue.
pub(super) fn set(
    txn: &mut Transaction,
    root: BlockNr,
    name: &str,
    tree: Known,
) -> Result<BlockNr> {
    let entry = TreeEntry::new(name, tree.root, tree.value_bytes)?;
    let blocks = Arc::clone(txn.blocks());
    let (key, _) = place(&blocks, root, name)?;
    let mut plain = Plain;
    let inserted = btree::insert(
        txn,
        &mut tree_type(&mut plain),
        root,
        &[key],
        entry.as_bytes(),
    )?;
    Ok(inserted.root)
}

/// Takes a name out. Those behind it that wanted its key move up.
pub(super) fn remove(txn: &mut Transaction, root: BlockNr, name: &str) -> Result<BlockNr> {
    let blocks = Arc::clone(txn.blocks());
    let (mut hole, found) = place(&blocks, root, name)?;
    if found.is_none() {
        return Ok(root);
    }
    let mut plain = Plain;
    let mut kind = tree_type(&mut plain);
    let mut root = root;
    let mut key = hole.wrapping_add(1);
    loop {
        let tree: BTree<TreeEntry> = BTree::new(&blocks, root);
        let Some(entry) = tree.lookup(key, Wait::Yes)? else {
            break;
        };
        // An entry may move to the hole unless its own home lies behind that.
        let wanted = home(entry.name(root)?);
        if key.wrapping_sub(wanted) >= key.wrapping_sub(hole) {
            root = btree::insert(txn, &mut kind, root, &[hole], entry.as_bytes())?.root;
            hole = key;
        }
        key = key.wrapping_add(1);
    }
    Ok(btree::remove(txn, &mut kind, root, &[hole])?.unwrap_or(root))
}
